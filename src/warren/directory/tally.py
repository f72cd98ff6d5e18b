"""Count votes into the one consensus they make, whoever counts and in whatever order (DIR-10).

A relay is in when more than half of the votes found it running, unless too many share its address
or network (``crowds``): those that were listed before go first. Its newest descriptor among those
votes holds, flags and country go by majority, measured bandwidth and every parameter by the lower
median, and no weight is too large a part of all (``weight_caps``). Nothing here looks at a clock,
at our own opinions, or at the order of a set.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TypeVar, cast

from warren.addresses import IPAddress
from warren.directory.consensus import NO_DIGEST, write_content
from warren.directory.crowds import Block, without_crowds
from warren.directory.descriptor import Descriptor, check_published
from warren.directory.documents import content_hash
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import Parameters, read_parameters
from warren.directory.relays import UNKNOWN_COUNTRY, Flag, RelayEntry
from warren.directory.votes import LISTED, MOST_RELAYS, Opinion, Vote
from warren.directory.weight_caps import capped
from warren.errors import DirectoryError, ProtocolError
from warren.identity import Hop, PeerId

T = TypeVar("T")

ReadDescriptor = Callable[[bytes], Descriptor]

#: A consensus is valid for this many intervals (DIR-8).
VALID_INTERVALS = 3
#: What all exit policies together may take; relays with rarer ones are then listed as no exits.
_MOST_POLICY_BYTES = 2 * 1024 * 1024
#: The networks whose relays together have a bounded weight.
_LARGE_BLOCK = Block(16, 32)


def count_votes(votes: Iterable[Vote], network: NetworkFile, read: ReadDescriptor) -> bytes:
    """Return the unsigned content of the consensus that `votes` make.

    All must be for one valid-after, one of each authority; `read` verifies a descriptor. Raises
    DirectoryError when there are fewer votes than the threshold, or too few relays to found a
    network.
    """
    cast_votes = sorted(votes, key=lambda vote: vote.authority)
    assert len({vote.authority for vote in cast_votes}) == len(cast_votes)
    assert len({vote.valid_after for vote in cast_votes}) <= 1
    if len(cast_votes) < network.threshold:
        raise DirectoryError(
            f"{len(cast_votes)} of {len(network.authorities)} authorities voted, expected at least "
            f"{network.threshold}"
        )
    valid_after = cast_votes[0].valid_after
    named = _median_parameters(cast_votes)
    parameters = read_parameters(named)
    relays = _count_relays(cast_votes, parameters, read, testing=network.testing)
    previous = _most_named(vote.previous_digest for vote in cast_votes)
    if previous == NO_DIGEST and len(relays) < parameters.founding_relays:
        raise DirectoryError(
            f"{len(relays)} relays are running, expected {parameters.founding_relays} "
            "before the first consensus"
        )
    interval = parameters.consensus_interval_seconds
    return write_content(
        valid_after=valid_after,
        fresh_until=valid_after + interval,
        valid_until=valid_after + VALID_INTERVALS * interval,
        previous_digest=previous,
        parameters=named,
        relays=relays,
    )


def _median_parameters(votes: Sequence[Vote]) -> dict[str, int]:
    names = Counter(name for vote in votes for name in vote.parameters)
    return {
        name: statistics.median_low(
            vote.parameters[name] for vote in votes if name in vote.parameters
        )
        for name, count in names.items()
        if 2 * count > len(votes)
    }


def _most_named(digests: Iterable[bytes]) -> bytes:
    """Return the digest most votes name, the lowest of equals; an authority may know none."""
    counts = Counter(digest for digest in digests if digest != NO_DIGEST)
    return min(counts, key=lambda digest: (-counts[digest], digest), default=NO_DIGEST)


@dataclass(frozen=True)
class _Candidate:
    """Hold a relay that most votes found running: its newest descriptor, and their opinions."""

    descriptor: Descriptor
    opinions: tuple[Opinion, ...]


def _count_relays(
    votes: Sequence[Vote], parameters: Parameters, read: ReadDescriptor, *, testing: bool
) -> list[RelayEntry]:
    """Return the relays that are in; those of a network for tests may all be at one address."""
    candidates = list(_candidates(votes, parameters, read).values())
    if not testing:
        candidates = _without_crowds(candidates, parameters)
    entries = [_entry_of(candidate, parameters) for candidate in candidates]
    entries = sorted(entries, key=lambda entry: (-entry.weight, entry.peer_id))[:MOST_RELAYS]
    entries = _with_listed_gateways(entries)
    entries = _with_mutual_families(entries)
    entries = _with_affordable_policies(entries)
    entries = _with_capped_weights(entries, by_block=not testing)
    return _with_guards(entries)


def _candidates(
    votes: Sequence[Vote], parameters: Parameters, read: ReadDescriptor
) -> dict[PeerId, _Candidate]:
    found: dict[PeerId, list[tuple[Descriptor, Opinion]]] = {}
    for vote in votes:
        for opinion in vote.opinions:
            descriptor = _readable(opinion, read) if opinion.running else None
            if descriptor and _is_current(descriptor, vote.valid_after, parameters):
                found.setdefault(descriptor.peer_id, []).append((descriptor, opinion))
    return {
        peer_id: _Candidate(_newest(pairs), tuple(o for _, o in pairs))
        for peer_id, pairs in found.items()
        if 2 * len(pairs) > len(votes)
    }


def _readable(opinion: Opinion, read: ReadDescriptor) -> Descriptor | None:
    """Return the descriptor; a bad one costs its relay this opinion, not the others the vote."""
    try:
        return read(opinion.descriptor)
    except ProtocolError:
        return None


def _newest(pairs: Sequence[tuple[Descriptor, Opinion]]) -> Descriptor:
    first = pairs[0][0]
    if all(descriptor is first for descriptor, _ in pairs):  # as nearly always
        return first
    return min(pairs, key=_newest_first)[0]


def _newest_first(pair: tuple[Descriptor, Opinion]) -> tuple[int, int, bytes]:
    descriptor, opinion = pair
    return -descriptor.published, -descriptor.counter, content_hash(opinion.descriptor)


def _is_current(descriptor: Descriptor, valid_after: int, parameters: Parameters) -> bool:
    try:
        check_published(descriptor, valid_after, parameters)
    except DirectoryError:
        return False
    return True


def _without_crowds(candidates: Sequence[_Candidate], parameters: Parameters) -> list[_Candidate]:
    """Leave out those for whom their address or network has no place (DIR-11)."""
    by_rank = sorted(candidates, key=lambda each: _rank_of(each, parameters))
    addresses = [_ip_of(each.descriptor.hop) for each in by_rank]
    return list(compress(by_rank, without_crowds(addresses)))


def _rank_of(candidate: _Candidate, parameters: Parameters) -> tuple[object, ...]:
    """Return by what candidates for one place are put in order; the lowest has it.

    First are those that were reached themselves, at this address: behind a gateway anybody may say
    any. Then those that were listed before, so that nobody is pushed aside by newcomers.
    """
    descriptor, opinions = candidate.descriptor, candidate.opinions
    names = Counter(flag for opinion in opinions for flag in opinion.flags)
    return (
        bool(descriptor.gateways),
        -names[LISTED],
        -names[Flag.STABLE.value],
        -len(opinions),
        -_weight_of(candidate, parameters),
        descriptor.peer_id,
    )


def _ip_of(hop: Hop) -> IPAddress:
    ip = hop.address.ip
    assert ip is not None, "a descriptor has no name for an address"
    return ip


def _weight_of(candidate: _Candidate, parameters: Parameters) -> int:
    """Return what a relay says that it gives, as far as it is trusted (DIR-12)."""
    measured = [each.measured for each in candidate.opinions if each.measured is not None]
    trusted = statistics.median_low(measured) if measured else parameters.unmeasured_bandwidth
    return min(candidate.descriptor.bandwidth, trusted)


def _entry_of(candidate: _Candidate, parameters: Parameters) -> RelayEntry:
    descriptor, opinions = candidate.descriptor, candidate.opinions
    names = Counter(flag for opinion in opinions for flag in opinion.flags)
    flags = {name for name, count in names.items() if 2 * count > len(opinions)} - {LISTED}
    return RelayEntry(
        hop=descriptor.hop,
        # Names of a later version stay in: all authorities must write the same bytes.
        flags=cast(frozenset[Flag], frozenset(flags | {Flag.RUNNING.value})),
        weight=_weight_of(candidate, parameters),
        country=_majority((o.country for o in opinions), len(opinions), UNKNOWN_COUNTRY),
        family=descriptor.family,
        policy=descriptor.policy,
        udp_policy=descriptor.udp_policy,
        gateways=descriptor.gateways,
    )


def _majority(values: Iterable[T], total: int, otherwise: T) -> T:
    return next((v for v, count in Counter(values).items() if 2 * count > total), otherwise)


def _with_listed_gateways(entries: Sequence[RelayEntry]) -> list[RelayEntry]:
    """Leave out relays behind gateways none of which can be dialled itself."""
    dialable = {entry.peer_id for entry in entries if not entry.gateways}
    kept = []
    for entry in entries:
        gateways = tuple(peer for peer in entry.gateways if peer in dialable)
        if gateways == entry.gateways:
            kept.append(entry)
        elif gateways:
            kept.append(replace(entry, gateways=gateways))
    return kept


def _with_mutual_families(entries: Sequence[RelayEntry]) -> list[RelayEntry]:
    """Keep of each family those that name each other: a stranger can push nobody aside."""
    families = {entry.peer_id: frozenset(entry.family) for entry in entries if entry.family}

    def mutual(entry: RelayEntry) -> tuple[PeerId, ...]:
        return tuple(
            peer
            for peer in entry.family
            if peer != entry.peer_id and entry.peer_id in families.get(peer, ())
        )

    return [
        entry if (family := mutual(entry)) == entry.family else replace(entry, family=family)
        for entry in entries
    ]


def _with_affordable_policies(entries: Sequence[RelayEntry]) -> list[RelayEntry]:
    """List relays as no exits whose policy does not fit: the most used policies go first.

    One whose policy for datagrams does not fit is listed as an exit that sends none.
    """
    uses = Counter(p for entry in entries for p in (entry.policy, entry.udp_policy) if p)
    affordable: set[tuple[str, ...]] = {()}
    left = _MOST_POLICY_BYTES
    for policy in sorted(uses, key=lambda rules: (-uses[rules], rules)):
        left -= sum(len(rule.encode()) + 3 for rule in policy)
        if left < 0:
            break
        affordable.add(policy)
    return [
        replace(entry, policy=(), udp_policy=(), flags=entry.flags - {Flag.EXIT})
        if entry.policy not in affordable
        else replace(entry, udp_policy=())
        if entry.udp_policy not in affordable
        else entry
        for entry in entries
    ]


def _with_capped_weights(entries: Sequence[RelayEntry], *, by_block: bool) -> list[RelayEntry]:
    """Cut down weights that are too large a part of all (DIR-11, DIR-12)."""
    weights = [entry.weight for entry in entries]
    blocks = [_LARGE_BLOCK.block_of(_ip_of(entry.hop)) for entry in entries] if by_block else None
    cut = capped(weights, blocks)
    return [
        entry if entry.weight == weight else replace(entry, weight=weight)
        for entry, weight in zip(entries, cut, strict=True)
    ]


def _with_guards(entries: Sequence[RelayEntry]) -> list[RelayEntry]:
    """Flag as guards those that can be dialled and are not in the weakest quarter."""
    weights = sorted(entry.weight for entry in entries if not entry.gateways)
    if not weights:
        return list(entries)
    least = weights[len(weights) // 4]
    return [
        replace(entry, flags=entry.flags | {Flag.GUARD})
        if not entry.gateways and entry.weight >= least
        else entry
        for entry in entries
    ]
