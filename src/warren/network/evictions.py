"""Evictions: which links and which circuits are closed when sockets, or memory, run short.

Nobody can tell the honest from the others, so nothing is asked that costs little to fake. What
carries nothing goes first. Of what has a place in the network (an address, the word of a
consensus) the few are spared and the many are not. Among equals it is chance: whoever holds
most sockets loses most of them (DOS-8, EXT-12, after Tor's proposal 341). With memory there is more
to go by: whoever wants to fill it has to let it lie, so what has waited longest goes first (DOS-5).
How many have to go is decided in ``reserve`` and ``quota``. Pure: chance is an argument.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from enum import StrEnum
from math import inf
from random import Random
from typing import NamedTuple, TypeVar

from warren.addresses import IPAddress, unmapped

T = TypeVar("T")

#: Links that the addresses of one /30, or /90 of IPv6, keep while there are others to close.
SPARED_PER_BLOCK = 2
#: So long after a link was made, or used, it counts as one with circuits: whoever has just opened
#: it asks for one in a moment. Otherwise a crowd of links with one circuit each would keep all
#: newcomers out.
FRESH_SECONDS = 2.0


class Reason(StrEnum):
    """Name why a link was closed."""

    NO_CIRCUITS = "links without circuits"
    SIMILAR = "links of similar addresses"
    NO_RELAY = "links of no relay"
    ANY = "links of relays"


class Candidate(NamedTuple):
    """Hold what counts of one link; ``last_used`` is in seconds of the caller's clock.

    ``is_relay``: its peer has shown that it is one that a usable consensus lists.
    """

    circuits: int
    ip: IPAddress | None
    is_relay: bool
    last_used: float


def choose_links(
    candidates: Sequence[Candidate], count: int, now: float, rng: Random
) -> list[tuple[int, Reason]]:
    """Return which `count` of `candidates`, the oldest first, to close: their places, and why.

    Those without circuits go first, whose last use is longest ago before the others; then all but
    the two newest of each block of addresses, then those whose peer is no relay, then the rest.
    """
    groups: dict[Reason, list[int]] = {reason: [] for reason in Reason}
    fresh, met = now - FRESH_SECONDS, dict[Hashable, int]()
    for place in range(len(candidates) - 1, -1, -1):
        circuits, ip, is_relay, last_used = candidates[place]
        if not circuits and last_used <= fresh:
            groups[Reason.NO_CIRCUITS].append(place)
            continue
        block = _block_of(ip)
        met[block] = count_here = met.get(block, 0) + 1
        if count_here > SPARED_PER_BLOCK:
            groups[Reason.SIMILAR].append(place)
        else:
            groups[Reason.ANY if is_relay else Reason.NO_RELAY].append(place)
    chosen: list[tuple[int, Reason]] = []
    for reason, places in groups.items():
        left = count - len(chosen)
        if reason is Reason.NO_CIRCUITS:
            places.sort(key=lambda place: candidates[place].last_used)
        elif left > 0:
            rng.shuffle(places)
        chosen += [(place, reason) for place in places[: max(left, 0)]]
    return chosen


def _block_of(ip: IPAddress | None) -> Hashable:
    """Return what addresses have in common that are likely to be one machine's, or one house's."""
    if ip is None:
        return None
    ip = unmapped(ip)
    return int(ip) >> 32 - 30 if ip.version == 4 else (int(ip) >> 128 - 90, 6)


def choose_circuits(sockets: Sequence[int], count: int, rng: Random) -> list[int]:
    """Return the places of circuits to close, until `count` sockets are free.

    `sockets` has how many each circuit holds. A socket is drawn, and its circuit goes whole: to
    spread streams over many circuits, or to have few of them, saves nobody (EXT-12).
    """
    drawn = [place for place, each in enumerate(sockets) for _ in range(each)]
    rng.shuffle(drawn)
    chosen: dict[int, None] = {}
    for place in drawn:
        if count <= 0:
            break
        if place not in chosen:
            chosen[place] = None
            count -= sockets[place]
    return list(chosen)


class Kept(NamedTuple):
    """Hold what is kept for somebody, in bytes, and since when the oldest of it has waited."""

    size: int
    since: float


def choose_oldest(kept: Sequence[Kept], excess: float, until: float = inf) -> list[int]:
    """Return the places of those to give up until `excess` bytes are free: the oldest first.

    Of those that have waited equally long, the one that keeps more. Who keeps nothing never goes,
    nor who has not waited since `until`, or before.
    """
    chosen = []
    for place in sorted(range(len(kept)), key=lambda place: (kept[place].since, -kept[place].size)):
        if excess <= 0 or kept[place].since > until:
            break
        if kept[place].size > 0:
            chosen.append(place)
            excess -= kept[place].size
    return chosen


def oldest_of_the_busiest(hosts: Mapping[T, str]) -> T:
    """Return who has to go of those in `hosts`, oldest first: of the host that has most of them.

    So one host cannot shut all others out (DOS-2).
    """
    ((busiest, _),) = Counter(hosts.values()).most_common(1)
    return next(each for each, host in hosts.items() if host == busiest)
