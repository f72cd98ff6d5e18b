"""Who is asked what, and when."""

from collections.abc import Mapping

import pytest

from benchmarks.measures import MEASURES, QUICK, Measure, Sample, Scale
from benchmarks.processes import ProcessError
from benchmarks.results import Results
from benchmarks.route import Route, RouteError
from benchmarks.schedule import in_order, measure_all
from benchmarks.systems import Origin, System
from tests.benchmarks.papers import CONDITIONS


class PaperSystem(System):
    """Be a system of no processes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origin = Origin(("127.0.0.1", 9), 1)
        self.is_dead = False

    @property
    def route(self) -> Route:
        return Route(self.origin.place)

    @property
    def pids(self) -> Mapping[str, int]:
        return {}

    @property
    def relays(self) -> frozenset[str]:
        return frozenset()

    def check(self) -> None:
        if self.is_dead:
            raise ProcessError(f"{self.name} died")


def measure_paper(measure: Measure, *systems: PaperSystem) -> Results:
    results = Results(CONDITIONS, [system.name for system in systems])
    measure_all(systems, [measure], QUICK, results, lambda _: None)
    return results


def test_memory_is_read_last_and_idle_streams_come_first() -> None:
    order = [(run, measure.name) for run, measure in in_order(list(MEASURES.values()), 3)]

    assert order[0] == (1, "idle")
    assert order[-1] == (3, "memory")
    assert order.count((2, "down")) == 1
    assert len(order) == 2 + 3 * (len(MEASURES) - 2)


def test_systems_take_turns() -> None:
    asked: list[str] = []

    def take(system: System, _scale: Scale) -> Sample:
        asked.append(system.name)
        return Sample({"down": 1.0}, 0.0)

    measure_paper(Measure("down", take), PaperSystem("warren"), PaperSystem("tor"))

    assert asked == ["warren", "tor", "warren", "tor"]


def test_what_fails_is_noted_and_the_rest_goes_on() -> None:
    def take(system: System, _scale: Scale) -> Sample:
        if system.name == "tor":
            raise RouteError("no answer")
        return Sample({"down": 1.0}, 0.0)

    results = measure_paper(Measure("down", take), PaperSystem("tor"), PaperSystem("warren"))

    assert results.errors == [f"run {run}, down, tor: no answer" for run in (1, 2)]
    assert results.summary("down", "warren") is not None


def test_a_figure_of_a_system_that_has_lost_a_process_does_not_count() -> None:
    system = PaperSystem("warren")
    system.is_dead = True

    results = measure_paper(Measure("down", lambda *_: Sample({"down": 1.0}, 0.0)), system)

    assert list(results.figures()) == []
    assert results.errors[0] == "run 1, down, warren: warren died"


def test_a_system_without_such_a_thing_has_no_figure() -> None:
    results = measure_paper(MEASURES["circuit"], PaperSystem("chain"))

    assert list(results.figures()) == []
    assert results.errors == []


@pytest.mark.parametrize(("rate", "expected"), [(1.0, 8e6), (40e6, 20e6), (1e9, 32e6)])
def test_a_bulk_run_takes_as_long_as_its_scale_says(rate: float, expected: float) -> None:
    assert QUICK.bulk_bytes(rate) == expected
