"""What growing costs: every figure at n, 2n and 4n, and the exponent between.

A figure that grows as a power of the size has an exponent: 1 where it doubles with the size, 0
where it does not change, 2 where it quadruples. It is that of the first and the last size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Summary


@dataclass(frozen=True)
class GrowthFigure:
    """Hold one line of a table."""

    key: str
    title: str
    unit: str


@dataclass(frozen=True)
class Growth:
    """Hold one figure at every size, smallest first."""

    figure: GrowthFigure
    summaries: Mapping[int, Summary]

    @property
    def exponent(self) -> float | None:
        """Return by which power of the size it grows; None where that says nothing."""
        sizes = sorted(self.summaries)
        return exponent(*((size, self.summaries[size].median) for size in sizes))


def exponent(*points: tuple[int, float]) -> float | None:
    """Return the power between the first and the last of `points`, sizes and values.

    None with fewer than two, and where a value is not above zero.
    """
    if len(points) < 2 or any(value <= 0 for _, value in points):
        return None
    (small, low), *_, (large, high) = points
    return math.log(high / low) / math.log(large / small)


@dataclass
class GrowthResults:
    """Own the runs of one topic; `unit_of_size` says what there is more of."""

    topic: str
    unit_of_size: str
    figures: Sequence[GrowthFigure]
    _runs: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, size: int, found: Mapping[str, float]) -> None:
        """Take what one run found at `size`; figures that no table has are left out."""
        for figure in self.figures:
            if figure.key in found:
                self._runs.setdefault((figure.key, size), []).append(found[figure.key])

    @property
    def sizes(self) -> list[int]:
        """Return the sizes that were measured, smallest first."""
        return sorted({size for _, size in self._runs})

    def __iter__(self) -> Iterator[Growth]:
        """Yield the figures that were measured, in the table's order."""
        for figure in self.figures:
            summaries = {
                size: Summary(tuple(runs), (None,) * len(runs))
                for size in self.sizes
                if (runs := self._runs.get((figure.key, size)))
            }
            if summaries:
                yield Growth(figure, summaries)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "sizes": self.sizes,
            "unit_of_size": self.unit_of_size,
            "figures": {growth.figure.key: _growth_as_json(growth) for growth in self},
        }


def _growth_as_json(growth: Growth) -> dict[str, Any]:
    power = growth.exponent
    return {
        "title": growth.figure.title.strip(),
        "unit": growth.figure.unit,
        "exponent": None if power is None else round(power, 2),
        "runs": {
            str(size): [float(f"{value:.4g}") for value in summary.values]
            for size, summary in growth.summaries.items()
        },
    }
