"""Choose a path: guard, middles, exit, so that no two hops are of one hand (PATH-1).

The exit is drawn first, because the target narrows it most, then the first guard that fits it,
then the middles; all by weight. Relays of the wrong kind, family or network are drawn again, so
choosing from ten thousand costs no more than from a hundred. What can be computed once for a
consensus stands in its ``PathIndex``; which relays fit together is in ``path_search``.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from warren.addresses import Address
from warren.directory.chance import Chance, Lottery
from warren.directory.consensus import Consensus
from warren.directory.exit_policy import ExitPolicy
from warren.directory.parameters import Parameters
from warren.directory.path_search import Node, Pool, Search, weight_of
from warren.directory.relays import Flag, RelayEntry
from warren.errors import DirectoryError
from warren.identity import PeerId

SHORTEST, LONGEST = 2, 5
#: Exits are kept ready for so many kinds of targets.
_MOST_POOLS = 64

_NOBODY: frozenset[PeerId] = frozenset()


class PathIndex:
    """Hold a consensus's relays as choosing paths needs them.

    Only running relays are in it. `parameters` are the consensus's own unless given.
    """

    def __init__(self, consensus: Consensus, parameters: Parameters | None = None) -> None:
        self._parameters = parameters or consensus.parameters
        running = [entry for entry in consensus.relays if Flag.RUNNING in entry.flags]
        self._nodes = {entry.peer_id: self._make_node(entry) for entry in running}
        self._total = sum(entry.weight for entry in running)
        self._middles = self._pools(list(self._nodes.values()), rather_without=Flag.EXIT)
        by_policy: dict[ExitPolicy, list[Node]] = {}
        for node in self._nodes.values():
            policy = read_policy(node.entry.policy)
            if policy is not None and Flag.EXIT in node.entry.flags:
                by_policy.setdefault(policy, []).append(node)
        self._exits = list(by_policy.items())
        self._exit_pools: dict[tuple[tuple[int, ...], str | None], Sequence[Pool]] = {}

    def choose(
        self,
        guards: Iterable[PeerId | RelayEntry],
        target: Address | None,
        *,
        length: int = 3,
        rng: Chance,
        own: PeerId | None = None,
        avoid: Set[PeerId] = _NOBODY,
        exit_id: PeerId | None = None,
        country: str | None = None,
    ) -> tuple[RelayEntry, ...]:
        """Choose the hops of a path in their order; see ``choose_path``."""
        assert SHORTEST <= length <= LONGEST, f"a path of {length} relays"
        banned = avoid if own is None else avoid | {own}
        exits = self._find_exits(target, exit_id, country)
        first = [(node,) for node in self._find_guards(guards) if node.peer_id not in banned]
        if not first:
            raise DirectoryError("no guard to begin a path with is listed and may be used")
        search = Search(self._nodes, banned, rng)
        middles = [lambda: search.positions(self._middles)] * (length - 2)
        found = search.complete([], [lambda: search.positions(exits), lambda: first, *middles])
        if found is None:
            raise DirectoryError(
                f"no path of {length} relays to {target or 'an exit'}: the {len(self._nodes)} "
                "running relays are too few in different networks and families"
            )
        last, *others = found
        return tuple(node.entry for position in (*others, last) for node in position)

    def _make_node(self, entry: RelayEntry) -> Node:
        return Node(
            entry,
            entry.peer_id,
            self._network_of(entry.hop.address),
            frozenset(entry.family),
            frozenset(entry.gateways),
        )

    def _network_of(self, address: Address) -> tuple[int, int] | None:
        """Return the family and the leading bits that no other hop's address may have."""
        ip = address.ip
        if ip is None:
            return None
        is_four = ip.version == 4
        parameters = self._parameters
        prefix = parameters.subnet_v4_prefix if is_four else parameters.subnet_v6_prefix
        return ip.version, int(ip) >> (ip.max_prefixlen - prefix)

    def _pools(self, nodes: list[Node], *, rather_without: Flag) -> Sequence[Pool]:
        """Return the pools to draw from, the better one first.

        Relays that are good for something scarcer are left for it, unless the others together
        carry less than a third of the network.
        """
        others = [node for node in nodes if rather_without not in node.entry.flags]
        everyone = Lottery(nodes, weight_of)
        if not others or len(others) == len(nodes):
            return (everyone,)
        is_scarce = 3 * sum(map(weight_of, others)) < self._total
        return (everyone,) if is_scarce else (Lottery(others, weight_of), everyone)

    def _find_guards(self, guards: Iterable[PeerId | RelayEntry]) -> Iterator[Node]:
        for guard in guards:
            if isinstance(guard, RelayEntry):  # a bridge: in no consensus
                yield self._make_node(guard)
            elif (node := self._nodes.get(guard)) is not None and not node.gateways:
                yield node

    def _find_exits(
        self, target: Address | None, exit_id: PeerId | None, country: str | None
    ) -> Sequence[Pool]:
        """Return the pools of relays that may be the exit, or say why there is none."""
        if exit_id is not None:
            return (Lottery([self._find_exit(exit_id, target)], weight_of),)
        if not self._exits:
            raise DirectoryError("no exit is listed that works")
        kinds = tuple(i for i, (policy, _) in enumerate(self._exits) if _fits(policy, target))
        if not kinds:
            raise DirectoryError(f"no exit allows {_text(target)}")
        if (pools := self._exit_pools.get((kinds, country))) is None:
            if len(self._exit_pools) >= _MOST_POOLS:
                self._exit_pools.clear()
            pools = self._exit_pools[kinds, country] = self._make_exit_pools(kinds, country)
        if not pools:
            raise DirectoryError(f"no exit in country {country!r} allows {_text(target)}")
        return pools

    def _make_exit_pools(self, kinds: Iterable[int], country: str | None) -> Sequence[Pool]:
        able = chain.from_iterable(self._exits[kind][1] for kind in kinds)
        nodes = [node for node in able if country in (None, node.entry.country)]
        return self._pools(nodes, rather_without=Flag.GUARD) if nodes else ()

    def _find_exit(self, exit_id: PeerId, target: Address | None) -> Node:
        node = self._nodes.get(exit_id)
        if node is None:
            raise DirectoryError(f"{exit_id!r}, which should be the exit, is not listed as running")
        if target is not None:
            policy = read_policy(node.entry.policy)
            if policy is None or not _fits(policy, target):
                raise DirectoryError(f"{exit_id!r}, which should be the exit, rejects {target}")
        return node


def choose_path(
    consensus: Consensus,
    guards: Iterable[PeerId | RelayEntry],
    target: Address | None,
    *,
    rng: Chance,
    length: int = 3,
    own: PeerId | None = None,
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
    strict. Raises DirectoryError, which says what is missing.
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


@lru_cache(maxsize=1024)
def read_policy(rules: tuple[str, ...]) -> ExitPolicy | None:
    """Return the policy of a listed relay; one that cannot be read opens nothing for us."""
    try:
        return ExitPolicy.parse(rules) if rules else None
    except ValueError:
        return None


def _fits(policy: ExitPolicy, target: Address | None) -> bool:
    if target is None:
        return policy.is_exit
    if target.ip is not None:
        return policy.allows(target.ip, target.port)
    return policy.might_allow(target.port)


def _text(target: Address | None) -> str:
    if target is None:
        return "anything"
    return f"port {target.port}" if target.ip is None else str(target)
