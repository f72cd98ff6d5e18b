"""The arithmetic of the benchmark: percentiles, spread, ratios, goals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import FIGURES, Figure, Goal, Summary, advantage, percentile, ratio, show

NUMBERS = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)

RATE = Figure("rate", "a rate", "MB/s", is_more_better=True)
DELAY = Figure("delay", "a delay", "ms")


def runs(*values: float) -> Summary:
    return Summary(values, (0.0,) * len(values))


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 3), (75, 4), (90, 4.6), (100, 5)])
def test_a_percentile_lies_between_its_neighbours(percent: float, expected: float) -> None:
    assert percentile([5, 3, 1, 4, 2], percent) == pytest.approx(expected)


@given(values=NUMBERS, percent=st.floats(0, 100))
def test_a_percentile_is_never_outside_of_the_values(values: list[float], percent: float) -> None:
    assert min(values) <= percentile(values, percent) <= max(values) * (1 + 1e-9)


def test_a_summary_has_the_median_and_the_spread() -> None:
    found = runs(30, 10, 20)

    assert (found.least, found.median, found.most) == (10, 20, 30)


def test_an_unknown_load_is_left_out_of_the_median() -> None:
    assert Summary((1, 2, 3), (0.5, None, 0.1)).load == pytest.approx(0.3)
    assert Summary((1,), (None,)).load is None


def test_a_ratio_is_taken_run_by_run() -> None:
    # The medians are 20 and 10; a slow minute has hit one run of both.
    ours, theirs = runs(30, 3, 20), runs(10, 1, 20)

    assert ratio(ours, theirs) == pytest.approx(3)


def test_without_pairs_the_medians_are_compared() -> None:
    assert ratio(runs(10, 20, 30), runs(5)) == pytest.approx(4)


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio(runs(10), runs(0)) is None
    assert ratio(runs(10, 10), runs(5, -1)) is None


@given(value=st.floats(0.01, 100))
def test_half_the_delay_is_as_good_as_twice_the_rate(value: float) -> None:
    assert advantage(RATE, value) == pytest.approx(value)
    assert advantage(DELAY, 1 / value) == pytest.approx(value)


def test_no_growth_at_all_is_no_multiple_of_anything() -> None:
    assert advantage(DELAY, 0) is None


@pytest.mark.parametrize(("value", "verdict"), [(1.2, "met"), (0.8, "floor"), (0.6, "missed")])
def test_a_rate_should_be_above_its_goal(value: float, verdict: str) -> None:
    assert RATE.meets(Goal(0.7, 1.0, "chain"), value) == verdict


@pytest.mark.parametrize(("value", "verdict"), [(0.9, "met"), (1.3, "floor"), (1.31, "missed")])
def test_a_delay_should_be_below_its_goal(value: float, verdict: str) -> None:
    assert DELAY.meets(Goal(1.3, 0.9, "tor"), value) == verdict


def test_no_floor_asks_more_than_the_goal_itself() -> None:
    for figure in FIGURES.values():
        for goal in figure.goals:
            assert figure.meets(goal, goal.best) == "met"
            assert figure.meets(goal, goal.floor) != "missed"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.000"),
        (0.12345, "0.123"),
        (1, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (3286.4, "3286"),
    ],
)
def test_a_number_shows_three_digits_and_no_powers(value: float, text: str) -> None:
    assert show(value) == text
