"""The few first hops we keep, and in which order to try them.

Whoever is our first hop sees who we are, so we meet few of them and keep them long. A sample is
drawn once, by weight, and stays in its order; its first three are the primary guards, and the
first that works is used. Trouble changes neither sample nor order: a guard that fails waits, and
somebody who can cut us off from our guards must not be able to walk us to one of his own
(PATH-2, PATH-3; Tor's guard specification with the ordering of proposal 310).

A small network cannot spare twenty guards for each client: there a sample begins with three,
grows one at a time, and only while nothing in it answers; never to more than five or a fifth of
the network's guards, and never are more than five of them contacted in an hour.

All state is here and all of it is plain data; files, clocks and dials are the client's.
"""

from collections.abc import Iterator, Sequence, Set
from itertools import islice
from typing import Any

from warren.directory.chance import Chance, Lottery
from warren.directory.consensus import Consensus
from warren.directory.guard_state import (
    LIFETIME,
    MOST_SAMPLED,
    UNLISTED_LIFETIME,
    Guard,
    dump_guards,
    load_guards,
)
from warren.directory.parameters import HOUR
from warren.directory.path_bias import PathBias
from warren.directory.relays import Flag, RelayEntry
from warren.identity import PeerId

PRIMARY_GUARDS = 3

# PATH-2
LARGE_SAMPLE, SMALL_SAMPLE = 20, 3
LARGE_NETWORK = 100  # guards; a fifth of them is a large sample
MOST_IN_SMALL = 5

# PATH-3
RETRY_SECONDS = (30.0, 60.0, 120.0)
PRIMARY_RETRY_SECONDS = 600.0
LATE_RETRY_SECONDS = 3600.0
LATE_AFTER_SECONDS = 6 * HOUR
INTERNET_DOWN_SECONDS = 600.0
#: With no guard ready that will do somebody waits in vain, and a primary may be tried this often:
#: at first more often, when everything has failed for a moment only, and one may just restart.
DESPERATE_SECONDS = 3.0
LEAST_DESPERATE_SECONDS = 0.25
#: A sample that does not answer grows only after this time: a short outage must not cost guards.
GROWTH_SECONDS = 60.0

_NEEDED = frozenset({Flag.GUARD, Flag.RUNNING})


class GuardSet:
    """Own the guards of one client: the sample in its order, and who of it answers.

    Call ``update`` with every new consensus, and with the old one while ``needs_update``.
    """

    def __init__(self) -> None:
        self._sample: list[Guard] = []
        self._network_size = 0  # guards in the last consensus
        # Since when everything has failed, and when it last did; None after a success.
        self._trouble_since: float | None = None
        self._trouble_seen = 0.0

    # What the client tells

    def update(
        self, consensus: Consensus, now: float, rng: Chance, own: Set[PeerId] = frozenset()
    ) -> None:
        """Bring the sample in line with `consensus`, and draw guards if it needs some.

        The user's `own` relays are no guards, also those that were before they were known (P2P-2).
        """
        self._sample = [guard for guard in self._sample if guard.peer_id not in own]
        eligible = {
            entry.peer_id: entry
            for entry in consensus.relays
            if _is_eligible(entry) and entry.peer_id not in own
        }
        for guard in self._sample:
            self._renew(guard, guard.peer_id in eligible, now, rng)
        self._sample = [
            guard
            for guard in self._sample
            # One whose contact still counts stays until it does not.
            if not guard.is_expired(now) or guard.was_contacted(now)
        ]
        self._network_size = len(eligible)
        for guard in self._sample:
            eligible.pop(guard.peer_id, None)
        self._draw(list(eligible.values()), self._count_missing(now), now, rng)

    def contacted(self, peer_id: PeerId, now: float) -> None:
        """Note that `peer_id` is about to be dialled."""
        if (guard := self._find(peer_id)) is not None:
            guard.contacted = now

    def succeeded(self, peer_id: PeerId, now: float) -> None:
        """Note that a link to `peer_id` was made."""
        if (guard := self._find(peer_id)) is None:
            return
        if self.is_internet_down(now):  # it was; so nothing was learned of the guards
            self.network_changed()
        self._trouble_since = None
        guard.contacted = now
        guard.has_served = True
        guard.forget_failures()

    def failed(self, peer_id: PeerId, now: float) -> None:
        """Note that no link to `peer_id` could be made, or that it broke at once."""
        if (guard := self._find(peer_id)) is None:
            return
        # After a pause nobody knows what has failed meanwhile, and a clock may have gone back.
        is_recent = 0 <= now - self._trouble_seen < INTERNET_DOWN_SECONDS
        if self._trouble_since is None or not is_recent:
            self._trouble_since = now
        self._trouble_seen = now
        has_waited = guard.has_waited(now)
        guard.contacted = guard.failed_at = now
        if has_waited:  # tries out of need, before the wait was over, do not make it longer
            if guard.failures == 0:
                guard.failing_since = now
            guard.failures += 1
            guard.retry_at = now + self._wait_of(guard, now)

    def network_changed(self) -> None:
        """Forget who failed: the network is another one, or the machine has slept."""
        for guard in self._sample:
            guard.forget_failures()
        self._trouble_since = None

    # What the client asks

    def choose(self, now: float) -> list[PeerId]:
        """Return the guards to try now, in this order; none when all have to wait."""
        ready = [guard for guard in self._listed if guard.has_waited(now)]
        if not ready:
            return self.in_need(now)
        return [guard.peer_id for guard in self._within_limit(ready, now)]

    def in_need(self, now: float) -> list[PeerId]:
        """Return the primary guards that have to wait, and may be tried all the same.

        That is where none of ``choose`` will do: the one that works may be the exit of the path.
        """
        waiting = [guard for guard in self._waiting(now) if now >= self._needed_at(guard)]
        return [guard.peer_id for guard in self._within_limit(waiting, now)]

    def resting(self, now: float) -> list[PeerId]:
        """Return the guards that have to wait, whether there is need or not."""
        return [guard.peer_id for guard in self._listed if not guard.has_waited(now)]

    @property
    def primary(self) -> list[PeerId]:
        """Return the guards that come first, whether they answer or not (PATH-3)."""
        return [guard.peer_id for guard in self._listed[:PRIMARY_GUARDS]]

    def bias(self, peer_id: PeerId) -> PathBias | None:
        """Return what became of the circuits through a guard; None where it is none any more."""
        return guard.bias if (guard := self._find(peer_id)) is not None else None

    @property
    def sample(self) -> list[PeerId]:
        """Return all guards ever drawn and not yet forgotten, in their order."""
        return [guard.peer_id for guard in self._sample]

    def needs_update(self, now: float) -> bool:
        """Tell whether ``update`` would draw another guard because none of these answers."""
        return self._count_missing(now) > 0

    def next_need(self, now: float) -> float | None:
        """Return when ``in_need`` will have one guard more; None when it has all that wait."""
        waiting = [guard for guard in self._waiting(now) if now < self._needed_at(guard)]
        return min(map(self._needed_at, self._within_limit(waiting, now)), default=None)

    def is_internet_down(self, now: float) -> bool:
        """Tell whether everything has failed for so long that it is not the guards (PATH-3)."""
        since = self._trouble_since
        return (
            self._are_primary_failing and since is not None and now >= since + INTERNET_DOWN_SECONDS
        )

    def __repr__(self) -> str:
        failing = sum(guard.failures > 0 for guard in self._sample)
        return f"<GuardSet of {len(self._sample)}, {len(self._listed)} listed, {failing} failing>"

    # The file

    def dump(self) -> dict[str, Any]:
        """Return what must outlive the program as plain data, for JSON."""
        return dump_guards(self._sample)

    @classmethod
    def load(cls, data: object) -> "GuardSet":
        """Restore what ``dump`` returned; raise like ``load_guards``."""
        guards = cls()
        guards._sample = load_guards(data)
        return guards

    # Inside

    @property
    def _listed(self) -> list[Guard]:
        return [guard for guard in self._sample if guard.is_listed]

    def _waiting(self, now: float) -> list[Guard]:
        """Return the primary guards that have to wait, unless there is need."""
        return [each for each in self._listed[:PRIMARY_GUARDS] if not each.has_waited(now)]

    def _needed_at(self, guard: Guard) -> float:
        """Return from when on `guard`, which has failed, may be tried out of need.

        The next time trouble has lasted a third longer.
        """
        since = self._trouble_since
        wait = DESPERATE_SECONDS if since is None else (guard.failed_at - since) / 3
        return guard.failed_at + min(max(wait, LEAST_DESPERATE_SECONDS), DESPERATE_SECONDS)

    @property
    def _are_primary_failing(self) -> bool:
        primary = self._listed[:PRIMARY_GUARDS]
        return bool(primary) and all(guard.failures for guard in primary)

    def _find(self, peer_id: PeerId) -> Guard | None:
        return next((guard for guard in self._sample if guard.peer_id == peer_id), None)

    def _renew(self, guard: Guard, is_listed: bool, now: float, rng: Chance) -> None:
        """Bring one guard's dates up to date; none may lie in the future (a clock was wrong)."""
        guard.added = min(guard.added, now)
        if is_listed:
            guard.unlisted_since = None
        elif guard.unlisted_since is None:
            guard.unlisted_since = _some_time_ago(now, UNLISTED_LIFETIME / 5, rng)
        if guard.has_served and guard.confirmed is None:
            guard.confirmed = _some_time_ago(now, LIFETIME / 10, rng)
        if guard.contacted is not None and not now - HOUR < guard.contacted < now + HOUR:
            guard.contacted = None

    @property
    def _is_small(self) -> bool:
        return self._network_size < LARGE_NETWORK

    def _count_missing(self, now: float) -> int:
        """Return how many guards the sample needs, as far as the network has more."""
        listed = self._listed
        more = self._network_size - len(listed)
        target = SMALL_SAMPLE if self._is_small else LARGE_SAMPLE
        limit = min(MOST_SAMPLED, max(MOST_IN_SMALL, self._network_size // 5))
        if self.is_internet_down(now):
            return 0
        if len(listed) < target:
            return min(target - len(listed), more)
        since = self._trouble_since
        has_lasted = since is not None and now >= since + GROWTH_SECONDS
        is_stuck = has_lasted and all(guard.failures >= 2 for guard in listed)
        return 1 if is_stuck and more > 0 and len(listed) < limit else 0

    def _draw(self, entries: Sequence[RelayEntry], count: int, now: float, rng: Chance) -> None:
        if count == 0:
            return
        lottery = Lottery(entries, lambda entry: entry.weight)
        for entry in islice(lottery.shuffled(rng), count):
            self._sample.append(Guard(entry.peer_id, _some_time_ago(now, LIFETIME / 10, rng)))
        while len(self._sample) > MOST_SAMPLED:
            gone = [guard for guard in self._sample if not guard.is_listed]
            self._sample.remove(min(gone, key=lambda guard: guard.unlisted_since or 0.0))

    def _wait_of(self, guard: Guard, now: float) -> float:
        """Return how long `guard` waits after its last failure (PATH-3)."""
        if guard.failures <= len(RETRY_SECONDS):
            return RETRY_SECONDS[guard.failures - 1]
        is_late = now >= guard.failing_since + LATE_AFTER_SECONDS
        is_primary = guard.peer_id in self.primary
        return PRIMARY_RETRY_SECONDS if is_primary and not is_late else LATE_RETRY_SECONDS

    def _within_limit(self, guards: Sequence[Guard], now: float) -> Iterator[Guard]:
        """Yield those of `guards` that may be contacted within this hour (PATH-2)."""
        left = MOST_IN_SMALL - sum(guard.was_contacted(now) for guard in self._sample)
        for guard in guards:
            if not self._is_small or guard.was_contacted(now):
                yield guard
            elif left > 0:
                left -= 1
                yield guard


def _is_eligible(entry: RelayEntry) -> bool:
    """Tell whether a client may begin at this relay; behind gateways nobody can dial it."""
    return entry.flags >= _NEEDED and not entry.gateways


def _some_time_ago(now: float, most_seconds: float, rng: Chance) -> float:
    """Return a date in the past: what the file says must not tell when we were where."""
    return max(now - rng.random() * most_seconds, 0.0)
