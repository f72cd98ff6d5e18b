"""A bucket of allowances: so many a second, and so many more at once."""


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

    def is_full(self, now: float) -> bool:
        """Tell whether nothing was taken for so long that it is as good as new."""
        return self._left + (now - self._then) * self._rate >= self._burst
