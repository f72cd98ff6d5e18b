"""A circuit at a relay: the last hop reads cells, and one with a next hop passes them on.

It is the last hop until its EXTEND is answered, and then forwards for good: a run of cells comes in
on one leg and leaves on the other with one layer less, or one more on the way back. Before that it
has an end with streams, which an exit keeps for a while when the circuit is gone (``holdings``).
"""

from collections.abc import Callable, Collection

from warren.errors import EndReason, ProtocolError, expect, refuse
from warren.identity import PeerId
from warren.protocol.cells import MOST_HOPS, Command, cell_header
from warren.protocol.circuit import (
    CircuitMachine,
    CircuitState,
    Closed,
    ExtendRequested,
    NameAsked,
)
from warren.protocol.circuit_end import CircuitEnd
from warren.protocol.handshake import HopSecrets
from warren.protocol.holdings import Holdings
from warren.protocol.leg import Leg
from warren.protocol.messages import (
    Extend,
    ExtendStatus,
    Message,
    encode_extended,
    encode_message,
    read_messages,
)
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.onion import EndLayers, LayerKey, RelayLayer
from warren.protocol.resume import Parts, Ticket

#: RELAY_EARLY cells, and so extensions, that a circuit may carry (CIR-1).
MOST_EARLY = MOST_HOPS - 1


def _always() -> bool:
    return True


class RelayCircuit(CircuitMachine):
    """Own a circuit that passes or ends here: its legs, its layer, its streams while it ends."""

    def __init__(
        self, leg: Leg, depth: int, secrets: HopSecrets, *, barred: Collection[PeerId] = ()
    ) -> None:
        """Take the leg the CREATE came on; CREATED is the caller's to send, first.

        `depth` is this hop's 0-based position, `secrets` what its handshake gave. `barred` is who
        an EXTEND may not name: this relay and the previous hop (CIR-1).
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
        self._end.streams.on_question = lambda question: self.tell(NameAsked(question))
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
        """Answer the EXTEND with the next hop's `message` of 1152 bytes; from now on forward.

        A next hop that is gone again already has refused.
        """
        end = self._end
        assert end is not None
        if leg.destroy_sent:
            self.refuse_extend(ExtendStatus.REFUSED)
            return
        self.move("extended there")
        if self.holdings is not None and self._ticket is not None:
            self.holdings.circuit_gone(self, is_over=True)  # its streams have all ended
        data = encode_extended(ExtendStatus.OK, message)
        run = end.seal_alone(Command.RELAY, encode_message(Message.EXTENDED, 0, data))
        self._cells_passed_back = end.cells_sealed
        end.streams.lose_all(EndReason.DESTROY)  # it has none, and lets go of this circuit
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
            self.move("close")
            self.error = error
            self.previous.destroy()
            if self.next is not None:
                self.next.destroy()
            if self._end is not None:
                if self._ticket is not None and self.holdings is not None:
                    self.holdings.circuit_gone(self, is_over=self.loses_streams())
                self._end.streams.lose_all(EndReason.DESTROY)
            self.tell(Closed(error))

    # ---- what the legs call

    def receive_run(
        self, leg: Leg, command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        """Pass `count` cells on, or read them at the last hop.

        Raises ProtocolError when a layer does not open or a message is out of order.
        """
        if leg is not self.previous:
            if command is not Command.RELAY:
                refuse("a backward RELAY_EARLY")
            self._cells_passed_back += count
            header = self._backward_header
            self.previous.enqueue(self._layer.seal_run(cells, start, count, header))
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
        if self.state is not CircuitState.OPEN:
            refuse(f"a cell while {self.state.value}")
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
        self.move("extend")
        self.tell(ExtendRequested(extend))
