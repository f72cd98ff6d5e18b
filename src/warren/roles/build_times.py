"""How long a circuit may take to be built: what the last ones took says it (PATH-5).

A relay that is gone from a path says nothing, and to wait for it as long as for the slowest line
there is would cost every client seconds. So the times of the last circuits of a length say how long
the next may take: a multiple of what four fifths of them took. One that is given up counts as one
that took so long, or the fast ones alone would make the line ever faster. When several are given up
one after the other, the line has changed, and nothing is known of it any more.
"""

from collections import defaultdict, deque

#: From the CREATE to the last hop's answer, where nothing is known; and never longer.
BUILD_SECONDS = 15.0
#: Never shorter: a relay may be busy, and a packet may be lost on each of the lines.
LEAST_SECONDS = 3.0
#: So many times what ``QUANTILE`` of the last circuits took.
PATIENCE, QUANTILE = 4, 0.8
#: Circuits of a length that must have been built before their times say something.
ENOUGH = 8
#: Circuits given up one after the other, of any length, after which everything is forgotten.
MOST_LATE = 3
_REMEMBERED = 64


def _last() -> deque[float]:
    return deque(maxlen=_REMEMBERED)


class BuildTimes:
    """Own what the last circuits took, in seconds, by how many hops they have."""

    def __init__(self) -> None:
        self._times: defaultdict[int, deque[float]] = defaultdict(_last)
        self.last = _last()
        self._late = 0

    def patience(self, hops: int) -> float:
        """Return for how many seconds a circuit of `hops` is waited for, from its CREATE on."""
        times = self._times[hops]
        if len(times) < ENOUGH:
            return BUILD_SECONDS
        usual = sorted(times)[int(QUANTILE * (len(times) - 1))]
        return min(max(PATIENCE * usual, LEAST_SECONDS), BUILD_SECONDS)

    def note(self, hops: int, seconds: float) -> None:
        """Note that a circuit stands, `seconds` after its CREATE."""
        self._late = 0
        self._times[hops].append(seconds)
        self.last.append(seconds)

    def gave_up(self, hops: int) -> None:
        """Note that a circuit took longer than ``patience``."""
        self._times[hops].append(self.patience(hops))
        self._late += 1
        if self._late >= MOST_LATE:
            self.forget()

    def forget(self) -> None:
        """Know nothing any more: the line is another one."""
        self._times.clear()
        self._late = 0
