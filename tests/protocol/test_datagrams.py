"""Associations: whole datagrams in order, bounded, and never at the price of the streams beside.

Two multiplexers talk over a lane of payloads in each direction, as in ``test_multiplexer``.
"""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.test_multiplexer import PAYLOAD, Pair, at_far, at_near, payload_of, say
from tests.support.paper_network import read_all
from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.protocol.datagrams import (
    MOST_DATAGRAM,
    MOST_WAITING,
    NO_PLACE,
    Association,
    decode_associate,
    decode_datagram,
    encode_associate,
    encode_datagram,
)
from warren.protocol.messages import BeginFlags, Message, encode_end, encode_message
from warren.protocol.outbox import TURN_PAYLOADS
from warren.protocol.pace import Pace

REMOTE = Address("93.184.216.34", 443)
OTHER = Address("2606:2800:220::1", 53)
NAME = Address("dns.example", 53)
KIB = 1024

literals = st.builds(
    Address,
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    st.integers(1, 0xFFFF),
)
datagrams = st.tuples(literals, st.binary(max_size=MOST_DATAGRAM))


def associate(pair: Pair) -> tuple[Association, Association]:
    """Open an association; return both its ends, connected."""
    near = pair.near.associate()
    pair.settle()
    ((far, _),) = pair.far.associated
    pair.far.associated.clear()
    pair.far.associate_here(far)
    pair.settle()
    return near, far


def send_all(association: Association, contents: Iterable[bytes], remote: Address = REMOTE) -> None:
    for content in contents:
        association.send(remote, content)


def contents_of(association: Association) -> list[bytes]:
    return [content for _, content in association.take()]


# ---- the bytes


@given(datagram=datagrams)
def test_a_datagram_is_read_as_it_was_written(datagram: tuple[Address, bytes]) -> None:
    assert decode_datagram(encode_datagram(*datagram)) == datagram


def test_a_datagram_begins_with_the_address() -> None:
    assert encode_datagram(REMOTE, b"hi") == bytes((4, 93, 184, 216, 34, 1, 187)) + b"hi"
    assert encode_datagram(NAME, b"") == bytes((1, 11)) + b"dns.example" + bytes((0, 53))


@pytest.mark.parametrize("flags", range(8))
def test_the_flags_of_an_associate_are_one_byte(flags: int) -> None:
    assert decode_associate(encode_associate(BeginFlags(flags))) == BeginFlags(flags)


@pytest.mark.parametrize("data", [b"", b"\x08", b"\xff", b"\0\0"])
def test_an_associate_of_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_associate(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        REMOTE.encode()[:-1],
        Address("93.184.216.34", 0).encode() + b"x",
        REMOTE.encode() + bytes(MOST_DATAGRAM + 1),
        bytes((1, 3)) + b"A.b" + bytes((0, 53)),
        bytes((9,)) + bytes(20),
    ],
    ids=["empty", "cut short", "port zero", "too long", "another spelling", "unknown kind"],
)
def test_what_is_no_datagram_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_datagram(data)


@given(data=st.binary(max_size=40))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    try:
        address, content = decode_datagram(data)
    except ProtocolError:
        return
    assert encode_datagram(address, content) == data


# ---- carrying them


def test_datagrams_arrive_whole_in_order_and_with_their_remotes() -> None:
    pair = Pair()
    near, far = associate(pair)

    near.send(NAME, b"to a name")
    near.send(REMOTE, b"")
    far.send(OTHER, b"x" * MOST_DATAGRAM)
    pair.settle()

    assert far.take() == [(NAME, b"to a name"), (REMOTE, b"")]
    assert near.take() == [(OTHER, b"x" * MOST_DATAGRAM)]
    assert (near.sent, near.received, near.dropped) == (2, 1, 0)


def test_what_follows_its_opening_shares_its_cell() -> None:
    pair = Pair()
    near = pair.near.associate(BeginFlags.NO_IPV4)
    near.send(REMOTE, b"at once")

    assert [command for command, _, _ in say(pair.lanes[0])] == [
        Message.ASSOCIATE,
        Message.DATAGRAM,
    ]


def test_the_flags_arrive() -> None:
    pair = Pair()
    pair.near.associate(BeginFlags.NO_IPV4)
    pair.settle()

    ((_, flags),) = pair.far.associated

    assert flags is BeginFlags.NO_IPV4


def test_small_ones_share_a_cell_and_none_is_cut() -> None:
    pair = Pair()
    near, _ = associate(pair)
    send_all(near, [bytes([n]) * 100 for n in range(5)] + [b"L" * 1400] * 3)

    cells = [[len(data) for _, _, data in say(pair.lanes[0])] for _ in range(2)]

    head = len(REMOTE.encode())
    assert cells == [[100 + head] * 5 + [1400 + head] * 2, [1400 + head]]


@settings(max_examples=50, deadline=None)
@given(
    forward=st.lists(datagrams, max_size=20),
    backward=st.lists(datagrams, max_size=20),
    written=st.binary(max_size=9000),
)
def test_whatever_is_sent_arrives_beside_a_stream(
    forward: list[tuple[Address, bytes]], backward: list[tuple[Address, bytes]], written: bytes
) -> None:
    pair = Pair()
    up, down = pair.open()
    near, far = associate(pair)

    for remote, content in forward:
        near.send(remote, content)
    up.write(written)
    for remote, content in backward:
        far.send(remote, content)
    pair.settle()

    assert (far.take(), near.take()) == (forward, backward)
    assert read_all(down) == written


# ---- bounds


@given(
    sizes=st.lists(st.integers(0, MOST_DATAGRAM), min_size=1, max_size=400),
    is_incoming=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_the_oldest_make_room_and_the_newest_are_whole(sizes: list[int], is_incoming: bool) -> None:
    association = Association(1, Pace(lambda: 0.0), is_origin=True)
    association.receive_connected(NO_PLACE)
    for number, size in enumerate(sizes):
        content = number.to_bytes(2, "big").ljust(size, b".")[: max(size, 2)]
        if is_incoming:
            association.receive_datagram(encode_datagram(REMOTE, content))
        else:
            association.send(REMOTE, content)

    if is_incoming:
        kept = contents_of(association)
    else:
        place = memoryview(bytearray(1 << 20))
        end = association.write_datagrams(place, 0)
        kept = [bytes(data)[7:] for _, _, data in _messages(place[:end])]

    numbers = [int.from_bytes(content[:2], "big") for content in kept]
    assert numbers == list(range(len(sizes) - len(kept), len(sizes)))
    assert association.dropped == len(sizes) - len(kept)
    assert sum(map(len, kept)) <= MOST_WAITING
    assert len(kept) == len(sizes) or len(kept) >= MOST_WAITING // (MOST_DATAGRAM + 100)


def _messages(payload: memoryview) -> list[tuple[int, int, memoryview]]:
    from warren.protocol.messages import read_messages

    return read_messages(payload) if payload else []


def test_what_made_room_takes_no_cell() -> None:
    """Dropped before it is sealed: a cell that is short of credit is never spent on the stale."""
    pair = Pair()
    near, far = associate(pair)

    send_all(near, [n.to_bytes(2, "big") + bytes(1000) for n in range(1000)])
    pair.settle()

    arrived = [int.from_bytes(content[:2], "big") for content in contents_of(far)]
    assert arrived == list(range(1000 - len(arrived), 1000))
    assert near.sent == len(arrived) < 130
    assert near.dropped == 1000 - near.sent


# ---- turns


def test_a_flood_of_datagrams_does_not_starve_a_download() -> None:
    pair = Pair()
    up, down = pair.open()
    near, far = associate(pair)
    bulk = b"D" * (48 * KIB)
    up.write(bulk)

    cells = 0
    while down.received < len(bulk):
        send_all(near, [b"F" * 1350] * 40)  # more than a cell's worth, at any time
        pair.lanes[0].send()
        pair.deliver(0)
        cells += 1

    alone = -(-len(bulk) // (PAYLOAD - 7))
    assert cells <= 2 * alone + 2 * TURN_PAYLOADS
    assert far.received > 0


def test_a_download_does_not_starve_datagrams() -> None:
    pair = Pair()
    up, _ = pair.open()
    near, far = associate(pair)
    up.write(b"D" * (60 * KIB))
    pair.lanes[0].send()

    near.send(REMOTE, b"now")
    for _ in range(2):
        pair.lanes[0].send()
        pair.deliver(0)

    assert contents_of(far) == [b"now"]


def test_two_floods_have_equal_turns() -> None:
    pair = Pair()
    ends = [associate(pair), associate(pair)]

    for _ in range(8 * TURN_PAYLOADS):
        for near, _ in ends:
            send_all(near, [b"F" * 1350] * 10)
        pair.lanes[0].send()
        pair.deliver(0)

    first, second = (far.received for _, far in ends)
    assert first > 0
    assert abs(first - second) <= 2 * TURN_PAYLOADS


@pytest.mark.parametrize(("per_second", "is_company"), [(50, True), (2000, False)])
def test_a_call_is_company_for_a_download_and_a_flood_is_not(
    per_second: int, is_company: bool
) -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    association = Association(2, pace, is_origin=True)
    association.receive_connected(NO_PLACE)

    for _ in range(per_second):
        now[0] += 1 / per_second
        association.receive_datagram(encode_datagram(REMOTE, bytes(500)))
        association.take()

    assert pace.has_company(1) is is_company
    assert not pace.has_company(2)


# ---- the end


def test_what_was_sent_goes_before_the_end() -> None:
    pair = Pair()
    near, far = associate(pair)

    send_all(near, [b"last words"])
    near.end(EndReason.TIMEOUT)
    pair.lanes[0].send()
    (cell,) = pair.lanes[0].under_way
    pair.settle()

    commands = [command for command, _, _ in _messages(memoryview(cell))]
    assert commands == [Message.DATAGRAM, Message.END]
    assert far.is_ended
    assert contents_of(far) == [b"last words"]


@pytest.mark.parametrize("by_origin", [True, False])
def test_both_ends_forget_it_once_both_have_said_so(by_origin: bool) -> None:
    pair = Pair()
    near, far = associate(pair)

    (near if by_origin else far).end(EndReason.TIMEOUT)
    pair.settle()

    assert (near.is_ended, far.is_ended) == (True, True)
    assert not pair.near.count
    assert not pair.far.count
    assert (near.reason, far.reason) == (
        (EndReason.TIMEOUT, EndReason.MISC) if by_origin else (EndReason.TIMEOUT,) * 2
    )


def test_ends_that_cross_are_one_end() -> None:
    pair = Pair()
    near, far = associate(pair)

    near.end(EndReason.MISC)
    far.end(EndReason.RESOURCE_LIMIT)
    pair.settle()

    assert pair.near.count == pair.far.count == 0


def test_datagrams_on_their_way_to_who_has_ended_are_in_order_and_dropped() -> None:
    """SID-2."""
    pair = Pair()
    near, far = associate(pair)
    send_all(far, [b"late"])
    pair.lanes[1].send()

    near.end(EndReason.MISC)
    pair.settle()

    assert near.take() == []
    assert pair.near.count == 0


def test_a_refusal_before_any_answer_tells_why() -> None:
    pair = Pair()
    near = pair.near.associate()
    pair.settle()
    ((far, _),) = pair.far.associated

    far.end(EndReason.EXIT_POLICY)
    pair.far.associate_here(far)
    pair.settle()

    assert (near.connected, near.reason) == (None, EndReason.EXIT_POLICY)


def test_with_its_circuit_an_association_is_gone() -> None:
    pair = Pair()
    near, _ = associate(pair)
    send_all(near, [b"never"])

    pair.near.lose_all(EndReason.DESTROY)

    assert near.reason is EndReason.DESTROY
    assert not pair.near.outbox.has_something
    near.send(REMOTE, b"neither")
    assert not pair.near.outbox.has_something


def test_ids_are_shared_with_streams() -> None:
    pair = Pair()

    numbers = [
        pair.near.begin(REMOTE).number,
        pair.near.associate().number,
        pair.near.begin(REMOTE).number,
    ]
    pair.settle()

    assert numbers == [1, 2, 3]
    assert pair.far.count == 3


# ---- nothing out of order


def at_association(
    message: bytes, *, to_origin: bool, connected: bool = True
) -> Callable[[], object]:
    """Return what gives `message` to one end of a new association, number 1."""

    def arrive() -> object:
        pair = Pair()
        pair.near.associate()
        pair.settle()
        if connected:
            pair.far.associate_here(pair.far.associations[1])
            pair.settle()
        return (pair.near if to_origin else pair.far).receive(payload_of(message))

    return arrive


def message_of(command: Message, data: bytes = b"", number: int = 1) -> bytes:
    return encode_message(command, number, data)


DATAGRAM = message_of(Message.DATAGRAM, encode_datagram(REMOTE, b"x"))
OUT_OF_ORDER = {
    "a DATAGRAM before CONNECTED": at_association(DATAGRAM, to_origin=True, connected=False),
    "a DATAGRAM from a name": at_association(
        message_of(Message.DATAGRAM, encode_datagram(NAME, b"x")), to_origin=True
    ),
    "a second CONNECTED": at_association(
        message_of(Message.CONNECTED, NO_PLACE.encode()), to_origin=True
    ),
    "a CONNECTED forward": at_association(
        message_of(Message.CONNECTED, NO_PLACE.encode()), to_origin=False
    ),
    "DATA": at_association(message_of(Message.DATA, b"x"), to_origin=False),
    "a cell full of DATA": at_association(
        message_of(Message.DATA, bytes(PAYLOAD - 7)), to_origin=True
    ),
    "EOF": at_association(message_of(Message.EOF), to_origin=False),
    "CREDIT": at_association(message_of(Message.CREDIT, bytes(16)), to_origin=True),
    "END for DONE": at_association(
        message_of(Message.END, encode_end(EndReason.DONE)), to_origin=True
    ),
    "a client's END for a reason of exits": at_association(
        message_of(Message.END, encode_end(EndReason.TIMEOUT)), to_origin=False
    ),
    "a second END": at_association(
        message_of(Message.END, encode_end(EndReason.MISC)) * 2, to_origin=True
    ),
    "a DATAGRAM behind an END": at_association(
        message_of(Message.END, encode_end(EndReason.MISC)) + DATAGRAM, to_origin=False
    ),
    "a number used before": at_association(
        message_of(Message.ASSOCIATE, b"\0"), to_origin=False
    ),
    "an ASSOCIATE towards the origin": at_near(message_of(Message.ASSOCIATE, b"\0", 2)),
    "a DATAGRAM for a stream": at_far(DATAGRAM),
    "a DATAGRAM for nothing": at_far(
        message_of(Message.DATAGRAM, encode_datagram(REMOTE, b"x"), 9)
    ),
}  # fmt: skip


@pytest.mark.parametrize("arrive", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER.keys())
def test_what_is_out_of_order_is_refused(arrive: Callable[[], object]) -> None:
    with pytest.raises(ProtocolError):
        arrive()


def test_associations_count_as_streams() -> None:
    pair = Pair()
    pair.far.most_streams = 3
    for number in range(1, 4):
        pair.far.receive(payload_of(message_of(Message.ASSOCIATE, b"\0", number)))

    with pytest.raises(ProtocolError, match="too many streams"):
        pair.far.receive(payload_of(message_of(Message.ASSOCIATE, b"\0", 4)))
