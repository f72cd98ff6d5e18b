"""Which relays may stand together in a path, and the search for some that do.

A position of a path is a relay, or one that cannot be dialled with its gateway before it. The
search draws by lot, so in a large network the first draws mostly fit; where they do not, it goes
through everything there is, as far as its patience lasts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from warren.directory.chance import Chance, Lottery
from warren.directory.relays import RelayEntry
from warren.identity import PeerId

#: A circuit is extended at most six times (protocol §3), gateways included.
MOST_HOPS = 7
#: Draws before all of a pool are gone through, and candidates looked at before giving up.
_DRAWS = 16
_PATIENCE = 20_000

Position = tuple[RelayEntry, ...]
Pool = Lottery[RelayEntry]
Find = Callable[[PeerId], RelayEntry | None]


@dataclass(frozen=True, slots=True)
class Closeness:
    """Tell which relays one hand may hold; of an address so many leading bits count (PATH-1)."""

    v4_bits: int
    v6_bits: int

    def clash(self, one: RelayEntry, other: RelayEntry) -> bool:
        """Tell whether `one` and `other` may not be in one path."""
        if one.peer_id == other.peer_id or self._are_near(one, other):
            return True
        if are_family(one, other):
            return True
        return (
            one.peer_id in other.gateways
            or other.peer_id in one.gateways
            or any(gateway in other.gateways for gateway in one.gateways)
        )

    def _are_near(self, one: RelayEntry, other: RelayEntry) -> bool:
        a, b = one.hop.address.ip, other.hop.address.ip
        if a is None or b is None or a.version != b.version:
            return False
        bits = self.v4_bits if a.version == 4 else self.v6_bits
        return (int(a) ^ int(b)) >> (a.max_prefixlen - bits) == 0


@dataclass(slots=True)
class Search:
    """Go through positions that fit together, and own how long that may go on."""

    find: Find
    closeness: Closeness
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
        """Yield what `pools` have: first some by lot, then everything.

        Of a pool with hardly more than would be drawn everything comes at once, in the same order
        by lot, and nothing twice: behind each exit that is drawn lies a whole search.
        """
        for pool in pools:
            if len(pool) > _DRAWS:
                for _ in range(_DRAWS):
                    yield from self._around(pool.draw(self.rng))
            for entry in pool.shuffled(self.rng):
                yield from self._around(entry)

    def _around(self, entry: RelayEntry) -> Iterator[Position]:
        """Yield `entry` as a position, or with each of its gateways in turn (protocol §8)."""
        if not entry.gateways:
            yield (entry,)
            return
        known = [found for peer_id in entry.gateways if (found := self.find(peer_id)) is not None]
        for gateway in Lottery(known, weight_of).shuffled(self.rng):
            if not gateway.gateways:
                yield gateway, entry

    def _fits(self, position: Position, chosen: list[Position], slots_left: int) -> bool:
        if any(entry.peer_id in self.banned for entry in position):
            return False
        others = [entry for other in chosen for entry in other]
        if len(others) + len(position) + slots_left > MOST_HOPS:
            return False
        clash = self.closeness.clash
        return not any(clash(entry, other) for entry in position for other in others)


def are_family(one: RelayEntry, other: RelayEntry) -> bool:
    """Tell whether each of two relays names the other as of its owner."""
    return bool(one.family) and one.peer_id in other.family and other.peer_id in one.family


def with_families(relays: Set[PeerId], find: Find) -> frozenset[PeerId]:
    """Return `relays`, listed or not, and all that are listed as family of one of them."""
    listed = [entry for peer_id in relays if (entry := find(peer_id)) is not None]
    named = (
        other.peer_id
        for entry in listed
        for peer_id in entry.family
        if (other := find(peer_id)) is not None and are_family(entry, other)
    )
    return frozenset(relays).union(named)


def weight_of(entry: RelayEntry) -> int:
    """Return how often `entry` is drawn, against others."""
    return entry.weight
