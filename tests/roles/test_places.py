"""So much of what somebody has under way at once, and what waits goes on in its turn."""

from collections import deque
from random import Random

from warren.roles.places import Act, Places


class Steps:
    """Own what is to be called later, and what has begun and is not over."""

    def __init__(self, most: int) -> None:
        self._soon: deque[Act] = deque()
        self.places = Places(most, self._soon.append)
        self.begun: list[str] = []

    def ask(self, owner: str, name: str) -> None:
        self.places.take(owner, lambda: self.begun.append(name))

    def end(self, owner: str) -> None:
        self.places.leave(owner)
        while self._soon:
            self._soon.popleft()()


def test_what_is_too_much_waits_and_goes_on_in_its_order() -> None:
    steps = Steps(2)
    for name in "abcd":
        steps.ask("me", name)
    at_first = list(steps.begun)

    steps.end("me")
    steps.end("me")

    assert at_first == ["a", "b"]
    assert steps.begun == ["a", "b", "c", "d"]
    assert (steps.places.taken, steps.places.waiting) == (2, 0)


def test_nobody_waits_for_others() -> None:
    steps = Steps(1)

    for owner in ("me", "you", "me"):
        steps.ask(owner, owner)

    assert steps.begun == ["me", "you"]


def test_what_is_over_as_it_begins_lets_thousands_go_on() -> None:
    steps = Steps(1)
    steps.ask("me", "first")
    for _ in range(5000):
        steps.places.take("me", lambda: steps.places.leave("me"))

    steps.end("me")

    assert (steps.places.taken, steps.places.waiting) == (0, 0)


def test_no_place_is_lost_or_given_twice() -> None:
    steps, rng, under_way = Steps(3), Random(1), 0
    asked = 0
    for _ in range(2000):
        if rng.random() < 0.5:
            steps.ask("me", str(asked))
            asked += 1
        elif steps.places.taken:
            steps.end("me")
            under_way += 1  # that are over

        assert steps.places.taken == len(steps.begun) - under_way <= 3
        assert steps.places.taken + steps.places.waiting == asked - under_way
    assert steps.begun == [str(number) for number in range(len(steps.begun))]
