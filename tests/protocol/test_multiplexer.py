"""Many streams on one circuit: whatever happens, each gets its bytes, in order and whole.

Two multiplexers talk over a lane of payloads in each direction. A multiplexer is only asked for
payloads after it called for it, as a leg does: a missing call shows as a stream that never ends.
"""

import gc
import tracemalloc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paper_network import REACHED, TARGET, read_all
from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.protocol.messages import (
    Begin,
    BeginFlags,
    Connected,
    Message,
    encode_end,
    encode_message,
    encode_stream_credit,
    read_messages,
)
from warren.protocol.multiplexer import MOST_STREAMS, Multiplexer
from warren.protocol.outbox import TURN_PAYLOADS
from warren.protocol.stream import (
    FIRST_WINDOW,
    MOST_UNACKNOWLEDGED,
    StreamProtocol,
    StreamState,
)

PAYLOAD = 4040
KIB = 1024
BEGIN = Begin(TARGET).encode()
#: No part of it comes twice within a window, so bytes in the wrong place show.
PATTERN = Random(1).randbytes(1 << 20)


class Lane:
    """Carry payloads from one multiplexer to the other; ``awake`` when it has called for it."""

    def __init__(self, *, is_origin: bool) -> None:
        self.awake = False
        self.under_way: deque[bytes] = deque()
        self.source = Multiplexer(is_origin=is_origin, on_send=self._wake, clock=lambda: 0.0)

    def _wake(self) -> None:
        self.awake = True

    def send(self, size: int = PAYLOAD) -> bool:
        """Send one payload; return whether there was one."""
        if not self.awake:
            return False
        payload = memoryview(bytearray(b"\xff" * size))
        if self.source.outbox.write_payload(payload):
            self.under_way.append(bytes(payload))
        else:
            assert not self.source.outbox.has_something
        self.awake = self.source.outbox.has_something
        return bool(self.under_way)


class Pair:
    """Own the two ends of a circuit's streams and the lanes between them."""

    def __init__(self) -> None:
        self.lanes = (Lane(is_origin=True), Lane(is_origin=False))
        self.near, self.far = (lane.source for lane in self.lanes)

    def deliver(self, lane: int) -> bool:
        """Let the first payload that `lane` carries arrive; return whether there was one."""
        if not self.lanes[lane].under_way:
            return False
        target = self.lanes[1 - lane].source
        assert target.receive(memoryview(self.lanes[lane].under_way.popleft())) == []
        return True

    def settle(self) -> None:
        """Carry everything over that both ends want to send."""
        while any([lane.send() for lane in self.lanes] + [self.deliver(0), self.deliver(1)]):
            pass

    def open(self) -> tuple[StreamProtocol, StreamProtocol]:
        """Open a stream; return both its ends, connected."""
        near = self.near.begin(TARGET)
        self.settle()
        ((far, begin),) = self.far.opened
        assert begin == Begin(TARGET)
        self.far.opened.clear()
        far.accept(REACHED)
        self.settle()
        return near, far


def say(lane: Lane) -> list[tuple[int, int, bytes]]:
    """Return the messages of the next payload."""
    payload = memoryview(bytearray(PAYLOAD))
    assert lane.source.outbox.write_payload(payload)
    return [(command, number, bytes(data)) for command, number, data in read_messages(payload)]


def commands(lane: Lane) -> list[int]:
    return [command for command, _, _ in say(lane)]


def payload_of(*messages: bytes) -> memoryview:
    return memoryview(b"".join(messages).ljust(PAYLOAD, b"\0"))


# The laws


@dataclass
class Direction:
    """Hold what one application wrote to a stream and what the other one has read."""

    source: StreamProtocol
    target: StreamProtocol
    written: int = 0
    read: bytearray = field(default_factory=bytearray)
    is_ended: bool = False  # whether the writer half-closed

    def write(self, size: int) -> None:
        size = min(size, self.source.room, len(PATTERN) - self.written)
        if size > 0 and not self.is_ended and self.source.state is not StreamState.ENDED:
            self.source.write(PATTERN[self.written : self.written + size])
            self.written += size

    def take(self, size: int) -> None:
        """Read up to `size` bytes, cutting the last chunk."""
        taken, incoming = 0, self.target.incoming
        while incoming and taken < size:
            chunk = incoming.popleft()
            if len(chunk) > size - taken:
                incoming.appendleft(chunk[size - taken :])
                chunk = chunk[: size - taken]
            self.read += chunk
            taken += len(chunk)
        if taken:
            self.target.consume(taken)

    def check(self) -> None:
        source, target = self.source, self.target
        assert source.acknowledged <= source.sent <= min(source.written, source.limit)
        assert target.consumed <= target.received <= target.allowed
        assert source.acknowledged <= target.consumed
        assert target.received <= source.sent
        assert source.limit <= target.allowed
        assert source.written - source.acknowledged <= MOST_UNACKNOWLEDGED
        assert self.read == PATTERN[: len(self.read)]
        looks_whole = target.eof_received and target.reason in (None, EndReason.DONE)
        if looks_whole and not target.incoming:  # SID-4: only then may it look so
            assert self.is_ended
            assert len(self.read) == self.written


Step = tuple[str, int, int, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 5), st.integers(1, 90_000), st.just(0)),
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(300, 4072), st.integers(1, 30)),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 5), st.integers(1, 90_000), st.just(0)),
        st.tuples(st.just("eof"), st.integers(0, 5), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=60,
)
rarely_an_end = st.lists(st.tuples(st.integers(0, 59), st.integers(0, 5)), max_size=2)


def play(pair: Pair, directions: list[Direction], step: Step) -> None:
    what, which, size, count = step
    if what == "write":
        directions[which].write(size)
    elif what == "read":
        directions[which].take(size)
    elif what == "eof":
        directions[which].source.write_eof()
        directions[which].is_ended = True
    elif what == "send":
        for _ in range(count):
            pair.lanes[which].send(size)
    else:
        for _ in range(size):
            pair.deliver(which)


def drain(pair: Pair, directions: list[Direction]) -> None:
    """Let the applications half-close, and carry and read everything."""
    for direction in directions:
        direction.source.write_eof()
        direction.is_ended = True
    before = None
    while before != (before := [len(direction.read) for direction in directions]):
        pair.settle()
        for direction in directions:
            direction.take(1 << 30)
            direction.check()
        pair.settle()


@settings(max_examples=120)
@given(steps, rarely_an_end)
def test_three_streams_keep_their_laws_and_come_to_their_end(
    moves: list[Step], ends: list[tuple[int, int]]
) -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(3)]
    directions = [Direction(near, far) for near, far in streams]
    directions += [Direction(far, near) for near, far in streams]

    for number, move in enumerate(moves):
        play(pair, directions, move)
        for _, which in [end for end in ends if end[0] == number]:
            directions[which].source.end(EndReason.CONNECTION_RESET)
        for direction in directions:
            direction.check()
    drain(pair, directions)

    assert not pair.near.streams
    assert not pair.far.streams
    reset = {which % 3 for at, which in ends if at < len(moves)}
    for number, direction in enumerate(directions):
        assert direction.source.state is StreamState.ENDED
        if number % 3 not in reset:
            assert direction.source.reason is EndReason.DONE
            assert len(direction.read) == direction.written


@pytest.mark.parametrize("first", [0, 1], ids=["request", "answer"])
def test_a_half_close_leaves_the_other_direction_open(first: int) -> None:  # T30, SID-5
    pair = Pair()
    near, far = pair.open()
    ends = (Direction(near, far), Direction(far, near))
    short, long = ends[first], ends[1 - first]

    short.write(300)
    short.source.write_eof()
    short.is_ended = True
    while len(long.read) < len(PATTERN):
        long.write(len(PATTERN))
        pair.settle()
        long.take(1 << 30)
        short.take(1 << 30)
    drain(pair, [short, long])

    assert (len(short.read), len(long.read)) == (300, len(PATTERN))
    assert {near.reason, far.reason} == {EndReason.DONE}
    assert not pair.near.streams
    assert not pair.far.streams


def test_a_stream_that_nobody_reads_holds_up_no_other() -> None:  # T17
    pair = Pair()
    stalled, moving = pair.open(), pair.open()
    stuck, free = Direction(stalled[1], stalled[0]), Direction(moving[1], moving[0])

    while free.written < 500 * KIB:
        stuck.write(1 << 20)
        free.write(1 << 20)
        pair.settle()
        free.take(1 << 20)

    assert stalled[0].received == FIRST_WINDOW
    assert len(free.read) == free.written


# What shares a cell, and what goes first (protocol §5)


def test_a_begin_shares_its_cell_with_its_first_data() -> None:
    pair = Pair()
    stream = pair.near.begin(TARGET)
    stream.write(b"GET /")

    assert say(pair.lanes[0]) == [(Message.BEGIN, 1, BEGIN), (Message.DATA, 1, b"GET /")]


def test_the_last_data_shares_its_cell_with_its_eof() -> None:
    pair = Pair()
    near, _ = pair.open()
    near.write(b"last")
    near.write_eof()

    assert say(pair.lanes[0]) == [(Message.DATA, 1, b"last"), (Message.EOF, 1, b"")]


def test_an_end_shares_its_cell_with_the_last_acknowledgement() -> None:
    pair = Pair()
    near, far = pair.open()
    near.write_eof()
    far.write(b"answer")
    far.write_eof()
    pair.settle()

    read_all(near)

    assert commands(pair.lanes[0]) == [Message.CREDIT, Message.END]


def test_a_stream_of_a_question_and_its_answer_ends_with_three_cells() -> None:
    pair = Pair()
    near, far = pair.open()
    near.write(b"question")
    pair.settle()
    read_all(far)
    far.write(b"answer")
    pair.settle()
    read_all(near)

    said = []
    for lane, end in ((0, near), (1, far), (0, None)):
        if end is not None:
            end.write_eof()
        payload = memoryview(bytearray(PAYLOAD))
        pair.lanes[lane].source.outbox.write_payload(payload)
        said.append([command for command, _, _ in read_messages(payload)])
        pair.lanes[1 - lane].source.receive(payload)

    assert said == [
        [Message.CREDIT, Message.EOF],
        [Message.CREDIT, Message.EOF, Message.END],
        [Message.END],
    ]
    assert not pair.near.streams
    assert not pair.far.streams


@pytest.mark.parametrize("size", range(27, 120))
def test_no_data_overtakes_the_begin_of_its_stream(size: int) -> None:
    pair = Pair()
    for number in range(6):
        pair.near.begin(TARGET).write(bytes(7 * number))

    while pair.near.outbox.has_something:
        payload = memoryview(bytearray(size))
        assert pair.near.outbox.write_payload(payload)
        pair.far.receive(payload)

    assert [stream.received for stream, _ in pair.far.opened] == [0, 7, 14, 21, 28, 35]


def test_small_messages_of_many_streams_share_a_cell() -> None:
    pair = Pair()
    streams = [pair.open()[0] for _ in range(20)]
    for stream in streams:
        stream.write(b"key")

    said = say(pair.lanes[0])

    assert said == [(Message.DATA, stream.number, b"key") for stream in streams]
    assert not pair.near.outbox.has_something


def test_bulk_streams_take_turns_of_some_cells() -> None:
    pair = Pair()
    streams = [pair.open()[0] for _ in range(2)]
    for stream in streams:
        stream.write(bytes(FIRST_WINDOW))

    turns = [say(pair.lanes[0])[0][1] for _ in range(2 + 4 * TURN_PAYLOADS)]

    # A stream that had nothing goes first, for one.
    assert turns == [1, 2] + 2 * ([1] * TURN_PAYLOADS + [2] * TURN_PAYLOADS)


def test_credit_and_connected_go_ahead_of_data() -> None:
    pair = Pair()
    near, far = pair.open()
    opening = pair.near.begin(TARGET)
    near.write(bytes(20 * KIB))
    pair.settle()
    far.write(bytes(20 * KIB))
    say(pair.lanes[1])

    read_all(far)
    pair.far.streams[opening.number].accept(REACHED)

    assert commands(pair.lanes[1]) == [Message.CONNECTED, Message.CREDIT, Message.DATA]


def test_several_credits_share_a_cell() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(5)]
    for near, _ in streams:
        near.write(bytes(20 * KIB))
    pair.settle()

    for _, far in streams:
        read_all(far)

    assert commands(pair.lanes[1]) == [Message.CREDIT] * 5


@pytest.mark.parametrize("size", range(285, 305))
def test_a_credit_never_overtakes_the_connected_of_its_stream(size: int) -> None:
    pair = Pair()
    near = pair.near.begin(TARGET)
    near.write(bytes(FIRST_WINDOW))
    pair.settle()
    ((far, _),) = pair.far.opened
    reached = Connected(Address("2001:db8::1", 80))  # longer than a CREDIT
    for _ in range(9):
        pair.far.outbox.push(encode_message(Message.CONNECTED, 99, reached.encode()))
    far.accept(reached)
    read_all(far)

    said: list[int] = []
    while pair.far.outbox.has_something:
        payload = memoryview(bytearray(size))
        pair.far.outbox.write_payload(payload)
        said += [command for command, number, _ in read_messages(payload) if number == near.number]

    assert said == [Message.CONNECTED, Message.CREDIT]


@pytest.mark.parametrize("size", range(300, 330))
def test_an_eof_and_an_end_that_do_not_fit_come_in_the_next_cell(size: int) -> None:
    pair = Pair()
    near, far = pair.open()
    far.write_eof()
    pair.settle()
    near.write(bytes(290))
    near.write_eof()

    payloads = []
    while pair.near.outbox.has_something:
        payload = memoryview(bytearray(size))
        pair.near.outbox.write_payload(payload)
        payloads.append(payload)
        pair.far.receive(payload)
        read_all(far)
        pair.lanes[1].awake = True
        pair.settle()

    assert len(payloads) <= 3
    assert (near.reason, far.reason) == (EndReason.DONE, EndReason.DONE)


def test_a_reset_goes_out_without_the_eof_of_a_page_that_was_cut() -> None:  # SID-4, T29
    pair = Pair()
    _, far = pair.open()
    far.write(bytes(100 * KIB))
    while far.sendable:
        say(pair.lanes[1])
    far.write_eof()

    far.end(EndReason.CONNECTION_RESET)

    end = (Message.END, 1, encode_end(EndReason.CONNECTION_RESET))
    assert say(pair.lanes[1]) == [end]


def test_every_byte_of_a_payload_is_written() -> None:
    pair = Pair()
    pair.open()[0].write(b"short")
    dirty = memoryview(bytearray(b"\xff" * PAYLOAD))

    pair.near.outbox.write_payload(dirty)

    assert dirty == payload_of(encode_message(Message.DATA, 1, b"short"))


# What is out of order (SID-1)


def at_far(message: bytes, *, opened: int = 1) -> Callable[[], object]:
    """Return what lets `message` arrive at the last hop, behind `opened` BEGINs."""
    pair = Pair()
    for number in range(1, opened + 1):
        pair.far.receive(payload_of(encode_message(Message.BEGIN, number, BEGIN)))
    return lambda: pair.far.receive(payload_of(message))


def at_near(message: bytes) -> Callable[[], object]:
    """Return what lets `message` arrive at the origin, which has the open stream 1."""
    pair = Pair()
    pair.open()
    return lambda: pair.near.receive(payload_of(message))


@pytest.mark.parametrize(
    "arrive",
    [
        at_far(encode_message(Message.BEGIN, 0, BEGIN)),
        at_far(encode_message(Message.BEGIN, 1, BEGIN)),
        at_far(encode_message(Message.BEGIN, 3, BEGIN), opened=5),
        at_far(encode_message(Message.BEGIN_DIR, 1)),
        at_far(encode_message(Message.BEGIN_DIR, 2, b"x")),
        at_far(encode_message(Message.BEGIN, 2, b"")),
        at_near(encode_message(Message.BEGIN, 2, BEGIN)),
        at_near(encode_message(Message.BEGIN_DIR, 2)),
    ],
    ids=[
        "zero", "used", "descending", "used for the directory", "with data", "malformed",
        "to the origin", "directory of the origin",
    ],
)  # fmt: skip
def test_a_begin_has_a_new_id_and_goes_forward(arrive: Callable[[], object]) -> None:  # T28
    with pytest.raises(ProtocolError):
        arrive()


@pytest.mark.parametrize(
    "command", [Message.DATA, Message.EOF, Message.END, Message.CREDIT, Message.CONNECTED]
)
def test_a_message_for_a_stream_that_is_not_there_is_refused(command: Message) -> None:  # T25
    bodies = {
        Message.DATA: b"x",
        Message.END: encode_end(EndReason.MISC),
        Message.CREDIT: encode_stream_credit(0, 1 << 20),
        Message.CONNECTED: REACHED.encode(),
    }
    message = encode_message(command, 2, bodies.get(command, b""))

    for arrive in (at_far(message), at_near(message)):
        with pytest.raises(ProtocolError):
            arrive()


def test_a_cell_full_of_data_for_a_stream_that_is_not_there_is_refused() -> None:  # T25
    message = encode_message(Message.DATA, 2, bytes(PAYLOAD - 7))

    for arrive in (at_far(message), at_near(message)):
        with pytest.raises(ProtocolError):
            arrive()


@pytest.mark.parametrize(
    "arrive",
    [
        at_near(encode_message(Message.CONNECTED, 1, REACHED.encode())),
        at_near(encode_message(Message.DROP, 0)),
        at_near(encode_message(Message.EOF, 1, b"x")),
        at_near(encode_message(Message.DATA, 1)),
        at_near(encode_message(Message.END, 1, encode_end(EndReason.DONE))),
        at_far(encode_message(Message.CONNECTED, 1, REACHED.encode())),
        at_far(encode_message(Message.DROP, 1)),
        at_far(encode_message(Message.END, 1, encode_end(EndReason.TIMEOUT))),
    ],
    ids=[
        "second CONNECTED", "DROP to the origin", "EOF with data", "empty DATA", "early DONE",
        "CONNECTED forward", "DROP that names a stream", "a reason clients do not have",
    ],
)  # fmt: skip
def test_nothing_out_of_order_is_dropped_silently(arrive: Callable[[], object]) -> None:  # T25
    with pytest.raises(ProtocolError):
        arrive()


@pytest.mark.parametrize("command", sorted(set(range(6, 256)) - set(range(10, 17))))
def test_what_is_for_the_circuit_or_unknown_is_handed_back(command: int) -> None:
    pair = Pair()
    message = bytes((command,)) + encode_message(Message.DATA, 7, b"what")[1:]

    for end in (pair.near, pair.far):
        ((number, stream, data),) = end.receive(payload_of(message))
        assert (number, stream, bytes(data)) == (command, 7, b"what")


def test_drops_are_taken_at_the_far_end() -> None:
    arrive = at_far(encode_message(Message.DROP, 0, b"any") * 3)

    assert arrive() == []


def test_one_stream_too_many_is_refused() -> None:
    pair = Pair()
    pair.far.most_streams = 3
    for number in range(1, 4):
        pair.far.receive(payload_of(encode_message(Message.BEGIN, number, BEGIN)))

    with pytest.raises(ProtocolError):
        pair.far.receive(payload_of(encode_message(Message.BEGIN, 4, BEGIN)))


# The life of a stream


def test_flags_of_a_begin_and_a_directory_stream_arrive() -> None:
    pair = Pair()
    pair.near.begin(TARGET, BeginFlags.NO_IPV6)
    pair.near.begin_directory()
    pair.settle()

    begins = [(stream.number, begin) for stream, begin in pair.far.opened]

    assert begins == [(1, Begin(TARGET, BeginFlags.NO_IPV6)), (2, None)]


def test_a_refused_stream_is_forgotten_when_both_have_ended_it() -> None:
    pair = Pair()
    near = pair.near.begin(TARGET)
    near.write(b"optimistic")
    pair.settle()
    ((far, _),) = pair.far.opened

    far.end(EndReason.EXIT_POLICY)
    pair.lanes[1].send()
    assert pair.far.streams, "the origin's END is still to come"
    pair.settle()

    assert (near.reason, near.state) == (EndReason.EXIT_POLICY, StreamState.ENDED)
    assert not pair.near.streams
    assert not pair.far.streams


def test_a_stream_that_ended_meanwhile_is_not_connected() -> None:
    pair = Pair()
    near = pair.near.begin(TARGET)
    pair.settle()
    ((far, _),) = pair.far.opened

    near.end(EndReason.TIMEOUT)
    pair.settle()
    far.accept(REACHED)

    assert not pair.far.outbox.has_something
    assert far.reason is EndReason.MISC


def test_ends_that_cross_are_both_in_order() -> None:
    pair = Pair()
    near, far = pair.open()
    far.write(b"under way")

    near.end(EndReason.TIMEOUT)
    far.end(EndReason.CONNECTION_RESET)
    pair.settle()

    assert (near.reason, far.reason) == (EndReason.TIMEOUT, EndReason.CONNECTION_RESET)
    assert not pair.near.streams
    assert not pair.far.streams


def test_a_flood_behind_our_end_is_discarded_within_the_window_only() -> None:  # T27
    pair = Pair()
    near, _ = pair.open()
    near.end(EndReason.TIMEOUT)
    say(pair.lanes[0])
    data = encode_message(Message.DATA, 1, bytes(4000))

    for _ in range(FIRST_WINDOW // 4000):
        pair.near.receive(payload_of(data))

    assert not near.incoming
    with pytest.raises(ProtocolError):
        pair.near.receive(payload_of(data))


def test_ends_that_never_come_keep_little_and_no_more_than_a_circuit_may_carry() -> None:
    """SID-2: what arrived for them is gone, and what still comes is counted and thrown away."""
    pair = Pair()
    pair.far.most_streams = MOST_STREAMS + 1  # it is the origin that must stop
    gc.collect()
    tracemalloc.start()
    for _ in range(MOST_STREAMS):
        near, far = pair.open()
        pair.near.receive(payload_of(encode_message(Message.DATA, near.number, bytes(4000))))
        near.end(EndReason.MISC)
        say(pair.lanes[0])
        for _ in range(4):
            pair.near.receive(payload_of(encode_message(Message.DATA, near.number, bytes(4000))))
        del pair.far.streams[far.number]
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(pair.near.streams) == pair.near.count == MOST_STREAMS
    assert not any(stream.incoming for stream in pair.near.streams.values())
    assert kept / MOST_STREAMS < 4096


def test_a_lost_circuit_takes_its_streams_with_it() -> None:
    pair = Pair()
    near, _ = pair.open()
    near.write(bytes(100 * KIB))
    begun = payload_of(encode_message(Message.BEGIN, 2, BEGIN))
    pair.far.receive(begun)

    pair.near.lose_all(EndReason.DESTROY)
    pair.far.lose_all(EndReason.DESTROY)

    assert (near.state, near.reason) == (StreamState.ENDED, EndReason.DESTROY)
    assert not pair.near.outbox.has_something
    assert not pair.far.opened, "nobody should connect for a stream that is lost"


def test_a_stream_that_had_nothing_goes_before_fifty_that_are_busy() -> None:
    pair = Pair()
    streams = [pair.open()[0] for _ in range(50)]
    quiet, _ = pair.open()
    for stream in streams:
        stream.write(bytes(FIRST_WINDOW))
    for _ in range(60):
        say(pair.lanes[0])

    quiet.write(b"key")

    assert say(pair.lanes[0])[0] == (Message.DATA, quiet.number, b"key")


@given(
    sizes=st.lists(st.integers(0, 3 * FIRST_WINDOW), min_size=1, max_size=6),
    places=st.lists(st.integers(1, 15), min_size=1, max_size=20),
)
def test_many_payloads_at_once_say_what_single_ones_would(
    sizes: list[int], places: list[int]
) -> None:
    pair = Pair()
    streams = [pair.open() for _ in sizes]
    for (near, _), size in zip(streams, sizes, strict=True):
        near.write(PATTERN[:size])

    for count in (*places, *[15] * 100):
        room = [memoryview(bytearray(b"\xff" * PAYLOAD)) for _ in range(count)]
        filled = pair.near.outbox.write_payloads(room)
        assert not pair.near.outbox.has_something or filled == count
        assert pair.far.receive_payloads(memoryview(b"".join(room[:filled])), PAYLOAD) == []

    for (near, far), size in zip(streams, sizes, strict=True):
        assert near.sent == min(size, FIRST_WINDOW)
        assert b"".join(far.incoming) == PATTERN[: near.sent]
