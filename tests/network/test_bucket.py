"""Buckets of allowances: so many a second, so many at once, and how long to wait for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.network.bucket import MOST_BUCKETS, Bucket, Buckets


def test_an_empty_bucket_says_when_there_is_one_again() -> None:
    bucket = Bucket(0.5, 3, 10.0)

    taken = [bucket.take(10.0) for _ in range(4)]

    assert taken == [True, True, True, False]
    assert [bucket.wait(now) for now in (10.0, 11.0, 12.0, 20.0)] == [2.0, 1.0, 0.0, 0.0]
    assert bucket.take(12.0)


@given(
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.lists(st.floats(0, 10), min_size=1, max_size=100),
)
def test_nobody_takes_more_than_the_rate_and_the_burst(
    rate: float, burst: int, pauses: list[float]
) -> None:
    bucket, now, taken = Bucket(rate, burst, 0.0), 0.0, 0

    for pause in pauses:
        now += pause
        taken += bucket.take(now)

    assert taken <= burst + rate * now + 1e-6


@given(st.floats(0.1, 100), st.integers(1, 50), st.integers(1, 100), st.floats(0, 10))
def test_who_waits_as_long_as_he_is_told_gets_one(
    rate: float, burst: int, asked: int, pause: float
) -> None:
    bucket = Bucket(rate, burst, 0.0)
    for _ in range(asked):
        bucket.take(pause)

    wait = bucket.wait(pause)

    assert bucket.take(pause + wait + 1e-6)


def test_each_has_a_bucket_of_his_own() -> None:
    buckets = Buckets(1, 2)

    taken = [buckets.take(who, 0.0) for who in "aaabab"]

    assert taken == [True, True, False, True, False, True]
    assert buckets.wait("a", 0.0) == pytest.approx(1.0)
    assert buckets.wait("nobody", 0.0) == 0.0


def test_who_has_not_asked_for_long_is_forgotten_before_those_who_ask() -> None:
    buckets = Buckets(1, 2)
    for number in range(MOST_BUCKETS):
        buckets.take(number, number / MOST_BUCKETS)
    busy = MOST_BUCKETS - 1
    buckets.take(busy, 1.5)

    newcomer = buckets.take("newcomer", 1.5)

    assert newcomer
    assert len(buckets) < MOST_BUCKETS
    assert not buckets.take(busy, 1.5) or buckets.wait(busy, 1.5) > 0


def test_where_all_have_asked_lately_the_first_is_forgotten() -> None:
    buckets = Buckets(0.001, 2)

    for number in range(MOST_BUCKETS + 10):
        buckets.take(number, 0.0)

    assert len(buckets) == MOST_BUCKETS
    assert buckets.wait(0, 0.0) == 0.0
