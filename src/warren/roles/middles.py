"""The few middles over which lost circuits to an exit are built again.

Whoever can kill circuits, an exit first of all, must not be able to let us draw a new middle each
time until a friend of his turns up. So for each exit a few middles are drawn once and kept, the
dead ones too: they come back (RES-1). Pure: time is an argument.
"""

from collections.abc import Collection, Iterator

from warren.directory.consensus import Consensus
from warren.identity import PeerId

#: Middles kept for one exit, for each middle position of a path.
MOST_MIDDLES = 4
#: Exits that middles are kept for; the one used longest ago makes room.
MOST_EXITS = 256
#: Seconds for which a middle that has failed comes after the others.
REST_SECONDS = 10.0


class Middles:
    """Own the kept middles of each exit, and until when those that failed should rest."""

    def __init__(self, positions: int = 1) -> None:
        self._most = MOST_MIDDLES * positions
        self._kept: dict[PeerId, dict[PeerId, float]] = {}

    def kept(self, exit_id: PeerId) -> Collection[PeerId]:
        """Return the middles that were drawn for an exit."""
        return tuple(self._kept.get(exit_id, ()))

    def keep(self, exit_id: PeerId, middles: Collection[PeerId]) -> None:
        """Keep middles that were drawn, or used again; nothing is drawn beyond the bound."""
        kept = self._kept.pop(exit_id, {})
        self._kept[exit_id] = kept  # the newest comes last
        for middle in middles:
            if len(kept) < self._most:
                kept.setdefault(middle, 0.0)
        while len(self._kept) > MOST_EXITS:
            del self._kept[next(iter(self._kept))]

    def failed(self, exit_id: PeerId, middle: PeerId, now: float) -> None:
        """Let a kept middle rest; one that is not kept may be drawn as before."""
        kept = self._kept.get(exit_id, {})
        if middle in kept:
            kept[middle] = now + REST_SECONDS

    def choices(
        self, exit_id: PeerId, consensus: Consensus, unwanted: Collection[PeerId], now: float
    ) -> Iterator[frozenset[PeerId]]:
        """Yield, in order, sets of relays from which all middles of a path should come.

        First those kept that are awake and not `unwanted`, then any relay while there is room for
        more, then the same with the unwanted ones, and last all that are kept. Those that are not
        listed any more are forgotten.
        """
        kept = self._kept.get(exit_id, {})
        for middle in [each for each in kept if consensus.get(each) is None]:
            del kept[middle]
        awake = {each for each, until in kept.items() if until <= now}
        has_room = len(kept) < self._most
        others = frozenset(entry.peer_id for entry in consensus.relays if entry.peer_id not in kept)
        yield frozenset(awake.difference(unwanted))
        if has_room:
            yield others.difference(unwanted)
        yield frozenset(awake)
        if has_room:
            yield others
        yield frozenset(kept)
