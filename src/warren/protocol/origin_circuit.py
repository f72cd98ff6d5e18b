"""A circuit where it begins: hops are added one by one, and cells have a layer for each.

Cells come in through ``receive_run`` and leave through the leg. When the circuit is gone, its
streams are lost, or left to go on over another one (``handover``).
"""

from warren.errors import EndReason, ProtocolError, expect, refuse
from warren.identity import PeerId, Suite
from warren.protocol.cells import MOST_HOPS, Command
from warren.protocol.circuit import (
    CircuitMachine,
    CircuitState,
    Closed,
    ExtendFailed,
    HopAdded,
    Resumed,
)
from warren.protocol.circuit_end import CircuitEnd
from warren.protocol.handover import Handover
from warren.protocol.handshake import CircuitInitiator, HopSecrets
from warren.protocol.leg import Leg
from warren.protocol.messages import (
    Extend,
    ExtendStatus,
    Message,
    decode_extended,
    encode_message,
)
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.onion import EndLayers, LayerKey
from warren.protocol.resume import Parts, Ticket, cut


class OriginCircuit(CircuitMachine):
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
        self.is_lost = False  # whether others ended it, and how many it carried then
        self.carried = 0

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
    def cells_sent(self) -> int:
        """Return how many onion cells were sent so far."""
        return self._forward[0].count if self._forward else 0

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
        self.move("extend")
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
                self.tell(Resumed())

        end.streams.on_resumed = receive
        body = handover.ask(secrets.handshake_hash)
        for message in cut(Message.RESUME, body, end.layers.payload):
            end.streams.outbox.push(message)

    def destroy(self, error: ProtocolError | None = None) -> None:
        """Destroy the circuit. Doing it twice is fine.

        Streams on it are lost, or in ``orphans`` where somebody takes these.
        """
        if not self.is_closed:
            self.move("close")
            self.error = error
            self.leg.destroy()
            if self._end is not None:
                streams = self._end.streams
                self.carried = streams.count
                able = streams.detach() if self.keeps_streams and not self.loses_streams() else []
                if able:
                    self.orphans = Handover(self.ticket, able, streams.first_unused)
                streams.lose_all(EndReason.DESTROY)
            self.tell(Closed(error))

    # ---- what the leg calls

    def receive_created(self, leg: Leg, message: bytes) -> None:
        """Finish the first hop's handshake."""
        self.move("created")
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
        self._lose()

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        """Destroy the circuit: the far end, or a hop on the way, broke the rules."""
        self._lose(error)

    def _lose(self, error: ProtocolError | None = None) -> None:
        self.is_lost = self.is_lost or not self.is_closed
        self.destroy(error)

    def _receive_extended(self, data: bytes) -> None:
        status, message = decode_extended(data)
        if status is ExtendStatus.OK:
            self.move("extended here")
            self._add_hop(message)
            self.streams.pace.begin(self.leg.link.now - self._extended_at)
        else:
            expect(self.state is CircuitState.EXTENDING, "an EXTENDED that was not asked for")
            self.tell(ExtendFailed(status))
            self._lose()

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
        self.tell(HopAdded())
