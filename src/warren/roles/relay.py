"""The relay: circuits that others build through this peer.

It answers CREATE, finds or dials the next hop for EXTEND, and passes cells on; that itself happens
in ``protocol.relay_circuit``, inside the reading step of a link. What ends here is served by
``last_hop``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import structlog
import trio

from warren.errors import LinkError, ProtocolError
from warren.identity import Hop, PeerId
from warren.network.expiry import Expiry
from warren.network.link import Link, LinkSettings
from warren.network.links import Links
from warren.network.quota import Holder
from warren.network.turn import Turn
from warren.protocol.backlog import circuit_queues, give_up, stream_queues
from warren.protocol.circuit import Closed, ExtendRequested, NameAsked
from warren.protocol.handshake import answer_circuit
from warren.protocol.holdings import Held, Holdings
from warren.protocol.leg import Leg
from warren.protocol.link import CreateRequested
from warren.protocol.messages import Extend, ExtendStatus
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.stream import StreamProtocol
from warren.roles.create_limits import CreateDoor, CreateLimits
from warren.roles.last_hop import LastHop
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.places import Places

logger = structlog.get_logger()

#: How long an EXTEND may take, until the next hop's CREATED is here. Less than an origin waits for
#: its circuit, or nobody would be there to hear which hop it was.
EXTEND_SECONDS = 10.0
#: How long an exit holds the streams of a circuit that died, with their sockets (protocol §5.4).
HOLD_SECONDS = 60.0
#: What the last words of a circuit take to the origin: a DESTROY overtakes them at every hop.
LAST_WORDS_SECONDS = 1.0
#: EXTENDs of one client's link that are under way at the same time, unless configured (DOS-7).
EXTENDS_PER_CLIENT = 32

FindHops = Callable[[PeerId], Iterable[Hop]]


class StreamsEnd(NamedTuple):
    """Name the streams of one circuit that ends here, or ended.

    ``close`` is for when these have been ended: nothing of the circuit is left soon.
    """

    streams: Collection[StreamProtocol]
    associations: int
    close: Callable[[], None]

    def give_up(self) -> None:
        """End the streams and close the circuit, for which something has run short here.

        Its origin is told, so that it does not try to go on with them elsewhere: nothing is held.
        """
        give_up(self.streams)
        self.close()


class _Extension:
    """Own one EXTEND until it is answered: the time it has, and then the next leg.

    It is that leg's user until the CREATE on it is answered; then the circuit is. One of a client
    waits until few enough of its link are under way (DOS-7).
    """

    def __init__(self, relay: "Relay", circuit: PassingCircuit, extend: Extend) -> None:
        self.peer_id = extend.peer_id
        self.circuit = circuit
        self.has_place = False  # among those of a client's link
        self.dialling: trio.CancelScope | None = None  # of a task that waits for the link
        self._relay, self._machine, self._extend = relay, circuit.machine, extend
        self._leg: Leg | None = None
        self._is_answered = False
        self._expiring = relay.expiry.watch(self._expire)

    def begin(self) -> None:
        """Take the place that it has waited for, and go on unless it is too late."""
        self.has_place = True
        if self._is_answered or self._machine.is_closed:
            self._over()
        else:
            self._relay.reach(self)

    def _over(self) -> None:
        self._expiring.end()
        if self.has_place:
            self.has_place = False
            self._relay.places.leave(self.circuit.previous_link)

    def create(self, link: Link) -> None:
        """Send the next hop its CREATE; its answer, or the want of one, does the rest."""
        if self._machine.is_closed:  # the origin gave up while the link was made
            self._over()
            return
        extend = self._extend
        try:
            self._leg = link.create(self._machine.depth + 1, extend.suite, extend.message)
        except LinkError:
            self.refuse(ExtendStatus.UNREACHABLE)
        else:
            self._leg.user = self

    def refuse(self, status: ExtendStatus) -> None:
        """Answer with a reason, unless another was given: a leg that was given up may be lost."""
        self._over()
        if not self._is_answered:
            self._is_answered = True
            self._machine.refuse_extend(status)

    def receive_created(self, leg: Leg, message: bytes) -> None:
        """Join the circuit to the hop that said `message`."""
        self._over()
        if self._machine.is_closed:  # the origin did not want to wait
            leg.destroy()
        else:
            self._relay.extended += 1
            self._machine.extended(leg, message)

    def leg_lost(self, leg: Leg) -> None:
        """Pass on that the next hop refused, or that its link broke."""
        self.refuse(ExtendStatus.REFUSED)

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        """Give the next hop up."""
        leg.destroy()
        self.refuse(ExtendStatus.REFUSED)

    def receive_run(self, *_: object) -> None:
        """Refuse: the next hop speaks only once the circuit goes through it."""
        raise ProtocolError("a cell from a hop that was not joined yet")

    def _expire(self) -> None:
        if self._leg is not None:
            self._leg.destroy()
        elif self.dialling is not None:
            self.dialling.cancel()
        self.refuse(ExtendStatus.UNREACHABLE)
        self._relay.turn.run()


def _anybody(peer_id: PeerId) -> bool:
    return True


def _never() -> bool:
    return False


class Relay:
    """Own the circuits through this peer, and the streams that outlive them.

    `find_hops` gives what usable consensuses know of a peer id, newest first (LNK-4), and
    `is_relay` tells whether they know it: streams are held for circuits from such only (EXT-8).
    Of a client's link `extends_per_client` EXTENDs are under way at the same time (DOS-7).
    While this process `is_overloaded` new circuits are refused (DOS-10).
    """

    def __init__(
        self,
        turn: Turn,
        settings: LinkSettings,
        last_hop: LastHop,
        *,
        find_hops: FindHops,
        is_relay: Callable[[PeerId], bool] = _anybody,
        limits: CreateLimits | None = None,
        extends_per_client: int = EXTENDS_PER_CLIENT,
        is_overloaded: Callable[[], bool] = _never,
    ) -> None:
        assert settings.relay is not None
        self.turn = turn
        self._settings = settings
        self._keys = settings.relay
        self._last_hop = last_hop
        self._find_hops = find_hops
        self._is_relay = is_relay
        self._is_overloaded = is_overloaded
        self._door = CreateDoor(limits or CreateLimits(), is_relay)
        self._holdings: Holdings | None = None
        if last_hop.is_exit:
            self._holdings = Holdings(settings.budget)
            self._holdings.on_held = self._hold
        self._hold_expiry = Expiry(turn.nursery, HOLD_SECONDS)
        self._circuits: set[PassingCircuit] = set()
        self.expiry = Expiry(turn.nursery, EXTEND_SECONDS)
        self._closing = Expiry(turn.nursery, LAST_WORDS_SECONDS)
        self.places = Places(extends_per_client, self._soon)
        self._cells_forward = self._cells_backward = 0
        self.links: Links | None = None  # set once, before the first circuit
        self.created = self.extended = self.refused = self.turned_away = 0

    def create(self, link: Link, request: CreateRequested) -> None:
        """Answer a CREATE; one that does not fit our keys, or is too much, destroys its circuit."""
        asker = None
        if not (self._settings.budget.is_pressed or self._is_overloaded()):  # DOS-5, DOS-10
            asker = self._door.admit(link.protocol.peer_id, link.remote, self.turn.now())
        if asker is None:
            self.turned_away += 1
            request.leg.destroy()
            return
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
            self._door.leave(asker)
            request.leg.destroy()
            return
        self.created += 1
        link.protocol.send_created(request.leg, message)
        link.flush()  # the origin waits for it alone: what else there is to do needs it not
        if link.is_closed:
            self._door.leave(asker)
            return
        previous = link.protocol.peer_id
        barred = [self._keys.identity.peer_id, *([previous] if previous is not None else [])]
        machine = RelayCircuit(request.leg, request.depth, secrets, barred=barred)
        if request.depth and previous is not None:
            machine.holdings = self._holdings
            machine.may_hold = partial(self._is_relay, previous)
        self._circuits.add(PassingCircuit(link, machine, self._act, asker))

    def _act(self, circuit: PassingCircuit) -> None:
        """Act on what the machine of `circuit` tells."""
        machine = circuit.machine
        while machine.events:
            event = machine.events.popleft()
            if isinstance(event, ExtendRequested):
                self._extend(circuit, event.extend)
            elif isinstance(event, NameAsked):
                self._last_hop.answer(circuit, event.question)
            elif isinstance(event, Closed):
                self._forget(circuit)
        self._last_hop.serve(circuit)

    def _forget(self, circuit: PassingCircuit) -> None:
        """Drop a circuit that is gone, and keep its counts."""
        if circuit in self._circuits:
            self._circuits.discard(circuit)
            self._door.leave(circuit.asker)
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

    def ends(self) -> Iterator[StreamsEnd]:
        """Yield the circuits that end here with their streams, and those whose streams are held."""
        for circuit in tuple(self._circuits):
            if (end := self._end_of(circuit)) is not None:
                yield end
        if self._holdings is not None:
            for held in self._holdings.held:
                let_go = partial(self._holdings.let_go, held)
                yield StreamsEnd(tuple(held.streams.values()), 0, let_go)

    def _end_of(self, circuit: PassingCircuit) -> StreamsEnd | None:
        """Return the streams of `circuit`, if it ends here."""
        streams = circuit.machine.streams
        if streams is None:
            return None
        close = partial(self._close_soon, circuit)
        return StreamsEnd(tuple(streams.streams.values()), len(streams.associations), close)

    def backlogs(self) -> Iterator[Holder]:
        """Yield the circuits that something waits on, and those whose streams are held (DOS-5)."""
        for circuit in self._circuits:
            if queues := circuit_queues(circuit.machine):
                yield Holder("circuits", circuit, queues, partial(self._give_up, circuit))
        if self._holdings is not None:
            for held in self._holdings.held:
                queues = list(stream_queues(held.streams.values()))
                let_go = partial(self._holdings.let_go, held)
                yield Holder("circuits that had died", held, queues, let_go)

    def _give_up(self, circuit: PassingCircuit) -> None:
        """Free what is kept for `circuit`. What only passes here goes on over another relay."""
        end = self._end_of(circuit)
        if end is not None and (end.streams or end.associations):
            end.give_up()
        else:
            circuit.machine.destroy()

    def _close_soon(self, circuit: PassingCircuit) -> None:
        """Take no new streams, and destroy the circuit when its last words have left."""
        machine = circuit.machine
        if machine.streams is not None:
            machine.streams.most_streams = 0  # whoever begins one more has the circuit destroyed

        def destroy() -> None:
            machine.destroy()
            self.turn.run()

        self._closing.watch(destroy)

    def _extend(self, circuit: PassingCircuit, extend: Extend) -> None:
        """Join the circuit to the peer that EXTEND names, at once or when it is its turn."""
        extension, link = _Extension(self, circuit, extend), circuit.previous_link
        if link.protocol.peer_id is None:
            self.places.take(link, extension.begin)
        else:  # a relay's: circuits of many clients
            self.reach(extension)

    def _soon(self, begin: Callable[[], None]) -> None:
        """Let an EXTEND that has waited begin, in a step of its own."""

        def act() -> None:
            begin()
            self.turn.run()

        self.turn.soon(act)

    def reach(self, extension: _Extension) -> None:
        """Go on with an EXTEND over a link to the next hop that there is or will be."""
        assert self.links is not None
        link = self.links.find(extension.peer_id)
        if link is None:
            extension.circuit.start(self._extend_later, extension)
        else:
            extension.create(link)

    async def _extend_later(self, extension: _Extension) -> None:
        with trio.CancelScope() as extension.dialling:
            try:
                link = await self._find_link(extension.peer_id)
            except LinkError:
                extension.refuse(ExtendStatus.UNREACHABLE)
                return
            if link is None:
                extension.refuse(ExtendStatus.UNKNOWN_PEER)
            else:
                extension.create(link)

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

    def statistics(self) -> dict[str, object]:
        """Return counters; cells count those that passed or ended here on circuits."""
        machines = [circuit.machine for circuit in self._circuits]
        return {
            "circuits": len(machines),
            "created": self.created,
            "extended": self.extended,
            "refused": self.refused,
            "turned_away": self.turned_away,
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
