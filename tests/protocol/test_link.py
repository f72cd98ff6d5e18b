"""Links: records, numbers, credit, DESTROY, turns; and every rule a neighbour can break."""

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paper_network import Rogue, is_relay, read_header, relay_cell, with_byte
from warren.errors import LinkError, ProtocolError
from warren.identity import Suite
from warren.protocol import circuit_numbers
from warren.protocol import records as records_module
from warren.protocol.cells import (
    BODY_LENGTH,
    CELL_LENGTH,
    INITIATOR_NUMBERS,
    Command,
    Ready,
    encode_create,
    encode_credit,
    encode_ready,
    make_cell,
)
from warren.protocol.ciphers import TAG_LENGTH
from warren.protocol.leg import Leg
from warren.protocol.link import CreateRequested, PongReceived, ReadyReceived
from warren.protocol.records import MOST_RECORD_CELLS

FIRST = INITIATOR_NUMBERS
MESSAGE_1, MESSAGE_2 = bytes(range(208)) * 6, bytes(range(192)) * 6
WINDOW = 8

both_suites = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


class User:
    """Be what a leg belongs to, and keep what it was told."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        leg.user = self
        self.cells = 0
        self.passes_on = False
        self.created: list[bytes] = []
        self.errors: list[ProtocolError] = []
        self.lost = 0
        self.fails = False

    def receive_run(
        self, leg: Leg, command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        if self.fails:
            raise ProtocolError("what the circuit carried was wrong")
        self.cells += count
        if self.passes_on:
            leg.passed(count)

    def receive_created(self, leg: Leg, message: bytes) -> None:
        if self.fails:
            raise ProtocolError("a handshake that fits nothing")
        self.created.append(message)

    def leg_lost(self, leg: Leg) -> None:
        self.lost += 1
        leg.destroy()

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        self.errors.append(error)
        leg.destroy()


class Source:
    """Be an end of a circuit that has `cells` to send."""

    def __init__(self, number: int, cells: int) -> None:
        self.number, self.cells = number, cells

    @property
    def has_something(self) -> bool:
        return self.cells > 0

    def take(self, most: int) -> memoryview:
        count = min(most, self.cells)
        self.cells -= count
        return memoryview(relay_cell(self.number) * count)


def create_cell(number: int, depth: int = 0) -> bytes:
    return make_cell(number, Command.CREATE, encode_create(depth, Suite.AESGCM, MESSAGE_1))


def destroy_cell(number: int) -> bytes:
    return make_cell(number, Command.DESTROY)


def credit_cell(*grants: tuple[int, int]) -> bytes:
    return make_cell(0, Command.CREDIT, encode_credit(list(grants)))


def client(window: int = WINDOW, *, greets: bool = True) -> Rogue:
    """Return a rogue client of an honest relay."""
    return Rogue(window=window, greets=greets)


def relay(window: int = WINDOW) -> Rogue:
    """Return a rogue relay that an honest client has a link to."""
    return Rogue(is_initiator=False, window=window)


def accept(rogue: Rogue, number: int = FIRST) -> User:
    """Let the rogue create a circuit, and the honest side answer."""
    rogue.say(create_cell(number))
    (event,) = rogue.link.events
    assert isinstance(event, CreateRequested)
    rogue.link.events.clear()
    user = User(event.leg)
    rogue.link.send_created(event.leg, MESSAGE_2)
    assert (number, Command.CREATED) in rogue.hear_headers()
    return user


def create(rogue: Rogue, *, answered: bool = True) -> User:
    """Let the honest side create a circuit, and the rogue answer."""
    leg = rogue.link.create(0 if rogue.link.is_anonymous else 1, Suite.AESGCM, MESSAGE_1)
    user = User(leg)
    assert rogue.hear_headers() == [(leg.number, Command.CREATE)]
    if answered:
        rogue.say(make_cell(leg.number, Command.CREATED, MESSAGE_2))
    return user


def give(user: User, cells: int) -> None:
    """Let the circuit have that many cells to send, all of a sudden."""
    user.leg.source = Source(user.leg.number, cells)
    user.leg.has_news()


def assert_closes(rogue: Rogue, *cells: bytes) -> None:
    with pytest.raises(ProtocolError):
        rogue.say(*cells)


# READY


def test_ready_is_the_first_cell_and_nothing_else_goes_out_before_both() -> None:
    rogue = client(greets=False)

    assert rogue.hear_headers() == [(0, Command.READY)]
    assert not rogue.hear()
    assert not rogue.link.has_something
    rogue.say(rogue.greeting)

    assert rogue.link.events == [ReadyReceived(rogue.ready)]
    assert rogue.link.ready == rogue.ready


@pytest.mark.parametrize("command", [c for c in range(12) if c != Command.READY])
def test_every_cell_before_ready_closes_the_link(command: int) -> None:
    rogue = client(greets=False)
    rogue.hear()

    assert_closes(rogue, bytes(4) + bytes((command,)) + bytes(CELL_LENGTH - 5))


def test_a_cell_before_our_ready_was_sent_closes_the_link() -> None:
    assert_closes(client(greets=False), client().greeting, make_cell(0, Command.PADDING))


def test_a_second_ready_closes_the_link() -> None:
    rogue = client()

    assert_closes(rogue, rogue.greeting)


@pytest.mark.parametrize(
    ("is_initiator", "is_anonymous", "says_relay"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
    ids=["a client as relay", "a relay as client", "a guard as client", "a hop as client"],
)
def test_who_is_a_relay_says_so_in_ready_and_nobody_else(
    is_initiator: bool, is_anonymous: bool, says_relay: bool
) -> None:
    rogue = Rogue(is_initiator=is_initiator, is_anonymous=is_anonymous, greets=False)
    rogue.hear()
    ready = Rogue(is_anonymous=False).ready if says_relay else Ready((1,), 64)
    assert (ready.relay is not None) == says_relay

    assert_closes(rogue, make_cell(0, Command.READY, encode_ready(ready)))


# Records


def test_a_record_is_read_when_its_last_byte_is_there() -> None:
    rogue = client()
    record = rogue.seal([create_cell(FIRST)])

    for size in range(len(record)):
        if size < 40 or size > len(record) - 40 or size % 97 == 0:
            assert rogue.link.receive(memoryview(record[:size])) == 0
    assert rogue.link.receive(memoryview(record)) == len(record)

    assert len(rogue.link.events) == 1


@both_suites
@settings(max_examples=20)
@given(st.lists(st.integers(1, 3 * CELL_LENGTH), max_size=12), st.integers(1, 20))
def test_it_does_not_matter_how_records_are_cut(suite: Suite, cuts: list[int], cells: int) -> None:
    rogue = Rogue(window=64, suite=suite)
    user = accept(rogue)
    wire = rogue.seal([relay_cell(FIRST)] * cells)

    buffer = b""
    for size in [*cuts, len(wire)]:
        buffer, wire = buffer + wire[:size], wire[size:]
        buffer = buffer[rogue.link.receive(memoryview(buffer)) :]

    assert user.cells == cells
    assert not buffer


@pytest.mark.parametrize(
    "length", [0, 1, 16, 4096, 4111, 4113, 8192, 15 * 4096 + 17, 15 * 4096 + 32, 65535]
)
def test_a_record_of_another_length_is_refused_before_it_is_there(length: int) -> None:
    rogue = client()

    with pytest.raises(ProtocolError):
        rogue.link.receive(memoryview(length.to_bytes(2, "big")))


@both_suites
@pytest.mark.parametrize("at", [2, 100, -1], ids=["first byte", "middle", "tag"])
def test_a_changed_record_closes_the_link(suite: Suite, at: int) -> None:
    rogue = Rogue(suite=suite)
    record = bytearray(rogue.seal([make_cell(0, Command.PADDING)]))
    record[at] ^= 1

    with pytest.raises(ProtocolError):
        rogue.link.receive(memoryview(record))


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (1,)], ids=["replayed", "swapped", "dropped"])
def test_records_come_once_each_and_in_order(order: tuple[int, ...]) -> None:
    rogue = client()
    records = [rogue.seal([make_cell(0, Command.PADDING)]) for _ in range(2)]

    with pytest.raises(ProtocolError):
        rogue.link.receive(memoryview(b"".join(records[number] for number in order)))


@settings(max_examples=50)
@given(st.binary(max_size=5000))
def test_garbage_on_the_wire_is_a_protocol_error_or_waits_for_more(garbage: bytes) -> None:
    rogue = client()

    try:
        used = rogue.link.receive(memoryview(garbage))
    except ProtocolError:
        return
    assert used == 0


def test_a_record_carries_up_to_fifteen_cells() -> None:
    rogue = client(window=64)
    user = accept(rogue)
    give(user, 40)
    buffer = memoryview(bytearray(1 << 18))

    size = rogue.link.fill(buffer)

    lengths, at = [], 0
    while at < size:
        lengths.append((int.from_bytes(buffer[at : at + 2], "big") - TAG_LENGTH) // CELL_LENGTH)
        at += 2 + lengths[-1] * CELL_LENGTH + TAG_LENGTH
    assert lengths == [MOST_RECORD_CELLS, MOST_RECORD_CELLS, 10]


# Keys of records


@both_suites
def test_keys_change_under_load_and_no_cell_is_lost(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:  # T80
    monkeypatch.setattr(records_module, "RECORDS_PER_KEY", 4)
    rogue = Rogue(suite=suite, window=1024)
    user = accept(rogue)
    heard = 0
    for number in range(60):
        rogue.say(relay_cell(FIRST))
        give(user, 1 + number % 3)
        heard += sum(is_relay(cell) for cell in rogue.hear())

    assert user.cells == 60
    assert heard == sum(1 + number % 3 for number in range(60))
    assert rogue.link._opener.count > 60
    assert rogue.link._opener._key != bytes([1]) * 32


def test_a_neighbour_that_does_not_change_its_key_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rogue = client()
    records = [rogue.seal([make_cell(0, Command.PADDING)]) for _ in range(4)]
    monkeypatch.setattr(records_module, "RECORDS_PER_KEY", 4)  # READY was the first of them

    rogue.link.receive(memoryview(b"".join(records[:3])))

    with pytest.raises(ProtocolError):
        rogue.link.receive(memoryview(records[3]))
    assert rogue.link._opener.count == 5


# Cells that nobody may send


@pytest.mark.parametrize("command", list(Command))
@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_reserved_byte_that_is_not_zero_closes_the_link(command: Command, at: int) -> None:
    rogue = client()
    accept(rogue)
    number = 0 if command in (0, 6, 7, 8, 9) else FIRST

    assert_closes(rogue, with_byte(make_cell(number, command), at))


@pytest.mark.parametrize("command", [10, 11, 127, 255])
def test_an_unknown_command_closes_the_link(command: int) -> None:  # T79
    rogue = client()
    accept(rogue)

    for number in (0, FIRST):
        cell = number.to_bytes(4, "big") + bytes((command,)) + bytes(CELL_LENGTH - 5)
        with pytest.raises(ProtocolError):
            rogue.say(cell)


@pytest.mark.parametrize(
    "command", [Command.PADDING, Command.CREDIT, Command.READY, Command.PING, Command.PONG]
)
def test_a_link_cell_with_a_circuit_number_closes_the_link(command: Command) -> None:
    rogue = client()
    accept(rogue)

    assert_closes(rogue, make_cell(FIRST, command))


def test_padding_may_say_anything() -> None:
    rogue = client()

    rogue.say(make_cell(0, Command.PADDING, bytes([0xA5]) * BODY_LENGTH))

    assert not rogue.hear()


@pytest.mark.parametrize(
    "cell",
    [
        relay_cell(FIRST + 5),
        relay_cell(FIRST + 5, Command.RELAY_EARLY),
        relay_cell(0),
        relay_cell(1),
        destroy_cell(FIRST + 5),
        destroy_cell(0),
        make_cell(FIRST + 5, Command.CREATED, MESSAGE_2),
        credit_cell((FIRST + 5, 1)),
        credit_cell((FIRST, 1), (FIRST + 5, 1)),
    ],
)
def test_a_cell_for_a_circuit_that_does_not_exist_closes_the_link(cell: bytes) -> None:
    rogue = client()
    accept(rogue)

    assert_closes(rogue, cell)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, FIRST, FIRST, FIRST + 1, FIRST + 2, 1]),
            st.integers(0, 10),
            st.binary(max_size=16),
            st.sampled_from([0, 0, 0, 1]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_cells_of_garbage_are_a_protocol_error_and_nothing_else(
    cells: list[tuple[int, int, bytes, int]],
) -> None:
    rogue = client()
    accept(rogue)

    try:
        for number, command, start, last in cells:
            body = start.ljust(BODY_LENGTH - 1, b"\0") + bytes((last,))
            rogue.say(number.to_bytes(4, "big") + bytes((command, 0, 0, 0)) + body)
    except ProtocolError:
        return
    rogue.hear()


# Circuit numbers and CREATE


def test_each_side_counts_up_from_its_own_first_number() -> None:
    ours, theirs = relay(), client()

    numbers = [create(ours).leg.number for _ in range(3)]
    answering = Rogue(is_anonymous=False)

    assert numbers == [FIRST, FIRST + 1, FIRST + 2]
    assert [create(answering).leg.number for _ in range(3)] == [1, 2, 3]
    assert [accept(theirs, number).leg.number for number in (FIRST, FIRST + 7)] == [
        FIRST,
        FIRST + 7,
    ]


@pytest.mark.parametrize("number", [0, 1, FIRST - 1, FIRST, FIRST + 3, FIRST + 4, 2**32 - 1])
def test_a_number_of_the_wrong_side_or_used_before_closes_the_link(number: int) -> None:  # LNK-5
    rogue = client()
    accept(rogue, FIRST + 4)

    assert_closes(rogue, create_cell(number))


@pytest.mark.parametrize("number", [0, FIRST, FIRST + 1, 2**32 - 1])
def test_a_responder_has_the_low_numbers(number: int) -> None:
    rogue = Rogue(is_initiator=False, is_anonymous=False)

    assert_closes(rogue, create_cell(number, depth=1))


def test_a_forgotten_number_is_not_used_again() -> None:
    rogue = client()
    accept(rogue)
    rogue.say(destroy_cell(FIRST))
    rogue.hear()

    assert not rogue.link.legs
    assert_closes(rogue, create_cell(FIRST))


def test_a_client_is_asked_for_no_circuit() -> None:
    assert_closes(relay(), create_cell(1))


@pytest.mark.parametrize(
    ("is_anonymous", "depth", "fits"),
    [(True, 0, True), (True, 1, False), (False, 0, False), (False, 1, True), (False, 6, True)],
)
def test_a_circuit_begins_on_an_anonymous_link_and_nowhere_else(
    is_anonymous: bool, depth: int, fits: bool
) -> None:
    rogue = Rogue(is_anonymous=is_anonymous)

    rogue.say(create_cell(FIRST, depth))

    requests = [event for event in rogue.link.events if isinstance(event, CreateRequested)]
    assert [event.depth for event in requests] == ([depth] if fits else [])
    assert rogue.hear_headers() == ([] if fits else [(FIRST, Command.DESTROY)])


@pytest.mark.parametrize(
    "cell",
    [
        with_byte(create_cell(FIRST), CELL_LENGTH - 1),
        with_byte(create_cell(FIRST), 8 + 2 + 1248),
        with_byte(create_cell(FIRST), 8, 7),
        with_byte(create_cell(FIRST), 9, 2),
    ],
    ids=["last byte", "first byte of the tail", "depth 7", "suite 3"],
)
def test_a_create_with_something_wrong_in_it_is_destroyed(cell: bytes) -> None:  # T24, T68
    rogue = client()

    rogue.say(cell)
    rogue.say(destroy_cell(FIRST))

    assert not rogue.link.events
    assert rogue.hear_headers() == [(FIRST, Command.DESTROY)]
    assert not rogue.link.legs


def test_a_create_that_was_taken_back_leaves_nothing_to_answer() -> None:
    rogue = client()

    rogue.say(create_cell(FIRST), create_cell(FIRST + 1), destroy_cell(FIRST))

    (event,) = rogue.link.events
    assert isinstance(event, CreateRequested)
    assert event.leg.number == FIRST + 1
    assert rogue.hear_headers() == [(FIRST, Command.DESTROY)]


def test_both_sides_may_have_as_many_circuits_as_the_rules_say_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # DOS-4
    monkeypatch.setattr(circuit_numbers, "MOST_CIRCUITS", 3)
    rogue = Rogue(is_anonymous=False)
    for number in range(3):
        create(rogue, answered=False)
        rogue.say(create_cell(FIRST + number, depth=1))

    with pytest.raises(LinkError):
        rogue.link.create(1, Suite.AESGCM, MESSAGE_1)
    assert_closes(rogue, create_cell(FIRST + 3, depth=1))


def test_who_creates_and_destroys_without_reading_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # FLO-1, T56
    monkeypatch.setattr(circuit_numbers, "MOST_CIRCUITS", 20)
    rogue = client()
    bad = [with_byte(create_cell(FIRST + number), 9, 2) for number in range(30)]

    def flood() -> None:
        for number, cell in enumerate(bad):
            rogue.say(cell, destroy_cell(FIRST + number))

    with pytest.raises(ProtocolError):
        flood()

    assert len(rogue.link.legs) == len(rogue.link._control) == 20


def test_who_reads_may_create_and_destroy_as_often_as_he_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit_numbers, "MOST_CIRCUITS", 2)
    rogue = client()

    for number in range(FIRST, FIRST + 10):
        accept(rogue, number)
        rogue.say(destroy_cell(number))
        assert rogue.hear_headers() == [(number, Command.DESTROY)]

    assert not rogue.link.legs


# CREATED


def test_created_goes_to_whom_the_leg_belongs() -> None:
    user = create(relay())

    assert user.created == [MESSAGE_2]


def test_a_created_that_was_not_asked_for_closes_the_link() -> None:
    again, theirs = relay(), client()
    number = create(again).leg.number
    accept(theirs)

    assert_closes(again, make_cell(number, Command.CREATED, MESSAGE_2))
    assert_closes(theirs, make_cell(FIRST, Command.CREATED, MESSAGE_2))


@pytest.mark.parametrize("command", [Command.RELAY, Command.RELAY_EARLY])
def test_a_relay_cell_before_created_closes_the_link(command: Command) -> None:
    ours, theirs = relay(), client()
    number = create(ours, answered=False).leg.number
    theirs.say(create_cell(FIRST))

    assert_closes(ours, relay_cell(number, command))
    assert_closes(theirs, relay_cell(FIRST, command))


def test_a_created_with_something_wrong_in_it_destroys_the_circuit() -> None:
    rogue = relay()
    users = [create(rogue, answered=False) for _ in range(2)]
    users[1].fails = True
    created = [make_cell(user.leg.number, Command.CREATED, MESSAGE_2) for user in users]

    rogue.say(with_byte(created[0], CELL_LENGTH - 1), created[1])

    assert [len(user.errors) for user in users] == [1, 1]
    assert rogue.hear_headers() == [(user.leg.number, Command.DESTROY) for user in users]


# PING


def test_a_ping_comes_back_ahead_of_everything_else() -> None:
    rogue = client()
    user = accept(rogue)
    give(user, 5)
    user.passes_on = True
    rogue.say(relay_cell(FIRST), relay_cell(FIRST), make_cell(0, Command.PING, b"12345678"))

    heard = rogue.hear()

    commands = [read_header(cell)[1] for cell in heard]
    assert commands == [Command.PONG, Command.CREDIT, *[Command.RELAY] * 5]
    assert heard[0] == make_cell(0, Command.PONG, b"12345678")


def test_one_ping_is_outstanding_and_its_pong_is_an_event() -> None:
    rogue = client()

    assert rogue.link.ping(b"tokentok")
    assert not rogue.link.ping(b"another!")
    assert rogue.hear() == [make_cell(0, Command.PING, b"tokentok")]
    rogue.say(make_cell(0, Command.PONG, b"tokentok"))

    assert rogue.link.events == [PongReceived(b"tokentok")]
    assert rogue.link.ping(b"another!")


@pytest.mark.parametrize(
    "cells",
    [
        [make_cell(0, Command.PONG, b"wrongtok")],
        [make_cell(0, Command.PONG, b"tokentok")] * 2,
        [make_cell(0, Command.PONG, b"tokentok1")],
        [make_cell(0, Command.PING, b"12345678")] * 2,
        [make_cell(0, Command.PING, b"123456789")],
    ],
    ids=["another token", "twice", "more than a token", "two pings", "more than a ping"],
)
def test_pings_and_pongs_come_one_by_one(cells: list[bytes]) -> None:
    rogue = client()
    rogue.link.ping(b"tokentok")
    rogue.hear()

    assert_closes(rogue, *cells)


# Credit


@pytest.mark.parametrize("together", [1, 15, 64])
def test_sending_without_credit_closes_the_link_within_a_window(together: int) -> None:  # T20
    rogue = client(window=64)
    user = accept(rogue)
    heard_before = rogue.link.cells_received

    def flood() -> None:
        for _ in range(10_000 // together):
            rogue.say(*[relay_cell(FIRST)] * together)

    with pytest.raises(ProtocolError, match="credit"):
        flood()

    assert user.cells <= 64
    assert rogue.link.cells_received - heard_before <= 64 + MOST_RECORD_CELLS


def test_early_cells_use_credit_as_well() -> None:
    rogue = client(window=3)
    accept(rogue)
    rogue.say(relay_cell(FIRST), relay_cell(FIRST, Command.RELAY_EARLY), relay_cell(FIRST))

    assert_closes(rogue, relay_cell(FIRST, Command.RELAY_EARLY))


def test_a_leg_sends_no_more_than_its_credit_and_goes_on_with_more() -> None:
    rogue = client()
    user = accept(rogue)
    give(user, 20)

    counts = []
    for granted in (0, 5, 100):
        if granted:
            rogue.say(credit_cell((FIRST, granted)))
        counts.append(len(rogue.hear()))

    assert counts == [WINDOW, 5, 20 - WINDOW - 5]


def test_credit_is_given_back_for_what_was_passed_on() -> None:
    rogue = client(window=64)
    user = accept(rogue)
    user.passes_on = True

    rogue.say(*[relay_cell(FIRST)] * 15)
    assert not rogue.hear()
    rogue.say(relay_cell(FIRST))

    assert rogue.hear() == [credit_cell((FIRST, 16))]


def test_credit_of_many_circuits_shares_a_cell() -> None:
    rogue = client()
    users = [accept(rogue, FIRST + number) for number in range(3)]
    for user in users:
        user.passes_on = True
        rogue.say(relay_cell(user.leg.number), relay_cell(user.leg.number))

    assert rogue.hear() == [credit_cell(*((user.leg.number, 2) for user in users))]


@pytest.mark.parametrize(
    "cell",
    [
        credit_cell((FIRST, 1), (FIRST, 1)),
        credit_cell((FIRST, 0)),
        credit_cell((FIRST, 1 << 20)),
        credit_cell((FIRST, 0xFFFF_FFFF)),
        credit_cell(),
        with_byte(credit_cell((FIRST, 1)), CELL_LENGTH - 1),
        with_byte(credit_cell((FIRST, 1)), 8 + 15),
    ],
    ids=["twice", "zero", "overflow", "absurd", "empty", "tail", "behind the end"],
)
def test_a_wrong_credit_closes_the_link(cell: bytes) -> None:
    rogue = client()
    accept(rogue)

    assert_closes(rogue, cell)


# DESTROY: each side sends exactly one (protocol §3)


def test_what_was_under_way_when_we_destroyed_is_discarded_up_to_its_credit() -> None:
    rogue = client()
    user = accept(rogue)
    rogue.say(relay_cell(FIRST))
    user.leg.destroy()

    rogue.say(*[relay_cell(FIRST)] * (WINDOW - 1), credit_cell((FIRST, 10)))

    assert user.cells == 1
    assert rogue.hear_headers() == [(FIRST, Command.DESTROY)]
    assert_closes(rogue, relay_cell(FIRST))


def test_a_created_that_crosses_our_destroy_is_discarded() -> None:
    rogue = relay()
    user = create(rogue, answered=False)
    user.leg.destroy()

    rogue.say(make_cell(user.leg.number, Command.CREATED, MESSAGE_2))
    rogue.say(destroy_cell(user.leg.number))

    assert not user.created
    assert rogue.hear_headers() == [(user.leg.number, Command.DESTROY)]
    assert not rogue.link.legs


def test_a_circuit_is_forgotten_when_both_have_destroyed_it() -> None:
    rogue = client()
    user = accept(rogue)
    user.leg.destroy()
    user.leg.destroy()
    rogue.hear()
    assert FIRST in rogue.link.legs

    rogue.say(destroy_cell(FIRST))

    assert not rogue.link.legs
    assert not rogue.hear()
    assert user.lost == 0
    assert_closes(rogue, relay_cell(FIRST))


def test_a_destroy_is_answered_with_one_and_told_once() -> None:
    rogue = client()
    user = accept(rogue)
    give(user, 5)

    rogue.say(destroy_cell(FIRST))

    assert user.lost == 1
    assert rogue.hear_headers() == [(FIRST, Command.DESTROY)]
    assert not rogue.link.legs


@pytest.mark.parametrize(
    "cell",
    [
        relay_cell(FIRST),
        credit_cell((FIRST, 1)),
        destroy_cell(FIRST),
        make_cell(FIRST, Command.CREATED, MESSAGE_2),
    ],
    ids=["RELAY", "CREDIT", "DESTROY", "CREATED"],
)
@pytest.mark.parametrize("answered", [True, False])
def test_nothing_follows_a_destroy(cell: bytes, answered: bool) -> None:
    rogue = client()
    accept(rogue)
    rogue.say(destroy_cell(FIRST))
    if answered:
        rogue.hear()

    assert_closes(rogue, cell)


def test_a_destroy_says_nothing() -> None:  # SID-3, T68
    rogue = client()
    user = accept(rogue)
    user.leg.destroy()

    assert rogue.hear() == [bytes.fromhex("80000000 05000000") + bytes(BODY_LENGTH)]
    assert_closes(rogue, with_byte(destroy_cell(FIRST), 8))


def test_a_violation_on_one_circuit_destroys_that_circuit_only() -> None:
    rogue = client()
    bad, good = accept(rogue, FIRST), accept(rogue, FIRST + 1)
    bad.fails = True

    rogue.say(relay_cell(FIRST), relay_cell(FIRST), relay_cell(FIRST + 1))

    assert (len(bad.errors), good.cells) == (1, 1)
    assert rogue.hear_headers() == [(FIRST, Command.DESTROY)]


def test_no_credit_is_given_for_a_circuit_that_was_destroyed() -> None:
    rogue = client()
    user = accept(rogue)
    rogue.say(*[relay_cell(FIRST)] * WINDOW)
    user.leg.passed(WINDOW // 4)

    user.leg.destroy()
    user.leg.passed(WINDOW)

    assert rogue.hear_headers() == [(FIRST, Command.DESTROY)]


# Turns


def busy(rogue: Rogue, *counts: int) -> list[User]:
    """Return circuits that have so many cells to send, and credit for them all."""
    users = [accept(rogue, FIRST + number) for number in range(len(counts))]
    rogue.say(credit_cell(*((user.leg.number, 1 << 19) for user in users)))
    for user, cells in zip(users, counts, strict=True):
        give(user, cells)
    return users


def turns(rogue: Rogue, records: int) -> list[list[int]]:
    """Return for each of the next records the circuits in it, in order."""
    heard = [[read_header(cell)[0] for cell in rogue.hear_record()] for _ in range(records)]
    return [[number for number, _ in groupby(numbers)] for numbers in heard]


def circuit_source(user: User) -> Source:
    source = user.leg.source
    assert isinstance(source, Source)
    return source


def test_busy_circuits_take_turns_record_by_record() -> None:
    rogue = client()
    busy(rogue, 1000, 1000, 1000)

    assert turns(rogue, 6) == [[FIRST], [FIRST + 1], [FIRST + 2]] * 2


def test_a_circuit_that_was_quiet_goes_before_those_that_are_busy() -> None:
    rogue = client()
    quiet, *_ = busy(rogue, 0, 1000, 1000)
    turns(rogue, 2)

    give(quiet, 1)

    assert turns(rogue, 2) == [[FIRST, FIRST + 1], [FIRST + 2]]


def test_a_crowd_of_circuits_that_are_quiet_by_turns_starves_no_download() -> None:
    rogue = client()
    download, *crowd = busy(rogue, 1000, *[0] * 30)
    turns(rogue, 1)
    before = circuit_source(download).cells

    for _ in range(60):
        for user in crowd:  # each has had its say and has something new already
            if not user.leg.has_something:
                give(user, 1)
        turns(rogue, 1)

    assert before - circuit_source(download).cells > 60 * MOST_RECORD_CELLS // 8


def test_control_cells_go_before_data_and_data_behind_its_created() -> None:
    rogue = client()
    old, *_ = busy(rogue, 0)
    rogue.say(create_cell(FIRST + 1))
    (event,) = rogue.link.events
    assert isinstance(event, CreateRequested)
    give(old, 3)
    rogue.link.send_created(event.leg, MESSAGE_2)
    give(User(event.leg), 1)

    commands = [command for _, command in rogue.hear_headers()]
    assert commands == [Command.CREATED, *[Command.RELAY] * 4]


def test_an_idle_link_has_nothing_to_send() -> None:
    rogue = client()
    user = accept(rogue)

    before = rogue.link.has_something
    give(user, 1)

    assert (before, rogue.link.has_something) == (False, True)
    rogue.hear()
    assert not rogue.hear_record()


# The end of a link


def test_a_closed_link_tells_its_circuits_and_says_no_more() -> None:
    rogue = client(window=64)
    users = [accept(rogue, FIRST + number) for number in range(3)]
    give(users[0], 5)
    users[1].leg.destroy()
    users[2].passes_on = True
    rogue.say(*[relay_cell(FIRST + 2)] * 30, create_cell(FIRST + 9))

    rogue.link.close()

    assert [user.lost for user in users] == [1, 1, 1]
    assert not rogue.link.legs
    assert not rogue.link.events
    assert not rogue.hear()


def test_a_link_says_what_it_is() -> None:
    rogue = client()
    user = accept(rogue)

    assert repr(rogue.link) == "<Link None, 1 circuits>"
    assert repr(user.leg) == "<Leg 0x80000000 credit 8, 0 queued>"
