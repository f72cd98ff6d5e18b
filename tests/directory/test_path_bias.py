from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.path_bias import (
    LEAST_CIRCUITS,
    MARGIN,
    MOST_CIRCUITS,
    Outcome,
    PathBias,
    Tally,
    Verdict,
)


def tally_of(share: float, circuits: int, seed: int = 1) -> Tally:
    """Return what counted so many circuits, of which so large a share succeeded by chance."""
    tally, rng = Tally(), Random(seed)
    for _ in range(circuits):
        tally.note(has_succeeded=rng.random() < share)
    return tally


def test_nothing_is_decided_before_150_circuits() -> None:
    tally = Tally()

    for _ in range(LEAST_CIRCUITS - 1):
        tally.note(has_succeeded=False)
    before = tally.verdict
    tally.note(has_succeeded=False)

    assert before is Verdict.FINE
    assert tally.verdict is Verdict.VERY_LOW


@pytest.mark.parametrize(
    ("succeeded", "verdict"),
    [
        (200, Verdict.FINE),
        (140, Verdict.FINE),
        (139, Verdict.LOW),
        (100, Verdict.LOW),
        (99, Verdict.VERY_LOW),
        (0, Verdict.VERY_LOW),
    ],
)
def test_a_share_below_a_bound_is_told_apart(succeeded: int, verdict: Verdict) -> None:
    assert Tally(200, succeeded).verdict is verdict


def test_a_verdict_is_dropped_only_when_the_share_is_well_above_the_bound() -> None:
    tally = Tally(200, 139)
    verdicts = []

    while (tally.percent, tally.verdict) < (70 + MARGIN, Verdict.FINE):
        verdicts.append((tally.percent, tally.verdict))
        tally.note(has_succeeded=True)

    assert {verdict for _, verdict in verdicts} == {Verdict.LOW}
    assert tally.verdict is Verdict.FINE


@pytest.mark.parametrize("seed", range(5))
def test_a_guard_that_changes_is_judged_by_what_it_does_now(seed: int) -> None:
    tally = tally_of(0.95, 5000, seed)
    rng = Random(seed)

    for _ in range(2 * MOST_CIRCUITS):
        tally.note(has_succeeded=rng.random() < 0.4)

    assert tally.verdict is Verdict.VERY_LOW


@pytest.mark.parametrize("seed", range(20))
def test_who_drops_60_percent_is_found_and_who_loses_12_is_not(seed: int) -> None:
    assert tally_of(0.4, 250, seed).verdict is Verdict.VERY_LOW
    assert tally_of(0.88, 10_000, seed).verdict is Verdict.FINE


@given(st.lists(st.sampled_from(Outcome), max_size=2000))
def test_counts_stay_in_their_bounds_and_a_verdict_has_its_150(outcomes: list[Outcome]) -> None:
    bias = PathBias()

    for outcome in outcomes:
        bias.note(outcome)
        for tally in (bias.builds, bias.uses):
            assert 0 <= tally.succeeded <= tally.tried <= MOST_CIRCUITS
            assert tally.verdict is Verdict.FINE or tally.tried >= LEAST_CIRCUITS
            assert tally.verdict is Verdict.FINE or tally.percent < tally.verdict + MARGIN
        assert bias.verdict is min(bias.builds.verdict, bias.uses.verdict)


@given(st.integers(0, 100))
def test_what_fades_changes_the_share_by_little(percent: int) -> None:
    tally = Tally(MOST_CIRCUITS, MOST_CIRCUITS * percent // 100)

    tally.note(has_succeeded=True)

    assert tally.tried == MOST_CIRCUITS // 2 + 1
    assert percent - 1 <= tally.percent <= percent + 2


def test_a_spare_that_is_lost_takes_its_success_back() -> None:
    bias = PathBias()

    for outcome in (Outcome.BUILT, Outcome.BUILT, Outcome.LOST):
        bias.note(outcome)

    assert (bias.builds.succeeded, bias.builds.tried) == (1, 2)
    assert bias.uses.tried == 0


def test_uses_alone_can_be_bad() -> None:
    bias = PathBias(Tally(200, 200))

    for _ in range(LEAST_CIRCUITS):
        bias.note(Outcome.FAILED)

    assert bias.verdict is Verdict.VERY_LOW


@pytest.mark.parametrize(("tried", "succeeded"), [(1, 2), (-1, -1), (1, -1), (301, 300)])
def test_numbers_that_no_tally_has_are_refused(tried: int, succeeded: int) -> None:
    with pytest.raises(ValueError, match="circuits"):
        Tally(tried, succeeded)
