"""Choose a path: guard, middles, exit, so that no two hops are of one hand (PATH-1).

The exit is drawn first, because the target narrows it most, then the first guard that fits it,
then the middles; all by weight. Relays of the wrong kind, family or network are drawn again, so
choosing from ten thousand costs no more than from a hundred. What can be computed once for a
consensus stands in its ``PathIndex``; which exits open a target is in ``exit_index``, and which
relays fit together in ``path_search``.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

from warren.directory.chance import Chance, Lottery
from warren.directory.consensus import Consensus
from warren.directory.exit_index import Datagrams, ExitIndex, Exits, Target, fits, read_policy
from warren.directory.parameters import Parameters
from warren.directory.path_search import Closeness, Pool, Search, weight_of
from warren.directory.relays import Flag, RelayEntry
from warren.errors import NoPathError
from warren.identity import PeerId

SHORTEST, LONGEST = 2, 5
#: Exits are kept ready for so many kinds of targets, each with its countries one by one.
_MOST_POOLS = 256

_NOBODY: frozenset[PeerId] = frozenset()


class PathIndex:
    """Hold a consensus's relays as choosing paths needs them.

    Only running relays are in it. `parameters` are the consensus's own unless given.
    """

    def __init__(self, consensus: Consensus, parameters: Parameters | None = None) -> None:
        parameters = parameters or consensus.parameters
        self._consensus = consensus
        self._closeness = Closeness(parameters.subnet_v4_prefix, parameters.subnet_v6_prefix)
        running = [entry for entry in consensus.relays if Flag.RUNNING in entry.flags]
        self._running = len(running)
        self._total = sum(map(weight_of, running))
        self._middles = self._pools(running, rather_without=Flag.EXIT)
        self._exit_entries = [entry for entry in running if Flag.EXIT in entry.flags]
        self._exits = ExitIndex(self._exit_entries)
        self._exit_pools: dict[tuple[Exits, str | None], Sequence[Pool]] = {}

    @cached_property
    def _udp_exits(self) -> ExitIndex:
        return ExitIndex(self._exit_entries, by_udp=True)  # few clients send datagrams

    def choose(
        self,
        guards: Iterable[PeerId | RelayEntry],
        target: Target | None,
        *,
        length: int = 3,
        rng: Chance,
        own: Set[PeerId] = _NOBODY,
        avoid: Set[PeerId] = _NOBODY,
        exit_id: PeerId | None = None,
        country: str | None = None,
    ) -> tuple[RelayEntry, ...]:
        """Choose the hops of a path in their order; see ``choose_path``."""
        assert SHORTEST <= length <= LONGEST, f"a path of {length} relays"
        banned = avoid | own if own else avoid
        if exit_id is not None and exit_id in own:
            raise NoPathError(
                f"the relay {str(exit_id)[:8]}, which should be the exit, is one of your own or "
                "of their families, and no path uses those (P2P-2)"
            )
        exits = self._find_exits(target, exit_id, country)
        first = [(entry,) for entry in self._find_guards(guards) if entry.peer_id not in banned]
        if not first:
            raise NoPathError(
                f"no guard to begin a path with is listed and may be used{self._without(own)}"
            )
        search = Search(self._find, self._closeness, banned, rng)
        middles = [lambda: search.positions(self._middles)] * (length - 2)
        found = search.complete([], [lambda: search.positions(exits), lambda: first, *middles])
        if found is None:
            raise NoPathError(
                f"no path of {length} relays to {_text(target)}: the {self._running} "
                f"running relays are too few in different networks and families{self._without(own)}"
            )
        last, *others = found
        return tuple(chain.from_iterable((*others, last)))

    def _without(self, own: Set[PeerId]) -> str:
        """Return what to add to an error where relays of the user's own are left out."""
        count = sum(self._find(peer_id) is not None for peer_id in own)
        if not count:
            return ""
        return (
            f", without the {count} of your own or of their families (P2P-2: own_relays and "
            "find_own_relays say which)"
        )

    def _find(self, peer_id: PeerId) -> RelayEntry | None:
        entry = self._consensus.get(peer_id)
        return entry if entry is not None and Flag.RUNNING in entry.flags else None

    def _pools(self, entries: Sequence[RelayEntry], *, rather_without: Flag) -> Sequence[Pool]:
        """Return the pools to draw from, the better one first.

        Relays that are good for something scarcer are left for it, unless the others together
        carry less than a third of the network.
        """
        others = [entry for entry in entries if rather_without not in entry.flags]
        everyone = Lottery(entries, weight_of)
        if not others or len(others) == len(entries):
            return (everyone,)
        is_scarce = 3 * sum(map(weight_of, others)) < self._total
        return (everyone,) if is_scarce else (Lottery(others, weight_of), everyone)

    def _find_guards(self, guards: Iterable[PeerId | RelayEntry]) -> Iterator[RelayEntry]:
        for guard in guards:
            if isinstance(guard, RelayEntry):  # a bridge: in no consensus
                yield guard
            elif (entry := self._find(guard)) is not None and not entry.gateways:
                yield entry

    def _find_exits(
        self, target: Target | None, exit_id: PeerId | None, country: str | None
    ) -> Sequence[Pool]:
        """Return the pools of relays that may be the exit, or say why there is none."""
        if exit_id is not None:
            return (Lottery([self._find_exit(exit_id, target, country)], weight_of),)
        if not self._exits:
            raise NoPathError("no exit is listed that works")
        if isinstance(target, Datagrams):
            exits = self._udp_exits.find(target.address)
        else:
            exits = self._exits.find(target)
        if not exits.relays:
            raise NoPathError(f"no exit allows {_text(target)}")
        if not exits.within(country):
            raise NoPathError(f"no exit in country {country!r} allows {_text(target)}")
        if (pools := self._exit_pools.get((exits, country))) is None:
            if len(self._exit_pools) >= _MOST_POOLS:
                self._exit_pools.clear()
            pools = self._pools(exits.within(country), rather_without=Flag.GUARD)
            self._exit_pools[exits, country] = pools
        return pools

    def _find_exit(self, exit_id: PeerId, target: Target | None, country: str | None) -> RelayEntry:
        entry, name = self._find(exit_id), f"the relay {str(exit_id)[:8]}, which should be the exit"
        if entry is None:
            raise NoPathError(f"{name}, is not listed as running")
        if country not in (None, entry.country):
            raise NoPathError(f"{name}, is not in country {country!r}")
        if target is not None:
            is_udp = isinstance(target, Datagrams)
            policy = read_policy(entry.udp_policy if is_udp else entry.policy)
            place = target.address if isinstance(target, Datagrams) else target
            if policy is None or not fits(policy, place):
                raise NoPathError(f"{name}, does not allow {_text(target)}")
        return entry


def choose_path(
    consensus: Consensus,
    guards: Iterable[PeerId | RelayEntry],
    target: Target | None,
    *,
    rng: Chance,
    length: int = 3,
    own: Set[PeerId] = _NOBODY,
    avoid: Set[PeerId] = _NOBODY,
    exit_id: PeerId | None = None,
    country: str | None = None,
    parameters: Parameters | None = None,
) -> tuple[RelayEntry, ...]:
    """Choose the relays of a circuit to `target`, guard first; None: to no place in particular.

    `length` is 2 to 5 positions; a relay that cannot be dialled brings one of its gateways as an
    extra hop before it. The first of `guards` that fits is taken: ids of listed relays, or
    entries of bridges. `own` and `avoid` are never in the path. `exit_id` fixes the last relay,
    which need not be an exit when there is no target; `country` (two lower-case letters) is
    strict. Raises NoPathError, which says what is missing.
    """
    return index_of(consensus, parameters).choose(
        guards,
        target,
        length=length,
        rng=rng,
        own=own,
        avoid=avoid,
        exit_id=exit_id,
        country=country,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """Compare a consensus by identity: by value that would cost more than the whole path."""

    consensus: Consensus
    parameters: Parameters | None

    def __hash__(self) -> int:
        return id(self.consensus)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Same)
            and self.consensus is other.consensus
            and self.parameters == other.parameters
        )


def index_of(consensus: Consensus, parameters: Parameters | None = None) -> PathIndex:
    """Return the index of `consensus`, the same one while it is among the last few used."""
    return _index_of(_Same(consensus, parameters))


@lru_cache(maxsize=4)
def _index_of(key: _Same) -> PathIndex:
    return PathIndex(key.consensus, key.parameters)


def _text(target: Target | None) -> str:
    if target is None:
        return "anything"
    if isinstance(target, Datagrams):
        return "datagrams" + (f" to {_text(target.address)}" if target.address else "")
    return f"port {target.port}" if target.ip is None else str(target)
