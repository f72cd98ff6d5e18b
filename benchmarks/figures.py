"""What is measured: each figure, its unit and its goals, and the arithmetic of all of them.

A *measure* is one thing that is done; it gives one figure or several. A figure of a run is one
number, and what is shown is the median of the runs with the lowest and the highest. Systems are
compared run by run, because a noisy machine disturbs neighbours in time alike: a ratio is the
median of the runs' ratios.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """Hold what a figure shall be: `floor` is the least that will do, `best` what we are after.

    With `peer` both are multiples of that system's figure, taken in the same run.
    """

    floor: float
    best: float
    peer: str = ""


@dataclass(frozen=True)
class Figure:
    """Hold one line of the table."""

    key: str
    title: str
    unit: str
    is_more_better: bool = False
    goals: tuple[Goal, ...] = ()

    def meets(self, goal: Goal, value: float) -> str:
        """Return how `value`, a ratio where the goal has a peer, stands: met, floor or missed."""
        sign = 1 if self.is_more_better else -1
        if sign * value >= sign * goal.best:
            return "met"
        return "floor" if sign * value >= sign * goal.floor else "missed"


def _rate(key: str, title: str, *goals: Goal) -> Figure:
    return Figure(key, title, "MB/s", is_more_better=True, goals=goals)


def _cost(key: str, title: str) -> Figure:
    return Figure(key, title, "s/GB", goals=(Goal(0.3, 0.2, "tor"),))


def _delay(key: str, title: str, floor: float = 1.3, best: float = 0.9) -> Figure:
    return Figure(key, title, "ms", goals=(Goal(floor, best, "tor"),))


_FAST = (Goal(5, 5, "tor"), Goal(3, 3, "tor-bulk"), Goal(0.7, 1.0, "chain"))
_MANY = (Goal(5, 5, "tor"), Goal(0.7, 1.0, "chain"))

#: In the order of the table. MB and GB are powers of ten for traffic, MiB is for memory.
FIGURES = {
    figure.key: figure
    for figure in (
        _rate("down", "one stream down", *_FAST),
        _cost("down.cpu", "  CPU, all processes"),
        _rate("up", "one stream up", *_FAST),
        _cost("up.cpu", "  CPU, all processes"),
        _rate("down10", "10 streams down", *_MANY),
        _rate("up10", "10 streams up", *_MANY),
        _rate("down50", "50 streams down", *_MANY),
        _rate("up50", "50 streams up", *_MANY),
        _delay("first-byte.p50", "new stream to first byte, p50"),
        _delay("first-byte.p95", "  p95"),
        _delay("first-byte.p99", "  p99"),
        Figure("early.p50", "  with early_reply, p50", "ms"),
        Figure("streams", "new streams, 50 workers", "/s", True, (Goal(0.4, 1.0, "tor"),)),
        Figure("streams.cpu", "  CPU per stream", "ms", goals=(Goal(1.5, 0.6),)),
        _delay("echo.p50", "echo on an open stream, p50"),
        _delay("echo.p99", "  p99"),
        _delay("loaded-echo.p50", "echo beside a bulk download, p50", 0.5, 0.5),
        _delay("loaded-echo.p99", "  p99", 0.5, 0.5),
        _rate("loaded-echo.bulk", "  that download"),
        _delay("circuit", "circuit build, p50", 2.0, 1.0),
        _delay("identity", "first byte of a new identity, p50", 2.0, 1.0),
        Figure("start.fresh", "fresh client to first answer", "s", goals=(Goal(0.5, 0.5, "tor"),)),
        Figure("start.cached", "client with a cached consensus", "s", goals=(Goal(1.0, 1.0),)),
        Figure("help", "the command's --help", "s", goals=(Goal(0.15, 0.15),)),
        Figure("idle", "1000 idle streams, growth of all", "MiB", goals=(Goal(40, 12),)),
        Figure("memory.relay", "peak of the largest relay", "MiB", goals=(Goal(80, 60),)),
        Figure("memory.client", "peak of the client", "MiB"),
        Figure("memory.all", "all processes at the end", "MiB"),
    )
}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of `values` lie, between two of them if need be."""
    assert values
    assert 0 <= percent <= 100
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Summary:
    """Hold the runs of one figure, and beside each the machine's other load in cores."""

    values: tuple[float, ...]
    loads: tuple[float | None, ...]

    def __post_init__(self) -> None:
        assert self.values
        assert len(self.values) == len(self.loads)

    @property
    def median(self) -> float:
        """Return the middle of the runs."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """Return the lowest run."""
        return min(self.values)

    @property
    def most(self) -> float:
        """Return the highest run."""
        return max(self.values)

    @property
    def load(self) -> float | None:
        """Return the median of the other load, in cores; None where nothing is known of it."""
        known = [load for load in self.loads if load is not None]
        return statistics.median(known) if known else None


def ratios(ours: Summary, theirs: Summary) -> tuple[float, ...]:
    """Return `ours` as multiples of `theirs`, run by run; nothing where one is not above zero.

    Where there are not as many runs of each, the medians are compared.
    """
    if len(ours.values) == len(theirs.values):
        pairs = list(zip(ours.values, theirs.values, strict=True))
    else:
        pairs = [(ours.median, theirs.median)]
    if any(their <= 0 for _, their in pairs):
        return ()
    return tuple(our / their for our, their in pairs)


def ratio(ours: Summary, theirs: Summary) -> float | None:
    """Return the median of ``ratios``, or None."""
    found = ratios(ours, theirs)
    return statistics.median(found) if found else None


def advantage(figure: Figure, value: float) -> float | None:
    """Return how many times as good a ratio of `value` is; None where that has no meaning."""
    if value <= 0:
        return None
    return value if figure.is_more_better else 1 / value


def show(value: float) -> str:
    """Return `value` with three digits that mean something, never in powers of ten."""
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{digits}f}"
