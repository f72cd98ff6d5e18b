"""Which relays are this user's own: none of them is ever on a path of this client (P2P-2).

Whoever is his own first or last hop hides behind one relay less than he thinks, and his relay's
load would tell what he does. What a relay names as family, and is named by, is of the same hand
(PATH-1), so it is the user's own too, wherever it runs. Who they are is configured, or found out
by whoever looks (``node.own_relays``).
"""

from collections.abc import Callable, Iterable

from warren.directory.consensus import Consensus
from warren.directory.path_search import with_families
from warren.identity import PeerId


class OwnRelays:
    """Own the ids of this user's relays; they only become more.

    A relay is ``in`` it that must not be used by all that is known. ``on_more`` are called when
    there are more, and must not wait.
    """

    def __init__(self, named: Iterable[PeerId] = ()) -> None:
        self.ids = frozenset(named)
        self.on_more: list[Callable[[], None]] = []
        self._within: tuple[Consensus | None, frozenset[PeerId]] = (None, self.ids)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._within[1]

    def add(self, found: Iterable[PeerId]) -> frozenset[PeerId]:
        """Take note of relays of this user; return those that were not known."""
        new = frozenset(found) - self.ids
        if new:
            self.ids |= new
            self._within = None, self.ids
            for tell in self.on_more:
                tell()
        return new

    def within(self, consensus: Consensus) -> frozenset[PeerId]:
        """Return whom no path may use by `consensus`: these, listed or not, and their families."""
        if self._within[0] is not consensus:
            self._within = consensus, with_families(self.ids, consensus.get)
        return self._within[1]
