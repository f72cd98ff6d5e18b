"""Buckets of allowances: so many a second, and so many more at once; and a line a minute."""

from collections.abc import Hashable

#: Between two lines of one kind in the log (DOS-9).
REPORT_SECONDS = 60.0
#: Of so many at most it is remembered what they asked for lately.
MOST_BUCKETS = 4096


class Bucket:
    """Own what somebody may still ask for; `now` is in seconds, here as below."""

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._then = burst, now

    def take(self, now: float) -> bool:
        """Take one; return False when there is none left."""
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait(self, now: float) -> float:
        """Return in how many seconds there is one to take."""
        left = self._left + (now - self._then) * self._rate
        return max(0.0, 1 - left) / self._rate

    def is_full(self, now: float) -> bool:
        """Tell whether nothing was taken for so long that it is as good as new."""
        return self._left + (now - self._then) * self._rate >= self._burst


class Buckets:
    """Own a bucket for each who asks, all alike: what everybody has asked for lately."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[Hashable, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, asker: Hashable, now: float) -> bool:
        """Take one of `asker`'s; return False when there is none left."""
        bucket = self._buckets.get(asker)
        if bucket is None:
            if len(self._buckets) >= MOST_BUCKETS:
                self._forget_some(now)
            bucket = self._buckets[asker] = Bucket(self._rate, self._burst, now)
        return bucket.take(now)

    def wait(self, asker: Hashable, now: float) -> float:
        """Return in how many seconds there is one for `asker` to take."""
        bucket = self._buckets.get(asker)
        return bucket.wait(now) if bucket is not None else 0.0

    def _forget_some(self, now: float) -> None:
        """Forget who has asked for nothing lately; if that is nobody, who came first."""
        self._buckets = {who: each for who, each in self._buckets.items() if not each.is_full(now)}
        while len(self._buckets) >= MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]


class SeldomLine:
    """Own when a line of one kind may stand in the log again, however often it has a reason."""

    __slots__ = ("_silent_until",)

    def __init__(self) -> None:
        self._silent_until = float("-inf")

    def is_due(self, now: float) -> bool:
        """Tell whether the line may be written at `now`; if so, it counts as written."""
        if now < self._silent_until:
            return False
        self._silent_until = now + REPORT_SECONDS
        return True
