"""How long an answer takes, and from when on it is not worth waiting for.

The least of many round trips is the way itself, without the queues on it (decision 7). What an
answer may take is another question: there the queues count, so it is the smoothed round trip and
its deviation, as TCP has them for its retransmissions (RFC 6298 §2), and generously more of it.
"""

from collections import deque

#: Those of an hour at least, as a link measures one a minute.
MOST_HELD = 64
#: An answer is missing after so many times what TCP would wait, within these bounds. A radio that
#: changes cells, or a busy machine, stands still for some seconds and is well again.
FACTOR = 4.0
LEAST_PATIENCE, MOST_PATIENCE = 8.0, 20.0
#: It is late, so that what has another way takes that one, much sooner.
DOUBT_FACTOR = 2.0
LEAST_DOUBT = 1.5
_SMOOTHING, _DEVIATION_SMOOTHING = 1 / 8, 1 / 4


class RoundTrips:
    """Own the round trips measured on one way, in seconds."""

    __slots__ = ("_deviation", "_held", "_smoothed")

    def __init__(self) -> None:
        self._held: deque[float] = deque(maxlen=MOST_HELD)
        self._smoothed = self._deviation = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def note(self, seconds: float) -> None:
        """Take one measurement."""
        if not self._held:
            self._smoothed, self._deviation = seconds, seconds / 2
        else:
            error = seconds - self._smoothed
            self._deviation += _DEVIATION_SMOOTHING * (abs(error) - self._deviation)
            self._smoothed += _SMOOTHING * error
        self._held.append(seconds)

    @property
    def least(self) -> float:
        """Return the least of those held; 0 while nothing was measured."""
        return min(self._held, default=0.0)

    @property
    def patience(self) -> float:
        """Return after how many seconds an answer is given up; the most while none was measured."""
        return self._bounded(FACTOR, LEAST_PATIENCE)

    @property
    def doubt(self) -> float:
        """Return after how many seconds an answer is late; ``patience`` at most."""
        return self._bounded(DOUBT_FACTOR, LEAST_DOUBT)

    def _bounded(self, factor: float, least: float) -> float:
        if not self._held:
            return MOST_PATIENCE
        expected = self._smoothed + 4 * self._deviation
        return min(max(factor * expected, least), MOST_PATIENCE)
