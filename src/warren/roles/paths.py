"""Paths of new circuits: relays that failed a moment ago are left out where there are others.

Which relays may stand in which place is decided in ``directory.path``; here is remembered whom a
client avoids, for five minutes each. In a small network those may be all there is, so they are
wishes, and give way one after the other.
"""

from collections.abc import Callable, Collection
from random import Random

import trio

from warren.directory.consensus import Consensus
from warren.directory.exit_index import Target
from warren.directory.path import choose_path
from warren.directory.relays import RelayEntry
from warren.errors import DirectoryError, GuardsRest
from warren.identity import PeerId
from warren.protocol.choice import Choice
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.own_relays import OwnRelays

#: How long a relay that failed as a hop is not chosen again.
AVOID_SECONDS = 300.0
_NOBODY: frozenset[PeerId] = frozenset()


class FailedLately:
    """Own which relays failed in the last five minutes."""

    def __init__(self) -> None:
        self._until: dict[PeerId, float] = {}

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Return them, the one that failed last at the end."""
        now = trio.current_time()
        self._until = {peer: until for peer, until in self._until.items() if until > now}
        return tuple(self._until)

    def note(self, peer_id: PeerId) -> None:
        """Note that a relay failed."""
        self._until.pop(peer_id, None)  # so that the last one comes last
        self._until[peer_id] = trio.current_time() + AVOID_SECONDS

    def forget(self) -> None:
        """Forget all of them."""
        self._until.clear()

    def is_behind_guard(self, path: tuple[RelayEntry, ...]) -> bool:
        """Tell whether one of them is in `path`, and not its first."""
        return not {relay.peer_id for relay in path[1:]}.isdisjoint(self.peers)


class Paths:
    """Own who is avoided for a while.

    `own` are never used. `exempt` tells of a target that no policy is asked about (EXT-16).
    """

    def __init__(
        self,
        guards: GuardKeeper,
        *,
        own: OwnRelays,
        exempt: Callable[[Target | None], bool],
        rng: Random,
    ) -> None:
        self._guards = guards
        self.own = own
        self._exempt = exempt
        self._rng = rng
        self.failed = FailedLately()

    @property
    def avoided(self) -> tuple[PeerId, ...]:
        """Return who is avoided, the one that failed last at the end."""
        return self.failed.peers

    def avoid(self, peer_id: PeerId) -> None:
        """Leave out a relay that failed for a while."""
        self.failed.note(peer_id)

    def forgive(self) -> None:
        """Avoid nobody any more: the fault was our own."""
        self.failed.forget()

    def choose(
        self,
        consensus: Consensus,
        target: Target | None,
        wish: Choice,
        *,
        hops: int,
        never: Collection[PeerId],
    ) -> tuple[RelayEntry, ...]:
        """Return a path of `hops` relays, none of `never`, as `wish` asks; its exit takes `target`.

        Raises DirectoryError when there is none, GuardsRest when there will be one.
        """
        wanted = None if self._exempt(target) else target
        guards = self._guards.candidates(consensus)
        try:
            return self._choose(consensus, guards, wanted, wish, hops, never)
        except DirectoryError:
            seconds = self._guards.rest_seconds
            if not seconds:
                raise
            self._choose(consensus, self._guards.primary, wanted, wish, hops, never)
            raise GuardsRest(seconds) from None

    def _choose(
        self,
        consensus: Consensus,
        guards: Collection[PeerId],
        wanted: Target | None,
        wish: Choice,
        hops: int,
        never: Collection[PeerId],
    ) -> tuple[RelayEntry, ...]:
        """Return a path as ``choose`` does that begins at one of `guards`."""
        avoided, silent = self.avoided, self._guards.unanswering
        own = self.own.within(consensus)
        # In a small network the avoided ones may be all there is; the last one least likely lives.
        for unwanted in (silent.union(avoided), silent.union(avoided[-1:]), _NOBODY):
            try:
                return choose_path(
                    consensus,
                    guards,
                    wanted,
                    length=hops,
                    rng=self._rng,
                    own=own,
                    avoid=unwanted.union(never),
                    exit_id=wish.exit_id,
                    country=wish.country,
                    parameters=consensus.parameters,
                )
            except DirectoryError:
                if not unwanted:
                    raise
        raise AssertionError("unreachable")
