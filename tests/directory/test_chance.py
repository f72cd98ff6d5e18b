import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from warren.directory.chance import Lottery


class Always:
    """Give the same number each time."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


WEIGHTS = {"heavy": 900, "light": 100, "nothing": 0}


def test_entries_are_drawn_by_weight() -> None:
    lottery, rng = Lottery(list(WEIGHTS), WEIGHTS.__getitem__), random.Random(1)

    drawn = Counter(lottery.draw(rng) for _ in range(10_000))

    assert 8900 < drawn["heavy"] < 9100
    assert drawn["nothing"] == 0


def test_without_any_weight_everyone_has_the_same_chance() -> None:
    lottery, rng = Lottery(["a", "b"], lambda _: 0), random.Random(1)

    drawn = Counter(lottery.draw(rng) for _ in range(1000))

    assert 400 < drawn["a"] < 600


def test_the_first_of_a_shuffle_is_drawn_by_weight_too() -> None:
    lottery, rng = Lottery(list(WEIGHTS), WEIGHTS.__getitem__), random.Random(1)

    firsts = Counter(next(lottery.shuffled(rng)) for _ in range(5000))

    assert 4400 < firsts["heavy"] < 4600
    assert firsts["nothing"] == 0


@given(st.lists(st.integers(0, 2**60), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_every_number_draws_somebody(weights: list[int], number: float) -> None:
    lottery = Lottery(range(len(weights)), weights.__getitem__)

    drawn = lottery.draw(Always(number))

    assert weights[drawn] > 0 or number > 0.99 or not any(weights)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=200).filter(any), st.integers(0, 1023))
def test_a_draw_is_where_counting_up_the_weights_arrives(weights: list[int], ticket: int) -> None:
    lottery = Lottery(range(len(weights)), weights.__getitem__)

    drawn = lottery.draw(Always(ticket / 1024))  # exact, so that no rounding blurs the borders

    assert sum(weights[:drawn]) * 1024 <= ticket * sum(weights) < sum(weights[: drawn + 1]) * 1024


@given(st.lists(st.integers(0, 2**60), max_size=20), st.integers())
def test_a_shuffle_has_everybody_once_and_the_weightless_last(
    weights: list[int], seed: int
) -> None:
    lottery = Lottery(range(len(weights)), weights.__getitem__)

    order = list(lottery.shuffled(random.Random(seed)))

    assert sorted(order) == list(range(len(weights)))
    if any(weights):
        assert [weights[i] > 0 for i in order] == sorted((w > 0 for w in weights), reverse=True)
