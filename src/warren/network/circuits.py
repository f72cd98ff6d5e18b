"""Circuits that start here: build them hop by hop, open streams on them.

A ``Circuit`` has no task of its own. Cells move between the link and the streams inside the
link's reading step, and there a hop that has answered is asked for the next one at once; only the
one who builds the circuit waits.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence

import trio

from warren.addresses import Address
from warren.errors import CircuitError, EndReason, LinkError, ProtocolError
from warren.identity import Hop, PeerId, Suite
from warren.network.associations import CircuitAssociation
from warren.network.link import Link
from warren.network.streams import CircuitStream
from warren.network.turn import Turn
from warren.protocol.circuit import CircuitState, Closed, ExtendFailed, HopAdded, Resumed
from warren.protocol.handover import Handover
from warren.protocol.handshake import CircuitInitiator
from warren.protocol.messages import ANY_FAMILY, BeginFlags, ExtendStatus
from warren.protocol.multiplexer import MOST_STREAMS
from warren.protocol.origin_circuit import OriginCircuit
from warren.protocol.resolution import Resolved
from warren.protocol.stream import StreamProtocol

#: How long a circuit that is closed waits for the ends of its streams to come back.
CLOSING_SECONDS = 5.0
_GLANCE_SECONDS = 0.05

_STATUS = {
    ExtendStatus.UNKNOWN_PEER: "the hop before it does not know it",
    ExtendStatus.UNREACHABLE: "the hop before it could not reach it",
    ExtendStatus.REFUSED: "it refused",
}


class Circuit:
    """Own a circuit that starts here, with its path and its streams."""

    def __init__(self, link: Link, hops: Sequence[Hop], machine: OriginCircuit) -> None:
        self.link = link
        self.hops = tuple(hops)
        self.machine = machine
        self.turn: Turn = link.turn
        self.in_turn = False
        self.created_at = self._asked_at = trio.current_time()
        #: Seconds from asking for the last hop until it was there.
        self.round_trip = 0.0
        self.refusal: ExtendStatus | None = None  # what its last hop said of the next one
        self.on_closed: Callable[[Circuit], None] | None = None
        self._ahead: deque[tuple[Hop, CircuitInitiator]] = deque()  # hops to be asked for
        self._has_resumed = self._is_closing = False
        self._changed = trio.Event()
        machine.wake = lambda: self.turn.add(self)

    def __repr__(self) -> str:
        return repr(self.machine)

    @property
    def is_open(self) -> bool:
        """Tell whether streams can be opened: built to its last hop and alive."""
        machine = self.machine
        if self._is_closing or machine.state is CircuitState.CLOSED:
            return False
        return machine.hops == len(self.hops)

    @property
    def streams(self) -> Collection[StreamProtocol]:
        """Return the streams it carries, ending ones included."""
        return self.machine.streams.streams.values() if self.machine.hops else ()

    @property
    def stream_count(self) -> int:
        """Return how many streams, associations and questions it carries, ending ones included."""
        return self.machine.streams.count if self.machine.hops else 0

    @property
    def is_wanted(self) -> bool:
        """Tell whether it carries streams or associations that this end has not ended.

        Questions are not looked at: nobody waits longer than seconds for an answer.
        """
        streams = self.machine.streams
        carried = (streams.streams, streams.associations) if self.machine.hops else ()
        return any(not each.end_sent for ends in carried for each in ends.values())

    @property
    def cells_received(self) -> int:
        """Return how many cells came back on it."""
        return self.machine.cells_received

    @property
    def cells_sent(self) -> int:
        """Return how many cells were sent on it."""
        return self.machine.cells_sent

    @property
    def has_room(self) -> bool:
        """Tell whether one more stream fits."""
        return self.stream_count < MOST_STREAMS * 3 // 4

    def flush(self) -> None:
        """Act on what the machine tells."""
        events = self.machine.events
        while events:
            event = events.popleft()
            if isinstance(event, ExtendFailed):
                self.refusal = event.status
            assert isinstance(event, HopAdded | ExtendFailed | Resumed | Closed)
            if isinstance(event, HopAdded):
                self.round_trip = trio.current_time() - self._asked_at
                if self._ahead and not self.machine.is_closed:
                    self._ask(*self._ahead.popleft())
            self._has_resumed |= isinstance(event, Resumed)
            self._changed.set()
            if isinstance(event, Closed) and self.on_closed is not None:
                self.on_closed(self)

    def extend(self, hops: Sequence[tuple[Hop, CircuitInitiator]]) -> None:
        """Ask for `hops`, each as soon as the one before it is there; ``wait_hops`` tells.

        Each comes with its message 1. The circuit carries no stream yet.
        """
        self._ahead.extend(hops)
        if self.machine.state is CircuitState.OPEN:
            self._ask(*self._ahead.popleft())

    def _ask(self, hop: Hop, initiator: CircuitInitiator) -> None:
        self._asked_at = trio.current_time()
        self.machine.extend(hop.peer_id, hop.suites[0], initiator)

    def open_stream(self, address: Address, flags: BeginFlags = ANY_FAMILY) -> CircuitStream:
        """Begin a stream to `address`; raise CircuitError when the circuit is gone or full."""
        self._expect_room()
        stream = CircuitStream(self.machine.streams.begin(address, flags), self.turn)
        self.turn.run_soon()
        return stream

    def open_directory(self) -> CircuitStream:
        """Begin a stream to the last hop's directory; raise CircuitError as above."""
        self._expect_room()
        stream = CircuitStream(self.machine.streams.begin_directory(), self.turn)
        self.turn.run()
        return stream

    def open_association(self, flags: BeginFlags = ANY_FAMILY) -> CircuitAssociation:
        """Begin an association; raise CircuitError as above. Datagrams may be sent at once."""
        self._expect_room()
        association = CircuitAssociation(self.machine.streams.associate(flags), self.turn)
        self.turn.run_soon()
        return association

    async def resolve(self, subject: Address) -> Resolved:
        """Ask the last hop for the addresses of a name, or the name of an address, at port 0.

        Waits until it answers: the caller sets a deadline. Raises NotFound when there is none,
        ExitError with the last hop's reason, CircuitError when the circuit is gone or full.
        """
        self._expect_room()
        answered = trio.Event()
        question = self.machine.streams.resolve(subject, answered.set)
        self.turn.run_soon()
        await answered.wait()
        return question.answer

    def _expect_room(self) -> None:
        if not self.is_open:
            raise CircuitError("the circuit is gone")
        if (
            self.machine.streams.count >= MOST_STREAMS
        ):  # one more, and the far end destroys them all
            raise CircuitError("the circuit carries as many streams as it may")

    def close(self) -> None:
        """End all streams, then destroy the circuit."""
        machine = self.machine
        if machine.is_closed or self._is_closing:
            return
        if self._has_ends_to_come:
            streams = machine.streams
            for stream in tuple(streams.streams.values()):
                stream.end(EndReason.MISC)
            for association in tuple(streams.associations.values()):
                association.end(EndReason.MISC)
            self.turn.run()
        if self._has_ends_to_come and len(self.hops) > 1:
            # A DESTROY overtakes what waits on its way, and an exit that has not heard of the end
            # of a stream would hold it.
            self._is_closing = True
            self.turn.nursery.start_soon(self._destroy_soon)
        else:
            self._destroy()

    @property
    def _has_ends_to_come(self) -> bool:
        """Tell whether a stream or association has not come to both its ENDs."""
        if not self.machine.hops:
            return False
        streams = self.machine.streams
        return bool(streams.streams or streams.associations)

    async def _destroy_soon(self) -> None:
        try:
            with trio.move_on_after(CLOSING_SECONDS):
                # Nobody is told when the last stream is gone, and nobody is in a hurry here.
                while self._has_ends_to_come and not self.machine.is_closed:  # noqa: ASYNC110
                    await trio.sleep(_GLANCE_SECONDS)
        finally:
            self._destroy()

    def _destroy(self) -> None:
        self.machine.destroy()
        self.turn.run()

    async def resume(self, handover: Handover) -> None:
        """Ask the last hop for the streams of `handover`; return when those it knows go on here.

        The circuit must be fresh. Waits for the answer; raises CircuitError when the circuit is
        gone before it came. Those who are told by ``on_closed`` get streams that moved and were
        lost again.
        """
        machine = self.machine
        if not self.is_open:
            raise CircuitError("the circuit is gone")
        machine.keeps_streams = True
        machine.resume(handover)
        self.turn.run()
        while not self._has_resumed:
            if machine.is_closed:
                raise CircuitError(f"no answer to a RESUME: {machine.error or 'it was destroyed'}")
            self._changed = trio.Event()
            await self._changed.wait()

    def give_up(self) -> None:
        """Destroy the circuit without ending its streams: they are lost, as by a relay's death."""
        self.machine.destroy()
        self.turn.run()

    async def wait_hops(self, count: int) -> None:
        """Wait until the circuit has `count` hops; raise CircuitError when it fails instead."""
        machine = self.machine
        while machine.hops < count:
            if machine.is_closed:
                raise self._missing_hop(count - 1)
            self._changed = trio.Event()
            await self._changed.wait()

    def _missing_hop(self, hop: int) -> CircuitError:
        """Return what says why the circuit ended before it had `hop`, and whose fault it is."""
        failed, error = self.refusal, self.machine.error
        # Not to know a relay is what a peer does whose consensus is a little older, and when the
        # link to the first hop broke, those behind it did nothing.
        is_its_fault = failed is not ExtendStatus.UNKNOWN_PEER and not self.link.is_closed
        why = "the circuit was destroyed"
        if failed is not None:
            why = _STATUS[failed]
        elif error is not None:
            why = str(error)
        message = f"hop {hop + 1} of {len(self.hops)}: {why}"
        if failed is None and error is None and hop:
            # Of a hop that refuses, or dies, the one before it tells: it was that one that is
            # gone, or another on the way to it.
            hop = 0 if self.link.is_closed else hop - 1
        return CircuitError(message, hop=hop, is_its_fault=is_its_fault)


async def build_circuit(
    link: Link, hops: Sequence[Hop], *, on_started: Callable[[Circuit], None] | None = None
) -> Circuit:
    """Build a circuit over `link`, which leads to the first of `hops`.

    The caller sets the deadline; a circuit that is not finished is destroyed. A first hop
    without a known onion key is asked through its READY. Raises CircuitError with the position
    of the hop that failed, and LinkError when the link is gone.
    """
    onion_key, suite = _first_key(link, hops[0])
    initiator = _initiate(link, hops[0].peer_id, onion_key, 0, suite)
    leg = link.create(0, suite, initiator.message)
    circuit = Circuit(link, hops, OriginCircuit(leg, initiator))
    if on_started is not None:
        on_started(circuit)
    try:
        link.turn.run()
        # Made while the first hop is at its own part of the work: no message needs an answer.
        behind = enumerate(hops[1:], start=1)
        circuit.extend([(hop, _initiate_next(link, hop, depth)) for depth, hop in behind])
        for count in range(1, len(hops) + 1):
            await circuit.wait_hops(count)
    except BaseException:
        circuit.machine.destroy()
        link.turn.run()
        raise
    return circuit


async def extend_circuit(circuit: Circuit, hop: Hop) -> None:
    """Extend `circuit`, which carried no stream yet, by one `hop`.

    The caller sets the deadline; a circuit that was not extended is destroyed. Raises CircuitError.
    """
    depth = len(circuit.hops)
    try:
        initiator = _initiate_next(circuit.link, hop, depth)
        if not circuit.is_open:
            raise CircuitError("the circuit is gone")
        circuit.hops = (*circuit.hops, hop)
        circuit.extend([(hop, initiator)])
        circuit.turn.run()
        await circuit.wait_hops(depth + 1)
    except BaseException:
        circuit.machine.destroy()
        circuit.turn.run()
        raise


def _initiate_next(link: Link, hop: Hop, depth: int) -> CircuitInitiator:
    assert hop.onion_key is not None, "hops behind the first come from a consensus"
    return _initiate(link, hop.peer_id, hop.onion_key, depth, hop.suites[0])


def _initiate(
    link: Link, peer_id: PeerId, onion_key: bytes, depth: int, suite: Suite
) -> CircuitInitiator:
    """Make message 1 for a hop; raise CircuitError when its onion key is none (T53)."""
    settings = link.settings
    try:
        return CircuitInitiator(
            settings.network_id, peer_id, onion_key, depth, suite, settings.keys
        )
    except ProtocolError as error:
        raise CircuitError(f"hop {depth + 1}: {error}", hop=depth) from error


def _first_key(link: Link, hop: Hop) -> tuple[bytes, Suite]:
    """Return the onion key and suite for the first hop, from the consensus or its READY."""
    if hop.onion_key is not None:
        return hop.onion_key, hop.suites[0]
    ready = link.protocol.ready
    if ready is None or ready.relay is None:
        raise LinkError("the peer at the other end is no relay")
    return ready.relay.onion_key, ready.relay.suites[0]
