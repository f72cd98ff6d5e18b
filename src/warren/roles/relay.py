"""The relay: circuits that others build through this peer.

It answers CREATE, finds or dials the next hop for EXTEND, and passes cells on; that itself happens
in ``protocol.relay_circuit``, inside the reading step of a link. A stream that ends here goes to
the exit, if this relay is one, or to the directory mirror.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import structlog
import trio

from warren.addresses import Address
from warren.errors import EndReason, ExitError, LinkError, NotFound, ProtocolError
from warren.identity import Hop, PeerId
from warren.network.associations import CircuitAssociation
from warren.network.expiry import Expiry
from warren.network.link import Link, LinkSettings
from warren.network.links import Links
from warren.network.streams import CircuitStream
from warren.network.turn import Turn
from warren.protocol.circuit import Closed, ExtendRequested, NameAsked
from warren.protocol.handshake import answer_circuit
from warren.protocol.leg import Leg
from warren.protocol.link import CreateRequested
from warren.protocol.messages import Begin, BeginFlags, Connected, Extend, ExtendStatus
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.resolution import NOT_FOUND_TTL, Question, Resolved
from warren.protocol.resume import Held, Holdings

logger = structlog.get_logger()

#: How long a hop may take to answer CREATE, its link included. Less than an origin waits for its
#: circuit, or nobody would be there to hear which hop it was.
EXTEND_SECONDS = 10.0
#: How long an exit holds the streams of a circuit that died, with their sockets (protocol §5.4).
HOLD_SECONDS = 60.0

#: Where the directory is. Our own address of the link might be one inside our own network.
_HERE = Connected(Address("0.0.0.0", 0))

FindHops = Callable[[PeerId], Iterable[Hop]]
ServeDirectory = Callable[[CircuitStream], Awaitable[None]]
#: What is left to do for a stream, as a task.
Rest = Callable[[], Awaitable[None]]
ServeExit = Callable[["PassingCircuit", CircuitStream, Begin], Rest | None]
ServeDatagrams = Callable[["PassingCircuit", CircuitAssociation, BeginFlags], Awaitable[None]]
ServeNames = Callable[["PassingCircuit", Address], Awaitable[Resolved]]


def refuse_streams(circuit: "PassingCircuit", stream: CircuitStream, begin: Begin) -> None:
    """Refuse every stream: what a relay does that is no exit."""
    stream.reset(EndReason.EXIT_POLICY)


async def refuse_datagrams(
    circuit: "PassingCircuit", association: CircuitAssociation, flags: BeginFlags
) -> None:
    """Refuse every association: what a relay does that sends no datagrams for others."""
    association.end(EndReason.EXIT_POLICY)


async def refuse_names(circuit: "PassingCircuit", subject: Address) -> Resolved:
    """Resolve nothing: what a relay does that is no exit."""
    raise ExitError(EndReason.EXIT_POLICY)


class PassingCircuit:
    """Own one circuit through this relay: its machine, and the tasks of its streams."""

    def __init__(self, relay: "Relay", link: Link, machine: RelayCircuit) -> None:
        self.machine = machine
        self.previous_link = link
        self.in_turn = False
        self._relay = relay
        machine.wake = lambda: link.turn.add(self)

    def __repr__(self) -> str:
        return repr(self.machine)

    def flush(self) -> None:
        """Act on what the machine tells."""
        machine = self.machine
        while machine.events:
            event = machine.events.popleft()
            if isinstance(event, ExtendRequested):
                self._relay.extend(self, event.extend)
            elif isinstance(event, NameAsked):
                self._relay.start(self._relay.serve_question, self, event.question)
            elif isinstance(event, Closed):
                self._relay.forget(self)
        streams = machine.streams
        if streams is not None and streams.opened:
            opened, streams.opened = streams.opened, []
            for protocol, begin in opened:
                stream = CircuitStream(protocol, self.previous_link.turn)
                self._relay.serve_stream(self, stream, begin)
        if streams is not None and streams.associated:
            associated, streams.associated = streams.associated, []
            for each, flags in associated:
                association = CircuitAssociation(each, self.previous_link.turn)
                self._relay.start(self._relay.serve_association, self, association, flags)


class _Extension:
    """Be the next leg's user until its CREATE is answered; then it is the circuit's."""

    def __init__(self, relay: "Relay", machine: RelayCircuit, leg: Leg) -> None:
        self._relay, self._machine, self._leg = relay, machine, leg
        self._expiring = relay.expiry.watch(self._expire)
        leg.user = self

    def receive_created(self, leg: Leg, message: bytes) -> None:
        """Join the circuit to the hop that said `message`."""
        self._expiring.end()
        if self._machine.is_closed:  # the origin did not want to wait
            leg.destroy()
        else:
            self._relay.extended += 1
            self._machine.extended(leg, message)

    def leg_lost(self, leg: Leg) -> None:
        """Pass on that the next hop refused, or that its link broke."""
        self._refuse(ExtendStatus.REFUSED)

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        """Give the next hop up."""
        leg.destroy()
        self._refuse(ExtendStatus.REFUSED)

    def receive_run(self, *_: object) -> None:
        """Refuse: the next hop speaks only once the circuit goes through it."""
        raise ProtocolError("a cell from a hop that was not joined yet")

    def _expire(self) -> None:
        self._leg.destroy()
        self._refuse(ExtendStatus.UNREACHABLE)
        self._relay.turn.run()

    def _refuse(self, status: ExtendStatus) -> None:
        self._expiring.end()
        self._machine.refuse_extend(status)


def _anybody(peer_id: PeerId) -> bool:
    return True


class Relay:
    """Own the circuits through this peer, and the streams that outlive them.

    `find_hops` gives what usable consensuses know of a peer id, newest first (LNK-4), and
    `is_relay` tells whether they know it: streams are held for circuits from such only (EXT-8).
    """

    def __init__(
        self,
        turn: Turn,
        settings: LinkSettings,
        *,
        find_hops: FindHops,
        serve_directory: ServeDirectory,
        serve_exit: ServeExit = refuse_streams,
        serve_datagrams: ServeDatagrams = refuse_datagrams,
        serve_names: ServeNames = refuse_names,
        is_relay: Callable[[PeerId], bool] = _anybody,
    ) -> None:
        assert settings.relay is not None
        self.turn = turn
        self._settings = settings
        self._keys = settings.relay
        self._find_hops = find_hops
        self._serve_directory = serve_directory
        self._serve_exit = serve_exit
        self._serve_datagrams = serve_datagrams
        self._serve_names = serve_names
        self._is_relay = is_relay
        self._holdings: Holdings | None = None
        if serve_exit is not refuse_streams:
            self._holdings = Holdings(settings.budget)
            self._holdings.on_held = self._hold
        self._hold_expiry = Expiry(turn.nursery, HOLD_SECONDS)
        self._circuits: set[PassingCircuit] = set()
        self.expiry = Expiry(turn.nursery, EXTEND_SECONDS)
        self._cells_forward = self._cells_backward = 0
        self.links: Links | None = None  # set once, before the first circuit
        self.created = self.extended = self.refused = 0

    def start(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run `work` as a task of its own, whose failure hurts nobody else (DOS-1)."""
        self.turn.nursery.start_soon(self._guard, work, arguments)

    async def _guard(
        self, work: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await work(*arguments)
        except Exception:
            (circuit,) = arguments[:1]
            assert isinstance(circuit, PassingCircuit)
            logger.exception("a bug in a circuit", circuit=repr(circuit))
            circuit.machine.destroy()
        finally:
            self.turn.run()

    # ---- circuits

    def create(self, link: Link, request: CreateRequested) -> None:
        """Answer a CREATE; one that does not fit our keys destroys its circuit only."""
        try:
            message, secrets = answer_circuit(
                self._settings.network_id,
                self._keys.identity.peer_id,
                self._keys.onion_keys,
                request.depth,
                request.suite,
                request.message,
                self._settings.keys,
            )
        except ProtocolError as error:
            self.refused += 1
            logger.debug("! create", error=str(error))
            request.leg.destroy()
            return
        self.created += 1
        link.protocol.send_created(request.leg, message)
        link.flush()  # the origin waits for it alone: what else there is to do needs it not
        if link.is_closed:
            return
        previous = link.protocol.peer_id
        barred = [self._keys.identity.peer_id, *([previous] if previous is not None else [])]
        machine = RelayCircuit(request.leg, request.depth, secrets, barred=barred)
        if request.depth and previous is not None:
            machine.holdings = self._holdings
            machine.may_hold = partial(self._is_relay, previous)
        self._circuits.add(PassingCircuit(self, link, machine))

    def forget(self, circuit: PassingCircuit) -> None:
        """Drop a circuit that is gone, and keep its counts."""
        if circuit in self._circuits:
            self._circuits.discard(circuit)
            self._cells_forward += circuit.machine.cells_forward
            self._cells_backward += circuit.machine.cells_backward

    def _hold(self, held: Held) -> None:
        """Reset what nobody claims in time."""
        holdings = self._holdings
        assert holdings is not None

        def let_go() -> None:
            holdings.let_go(held)
            self.turn.run()

        self._hold_expiry.watch(let_go)

    def extend(self, circuit: PassingCircuit, extend: Extend) -> None:
        """Join the circuit to the peer that EXTEND names, over a link there is or will be."""
        assert self.links is not None
        link = self.links.find(extend.peer_id)
        if link is None:
            self.start(self._extend_later, circuit, extend)
        else:
            self._create(link, circuit.machine, extend)

    async def _extend_later(self, circuit: PassingCircuit, extend: Extend) -> None:
        machine = circuit.machine
        try:
            with trio.fail_after(EXTEND_SECONDS):
                link = await self._find_link(extend.peer_id)
        except (LinkError, trio.TooSlowError):
            machine.refuse_extend(ExtendStatus.UNREACHABLE)
            return
        if link is None:
            machine.refuse_extend(ExtendStatus.UNKNOWN_PEER)
        elif not machine.is_closed:  # or the origin gave up while the link was made
            self._create(link, machine, extend)

    def _create(self, link: Link, machine: RelayCircuit, extend: Extend) -> None:
        """Send the next hop its CREATE; its answer, or the want of one, does the rest."""
        try:
            leg = link.create(machine.depth + 1, extend.suite, extend.message)
        except LinkError:
            machine.refuse_extend(ExtendStatus.UNREACHABLE)
        else:
            _Extension(self, machine, leg)

    async def _find_link(self, peer_id: PeerId) -> Link | None:
        """Return a link to `peer_id`: one we have, or one to where a consensus says it is."""
        assert self.links is not None
        link = self.links.find(peer_id)
        if link is not None:
            return link
        failure: LinkError | None = None
        for hop in self._find_hops(peer_id):
            try:
                return await self.links.get(hop, is_anonymous=False)
            except LinkError as error:
                failure = error
        if failure is not None:
            raise failure
        return None

    # ---- streams

    def serve_stream(
        self, circuit: PassingCircuit, stream: CircuitStream, begin: Begin | None
    ) -> None:
        """Serve a stream that ends here, with a task for what of it has to wait.

        On a circuit of one hop only the directory is served: with an exit at its end it would be
        a plain proxy, for whoever wants one and against whoever runs it (EXT-8).
        """
        if begin is None:
            self._connect_directory(circuit, stream)
            self.start(self._finish, circuit, stream, partial(self._serve_directory, stream))
            return
        if circuit.machine.depth == 0:
            self.start(self._turn_away, circuit, stream)
            return
        try:
            rest = self._serve_exit(circuit, stream, begin)
        except ExitError as error:
            stream.reset(error.reason)
        except Exception:
            logger.exception("a bug in a circuit", circuit=repr(circuit))  # DOS-1
            stream.reset(EndReason.INTERNAL)
            circuit.machine.destroy()
        else:
            if rest is not None:
                self.start(self._finish, circuit, stream, rest)

    @staticmethod
    async def _turn_away(circuit: PassingCircuit, stream: CircuitStream) -> None:
        """Refuse a stream; its own step, so that its end leaves before its circuit does."""
        stream.reset(EndReason.EXIT_POLICY)
        circuit.machine.destroy()

    async def _finish(self, circuit: PassingCircuit, stream: CircuitStream, rest: Rest) -> None:
        """Do what is left to do for a stream."""
        try:
            await rest()
        except ExitError as error:
            stream.reset(error.reason)
        except (LinkError, trio.BrokenResourceError):
            stream.reset(EndReason.MISC)
        except BaseException:
            stream.reset(EndReason.INTERNAL)
            raise

    async def serve_association(
        self, circuit: PassingCircuit, association: CircuitAssociation, flags: BeginFlags
    ) -> None:
        """Serve an association that ends here, until it is over; never on one hop (EXT-8)."""
        if circuit.machine.depth == 0:
            association.end(EndReason.EXIT_POLICY)
            circuit.machine.destroy()
            return
        try:
            await self._serve_datagrams(circuit, association, flags)
        except ExitError as error:
            association.end(error.reason)
        except BaseException:
            association.end(EndReason.INTERNAL)
            raise

    async def serve_question(self, circuit: PassingCircuit, question: Question) -> None:
        """Answer a question that ends here; on a circuit of one hop there is no answer (EXT-8).

        Nothing is looked up any more for a circuit that is gone.
        """
        machine = circuit.machine
        if machine.depth == 0:
            machine.destroy()
            return
        if question.outcome is not None:
            return
        outcome: Resolved | EndReason = EndReason.INTERNAL
        try:
            with trio.CancelScope() as scope:
                question.on_answer = scope.cancel
                outcome = await self._serve_names(circuit, question.subject)
        except NotFound:
            outcome = Resolved((), NOT_FOUND_TTL)
        except ExitError as error:
            outcome = error.reason
        finally:
            if machine.streams is not None:
                machine.streams.questions.answer(question, outcome)

    @staticmethod
    def _connect_directory(circuit: PassingCircuit, stream: CircuitStream) -> None:
        if circuit.machine.streams is not None:
            stream.protocol.accept(_HERE)

    def statistics(self) -> dict[str, object]:
        """Return counters; cells count those that passed or ended here on circuits."""
        machines = [circuit.machine for circuit in self._circuits]
        return {
            "circuits": len(machines),
            "created": self.created,
            "extended": self.extended,
            "refused": self.refused,
            "cells": {
                "forward": self._cells_forward + sum(m.cells_forward for m in machines),
                "backward": self._cells_backward + sum(m.cells_backward for m in machines),
            },
            "held": _count(self._holdings),
        }


def _count(holdings: Holdings | None) -> dict[str, int]:
    """Return how much is held, and what became of what was."""
    if holdings is None:
        return {"circuits": 0, "streams": 0, "resumed": 0, "lost": 0}
    return {
        "circuits": len(holdings),
        "streams": holdings.streams,
        "resumed": holdings.resumed,
        "lost": holdings.lost,
    }
