from hypothesis import given
from hypothesis import strategies as st

from warren.protocol.round_trips import (
    FACTOR,
    LEAST_PATIENCE,
    MOST_HELD,
    MOST_PATIENCE,
    RoundTrips,
)

SECONDS = st.floats(0, 100)


def noted(*seconds: float) -> RoundTrips:
    round_trips = RoundTrips()
    for each in seconds:
        round_trips.note(each)
    return round_trips


def test_without_a_measurement_there_is_the_most_patience() -> None:
    assert (noted().least, noted().patience) == (0.0, MOST_PATIENCE)


def test_a_quick_way_gets_the_least_patience() -> None:
    assert noted(*[0.05] * 10).patience == LEAST_PATIENCE


def test_a_steady_way_needs_little_more_than_it_takes() -> None:
    round_trips = noted(*[3.0] * 100)

    assert FACTOR * 3.0 <= round_trips.patience < FACTOR * 3.1


def test_a_way_that_varies_gets_more() -> None:
    steady, varying = noted(*[2.5] * 40), noted(*[1.0, 4.0] * 20)

    assert varying.patience > steady.patience


def test_the_least_is_of_the_last_ones() -> None:
    round_trips = noted(0.1, *[0.2] * MOST_HELD)

    assert round_trips.least == 0.2
    assert len(round_trips) == MOST_HELD


@given(st.lists(SECONDS))
def test_patience_keeps_its_bounds(seconds: list[float]) -> None:
    assert LEAST_PATIENCE <= noted(*seconds).patience <= MOST_PATIENCE
