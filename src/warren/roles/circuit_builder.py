"""Building circuits: a path, a link to its guard, one hop after the other, until one stands.

What fails teaches ``paths`` whom to avoid, the guards which of them can be reached, and a session
how often its exit could not. While this machine has no network nothing counts as failed. Circuits
that stand are ``circuit_keeper``'s.
"""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from random import Random

import structlog
import trio

from warren.directory.exit_index import Target
from warren.directory.relays import RelayEntry
from warren.errors import CircuitError, GuardsRest, LinkError
from warren.identity import PeerId
from warren.network.circuits import Circuit, build_circuit, extend_circuit
from warren.network.link import Link
from warren.network.links import Links
from warren.protocol.choice import ANYTHING
from warren.roles.bias_watch import BiasWatch
from warren.roles.build_times import BUILD_SECONDS, BuildTimes
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.guard_links import GuardLinks
from warren.roles.mirror import Directory
from warren.roles.paths import Paths
from warren.roles.sessions import Sessions

logger = structlog.get_logger()

MOST_BUILDS = 8
#: Circuits that are being built at the same time (PATH-5): a guard asks for no more at once.
MOST_BUILDING = 32
#: A guard that is suspected is given up when circuits have been stuck in it for so long.
STUCK_SECONDS = 8.0
#: Before another try while this machine has no network.
OUTAGE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Built:
    """Hold a circuit that stands, its path, and how many `hops` were asked for."""

    circuit: Circuit
    path: tuple[RelayEntry, ...]
    hops: int


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """Hold since when circuits get stuck on a link, and whom all of them could blame but it."""

    since: float
    suspects: frozenset[PeerId]


class CircuitBuilder:
    """Own how building went: counts, seconds, and who waits to try again.

    `hops` is the length of a path that nobody wished otherwise. `is_offline` tells whether this
    machine has no network, so that silence is no fault of a guard.
    """

    def __init__(
        self,
        links: Links,
        directory: Directory,
        guards: GuardKeeper,
        paths: Paths,
        sessions: Sessions,
        bias: BiasWatch,
        *,
        hops: int,
        rng: Random,
        is_offline: Callable[[], bool],
    ) -> None:
        self._guard_links = GuardLinks(links, guards)
        self._directory = directory
        self._guards = guards
        self._paths = paths
        self._sessions = sessions
        self._bias = bias
        self._hops = hops
        self._rng = rng
        self._is_offline = is_offline
        self._interrupted = trio.Event()
        #: Of links whose last circuits got stuck.
        self._stuck: dict[Link, _Suspicion] = {}
        self._times = BuildTimes()
        self._turns = trio.CapacityLimiter(MOST_BUILDING)
        self.built = self.failed = 0

    async def build(
        self,
        target: Target | None,
        avoid: Collection[PeerId] = (),
        isolation: Hashable | None = None,
    ) -> Built:
        """Build a circuit whose exit lets `target` through and is none of `avoid`.

        Its path is one that `isolation` asks for. Waits for a consensus, and for guards that have
        just failed, and tries eight times; raises CircuitError then, DirectoryError when there is
        no such path.
        """
        failure: Exception | None = None
        hop: int | None = None
        attempts = 0
        while attempts < MOST_BUILDS:
            try:
                built = await self._build_once(target, avoid, isolation)
            except GuardsRest as error:
                await self.pause(error.seconds)
                continue
            except (CircuitError, LinkError) as error:
                self.failed += 1
                failure = error
                hop = error.hop if isinstance(error, CircuitError) else 0
                logger.debug("! circuit", error=str(error))
                if isinstance(error, LinkError) and error.is_local:
                    await self.pause(OUTAGE_SECONDS)  # the caller's deadline says for how long
                else:
                    await self.pause(self._rng.uniform(0, min(0.05 * 2**attempts, 5.0)))  # REL-3
                    attempts += 1
                continue
            self.built += 1
            return built
        raise CircuitError(f"no circuit could be built: {failure}", hop=hop)

    async def _build_once(
        self, target: Target | None, avoid: Collection[PeerId], isolation: Hashable | None
    ) -> Built:
        consensus = await self._directory.wait_for_consensus()
        self._sessions.check(isolation, consensus, self._paths.own.within(consensus))
        wish = self._sessions.wish(isolation) or ANYTHING
        hops = wish.hops or self._hops
        path = self._paths.choose(consensus, target, wish, hops=hops, never=avoid)
        try:
            circuit = await self.build_path(path)
        except CircuitError as error:
            if error.hop and error.is_its_fault:
                self._paths.avoid(path[error.hop].peer_id)
            if error.hop == len(path) - 1:
                self._sessions.missed(isolation, path[-1].peer_id)
            raise
        return Built(circuit, path, hops)

    async def build_path(
        self, path: tuple[RelayEntry, ...], stub: Circuit | None = None
    ) -> Circuit:
        """Build a circuit over `path`, or extend `stub`, which lacks the last relay of it.

        Waits for its turn, then 15 s at most, and once there is a link no longer than circuits
        usually take. Raises LinkError when there is no link to the guard, CircuitError otherwise;
        its ``hop`` is None when there was no answer in time.
        """
        async with self._turns:
            return await self._build_path(path, stub)

    async def _build_path(self, path: tuple[RelayEntry, ...], stub: Circuit | None) -> Circuit:
        begun = [] if stub is None else [stub]
        patience = self._times.patience(len(path))
        try:
            with trio.fail_after(BUILD_SECONDS):
                if stub is not None:
                    with trio.fail_after(patience):
                        await extend_circuit(stub, path[-1].hop)
                else:
                    link = await self.link_to(path[0])
                    with trio.fail_after(patience):
                        await self._build_over(link, path, begun.append)
        except trio.TooSlowError:
            if begun:
                if self._is_telling(path):
                    self._bias.stuck(begun[0])
                self._gave_up(begun[0], path)
            raise CircuitError("the circuit took too long to build") from None
        except CircuitError:
            if begun and self._is_telling(path):
                self._bias.not_built(begun[0])
            raise
        (circuit,) = begun
        if stub is None:
            self._times.note(len(path), trio.current_time() - circuit.created_at)
        if self._is_telling(path):
            self._bias.built(circuit)
        if any(entry.peer_id in self._paths.own for entry in path):
            circuit.close()
            raise CircuitError("one of the relays turned out to be this user's own")  # P2P-2
        self._stuck.pop(circuit.link, None)
        return circuit

    def _is_telling(self, path: tuple[RelayEntry, ...]) -> bool:
        """Tell whether no relay behind the guard failed lately: one that is gone counts once.

        What succeeds with such a one does not count either, or the share would be too good.
        """
        return not self._paths.failed.is_behind_guard(path)

    async def _build_over(
        self, link: Link, path: tuple[RelayEntry, ...], on_started: Callable[[Circuit], None]
    ) -> None:
        """Build a circuit over `link`; the guards learn whether the first of `path` took it."""
        guard = path[0].peer_id
        try:
            await build_circuit(link, [entry.hop for entry in path], on_started=on_started)
        except CircuitError as error:
            if error.hop == 0 and not link.is_closed:
                self._guards.refused(guard)
            raise
        self._guards.took(guard)

    def _gave_up(self, circuit: Circuit, path: tuple[RelayEntry, ...]) -> None:
        """Note that a circuit took too long, and who may have kept an answer back.

        Most likely it is who was asked for the next hop: a host that is switched off says nothing.
        """
        since = trio.current_time() - self._times.patience(len(path))
        self._times.gave_up(len(path))
        asked = circuit.machine.hops
        if asked and not self._is_offline():
            self._paths.avoid(path[asked].peer_id)
        suspects = frozenset(relay.peer_id for relay in path[1 : asked + 1])
        self._suspect(circuit.link, since, suspects)

    def _suspect(self, link: Link, since: float, suspects: frozenset[PeerId]) -> None:
        """Note whom a circuit got stuck in, since when; give the guard up where it can only be it.

        It is the guard if circuits, one after the other, have no other relay to blame.
        """
        before = self._stuck.get(link)
        self._stuck = {each: why for each, why in self._stuck.items() if not each.is_closed}
        if before is not None and before.suspects.isdisjoint(suspects):
            since, suspects = before.since, frozenset()
            if trio.current_time() - since >= STUCK_SECONDS and not link.is_closed:
                del self._stuck[link]
                self._bias.settle(link)
                link.give_up("it answers PINGs, and circuits get stuck in it")
                link.turn.run()
                return
        self._stuck[link] = _Suspicion(since, suspects)

    async def link_to(self, guard: RelayEntry) -> Link:
        """Return the link to the guard, as ``GuardLinks.get`` does; its silence will be noticed."""
        link = await self._guard_links.get(guard)
        link.on_silence = self._guard_fell_silent
        return link

    def _guard_fell_silent(self, link: Link) -> None:
        """Neither dial it next nor go through it: that takes long, and is most likely in vain.

        There may be no circuit on the link, but one that is being built.
        """
        peer_id = link.protocol.peer_id
        if peer_id is not None and not self._is_offline():
            self._guards.failed(peer_id)
            self._paths.avoid(peer_id)

    def interrupted(self) -> None:
        """Blame nobody for what failed so far, and let those who ``pause`` go on at once."""
        self._paths.forgive()
        self._guards.interrupted()
        self._times.forget()
        self._interrupted.set()
        self._interrupted = trio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until ``interrupted``."""
        with trio.move_on_after(seconds):
            await self._interrupted.wait()

    def statistics(self) -> dict[str, object]:
        """Return how many circuits were built or failed, and how long the last ones took."""
        return {
            "built": self.built,
            "failed": self.failed,
            "build_seconds": [round(seconds, 6) for seconds in self._times.last],
        }
