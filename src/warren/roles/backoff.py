"""How long to wait before trying again: exponential backoff with full jitter (REL-3).

The waits grow, so that a service that is down is left in peace, and are drawn from the whole
range below, so that those who lost it together do not come back together.
"""

import random


class Backoff:
    """Give the waits of one loop; owns how often it has failed in a row."""

    def __init__(self, rng: random.Random, *, first: float = 1.0, most: float = 60.0) -> None:
        """Draw from 0 to `first` seconds at first, from 0 to `most` in the end."""
        self._rng = rng
        self._first = first
        self._most = most
        self._failures = 0

    def next_wait(self) -> float:
        """Count a failure and return the seconds to wait."""
        ceiling = min(self._most, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._rng.uniform(0, ceiling)

    def reset(self) -> None:
        """Begin again with short waits: it worked."""
        self._failures = 0
