"""Which system is asked what, and when: in turn, so that a noisy minute falls on all of them."""

from collections.abc import Callable, Iterator, Sequence

from benchmarks.figures import FIGURES, show
from benchmarks.measures import Measure, Sample, Scale
from benchmarks.namespace import Acknowledgements
from benchmarks.processes import ProcessError
from benchmarks.reactor import StalledError
from benchmarks.results import Results
from benchmarks.route import RouteError
from benchmarks.systems import System
from warren.errors import WarrenError

Tell = Callable[[str], None]

#: What a measure may fail with; anything else is a mistake of ours.
FAILURES = (OSError, RouteError, StalledError, ProcessError, WarrenError)


def in_order(measures: Sequence[Measure], runs: int) -> Iterator[tuple[int, Measure]]:
    """Yield the number of each run, from 1, and the measure: first ones, runs, last ones."""
    for measure in measures:
        if measure.when == "first":
            yield 1, measure
    for run in range(1, runs + 1):
        for measure in measures:
            if measure.when == "each run":
                yield run, measure
    for measure in measures:
        if measure.when == "last":
            yield runs, measure


def measure_all(
    systems: Sequence[System],
    measures: Sequence[Measure],
    scale: Scale,
    results: Results,
    tell: Tell,
) -> None:
    """Take all measures of all systems; what fails is noted and the rest goes on."""
    acknowledgements = Acknowledgements()
    for run, measure in in_order(measures, results.conditions.runs):
        for system in systems:
            acknowledgements.be_quick(system.needs_quick_acknowledgements)
            try:
                sample = measure.take(system, scale)
                system.check()
            except FAILURES as error:
                results.errors.append(f"run {run}, {measure.name}, {system.name}: {error}")
                tell(results.errors[-1])
                continue
            if sample is not None:
                results.add(system.name, measure.name, sample)
                tell(f"run {run}, {system.name}: {_describe(sample)}")


def _describe(sample: Sample) -> str:
    figures = (
        f"{key} {show(value)} {FIGURES[key].unit}"
        for key, value in sample.figures.items()
        if key in FIGURES
    )
    load = "" if sample.load is None else f" (load {sample.load:.2f})"
    return ", ".join(figures) + load
