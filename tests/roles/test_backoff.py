import random

from hypothesis import given
from hypothesis import strategies as st

from warren.roles.backoff import Backoff


class Highest(random.Random):
    """Draw the highest number every time."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_waits_double_up_to_the_most() -> None:  # REL-3
    backoff = Backoff(Highest(), first=1, most=60)

    waits = [backoff.next_wait() for _ in range(8)]

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_success_makes_waits_short_again() -> None:
    backoff = Backoff(Highest(), first=0.2, most=2)
    for _ in range(10):
        backoff.next_wait()

    backoff.reset()

    assert backoff.next_wait() == 0.2


@given(st.integers(0, 100), st.integers(0, 5000))
def test_a_wait_is_anywhere_below_its_ceiling(seed: int, failures: int) -> None:
    backoff = Backoff(random.Random(seed), first=1, most=60)

    waits = [backoff.next_wait() for _ in range(failures % 50 + 1)]

    assert all(0 <= wait <= min(60, 2**number) for number, wait in enumerate(waits))


def test_those_who_fail_together_do_not_come_back_together() -> None:
    backoffs = [Backoff(random.Random(seed)) for seed in range(100)]

    waits = {backoff.next_wait() for backoff in backoffs}

    assert len(waits) == 100
    assert max(waits) > 0.8
    assert min(waits) < 0.2
