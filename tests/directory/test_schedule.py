from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import NOW, consensus_of
from warren.directory.parameters import Parameters
from warren.directory.schedule import next_period

HOURLY = Parameters()
LAB = Parameters(consensus_interval_seconds=5, initial_interval_seconds=1)


def test_an_hourly_consensus_takes_five_minutes_of_voting() -> None:
    latest = replace(consensus_of(), parameters=HOURLY)
    hour = NOW - NOW % 3600 + 3600

    period = next_period(hour - 3000.0, latest, LAB)

    assert period.valid_after == hour
    assert (period.vote_at, period.sign_at) == (hour - 300, hour - 150)
    assert (period.fetch_at, period.collect_at) == (hour - 225, hour - 75)


def test_a_network_without_consensus_tries_more_often() -> None:
    period = next_period(NOW + 0.5, None, HOURLY)

    assert period.valid_after - NOW <= 120
    assert period.valid_after % 60 == 0


def test_a_period_whose_votes_are_out_is_left_to_the_others() -> None:
    latest = replace(consensus_of(), parameters=HOURLY)
    hour = NOW - NOW % 3600 + 3600

    period = next_period(hour - 299.9, latest, HOURLY)

    assert period.valid_after == hour + 3600


def test_the_parameters_of_the_newest_consensus_rule() -> None:
    latest = replace(consensus_of(), parameters=LAB)

    assert next_period(NOW, latest, HOURLY) == next_period(NOW, latest, LAB)
    assert next_period(NOW, latest, HOURLY).valid_after - NOW <= 10


@pytest.mark.parametrize("is_founding", [True, False])
@given(
    now=st.floats(1_700_000_000, 1_900_000_000),
    interval=st.integers(1, 7200),
    voting=st.integers(1, 3600),
)
def test_the_steps_of_a_period_follow_each_other_within_the_interval(
    is_founding: bool, now: float, interval: int, voting: int
) -> None:
    parameters = Parameters(
        consensus_interval_seconds=interval,
        initial_interval_seconds=interval,
        voting_seconds=voting,
    )
    latest = None if is_founding else replace(consensus_of(), parameters=parameters)

    period = next_period(now, latest, parameters)

    steps = [now, period.vote_at, period.fetch_at, period.sign_at, period.collect_at]
    assert steps == sorted(steps)
    assert period.collect_at < period.valid_after
    assert period.valid_after % interval == 0
    assert period.valid_after - interval < period.vote_at
    assert period.valid_after - now <= 2 * interval
    assert next_period(period.vote_at, latest, parameters) == period
