"""The quota: how much memory this process keeps for others, and when some have to go (DOS-5).

What circuits queue, what streams keep to send again or until somebody takes it, what links could
not send yet and what is remembered of names is counted together, by looks over all of it
(``backlog``): moving bytes costs nothing. When it is more than the quota, caches are cut first, and
then those are given up whose data has waited longest (``evictions``), until 90 % are left. From
then on, until it is 75 % or less, the node is under pressure: it takes no new circuits, widens no
windows, and goes on to give up whose data has not moved for ten seconds, or whoever leaves most of
the quota lying could keep all others out for as long as he likes.

How often to look: a process moves about 400 MB/s at the very most, and in the worst case all of it
comes to lie here. Sites send faster than clients read, windows may be as wide together as the
quota, and circuits by the hundred may stop at the same moment. So the next look comes before the
rest of the quota could be filled at ``MOST_GROWTH``: after a second with the usual quota, after a
twentieth when little is left, but looks take no more than a tenth of the time. As long as the whole
process takes less than half of the quota, there is nothing to count.
"""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, Protocol

import structlog
import trio

from warren.network.bucket import SeldomLine
from warren.network.evictions import Kept, choose_oldest
from warren.network.turn import Turn
from warren.protocol.backlog import Marks, Queue
from warren.protocol.credit import CreditBudget

logger = structlog.get_logger()

MEBIBYTE = 1 << 20
#: Unless configured: this part of the memory there is, and no more than that.
MEMORY_PART, MOST_DEFAULT = 4, 1024 * MEBIBYTE
#: Parts of the quota: below the first nothing is counted, of more than all of it some is freed down
#: to the next, and the pressure is over below the last.
NOTHING_NEAR, RELIEVED, CALM = 0.50, 0.90, 0.75
#: Under pressure, data that has waited so long is not on its way any more.
STALE_SECONDS = 10.0
#: A cache that takes more than the first part of the quota is cut to the other.
LARGE_CACHE, SMALL_CACHE = 0.20, 0.10
#: Bytes a second that may come to lie here.
MOST_GROWTH = 512 * MEBIBYTE
LOOK_SECONDS, LEAST_SECONDS = 1.0, 0.05
#: What a look took, times that, passes until the next one.
_REST = 10


def default_quota(memory: int) -> int:
    """Return the quota of a process that may use so many bytes of `memory`, in bytes."""
    return min(memory // MEMORY_PART, MOST_DEFAULT)


class Holder(NamedTuple):
    """Name somebody for whom memory is kept, in ``queues``, and how to give that up.

    The ``owner`` is the same from look to look. ``give_up`` frees the memory, or most of it.
    """

    kind: str
    owner: Hashable
    queues: list[Queue]
    give_up: Callable[[], None]


class Cache(Protocol):
    """Be what can be thrown away, because it can be had again."""

    @property
    def kept_bytes(self) -> int:
        """Return about how many bytes it takes."""

    def shrink(self, size: int) -> None:
        """Forget until it takes at most `size` bytes."""


Source = Callable[[], Iterable[Holder]]


class Quota:
    """Own how much may be kept, whether that is nearly all, and who had to go.

    ``sources`` yield those for whom something is kept, idle ones left out, and ``caches`` what is
    cut before. The pressure is told in `budget`. `used` gives the bytes that the process takes, an
    upper bound of what is kept; `now` gives seconds. ``watch`` must be running.
    """

    def __init__(
        self,
        limit: int,
        budget: CreditBudget,
        turn: Turn,
        *,
        used: Callable[[], int],
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self.limit = limit
        self.sources: list[Source] = []
        self.caches: list[Cache] = []
        self.closed: Counter[str] = Counter()
        self.pressures = 0  # how often it began
        self._budget = budget
        self._turn = turn
        self._used = used
        self._now = now
        self._marks = Marks()
        self._doomed: set[Hashable] = set()  # given up, and not quite gone
        self._line = SeldomLine()

    def __repr__(self) -> str:
        return f"<Quota of {self.limit // MEBIBYTE} MiB{', pressed' * self.is_pressed}>"

    @property
    def is_pressed(self) -> bool:
        """Tell whether too much was kept, and is not yet clearly less."""
        return self._budget.is_pressed

    async def watch(self) -> None:
        """Look often enough for ever."""
        while True:
            seconds = self.look()
            await trio.sleep(seconds)

    def look(self) -> float:
        """Free what has to go, if that is due; return after how many seconds to look again."""
        used = self._used()
        if used < self.limit * NOTHING_NEAR:
            self._marks.forget()
            self._doomed.clear()
            self._budget.is_pressed = False
            return _pause(self.limit - used, 0.0)
        began = time.perf_counter()
        kept = self._relieve(self._holders())
        return _pause(self.limit - kept, time.perf_counter() - began)

    def _holders(self) -> list[Holder]:
        """Return all for whom something is kept, without those that are on their way out."""
        every = [each for source in self.sources for each in source()]
        self._doomed.intersection_update([each.owner for each in every])
        return [each for each in every if each.owner not in self._doomed]

    def _relieve(self, holders: list[Holder]) -> int:
        """Give up who has to go of `holders`; return how many bytes are kept then."""
        now = self._now()
        kept = [self._weigh(each, now) for each in holders]
        self._marks.forget()
        total = sum(each.size for each in kept) + self._cached
        chosen: list[int] = []
        if total > self.limit:
            if not self.is_pressed:
                self._budget.is_pressed = True
                self.pressures += 1
            total -= self._cut_caches()
            chosen = choose_oldest(kept, total - self.limit * RELIEVED)
        elif self.is_pressed:
            chosen = choose_oldest(kept, total - self.limit * CALM, now - STALE_SECONDS)
        for place in chosen:
            self._doomed.add(holders[place].owner)
            holders[place].give_up()
            self.closed[holders[place].kind] += 1
            total -= kept[place].size
        if chosen:
            self._report(now)
            self._turn.run()
        if total <= self.limit * CALM:
            self._budget.is_pressed = False
        return total

    def _weigh(self, holder: Holder, now: float) -> Kept:
        size, since = 0, float("inf")
        for queue in holder.queues:
            size += queue.size
            since = min(since, self._marks.since(queue, now))
        return Kept(size, since)

    @property
    def _cached(self) -> int:
        return sum(cache.kept_bytes for cache in self.caches)

    def _cut_caches(self) -> int:
        """Cut what takes much; return how many bytes that freed."""
        before = self._cached
        for cache in self.caches:
            if cache.kept_bytes > self.limit * LARGE_CACHE:
                cache.shrink(int(self.limit * SMALL_CACHE))
        return before - self._cached

    def _report(self, now: float) -> None:
        if self._line.is_due(now):
            logger.warning(
                "memory runs short, circuits whose data has waited longest are closed: if nobody "
                "attacks, give this process more (memory_megabytes)",
                limit=self.limit,
                closed=self.closed.total(),
            )

    def statistics(self) -> dict[str, object]:
        """Return what is kept now, in bytes, of how much, and what had to go so far, by what."""
        kept = sum(queue.size for each in self._holders() for queue in each.queues) + self._cached
        return {
            "limit": self.limit,
            "kept": kept,
            "pressed": int(self.is_pressed),
            "pressures": self.pressures,
            "closed": dict(self.closed),
        }


def _pause(left: int, took: float) -> float:
    """Return after how many seconds to look again: sooner if little is `left`, and looks are quick.

    `took` is what the last one took.
    """
    soon = max(left / MOST_GROWTH, LEAST_SECONDS)
    return max(min(soon, LOOK_SECONDS), took * _REST)
