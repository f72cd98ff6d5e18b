"""Circuits: the origin's machine and the relay's.

A circuit has one far end. Every relay message goes to or comes from its last hop; the others
pass bodies on. There is no "is it for me" test: a hop with a next hop forwards, the last hop
reads (protocol §4). ``TRANSITIONS`` is the whole life of both machines; anything not in it is a
ProtocolError, and a machine that has raised is destroyed by its link.

Cells come in through ``receive_run``, leave through the legs; what the owner must decide waits in
``events`` after ``wake`` was called.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from warren.errors import EndReason, LayerError, ProtocolError, expect, refuse
from warren.identity import PeerId, Suite
from warren.protocol.cells import (
    MOST_HOPS,
    ZEROS,
    Command,
    cell_header,
)
from warren.protocol.handshake import CircuitInitiator, HopSecrets
from warren.protocol.link import Leg
from warren.protocol.messages import (
    Extend,
    ExtendStatus,
    Message,
    decode_extended,
    encode_extended,
    encode_message,
    read_messages,
)
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.onion import EndLayers, LayerKey, RelayLayer
from warren.protocol.resolution import Question
from warren.protocol.resume import Handover, Holdings, Parts, Ticket, cut

#: RELAY_EARLY cells, and so extensions, that a circuit may carry (CIR-1).
MOST_EARLY = MOST_HOPS - 1


class CircuitState(Enum):
    """Name what a circuit can be, seen from one machine."""

    CREATING = "creating"  # origin: CREATE was sent
    OPEN = "open"  # its end is read here
    EXTENDING = "extending"  # EXTEND was sent (origin) or received (relay)
    FORWARDING = "forwarding"  # relay: has a next hop
    CLOSED = "closed"


_S = CircuitState
#: What may happen in which state, and what becomes of it.
TRANSITIONS: dict[tuple[CircuitState, str], CircuitState] = {
    (_S.CREATING, "created"): _S.OPEN,
    (_S.OPEN, "extend"): _S.EXTENDING,
    (_S.EXTENDING, "extended here"): _S.OPEN,  # the origin reads EXTENDED
    (_S.EXTENDING, "extended there"): _S.FORWARDING,  # the relay sends EXTENDED
    (_S.CREATING, "close"): _S.CLOSED,
    (_S.OPEN, "close"): _S.CLOSED,
    (_S.EXTENDING, "close"): _S.CLOSED,
    (_S.FORWARDING, "close"): _S.CLOSED,
}


@dataclass(frozen=True, slots=True)
class HopAdded:
    """The origin's circuit got one more hop."""


@dataclass(frozen=True, slots=True)
class ExtendFailed:
    """The last hop could not extend; the circuit is destroyed with it."""

    status: ExtendStatus


@dataclass(frozen=True, slots=True)
class ExtendRequested:
    """The origin asks to go on; answer with the circuit's ``extended`` or ``refuse_extend``."""

    extend: Extend


@dataclass(frozen=True, slots=True)
class NameAsked:
    """The origin asks the last hop what a name stands for; answer with its ``questions``."""

    question: Question


@dataclass(frozen=True, slots=True)
class Closed:
    """The circuit is gone; ``error`` says what was wrong, None for the other side's DESTROY."""

    error: ProtocolError | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The exit has answered a RESUME: the streams it knows go on here."""


Event = HopAdded | ExtendFailed | ExtendRequested | NameAsked | Resumed | Closed


def _nothing() -> None:
    return


def _always() -> bool:
    return True


class CircuitEnd:
    """Be an end of a circuit: layers and streams behind one leg, sealing only what leaves now."""

    __slots__ = ("_header", "cells_sealed", "layers", "leg", "streams")

    def __init__(self, leg: Leg, layers: EndLayers, *, is_origin: bool) -> None:
        self.leg = leg
        self.layers = layers
        self.cells_sealed = 0
        self._header = cell_header(leg.number, Command.RELAY)
        self.streams = Multiplexer(
            is_origin=is_origin, on_send=leg.has_news, clock=lambda: leg.link.now
        )

    @property
    def has_something(self) -> bool:
        """Tell whether ``take`` would return cells."""
        return self.streams.has_something

    def take(self, most: int) -> memoryview:
        """Seal up to `most` cells of what the streams have to send (ONI-1: in one step)."""
        places = self.layers.places
        count = self.streams.write_payloads(places[:most])
        self.cells_sealed += count
        return self.layers.seal_run(Command.RELAY, places[:count], self._header)

    def seal_alone(self, command: Command, message: bytes) -> memoryview:
        """Seal one cell with nothing but `message` in it."""
        place = self.layers.places[0]
        place[: len(message)] = message
        place[len(message) :] = ZEROS[: len(place) - len(message)]
        self.cells_sealed += 1
        return self.layers.seal_run(command, (place,), cell_header(self.leg.number, command))

    def receive(
        self, command: Command, cells: memoryview, start: int, count: int
    ) -> list[tuple[int, int, memoryview]]:
        """Open `count` cells; return the messages that are for the circuit, not for a stream."""
        payloads = self.layers.open_run(command, cells, start, count)
        return self.streams.receive_payloads(payloads, self.layers.payload)


class _Circuit:
    """Hold what both machines share: state, events, the guard of their transitions."""

    def __init__(self, state: CircuitState) -> None:
        self.state = state
        self.events: deque[Event] = deque()
        self.wake: Callable[[], None] = _nothing
        self.error: ProtocolError | None = None

    def _move(self, what: str) -> None:
        new = TRANSITIONS.get((self.state, what))
        if new is None:
            refuse(f"{what} while {self.state.value}")
        self.state = new

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.wake()

    def _loses_streams(self) -> bool:
        """Tell whether what was wrong leaves nothing to go on with: an end broke the rules.

        A layer that does not open comes from any hop, and a link may break (protocol §5.4).
        """
        return self.error is not None and not isinstance(self.error, LayerError)

    @property
    def is_closed(self) -> bool:
        """Tell whether the circuit is gone."""
        return self.state is CircuitState.CLOSED


class OriginCircuit(_Circuit):
    """Own a circuit that starts here: its leg, its hops' layers, its streams."""

    def __init__(self, leg: Leg, initiator: CircuitInitiator) -> None:
        """Take the leg on which CREATE with `initiator`'s message was sent."""
        super().__init__(CircuitState.CREATING)
        self.leg = leg
        leg.user = self
        self._initiator: CircuitInitiator | None = initiator
        self._forward: list[LayerKey] = []
        self._backward: list[LayerKey] = []
        self._end: CircuitEnd | None = None
        self._extended_at = 0.0
        self.secrets: HopSecrets | None = None  # of the last hop: its resume secret counts
        self.keeps_streams = False  # whether somebody takes ``orphans`` when it is gone
        self.orphans: Handover | None = None

    def __repr__(self) -> str:
        return f"<Circuit {self.leg.number:#x} {self.state.value}, {self.hops} hops>"

    @property
    def hops(self) -> int:
        """Return the number of hops that share a key with us."""
        return len(self._forward)

    @property
    def cells_received(self) -> int:
        """Return how many onion cells came back so far."""
        return self._backward[0].count if self._backward else 0

    @property
    def cells_moved(self) -> int:
        """Return how many onion cells went either way so far."""
        return self.cells_received + (self._forward[0].count if self._forward else 0)

    @property
    def streams(self) -> Multiplexer:
        """Return the streams; only once the first hop is there."""
        assert self._end is not None, "a circuit without a hop carries no streams"
        return self._end.streams

    def extend(self, peer_id: PeerId, suite: Suite, initiator: CircuitInitiator) -> None:
        """Ask the last hop to go on to `peer_id`; HopAdded, ExtendFailed or Closed follows.

        There must be no stream on the circuit, and nothing is sent until the answer is there.
        """
        end = self._end
        assert end is not None
        assert self.state is CircuitState.OPEN
        assert end.streams.is_idle
        assert self.hops < MOST_HOPS
        self._move("extend")
        self._initiator = initiator
        self._extended_at = self.leg.link.now
        data = Extend(peer_id, suite, initiator.message).encode()
        message = encode_message(Message.EXTEND, 0, data)
        self.leg.enqueue(end.seal_alone(Command.RELAY_EARLY, message))

    @property
    def ticket(self) -> Ticket:
        """Return what the last hop knows this circuit's streams by."""
        assert self.secrets is not None
        return Ticket.of(self.secrets)

    def resume(self, handover: Handover) -> None:
        """Ask the last hop for the streams of `handover`; Resumed or Closed follows.

        Nothing else may have been sent to it. Until the answer is read, the streams stay in
        `handover`.
        """
        end, secrets = self._end, self.secrets
        assert end is not None
        assert secrets is not None
        assert self.state is CircuitState.OPEN
        assert end.streams.first_unused == 1
        parts = Parts()

        def receive(stream: int, data: memoryview) -> None:
            answer = parts.take(stream, data)
            if answer is not None:
                end.streams.on_resumed = None
                handover.answered(answer, end.streams)
                self._tell(Resumed())

        end.streams.on_resumed = receive
        body = handover.ask(secrets.handshake_hash)
        for message in cut(Message.RESUME, body, end.layers.payload):
            end.streams.push(message)

    def destroy(self, error: ProtocolError | None = None) -> None:
        """Destroy the circuit. Doing it twice is fine.

        Streams on it are lost, or in ``orphans`` where somebody takes these.
        """
        if not self.is_closed:
            self._move("close")
            self.error = error
            self.leg.destroy()
            if self._end is not None:
                streams = self._end.streams
                able = streams.detach() if self.keeps_streams and not self._loses_streams() else []
                if able:
                    self.orphans = Handover(self.ticket, able, streams.first_unused)
                streams.lose_all(EndReason.DESTROY)
            self._tell(Closed(error))

    # ---- what the leg calls

    def receive_created(self, leg: Leg, message: bytes) -> None:
        """Finish the first hop's handshake."""
        self._move("created")
        self._add_hop(message)

    def receive_run(
        self, leg: Leg, command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        """Open all layers of `count` cells and read them."""
        expect(command is Command.RELAY, "a backward RELAY_EARLY")
        end = self._end
        if end is None:
            refuse("a cell before CREATED")
        others = end.receive(command, cells, start, count)
        leg.passed(count)
        for number, stream, data in others:
            expect(number == Message.EXTENDED and stream == 0, f"message {number} to the origin")
            expect(len(others) == 1 and count == 1, "an EXTENDED that is not alone")
            self._receive_extended(bytes(data))

    def leg_lost(self, leg: Leg) -> None:
        """Note that the circuit is gone."""
        self.destroy()

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        """Destroy the circuit: the far end, or a hop on the way, broke the rules."""
        self.destroy(error)

    def _receive_extended(self, data: bytes) -> None:
        status, message = decode_extended(data)
        if status is ExtendStatus.OK:
            self._move("extended here")
            self._add_hop(message)
            self.streams.pace.begin(self.leg.link.now - self._extended_at)
        else:
            expect(self.state is CircuitState.EXTENDING, "an EXTENDED that was not asked for")
            self._tell(ExtendFailed(status))
            self.destroy()

    def _add_hop(self, message: bytes) -> None:
        assert self._initiator is not None
        self.secrets = secrets = self._initiator.finish(message)
        self._initiator = None
        self._forward.insert(0, LayerKey(secrets.suite, secrets.forward_key))
        self._backward.insert(0, LayerKey(secrets.suite, secrets.backward_key))
        layers = EndLayers(self._forward, self._backward)
        if self._end is None:
            self._end = CircuitEnd(self.leg, layers, is_origin=True)
            self.leg.source = self._end
        else:
            self._end.layers = layers
        self._tell(HopAdded())


class RelayCircuit(_Circuit):
    """Own a circuit that passes or ends here: its legs, its layer, its streams while it ends."""

    def __init__(
        self, leg: Leg, depth: int, secrets: HopSecrets, *, barred: Collection[PeerId] = ()
    ) -> None:
        """Take the leg the CREATE came on; CREATED is the caller's to send, first.

        `barred` is who an EXTEND may not name: this relay and the previous hop (CIR-1).
        """
        super().__init__(CircuitState.OPEN)
        self.previous = leg
        self.next: Leg | None = None
        self.depth = depth
        self._barred = frozenset(barred)
        self.secrets: HopSecrets | None = secrets
        forward = LayerKey(secrets.suite, secrets.forward_key)
        backward = LayerKey(secrets.suite, secrets.backward_key)
        self._layer = RelayLayer(forward, backward, depth)
        layers = EndLayers((backward,), (forward,), depth)
        self._end: CircuitEnd | None = CircuitEnd(leg, layers, is_origin=False)
        self._end.streams.on_question = lambda question: self._tell(NameAsked(question))
        self._early = 0
        self._forward_headers: dict[Command, bytes] = {}
        self._backward_header = cell_header(leg.number, Command.RELAY)
        self.cells_forward = 0
        self._cells_passed_back = 0
        self.holdings: Holdings | None = None  # of an exit: what outlives this circuit
        self.may_hold: Callable[[], bool] = _always  # asked late: who is before us may be new
        self._ticket: Ticket | None = None
        self._parts: Parts | None = None
        self._has_resumed = False
        leg.user = self
        leg.source = self._end

    def __repr__(self) -> str:
        return f"<Circuit {self.previous.number:#x} {self.state.value} at depth {self.depth}>"

    @property
    def streams(self) -> Multiplexer | None:
        """Return the streams while this is the last hop."""
        return self._end.streams if self._end is not None else None

    @property
    def cells_backward(self) -> int:
        """Return the cells sent towards the origin, made here or passed on."""
        return self._cells_passed_back + (self._end.cells_sealed if self._end is not None else 0)

    @property
    def ticket(self) -> Ticket:
        """Return what the origin can claim the streams with; only while this is the last hop."""
        if self._ticket is None:
            assert self.secrets is not None
            self._ticket = Ticket.of(self.secrets)
        return self._ticket

    def extended(self, leg: Leg, message: bytes) -> None:
        """Answer the EXTEND: the next hop said `message`; from now on this hop forwards.

        A next hop that is gone again already has refused.
        """
        end = self._end
        assert end is not None
        if leg.destroy_sent:
            self.refuse_extend(ExtendStatus.REFUSED)
            return
        self._move("extended there")
        if self.holdings is not None and self._ticket is not None:
            self.holdings.circuit_gone(self, is_over=True)  # its streams have all ended
        data = encode_extended(ExtendStatus.OK, message)
        run = end.seal_alone(Command.RELAY, encode_message(Message.EXTENDED, 0, data))
        self._cells_passed_back = end.cells_sealed
        self._end = self.previous.source = self.secrets = None
        self.next = leg
        leg.user = self
        leg.feeder, self.previous.feeder = self.previous, leg
        self._forward_headers = {
            command: cell_header(leg.number, command)
            for command in (Command.RELAY, Command.RELAY_EARLY)
        }
        # EXTENDED was made here and owes nobody credit: it goes before the feeder is asked.
        self.previous.enqueue_own(run)

    def refuse_extend(self, status: ExtendStatus) -> None:
        """Answer the EXTEND with a reason; the origin destroys the circuit then."""
        end = self._end
        if end is not None and self.state is CircuitState.EXTENDING:
            data = encode_extended(status)
            message = encode_message(Message.EXTENDED, 0, data)
            self.previous.enqueue_own(end.seal_alone(Command.RELAY, message))

    def destroy(self, error: ProtocolError | None = None) -> None:
        """Destroy the circuit both ways at once (SID-3). Doing it twice is fine."""
        if not self.is_closed:
            self._move("close")
            self.error = error
            self.previous.destroy()
            if self.next is not None:
                self.next.destroy()
            if self._end is not None:
                if self._ticket is not None and self.holdings is not None:
                    self.holdings.circuit_gone(self, is_over=self._loses_streams())
                self._end.streams.lose_all(EndReason.DESTROY)
            self._tell(Closed(error))

    # ---- what the legs call

    def receive_run(
        self, leg: Leg, command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        """Pass `count` cells on, or read them at the last hop."""
        if leg is not self.previous:
            self._receive_backward(command, cells, start, count)
            return
        self.cells_forward += count
        if command is Command.RELAY_EARLY:
            self._early += count
            expect(self._early <= MOST_EARLY, "a seventh RELAY_EARLY")
        next_leg = self.next
        if next_leg is not None:
            header = self._forward_headers[command]
            next_leg.enqueue(self._layer.open_run(command, cells, start, count, header))
            return
        expect(self.state is CircuitState.OPEN, f"a cell while {self.state.value}")
        end = self._end
        assert end is not None
        if command is Command.RELAY_EARLY:
            self._receive_extend(end, cells, start, count)
            leg.passed(count)
            return
        others = end.receive(command, cells, start, count)
        leg.passed(count)
        for number, stream, data in others:
            expect(number == Message.RESUME, f"message {number} to the last hop")
            self._receive_resume(end, stream, data)
        is_first = bool(end.streams.opened) and self._ticket is None
        if is_first and self.holdings is not None and self.may_hold():
            self.holdings.register(self)
        if end.streams.opened or end.streams.associated:
            self.wake()

    def receive_created(self, leg: Leg, message: bytes) -> None:
        """Refuse: a relay's CREATE is answered to whoever extends."""
        refuse("a CREATED for a circuit that has its next hop")

    def leg_lost(self, leg: Leg) -> None:
        """Pass on that the circuit is gone."""
        self.destroy()

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        """Destroy the circuit: one of its sides broke the rules."""
        self.destroy(error)

    def _receive_backward(
        self, command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        expect(command is Command.RELAY, "a backward RELAY_EARLY")
        self._cells_passed_back += count
        header = self._backward_header
        self.previous.enqueue(self._layer.seal_run(cells, start, count, header))

    def _receive_resume(self, end: CircuitEnd, stream: int, data: memoryview) -> None:
        """Take a part of a RESUME; with the last one the streams it claims go on here."""
        holdings = self.holdings
        if holdings is None or self.secrets is None or not self.may_hold():
            refuse("a RESUME to a relay that is no exit, or without a relay in between")
        if self._has_resumed or end.streams.first_unused != 1:
            refuse("a RESUME on a circuit that is not fresh")
        self._parts = self._parts or Parts()
        body = self._parts.take(stream, data)
        if body is not None:
            self._parts, self._has_resumed = None, True
            holdings.resume(self, self.secrets.handshake_hash, body, end.layers.payload)

    def _receive_extend(self, end: CircuitEnd, cells: memoryview, start: int, count: int) -> None:
        """Read the one thing RELAY_EARLY carries: an EXTEND, alone, while there is no stream."""
        expect(count == 1, "cells behind an EXTEND")
        payload = end.layers.open_run(Command.RELAY_EARLY, cells, start, 1)
        messages = read_messages(payload)
        number, stream, data = messages[0]
        expect(number == Message.EXTEND and stream == 0, "a RELAY_EARLY without an EXTEND")
        expect(len(messages) == 1, "an EXTEND that is not alone")
        expect(not end.streams.count, "an EXTEND while there are streams")
        expect(self.depth + 1 < MOST_HOPS, "a circuit longer than seven hops")
        extend = Extend.decode(bytes(data))
        expect(any(extend.peer_id), "an EXTEND to nobody")  # CIR-1
        expect(extend.peer_id not in self._barred, "an EXTEND back to where it came from")
        self._move("extend")
        self._tell(ExtendRequested(extend))
