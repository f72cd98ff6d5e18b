"""Chance for code that has none of its own, and drawing by weight."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Chance(Protocol):
    """Give random numbers, as ``random.Random`` does."""

    def random(self) -> float:
        """Return a number from 0 up to but not including 1."""


class Lottery(Generic[T]):
    """Draw from `entries`, each as often as its `weight` says; by lot when all have none."""

    def __init__(self, entries: Sequence[T], weight: Callable[[T], int]) -> None:
        self.entries = tuple(entries)
        self._weights = [weight(entry) for entry in self.entries]
        if not any(self._weights):
            self._weights = [1] * len(self.entries)
        self._sums = list(accumulate(self._weights))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def total(self) -> int:
        """Return the sum of all weights."""
        return self._sums[-1] if self._sums else 0

    def draw(self, rng: Chance) -> T:
        """Return one entry; there must be some."""
        index = bisect_right(self._sums, rng.random() * self.total)
        return self.entries[min(index, len(self.entries) - 1)]  # the product may round up

    def shuffled(self, rng: Chance) -> Iterator[T]:
        """Yield all entries, each once, as if they were drawn one after the other."""
        # Each waits for its turn, the heavier the shorter (Efraimidis and Spirakis 2006).
        waits = [
            (weight == 0, -math.log(1 - rng.random()) / (weight or 1)) for weight in self._weights
        ]
        for index in sorted(range(len(waits)), key=waits.__getitem__):
            yield self.entries[index]
