"""Which relays may stand together in a path, and the search for some that do.

A position of a path is a relay, or one that cannot be dialled with its gateway before it. The
search draws by lot, so in a large network the first draws mostly fit; where they do not, it goes
through everything there is, as far as its patience lasts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from warren.directory.chance import Chance, Lottery
from warren.directory.relays import RelayEntry
from warren.identity import PeerId

#: A circuit is extended at most six times (protocol §3), gateways included.
MOST_HOPS = 7
#: Draws before all of a pool are gone through, and candidates looked at before giving up.
_DRAWS = 16
_PATIENCE = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """Hold what decides whether a relay may be in a path with another."""

    entry: RelayEntry
    peer_id: PeerId
    network: tuple[int, int] | None
    family: frozenset[PeerId]
    gateways: frozenset[PeerId]

    def clashes(self, other: "Node") -> bool:
        """Tell whether one hand may hold both (PATH-1)."""
        return (
            self.peer_id == other.peer_id
            or (self.network is not None and self.network == other.network)
            or (self.peer_id in other.family and other.peer_id in self.family)
            or self.peer_id in other.gateways
            or other.peer_id in self.gateways
            or not self.gateways.isdisjoint(other.gateways)
        )


Position = tuple[Node, ...]
Pool = Lottery[Node]


@dataclass(slots=True)
class Search:
    """Go through positions that fit together, and own how long that may go on."""

    nodes: Mapping[PeerId, Node]
    banned: Set[PeerId]
    rng: Chance
    patience: int = _PATIENCE

    def complete(
        self, chosen: list[Position], slots: Sequence[Callable[[], Iterable[Position]]]
    ) -> list[Position] | None:
        """Return `chosen` and one fitting position for each slot, or None."""
        if not slots:
            return chosen
        for position in slots[0]():
            self.patience -= 1
            if self.patience < 0:
                return None
            if self._fits(position, chosen, len(slots) - 1):
                found = self.complete([*chosen, position], slots[1:])
                if found is not None:
                    return found
        return None

    def positions(self, pools: Sequence[Pool]) -> Iterator[Position]:
        """Yield what `pools` have: first some by lot, then everything."""
        for pool in pools:
            for _ in range(_DRAWS):
                yield from self._around(pool.draw(self.rng))
            for node in pool.shuffled(self.rng):
                yield from self._around(node)

    def _around(self, node: Node) -> Iterator[Position]:
        """Yield `node` as a position, or with each of its gateways in turn (protocol §8)."""
        if not node.gateways:
            yield (node,)
            return
        known = [self.nodes[peer_id] for peer_id in node.entry.gateways if peer_id in self.nodes]
        for gateway in Lottery(known, weight_of).shuffled(self.rng):
            if not gateway.gateways:
                yield gateway, node

    def _fits(self, position: Position, chosen: list[Position], slots_left: int) -> bool:
        if any(node.peer_id in self.banned for node in position):
            return False
        others = [node for other in chosen for node in other]
        if len(others) + len(position) + slots_left > MOST_HOPS:
            return False
        return not any(node.clashes(other) for node in position for other in others)


def weight_of(node: Node) -> int:
    """Return how often `node` is drawn, against others."""
    return node.entry.weight
