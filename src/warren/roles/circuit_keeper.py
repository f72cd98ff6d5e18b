"""The circuits of a client: had when a request comes, kept ready before, replaced, closed after.

Which circuit a request may use is decided in ``pool``, which exit a session keeps in ``sessions``,
how a circuit comes about in ``circuit_builder``, how the streams of one that is gone go on in
``resumer``.
"""

from collections.abc import Callable, Collection, Hashable, Iterator
from functools import partial
from itertools import count
from random import Random

import structlog
import trio

from warren.directory.exit_index import Target, read_policy
from warren.directory.relays import RelayEntry
from warren.errors import CircuitError, DirectoryError
from warren.identity import PeerId
from warren.network.circuits import Circuit
from warren.network.quota import Holder
from warren.protocol.backlog import give_up, multiplexer_queues
from warren.protocol.front import choice_of
from warren.protocol.handover import Handover
from warren.protocol.stream import StreamProtocol
from warren.roles.backoff import Backoff
from warren.roles.bias_watch import BiasWatch
from warren.roles.circuit_builder import Built, CircuitBuilder
from warren.roles.circuit_watch import QUIET_SECONDS, CircuitWatch
from warren.roles.paths import Paths
from warren.roles.pool import NO_POLICY, Pool, Slot, Wisher
from warren.roles.sessions import Sessions

logger = structlog.get_logger()

_UPKEEP_SECONDS = 10.0
#: Before a spare replaces one that was taken: the stream that took it is opened first.
_SPARE_PAUSE_SECONDS = 0.02
#: Spares that the next one shares no middle with.
_UNLIKE = 3


class CircuitKeeper:
    """Own the circuits that stand, who waits for one, and the wish for more.

    Whoever else adds to their `pool` makes the slot with ``adopt``. ``is_usable`` is set
    once there was one. `on_orphans` is called with the slot of a circuit that is gone and the
    streams it left, `on_doubt` with that of one whose far end is late; they must not wait.
    """

    def __init__(
        self,
        builder: CircuitBuilder,
        paths: Paths,
        sessions: Sessions,
        pool: Pool,
        bias: BiasWatch,
        *,
        on_orphans: Callable[[Slot, Handover], None],
        on_doubt: Callable[[Slot], None],
        rng: Random,
    ) -> None:
        self._builder = builder
        self._paths = paths
        self._sessions = sessions
        self._pool = pool
        self._bias = bias
        self._on_orphans = on_orphans
        self._on_doubt = on_doubt
        self._rng = rng
        self._building: dict[Hashable, trio.Event] = {}
        self._watch = CircuitWatch(self._open_circuits, self._doubt, self._give_up)
        self._needs_spares = trio.Event()
        self._numbers = count(1)
        self._trouble: str | None = None  # since the last spare that was built
        self.is_usable = trio.Event()

    # ---- for requests

    def pick(
        self, isolation: Hashable, target: Target | None, avoid: Collection[PeerId]
    ) -> Slot | None:
        """Return a circuit that there is for a request of `isolation`, or None.

        Its exit lets `target` through and is none of `avoid`.
        """
        now = trio.current_time()
        wish = self._sessions.wish(isolation)
        slot = self._pool.pick(isolation, target, now, avoid, wish)
        if slot is None:
            return None
        if slot.first_used == now:
            self._needs_spares.set()
        if wish is not None and wish.keeps_exit:
            self._sessions.begin(isolation, slot.exit_id)
        return slot

    async def slot_for(
        self, isolation: Hashable, target: Target | None, avoid: Collection[PeerId]
    ) -> Slot:
        """Return a circuit as ``pick`` does; build one when none fits, and raise as that does.

        Requests of one isolation that come at the same time wait for one circuit together.
        """
        while True:
            slot = self.pick(isolation, target, avoid)
            if slot is not None:
                return slot
            building = self._building.get(isolation)
            if building is not None:
                await building.wait()
                continue
            done = self._building[isolation] = trio.Event()
            try:
                slot = await self._build(target, avoid, isolation)
                self._pool.claim(slot, isolation, trio.current_time())
                if choice_of(isolation).keeps_exit:
                    self._sessions.begin(isolation, slot.exit_id)
                return slot
            finally:
                del self._building[isolation]
                done.set()

    def served(self, isolation: Hashable, slot: Slot) -> None:
        """Note that the slot's exit did what was asked: a session stays with it."""
        if choice_of(isolation).keeps_exit:
            self._sessions.worked(isolation, slot.exit_id)

    def not_served(self, isolation: Hashable, slot: Slot) -> bool:
        """Note that the slot's exit did not do it; tell whether another exit may."""
        if not choice_of(isolation).binds_exit:
            return True
        if self._sessions.refused(isolation, slot.exit_id):
            slot.retire()
        return False

    def leave(self, exit_id: PeerId) -> None:
        """Send nothing new to an exit that ends soon."""
        for slot in self._pool:
            if slot.exit_id == exit_id:
                slot.retire()
        self._paths.avoid(exit_id)

    def leave_relays(self, relays: Collection[PeerId]) -> None:
        """Send nothing new through any of `relays`, and close what nobody uses there (P2P-2)."""
        for slot in self._pool:
            if any(entry.peer_id in relays for entry in slot.path):
                slot.retire()
                assert isinstance(slot.circuit, Circuit)
                if not slot.circuit.stream_count:
                    slot.circuit.close()

    # ---- circuits come and go

    async def _build(
        self,
        target: Target | None,
        avoid: Collection[PeerId] = (),
        isolation: Hashable | None = None,
    ) -> Slot:
        slot = self._make_slot(await self._builder.build(target, avoid, isolation))
        self._pool.add(slot)
        self.is_usable.set()
        return slot

    def _make_slot(self, built: Built) -> Slot:
        """Make the slot of a circuit that was built; its streams outlive it."""
        circuit, last = built.circuit, built.path[-1]
        slot = Slot(
            circuit,
            built.path,
            read_policy(last.policy) or NO_POLICY,
            trio.current_time(),
            next(self._numbers),
            built.hops,
            udp_policy=read_policy(last.udp_policy) or NO_POLICY,
        )
        circuit.machine.keeps_streams = True
        circuit.on_closed = lambda _: self._lost(slot)
        return slot

    def adopt(self, circuit: Circuit, path: tuple[RelayEntry, ...], lost: Slot) -> Slot:
        """Make the slot of a circuit that takes over what `lost` carried, and whose it was."""
        slot = self._make_slot(Built(circuit, path, lost.hops))
        slot.isolation, slot.moves = lost.isolation, lost.moves
        slot.first_used, slot.last_used = lost.first_used, trio.current_time()
        return slot

    def _lost(self, slot: Slot) -> None:
        self._pool.remove(slot)
        self._bias.ended(slot)
        assert isinstance(slot.circuit, Circuit)
        self._needs_spares.set()
        orphans = slot.circuit.machine.orphans
        if orphans is not None:
            self._on_orphans(slot, orphans)

    def streams(self) -> Iterator[StreamProtocol]:
        """Yield the streams of all circuits; none may be opened meanwhile."""
        for slot in self._pool:
            assert isinstance(slot.circuit, Circuit)
            yield from slot.circuit.streams

    def backlogs(self) -> Iterator[Holder]:
        """Yield the circuits that something is kept for (DOS-5)."""
        for slot in self._pool:
            circuit = slot.circuit
            assert isinstance(circuit, Circuit)
            if circuit.machine.hops and (queues := multiplexer_queues(circuit.machine.streams)):
                yield Holder("circuits", circuit, queues, partial(_free, circuit))

    def _open_circuits(self) -> Iterator[Circuit]:
        for slot in self._pool:
            assert isinstance(slot.circuit, Circuit)
            if slot.circuit.is_open:
                yield slot.circuit

    def _doubt(self, circuit: Circuit) -> None:
        """Send nothing new over a circuit whose far end is late; what waits there is told."""
        for slot in self._pool:
            if slot.circuit is circuit:
                slot.retire()
                self._on_doubt(slot)

    def _give_up(self, circuit: Circuit) -> None:
        """Destroy a circuit that is silent, and avoid those behind the guard: one of them is it.

        Unless the guard has said nothing at all since: then its link will be judged, soon.
        """
        silence = trio.current_time() - circuit.link.last_heard
        suspects = {hop.peer_id for hop in circuit.hops[1:]} if silence < QUIET_SECONDS else set()
        for suspect in suspects:
            self._paths.avoid(suspect)
        for slot in self._pool:
            if slot.first_used is None and not suspects.isdisjoint(e.peer_id for e in slot.path):
                assert isinstance(slot.circuit, Circuit)
                slot.circuit.close()  # a spare through one of them
        self._bias.silent(circuit)
        circuit.give_up()

    # ---- upkeep

    async def run(self) -> None:
        """Keep circuits ready and close those that are over; runs for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_old)
            nursery.start_soon(self._watch.run)
            while True:
                await self._keep_spares()
                await self._needs_spares.wait()
                await trio.sleep(_SPARE_PAUSE_SECONDS)
                self._needs_spares = trio.Event()

    async def _keep_spares(self) -> None:
        backoff = Backoff(self._rng, first=0.1, most=60.0)
        failures = 0
        while missing := self._pool.spares_missing(trio.current_time()):
            try:
                await self._build_spare(missing[failures % len(missing)])
                self._trouble = None
                backoff.reset()
                failures = 0
            except (CircuitError, DirectoryError) as error:
                failures += 1  # what one asks for there may be none of; the others want theirs
                self._trouble = str(error)
                logger.info("no circuit yet", error=str(error))
                await self._builder.pause(backoff.next_wait())

    async def _build_spare(self, wisher: Wisher) -> None:
        """Build a spare as `wisher` asks, through other middles than the last ones, if any.

        In a small network there are no others; of all of them, exits would have to be middles.
        """
        spares = [slot for slot in self._pool if slot.isolation is None][-_UNLIKE:]
        middles = frozenset(relay.peer_id for slot in spares for relay in slot.path[1:-1])  # REL-2
        try:
            slot = await self._build(None, middles, wisher)
        except DirectoryError:
            if not middles:
                raise
            slot = await self._build(None, isolation=wisher)
        slot.wish = choice_of(wisher)

    async def _close_old(self) -> None:
        while True:
            await trio.sleep(_UPKEEP_SECONDS)
            for slot in self._pool.over(trio.current_time()):
                assert isinstance(slot.circuit, Circuit)
                slot.circuit.close()
            if self._pool.spares_missing(trio.current_time()):
                self._needs_spares.set()

    def interrupted(self) -> None:
        """Try everything again at once; the links are gone by now, and their circuits with them."""
        self._builder.interrupted()
        self._needs_spares.set()

    def close(self) -> None:
        """Close all circuits, their streams first."""
        for slot in self._pool:
            assert isinstance(slot.circuit, Circuit)
            slot.circuit.close()

    def statistics(self) -> dict[str, object]:
        """Return counters and the circuits with their paths; no target is named."""
        return {
            **self._builder.statistics(),
            "trouble": self._trouble,
            "given_up": self._watch.given_up,
            "sessions": len(self._sessions),
            "circuits": [_describe(slot) for slot in self._pool],
        }


def _free(circuit: Circuit) -> None:
    """Reset the streams of `circuit`, with all that is kept of them, and close it."""
    give_up(circuit.streams)
    circuit.close()


def _describe(slot: Slot) -> dict[str, object]:
    circuit = slot.circuit
    assert isinstance(circuit, Circuit)
    return {
        "id": slot.number,
        "path": [str(entry.peer_id) for entry in slot.path],
        "countries": [entry.country for entry in slot.path],
        "streams": circuit.stream_count,
        "state": circuit.machine.state.value,
        "used": slot.first_used is not None,
    }
