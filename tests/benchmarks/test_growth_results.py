"""Figures at n, 2n and 4n, and by which power they grow."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.growth import print_growth
from benchmarks.growth_results import GrowthFigure, GrowthResults, exponent

FIGURES = (GrowthFigure("memory", "memory of it", "MiB"), GrowthFigure("each", "  each", "KiB"))


def results_of(power: float) -> GrowthResults:
    results = GrowthResults("things at rest", "things", FIGURES)
    for size in (10, 20, 40):
        for noise in (0.5, 1.0, 1.1):
            results.add(size, {"memory": noise * size**power, "of another topic": 1.0})
    return results


@given(st.floats(-2, 3), st.floats(0.01, 1000))
def test_a_power_is_found_again(power: float, factor: float) -> None:
    points = [(size, factor * size**power) for size in (100, 200, 400)]

    assert exponent(*points) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 0.0), (2, 1.0)], [(1, 1.0), (2, -1.0)]])
def test_what_does_not_grow_from_something_has_no_exponent(points: list[tuple[int, float]]) -> None:
    assert exponent(*points) is None


def test_the_exponent_is_that_of_the_medians() -> None:
    (growth,) = results_of(2)

    assert growth.summaries[20].median == 400
    assert growth.exponent == pytest.approx(2)


def test_the_table_shows_medians_spread_and_exponent() -> None:
    output = io.StringIO()

    print_growth(results_of(1), output)

    head, line, *_ = output.getvalue().splitlines()
    assert _squeezed(head) == "things at rest 10 things 20 things 40 things exponent"
    assert _squeezed(line) == (
        "memory of it, MiB 10.0 [5.00..11.0] 20.0 [10.0..22.0] 40.0 [20.0..44.0] 1.00"
    )


def test_a_file_has_every_run() -> None:
    figures = results_of(1).as_json()["figures"]

    assert list(figures) == ["memory"]
    assert figures["memory"]["runs"]["20"] == [10, 20, 22]
    assert figures["memory"]["exponent"] == 1


def _squeezed(line: str) -> str:
    return " ".join(line.split())
