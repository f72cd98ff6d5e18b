"""Circuits on paper: what they carry, and what every malicious hop on them can do.

Circuits are rebuilt over links that stay, so that the attacks can be tried often enough.
"""

from collections.abc import Callable, Iterable
from itertools import count, product
from random import Random

import pytest

from tests.support.paper_network import (
    KEYS,
    NETWORK_ID,
    REACHED,
    TARGET,
    PaperNetwork,
    PaperRelay,
    Rogue,
    Tap,
    inject,
    is_relay,
    read_all,
    read_header,
    with_byte,
)
from warren.errors import EndReason, ProtocolError
from warren.identity import PeerId, Suite
from warren.protocol import ciphers, noise, records
from warren.protocol.cells import (
    BODY_LENGTH,
    CELL_LENGTH,
    HEADER_LENGTH,
    MOST_HOPS,
    Command,
    cell_header,
    make_cell,
)
from warren.protocol.circuit import (
    TRANSITIONS,
    CircuitState,
    Closed,
    ExtendFailed,
    ExtendRequested,
    HopAdded,
)
from warren.protocol.handshake import CircuitInitiator
from warren.protocol.leg import Leg
from warren.protocol.messages import (
    Begin,
    Extend,
    ExtendStatus,
    Message,
    encode_end,
    encode_extended,
    encode_message,
    encode_stream_credit,
)
from warren.protocol.onion import LayerKey
from warren.protocol.origin_circuit import OriginCircuit
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.stream import StreamProtocol

KIB = 1024
BYTES = Random(5).randbytes(1 << 20)
BEGIN = Begin(TARGET).encode()
BITS = BODY_LENGTH * 8

both_suites = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


def send(network: PaperNetwork, source: StreamProtocol, target: StreamProtocol, size: int) -> bytes:
    """Let an application write `size` bytes; return what the other one reads meanwhile."""
    written, read = 0, b""
    while len(read) < size:
        room = min(source.room, size - written)
        if room > 0:
            source.write(BYTES[written : written + room])
            written += room
        network.settle()
        part = read_all(target)
        read += part
        assert part or room > 0, "the stream has stopped"
    return read


def assert_gone(network: PaperNetwork, circuit: OriginCircuit) -> None:
    """Hold that nobody has anything left of the only circuit, and that no link broke."""
    network.settle()
    assert circuit.is_closed
    assert all(relay.circuit.is_closed for relay in network.relays if relay.circuits)
    assert [wire.error for wire in network.wires] == [None] * len(network.wires)
    assert not any(wire.initiator.legs or wire.responder.legs for wire in network.wires)


def places_of_errors(circuits: Iterable[RelayCircuit | OriginCircuit]) -> list[int]:
    """Return at which places on the way somebody found something wrong."""
    return [place for place, circuit in enumerate(circuits) if circuit.error is not None]


# What circuits carry


@both_suites
@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5, 7])
def test_bytes_go_through_any_number_of_hops_and_end_cleanly(hops: int, suite: Suite) -> None:
    network = PaperNetwork(hops, suite=suite)
    circuit = network.build(hops)
    near, far = network.open_stream(circuit)

    forward = send(network, near, far, 100 * KIB)
    backward = send(network, far, near, 150 * KIB)
    near.write_eof()
    far.write_eof()
    network.settle()

    assert forward == BYTES[: 100 * KIB]
    assert backward == BYTES[: 150 * KIB]
    assert (near.reason, far.reason) == (EndReason.DONE, EndReason.DONE)
    assert not circuit.streams.streams


@pytest.mark.parametrize("window", [1, 2, 8, 64])
def test_bytes_go_through_windows_of_any_size(window: int) -> None:
    network = PaperNetwork(3, window=window, growth=0)
    near, far = network.open_stream(network.build(3))

    assert send(network, far, near, 200 * KIB) == BYTES[: 200 * KIB]
    assert send(network, near, far, 200 * KIB) == BYTES[: 200 * KIB]
    for wire in network.wires:
        for leg in (*wire.initiator.legs.values(), *wire.responder.legs.values()):
            assert (leg.window.held, leg.queued, leg.own) == (0, 0, 0)
            assert leg.window.outstanding + leg.window.owed == leg.window.size == window


def test_windows_grow_and_give_back_what_they_took() -> None:
    network = PaperNetwork(3, window=8, growth=4000)
    circuit = network.build(3)
    near, far = network.open_stream(circuit)

    send(network, far, near, 1000 * KIB)
    grown = 4000 - network.budget.left
    circuit.destroy()
    network.settle()

    assert grown > 100
    assert network.budget.left == 4000


def test_every_hop_knows_its_depth_and_only_the_last_reads() -> None:
    network = PaperNetwork(5)
    circuit = network.build(5)

    assert circuit.hops == 5
    assert [relay.circuit.depth for relay in network.relays] == [0, 1, 2, 3, 4]
    states = [relay.circuit.state for relay in network.relays]
    assert states == [CircuitState.FORWARDING] * 4 + [CircuitState.OPEN]
    assert [relay.circuit.streams is None for relay in network.relays] == [True] * 4 + [False]


def test_a_link_that_takes_nothing_holds_up_the_origin_after_one_window() -> None:  # FLO-1
    network = PaperNetwork(3, window=16, growth=0)
    circuit = network.build(3)
    near, _ = network.open_stream(circuit)
    near.receive_credit(0, 1 << 22)
    blocked = network.wire(network.relays[0], network.relays[1])
    network.wires.remove(blocked)

    while near.room > 0:
        near.write(bytes(near.room))
        network.settle()
    waiting = network.relays[0].circuit.next
    assert waiting is not None
    cells_waiting = waiting.queued

    network.wires.append(blocked)
    network.settle()
    assert 12 < cells_waiting <= 16  # less what is owed and not worth a CREDIT yet
    assert waiting.queued == 0


def test_both_ends_share_a_secret_that_no_other_hop_has() -> None:
    network = PaperNetwork(3)
    circuit = network.build(3)

    assert circuit.secrets == network.exit.circuit.secrets
    assert [relay.circuit.secrets for relay in network.relays[:2]] == [None, None]


def test_machines_say_what_they_are() -> None:
    network = PaperNetwork(2)
    circuit = network.build(2)

    assert repr(circuit) == "<Circuit 0x80000000 open, 2 hops>"
    assert repr(network.relays[0].circuit) == "<Circuit 0x80000000 forwarding at depth 0>"


# A guard that changes cells


def on_nth_relay_cell(number: int, change: Callable[[bytearray], list[bytes]]) -> Tap:
    """Return a tap that changes one cell with an onion body, the `number`-th from now on."""
    counter = count()

    def tap(cell: bytearray) -> list[bytes]:
        if is_relay(cell) and next(counter) == number:
            return change(cell)
        return [bytes(cell)]

    return tap


def flip(bit: int) -> Callable[[bytearray], list[bytes]]:
    """Return what flips one bit of a cell's body."""
    return lambda cell: [with_byte(bytes(cell), HEADER_LENGTH + bit // 8, 1 << bit % 8)]


def test_one_bit_changed_forward_never_reaches_the_exit() -> None:  # T04
    rng = Random(4)
    network = PaperNetwork(3)
    circuit = network.build(3)
    circuit.destroy()
    guard, middle, exit_relay = network.relays

    for _ in range(1000):
        network.tap(guard, middle, None)
        circuit = network.build(3)
        near, far = network.open_stream(circuit)
        before, read_before = rng.randrange(3), far.received
        network.tap(guard, middle, on_nth_relay_cell(before, flip(rng.randrange(BITS))))
        for number in range(4):
            near.write(bytes([number + 1]) * 3000)
            network.settle()

        whole = b"".join(bytes([number + 1]) * 3000 for number in range(before))
        assert b"".join(far.incoming) in (b"", whole)  # dropped when the stream was lost
        assert far.received - read_before == len(whole)
        found = [c.error is not None for c in (guard.circuit, middle.circuit, exit_relay.circuit)]
        assert found == [False, True, False]
        assert circuit.is_closed
        del guard.circuits[:-1], middle.circuits[:-1], exit_relay.circuits[:-1]
    assert_gone(network, circuit)


def test_a_changed_cell_takes_with_it_what_came_behind_it_in_one_record() -> None:  # T04
    network = PaperNetwork(3)
    circuit = network.build(3)
    near, far = network.open_stream(circuit)
    network.tap(network.relays[0], network.relays[1], on_nth_relay_cell(0, flip(77)))

    near.write(BYTES[: 50 * KIB])
    assert_gone(network, circuit)

    assert far.received == 0
    assert near.reason is far.reason is EndReason.DESTROY


class Reordering:
    """Swap the `number`-th onion cell with the one behind it."""

    def __init__(self, number: int) -> None:
        self.number, self.kept = number, b""

    def __call__(self, cell: bytearray) -> list[bytes]:
        if not is_relay(cell):
            return [bytes(cell)]
        self.number -= 1
        if self.number == -1:
            self.kept = bytes(cell)
            return []
        kept, self.kept = self.kept, b""
        return [bytes(cell), kept] if kept else [bytes(cell)]


class Replaying:
    """Send the first onion cell a second time, in place of the `number`-th or ahead of it."""

    def __init__(self, number: int, *, replaces: bool) -> None:
        self.number, self.replaces, self.first = number, replaces, b""

    def __call__(self, cell: bytearray) -> list[bytes]:
        if not is_relay(cell):
            return [bytes(cell)]
        self.first = self.first or bytes(cell)
        self.number -= 1
        if self.number != -1:
            return [bytes(cell)]
        return [self.first] if self.replaces else [self.first, bytes(cell)]


def attacks(rng: Random) -> dict[str, Tap]:
    """Return the ways to meddle with a row of cells; each changes one before the last."""
    nth = rng.randrange(1, 6)
    return {
        "corrupt": on_nth_relay_cell(nth, flip(rng.randrange(BITS))),
        "drop": on_nth_relay_cell(nth, lambda _: []),
        "duplicate": on_nth_relay_cell(nth, lambda cell: [bytes(cell)] * 2),
        "invent": on_nth_relay_cell(
            nth, lambda cell: [bytes(cell[:HEADER_LENGTH]) + rng.randbytes(BODY_LENGTH)]
        ),
        "reorder": Reordering(nth),
        "replay": Replaying(nth, replaces=True),
        "insert": Replaying(nth, replaces=False),
    }


both_places = pytest.mark.parametrize(
    "is_sealed", [True, False], ids=["outside", "inside its own layer"]
)
all_attacks = pytest.mark.parametrize("attack", attacks(Random(0)))


@both_places
@all_attacks
def test_whatever_a_guard_does_backward_no_wrong_byte_arrives(
    attack: str, is_sealed: bool
) -> None:  # T05
    attack_backward(attack, is_sealed, trials=25)


@pytest.mark.long
@both_places
@all_attacks
def test_in_five_thousand_trials_no_wrong_byte_arrives(attack: str, is_sealed: bool) -> None:  # T05
    attack_backward(attack, is_sealed, trials=358)


def attack_backward(attack: str, is_sealed: bool, *, trials: int) -> None:
    rng = Random(f"{attack} {is_sealed}")
    network = PaperNetwork(3)
    circuit = network.build(3)
    circuit.destroy()
    guard, middle, _ = network.relays
    source, target = (guard, None) if is_sealed else (middle, guard)

    for _ in range(trials):
        network.tap(source, target, None)
        circuit = network.build(3)
        near, far = network.open_stream(circuit)
        network.tap(source, target, attacks(rng)[attack])
        read, in_one_go = b"", rng.random() < 0.5
        for part in range(0, 30_000, 3000):
            far.write(BYTES[part : part + 3000])
            if not in_one_go:
                network.settle()
                read += read_all(near) if near.incoming else b""
        network.settle()
        read += b"".join(near.incoming)

        assert read == BYTES[: len(read)]
        assert len(read) < 30_000
        assert circuit.is_closed
        assert near.reason is EndReason.DESTROY
    assert_gone(network, circuit)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_tail_that_is_not_zero_destroys_the_circuit_at_the_next_hop(depth: int) -> None:
    network = PaperNetwork(3)
    circuit = network.build(3)
    near, far = network.open_stream(circuit)
    tail = on_nth_relay_cell(0, flip(BITS - 1))
    network.tap(network.relays[depth - 1], network.relays[depth], tail)

    near.write(b"x")
    assert_gone(network, circuit)

    assert far.received == 0
    assert places_of_errors(relay.circuit for relay in network.relays) == [depth]


@pytest.mark.parametrize(
    "place", [5, 6, 7, 0, 4], ids=["reserved", "reserved", "reserved", "number", "command"]
)
def test_a_changed_header_closes_the_link_of_who_changed_it(place: int) -> None:
    network = PaperNetwork(3)
    circuit = network.build(3)
    near, far = network.open_stream(circuit)
    guard, middle, _ = network.relays
    network.tap(
        guard, middle, on_nth_relay_cell(0, lambda cell: [with_byte(bytes(cell), place, 0x40)])
    )

    near.write(b"x")
    network.settle()

    assert network.wire(guard, middle).error is not None
    assert network.wire(middle, network.exit).error is None
    assert circuit.is_closed
    assert (near.reason, far.reason, far.received) == (EndReason.DESTROY, EndReason.DESTROY, 0)


# EARLY and EXTEND (CIR-1)


def extend_message(relay: PaperRelay, depth: int) -> bytes:
    """Return a whole EXTEND to `relay`."""
    initiator = CircuitInitiator(
        NETWORK_ID, relay.peer_id, relay.onion_key.public, depth, relay.suite, KEYS
    )
    data = Extend(relay.peer_id, relay.suite, initiator.message).encode()
    return encode_message(Message.EXTEND, 0, data)


DROP = encode_message(Message.DROP, 0)


def test_a_backward_early_from_the_exit_is_stopped_by_the_middle() -> None:  # T23
    network = PaperNetwork(3)
    circuit = network.build(3)

    inject(network.exit.circuit, DROP, Command.RELAY_EARLY)
    assert_gone(network, circuit)

    assert places_of_errors(relay.circuit for relay in network.relays) == [1]


def test_a_backward_early_from_the_guard_is_stopped_by_the_origin() -> None:  # T23
    network = PaperNetwork(3)
    circuit = network.build(3)
    _, far = network.open_stream(circuit)
    early = on_nth_relay_cell(
        0, lambda cell: [cell_header(circuit.leg.number, Command.RELAY_EARLY) + cell[8:]]
    )
    network.tap(network.relays[0], None, early)

    far.write(b"x")
    assert_gone(network, circuit)

    assert "RELAY_EARLY" in str(circuit.error)


def test_the_seventh_early_is_stopped_by_the_guard() -> None:  # T23, T24
    network = PaperNetwork(8)
    circuit = network.build(7)

    inject(circuit, extend_message(network.relays[7], 7), Command.RELAY_EARLY)
    assert_gone(network, circuit)

    assert places_of_errors(relay.circuit for relay in network.relays[:7]) == [0]
    assert not network.relays[7].circuits


def test_the_seventh_hop_extends_no_further_whoever_forgot_to_count() -> None:  # T24
    network = PaperNetwork(8)
    circuit = network.build(7)
    for relay in network.relays[:6]:
        relay.circuit._early = 0

    inject(circuit, extend_message(network.relays[7], 7), Command.RELAY_EARLY)
    assert_gone(network, circuit)

    assert circuit.hops == MOST_HOPS == 7
    assert places_of_errors(relay.circuit for relay in network.relays[:7]) == [6]
    assert not network.relays[7].circuits


@pytest.mark.parametrize("again", [2, 1], ids=["itself", "the previous hop"])
def test_no_relay_comes_twice_in_a_row(again: int) -> None:  # T24
    network = PaperNetwork(3)
    circuit = network.build(3)

    inject(circuit, extend_message(network.relays[again], 3), Command.RELAY_EARLY)
    assert_gone(network, circuit)

    assert len(network.relays[again].circuits) == 1
    assert places_of_errors(relay.circuit for relay in network.relays) == [2]


EXTEND_TO_NOBODY = encode_message(
    Message.EXTEND, 0, Extend(PeerId(bytes(32)), Suite.AESGCM, bytes(1248)).encode()
)
TO_SOMEBODY = Extend(PeerId(b"s" * 32), Suite.AESGCM, bytes(1248)).encode()
EXTEND_TO_SOMEBODY = encode_message(Message.EXTEND, 0, TO_SOMEBODY)


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        (EXTEND_TO_SOMEBODY, Command.RELAY),
        (EXTEND_TO_NOBODY, Command.RELAY_EARLY),
        (EXTEND_TO_SOMEBODY + DROP, Command.RELAY_EARLY),
        (EXTEND_TO_SOMEBODY * 2, Command.RELAY_EARLY),
        (encode_message(Message.EXTEND, 0, TO_SOMEBODY[:-1]), Command.RELAY_EARLY),
        (encode_message(Message.EXTEND, 1, TO_SOMEBODY), Command.RELAY_EARLY),
        (DROP, Command.RELAY_EARLY),
        (encode_message(Message.BEGIN, 1, BEGIN), Command.RELAY_EARLY),
        (b"", Command.RELAY_EARLY),
        (b"", Command.RELAY),
    ],
    ids=[
        "in a plain RELAY", "to nobody", "with a DROP", "twice", "cut", "of a stream", "a DROP",
        "a BEGIN", "empty EARLY", "empty RELAY",
    ],
)  # fmt: skip
def test_an_extend_comes_alone_and_early_and_nothing_else_does(
    payload: bytes, command: Command
) -> None:  # T23
    network = PaperNetwork(3)
    circuit = network.build(3)

    inject(circuit, payload, command)
    assert_gone(network, circuit)

    assert places_of_errors(relay.circuit for relay in network.relays) == [2]
    assert not any(isinstance(event, ExtendFailed) for event in circuit.events)


def test_two_early_cells_in_a_row_are_refused() -> None:
    network = PaperNetwork(2)
    circuit = network.build(2)

    for _ in range(2):
        inject(circuit, EXTEND_TO_SOMEBODY, Command.RELAY_EARLY)
    assert_gone(network, circuit)

    assert places_of_errors(relay.circuit for relay in network.relays) == [1]


def test_a_circuit_with_a_stream_is_not_extended() -> None:
    network = PaperNetwork(3)
    circuit = network.build(2)
    network.open_stream(circuit)

    inject(circuit, extend_message(network.relays[2], 2), Command.RELAY_EARLY)
    assert_gone(network, circuit)

    assert places_of_errors(relay.circuit for relay in network.relays[:2]) == [1]


def test_nothing_is_sent_while_the_circuit_is_being_extended() -> None:
    network = PaperNetwork(3)
    circuit = network.build(2)
    inject(circuit, extend_message(network.relays[2], 2), Command.RELAY_EARLY)
    inject(circuit, DROP)

    assert_gone(network, circuit)

    assert "extending" in str(network.relays[1].circuit.error)


def test_an_extension_to_somebody_unknown_fails_with_its_status() -> None:  # LNK-4, T67
    network = PaperNetwork(2)
    circuit = network.build(2)
    circuit.events.clear()

    network.extend(circuit, PaperRelay(99))
    assert_gone(network, circuit)

    assert list(circuit.events) == [ExtendFailed(ExtendStatus.UNKNOWN_PEER), Closed(None)]


def test_an_extension_with_another_onion_key_is_refused() -> None:  # T54
    network = PaperNetwork(3)
    circuit = network.build(2)
    circuit.events.clear()
    network.exit.onion_key = KEYS.key_pair()
    impostor = CircuitInitiator(
        NETWORK_ID, network.exit.peer_id, KEYS.key_pair().public, 2, Suite.AESGCM, KEYS
    )

    circuit.extend(network.exit.peer_id, Suite.AESGCM, impostor)
    network.settle()

    assert list(circuit.events) == [ExtendFailed(ExtendStatus.REFUSED), Closed(None)]
    assert not network.exit.circuits


@pytest.mark.parametrize("extra", ["DESTROY", "RELAY"])
def test_a_next_hop_that_is_gone_when_it_is_joined_has_refused(extra: str) -> None:
    network = PaperNetwork(1)
    circuit = network.build(1)
    circuit.events.clear()
    here, next_hop = network.relays[0].circuit, Rogue(is_initiator=False, is_anonymous=False)
    waiting = Waiting()
    inject(circuit, EXTEND_TO_SOMEBODY, Command.RELAY_EARLY)
    circuit.state = CircuitState.EXTENDING
    network.wires[0].move()
    assert isinstance(here.events.popleft(), ExtendRequested)
    leg = next_hop.link.create(1, Suite.AESGCM, bytes(1248))
    leg.user = waiting
    next_hop.hear()

    behind = Command.DESTROY if extra == "DESTROY" else Command.RELAY
    next_hop.say(make_cell(leg.number, Command.CREATED), make_cell(leg.number, behind))
    here.extended(leg, waiting.message)
    assert_gone(network, circuit)

    assert list(circuit.events) == [ExtendFailed(ExtendStatus.REFUSED), Closed(None)]


class Waiting:
    """Wait for CREATED, and tell the circuit only when the test says so: as a task does."""

    message = b""

    def receive_created(self, leg: Leg, message: bytes) -> None:
        self.message = message

    def receive_run(self, *_: object) -> None:
        raise ProtocolError("a cell from a hop that was not joined yet")

    def leg_lost(self, leg: Leg) -> None:
        leg.destroy()

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        leg.destroy()


def test_a_created_that_fits_no_handshake_destroys_the_circuit() -> None:  # T54
    guard = Rogue(is_initiator=False)
    initiator = CircuitInitiator(
        NETWORK_ID, guard.relay.peer_id, guard.relay.onion_key.public, 0, Suite.AESGCM, KEYS
    )
    circuit = OriginCircuit(guard.link.create(0, Suite.AESGCM, initiator.message), initiator)
    guard.hear()

    guard.say(make_cell(circuit.leg.number, Command.CREATED, bytes(1152)))

    assert circuit.error is not None
    assert circuit.hops == 0
    assert guard.hear_headers() == [(circuit.leg.number, Command.DESTROY)]


# An exit that says what it may not (T25: the dropmark attack)


def data(stream: int, content: bytes = b"x") -> bytes:
    return encode_message(Message.DATA, stream, content)


def connected(stream: int) -> bytes:
    return encode_message(Message.CONNECTED, stream, REACHED.encode())


@pytest.mark.parametrize(
    "payload",
    [
        DROP,
        bytes((200,)) + bytes(6),
        bytes((9, 0, 0, 0, 1, 0, 1, 7)),
        data(2),
        data(1),
        data(0),
        encode_message(Message.EOF, 1),
        encode_message(Message.CREDIT, 1, encode_stream_credit(0, 1 << 20)),
        connected(1) * 2,
        connected(2),
        connected(1) + data(1, b""),
        connected(1) + DROP,
        encode_message(Message.END, 1, encode_end(EndReason.DONE)),
        encode_message(Message.END, 1, b"\xff"),
        encode_message(Message.END, 1, encode_end(EndReason.MISC)) * 2,
        encode_message(Message.BEGIN, 2, BEGIN),
        encode_message(Message.EXTEND, 0, b""),
        encode_message(Message.EXTENDED, 0, encode_extended(ExtendStatus.REFUSED)),
        encode_message(Message.EXTENDED, 0, encode_extended(ExtendStatus.OK, bytes(1152))),
        encode_message(Message.EXTENDED, 1, encode_extended(ExtendStatus.REFUSED)),
        encode_message(Message.RESOLVED, 1, b""),
        connected(1) + b"\0" * 50 + b"\1",
        b"",
    ],
    ids=[
        "DROP", "unknown command", "unknown with data", "DATA on an unknown stream",
        "DATA before CONNECTED", "DATA on stream 0", "EOF before CONNECTED",
        "CREDIT before CONNECTED", "second CONNECTED", "unknown CONNECTED", "empty DATA",
        "DROP behind CONNECTED", "early DONE", "END for no reason", "second END", "BEGIN", "EXTEND",
        "EXTENDED unasked", "hop unasked", "EXTENDED of a stream", "RESOLVED unasked",
        "bytes behind", "nothing at all",
    ],
)  # fmt: skip
def test_one_cell_out_of_order_from_the_exit_destroys_the_circuit(payload: bytes) -> None:  # T25
    network = PaperNetwork(3)
    circuit = network.build(3)
    near = circuit.streams.begin(TARGET)
    network.settle()

    inject(network.exit.circuit, payload)
    assert_gone(network, circuit)

    assert circuit.error is not None
    assert near.reason in (EndReason.DESTROY, EndReason.MISC)


@pytest.mark.parametrize(
    "payload",
    [
        encode_message(Message.BEGIN, 0, BEGIN),
        encode_message(Message.BEGIN, 1, BEGIN),
        encode_message(Message.BEGIN, 9, BEGIN) + encode_message(Message.BEGIN, 8, BEGIN),
        data(7),
        encode_message(Message.RESOLVE, 2, b"x"),
        encode_message(Message.RESUME, 0, b"x"),
        encode_message(Message.EXTENDED, 0, encode_extended(ExtendStatus.REFUSED)),
        bytes((200,)) + bytes(6),
        encode_message(Message.DROP, 1),
    ],
    ids=[
        "stream 0", "stream used", "stream descending", "DATA without BEGIN", "RESOLVE", "RESUME",
        "EXTENDED", "unknown command", "DROP of a stream",
    ],
)  # fmt: skip
def test_one_message_out_of_order_from_the_client_destroys_the_circuit(
    payload: bytes,
) -> None:  # T28
    network = PaperNetwork(3)
    circuit = network.build(3)
    network.open_stream(circuit)

    inject(circuit, payload)
    assert_gone(network, circuit)

    assert places_of_errors(relay.circuit for relay in network.relays) == [2]


def test_drops_reach_the_far_end_and_cost_nothing_but_credit() -> None:
    network = PaperNetwork(3, window=8, growth=0)
    circuit = network.build(3)

    for _ in range(40):
        inject(circuit, DROP * 5)
        network.settle()

    assert not circuit.is_closed
    assert network.exit.circuit.cells_forward == 40


# DESTROY and the end of links


@pytest.mark.parametrize("who", [0, 1, 2, 3], ids=["origin", "guard", "middle", "exit"])
@pytest.mark.parametrize("moves", [0, 1, 3, 7])
def test_a_circuit_destroyed_in_full_flight_is_forgotten_by_everybody(who: int, moves: int) -> None:
    network = PaperNetwork(3, window=16)
    circuit = network.build(3)
    near, far = network.open_stream(circuit)
    near.write(bytes(64 * KIB))
    far.write(bytes(64 * KIB))
    for number in range(moves):
        network.wires[number % 3].move()

    machines: list[OriginCircuit | RelayCircuit] = [circuit]
    machines += [relay.circuit for relay in network.relays]
    machines[who].destroy()
    machines[who].destroy()
    assert_gone(network, circuit)

    assert places_of_errors(machines) == []
    assert (near.reason, far.reason) == (EndReason.DESTROY, EndReason.DESTROY)
    assert network.budget.left == 1 << 20


def test_every_hop_sends_one_destroy_each_way_that_says_nothing() -> None:  # SID-3, T68
    network = PaperNetwork(3)
    circuit = network.build(3)
    seen: list[bytes] = []

    def watch(cell: bytearray) -> list[bytes]:
        if read_header(cell)[1] == Command.DESTROY:
            seen.append(bytes(cell[4:]))
        return [bytes(cell)]

    for wire in network.wires:
        wire.initiator.tap = wire.responder.tap = watch
    inject(network.exit.circuit, DROP)
    assert_gone(network, circuit)

    assert seen == [bytes((Command.DESTROY,)) + bytes(CELL_LENGTH - 5)] * 6


def test_a_link_that_breaks_takes_its_circuits_with_it() -> None:
    network = PaperNetwork(3)
    circuits = [network.build(3) for _ in range(3)]
    near, far = network.open_stream(circuits[2])
    broken = network.wire(network.relays[0], network.relays[1])

    broken.initiator.close()
    broken.responder.close()
    network.settle()

    assert all(circuit.is_closed for circuit in circuits)
    assert (near.reason, far.reason) == (EndReason.DESTROY, EndReason.DESTROY)
    others = [wire for wire in network.wires if wire is not broken]
    assert not any(wire.initiator.legs or wire.responder.legs for wire in others)


# Anything at all


class Wild:
    """Be a client and an exit that do what they like; the relays between them are honest."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.network = PaperNetwork(3, window=self.rng.choice([2, 8, 64]))
        self.circuits: list[OriginCircuit] = []
        self.did: list[str] = []

    def act(self) -> None:
        rng = self.rng
        name = rng.choice(["build", "inject", "inject", "write", "destroy", "raw", "move", "move"])
        self.did.append(name)
        getattr(self, name)()

    def build(self) -> None:
        self.network.tap_origin(None)
        self.circuits.append(self.network.start())
        for _ in range(self.rng.randrange(30)):
            self.move()
        if self.circuits[-1].state is CircuitState.OPEN:
            for relay in self.network.relays[1 : self.rng.randint(1, 3)]:
                if self.circuits[-1].state is CircuitState.OPEN:
                    self.network.extend(self.circuits[-1], relay)

    def payload(self) -> bytes:
        rng = self.rng
        messages = [
            DROP, EXTEND_TO_SOMEBODY, EXTEND_TO_NOBODY, connected(1), data(1, bytes(500)), data(3),
            extend_message(rng.choice(self.network.relays), rng.randrange(4)), rng.randbytes(60),
            encode_message(Message.BEGIN, rng.randrange(5), BEGIN), bytes(50),
            encode_message(Message.END, 1, encode_end(rng.choice(list(EndReason)))),
            encode_message(Message.CREDIT, 1, encode_stream_credit(0, rng.randrange(1 << 30))),
            encode_message(Message.EOF, 1),
        ]  # fmt: skip
        return b"".join(rng.choices(messages, k=rng.choice([1, 1, 2])))

    def ends(self) -> list[OriginCircuit | RelayCircuit]:
        """Return the ends of circuits that are still there, whoever has them."""
        ends: list[OriginCircuit | RelayCircuit] = list(self.network.exit.circuits)
        ends += self.circuits
        return [end for end in ends if end._end is not None and not end.is_closed]

    def inject(self) -> None:
        for end in self.rng.sample(self.ends(), k=min(1, len(self.ends()))):
            command = self.rng.choice([Command.RELAY, Command.RELAY, Command.RELAY_EARLY])
            for _ in range(self.rng.choice([1, 1, 2, 20])):
                inject(end, self.payload(), command)

    def write(self) -> None:
        for circuit in self.circuits:
            if circuit.state is CircuitState.OPEN:
                circuit.streams.begin(TARGET).write(bytes(self.rng.randrange(60_000)))

    def destroy(self) -> None:
        for end in self.rng.sample(self.ends(), k=min(1, len(self.ends()))):
            end.destroy()

    def raw(self) -> None:
        """Put a cell of any kind behind the next one that the client sends."""
        rng = self.rng
        number = rng.choice([0, *(circuit.leg.number for circuit in self.circuits), 1, 2**31 + 50])
        body = rng.choice([bytes(BODY_LENGTH), rng.randbytes(BODY_LENGTH), bytes(1248)])
        cell = make_cell(number, rng.choice(list(Command)), body)
        times = rng.choice([1, 1, 100])
        self.network.tap_origin(lambda sent: [bytes(sent), *[cell] * times])

    def move(self) -> None:
        self.network.step(self.rng.randrange(len(self.network.wires) or 1))


@pytest.mark.parametrize("seed", range(60))
def test_no_client_and_no_exit_breaks_a_link_between_others(seed: int) -> None:
    wild = Wild(seed)

    for _ in range(40):
        wild.act()
    wild.network.settle()

    between = [wire for wire in wild.network.wires if wire.owner is not None]
    assert [wire.error for wire in between] == [None] * len(between)
    for circuit in wild.circuits:
        circuit.destroy()
    wild.network.settle()
    assert not any(wire.initiator.legs or wire.responder.legs for wire in between)


# Keys


def keys_of(network: PaperNetwork, circuit: OriginCircuit, direction: str) -> list[list[LayerKey]]:
    """Return the keys that the origin and each hop have for a direction."""
    layers = [relay.circuit._layer for relay in network.relays]
    if direction == "forward":
        return [circuit._forward, *([layer.forward] for layer in layers)]
    return [circuit._backward, *([layer.backward] for layer in layers)]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("holder", [0, 1, 2, 3], ids=["origin", "guard", "middle", "exit"])
def test_a_circuit_ends_with_its_keys_and_its_link_goes_on(
    holder: int, direction: str, together: bool
) -> None:  # T80
    network = PaperNetwork(3)
    circuit = network.build(3)
    mine, theirs = network.open_stream(circuit)
    keys = keys_of(network, circuit, direction)
    other = network.build(3)
    near, far = network.open_stream(other)
    source, target = (mine, theirs) if direction == "forward" else (theirs, mine)
    for key in keys[holder]:
        key.most = key.count + 3

    for part in range(8):
        source.write(BYTES[part * 4000 : part * 4000 + 4000])
        if not together:
            network.settle()
    network.settle()

    assert target.received == (0 if together else 12_000)
    assert circuit.is_closed
    assert source.reason is EndReason.DESTROY
    assert all(wire.error is None for wire in network.wires)
    assert send(network, near, far, 50 * KIB) == BYTES[: 50 * KIB]


#: The nonce of REKEY. Both sides of a link compute it, and get the same (Noise §4.2).
REKEY = [ciphers.nonce_maker(suite)(2**64 - 1) for suite in Suite]


class Recorder:
    """Be an AEAD that keeps which nonces each key has sealed."""

    def __init__(self, aead: ciphers.AEAD, key: bytes, seen: list[tuple[bytes, bytes]]) -> None:
        self._aead, self._key, self._seen = aead, key, seen
        self.decrypt, self.decrypt_into = aead.decrypt, aead.decrypt_into

    def encrypt(self, nonce: bytes, plain: bytes, associated: bytes | None) -> bytes:
        if nonce not in REKEY or plain != bytes(32):
            self._seen.append((self._key, nonce))
        return self._aead.encrypt(nonce, plain, associated)

    def encrypt_into(
        self, nonce: bytes, plain: bytes, associated: bytes | None, target: memoryview
    ) -> int:
        self._seen.append((self._key, nonce))
        return self._aead.encrypt_into(nonce, plain, associated, target)


@both_suites
def test_no_key_ever_seals_two_things_under_one_nonce(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:  # T81, T80, ONI-1
    seen: list[tuple[bytes, bytes]] = []
    make = ciphers.make_aead

    def recording(suite: Suite, key: bytes) -> Recorder:
        return Recorder(make(suite, key), key, seen)

    monkeypatch.setattr(ciphers, "make_aead", recording)
    monkeypatch.setattr(noise, "make_aead", recording)
    monkeypatch.setattr(records, "RECORDS_PER_KEY", 8)
    rng = Random(81)
    network = PaperNetwork(4, suite=suite, window=8)

    for _ in range(12):
        circuit = network.build(rng.randint(2, 4))
        streams = [network.open_stream(circuit) for _ in range(3)]
        for _ in range(30):
            near, far = rng.choice(streams)
            for end in (near, far):
                end.write(BYTES[: max(0, min(end.room, rng.randrange(20_000)))])
            if rng.random() < 0.5:
                rng.choice(network.wires).move()
            else:
                network.settle()
            if rng.random() < 0.7:
                read_all(near)
                read_all(far)
        if rng.random() < 0.5:
            circuit.destroy()
        else:
            network.end_of(circuit).destroy()
        network.settle()

    assert len(seen) > 3000
    assert len(set(seen)) == len(seen)
    assert all(wire.error is None for wire in network.wires)


# The table of transitions

WHATS = sorted({what for _, what in TRANSITIONS})
REFUSED = [pair for pair in product(CircuitState, WHATS) if pair not in TRANSITIONS]


@pytest.mark.parametrize(("state", "what"), REFUSED, ids=str)
def test_what_is_not_in_the_table_is_refused(state: CircuitState, what: str) -> None:
    network = PaperNetwork(1)
    for machine in (network.build(1), network.exit.circuit):
        machine.state = state

        with pytest.raises(ProtocolError):
            machine.move(what)
        assert machine.state is state


def test_the_table_leads_from_everywhere_to_the_end_and_from_there_nowhere() -> None:
    assert {state for state, what in TRANSITIONS if what == "close"} == set(CircuitState) - {
        CircuitState.CLOSED
    }
    assert len(REFUSED) == 5 * len(WHATS) - len(TRANSITIONS)


def test_a_circuit_tells_what_its_owner_has_to_know() -> None:
    network = PaperNetwork(2)

    circuit = network.build(2)
    circuit.destroy(ProtocolError("why not"))

    assert [type(event) for event in circuit.events] == [HopAdded, HopAdded, Closed]
    assert str(circuit.error) == "why not"


def test_a_relay_takes_no_created_for_a_circuit_it_has_joined() -> None:
    network = PaperNetwork(2)
    network.build(2)
    here = network.relays[0].circuit
    assert here.next is not None

    with pytest.raises(ProtocolError):
        here.receive_created(here.next, bytes(1152))
