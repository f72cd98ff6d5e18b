"""What was found: every run of every figure, under which conditions, and what went wrong."""

import datetime as dt
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.figures import FIGURES, Summary, ratio
from benchmarks.measures import Sample


@dataclass(frozen=True)
class Conditions:
    """Hold what a reader must know to judge the figures."""

    date: str
    python: str
    kernel: str
    cores: int
    is_private_network: bool
    congestion_control: str
    runs: int
    is_quick: bool

    @classmethod
    def here(cls, **given: Any) -> "Conditions":
        """Return the conditions on this machine, today."""
        return cls(
            date=dt.datetime.now(dt.UTC).date().isoformat(),
            python=platform.python_version(),
            kernel=platform.release(),
            cores=len(os.sched_getaffinity(0)),
            **given,
        )


@dataclass
class Results:
    """Own all samples; `systems` are in the order of the table, Warren first."""

    conditions: Conditions
    systems: Sequence[str]
    errors: list[str] = field(default_factory=list)
    _values: dict[tuple[str, str], list[tuple[float, float | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _details: dict[tuple[str, str, str], list[Mapping[str, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, system: str, measure: str, sample: Sample) -> None:
        """Take a sample of `measure`; figures that the table does not have are left out."""
        for key, value in sample.figures.items():
            if key in FIGURES:
                self._values[key, system].append((value, sample.load))
        for what, by_process in sample.details.items():
            self._details[measure, what, system].append(by_process)

    def figures(self) -> Iterator[str]:
        """Yield the keys of the figures that at least one system has, in the table's order."""
        found = {key for key, _ in self._values}
        return (key for key in FIGURES if key in found)

    def summary(self, key: str, system: str) -> Summary | None:
        """Return the runs of a figure, or None when the system has none."""
        runs = self._values.get((key, system))
        if not runs:
            return None
        values, loads = zip(*runs, strict=True)
        return Summary(values, loads)

    def ratio(self, key: str, peer: str) -> float | None:
        """Return Warren's figure as a multiple of that of `peer`, if both have it."""
        ours, theirs = self.summary(key, self.systems[0]), self.summary(key, peer)
        return None if ours is None or theirs is None else ratio(ours, theirs)

    def by_process(self, measure: str, what: str, system: str) -> dict[str, float]:
        """Return the median of each process in the details of a measure."""
        runs = self._details.get((measure, what, system), [])
        names = runs[0] if runs else {}
        return {name: _short(statistics.median(run[name] for run in runs)) for name in names}

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "conditions": asdict(self.conditions),
            "systems": list(self.systems),
            "figures": {key: self._figure(key) for key in self.figures()},
            "by_process": {
                f"{measure}, {what}, {system}": self.by_process(measure, what, system)
                for measure, what, system in self._details
            },
            "errors": self.errors,
        }

    def _figure(self, key: str) -> dict[str, Any]:
        figure = FIGURES[key]
        found = {system: self.summary(key, system) for system in self.systems}
        return {
            "title": figure.title.strip(),
            "unit": figure.unit,
            "is_more_better": figure.is_more_better,
            "systems": {
                system: {
                    "median": _short(runs.median),
                    "least": _short(runs.least),
                    "most": _short(runs.most),
                    "values": [_short(value) for value in runs.values],
                    "other_load": [None if load is None else round(load, 2) for load in runs.loads],
                }
                for system, runs in found.items()
                if runs is not None
            },
            "ratios": {
                peer: _short(value)
                for peer in self.systems[1:]
                if (value := self.ratio(key, peer)) is not None
            },
        }


def _short(value: float) -> float:
    """Return `value` with the four digits that can mean something."""
    return float(f"{value:.4g}")
