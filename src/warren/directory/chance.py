"""Chance for code that has none of its own, and drawing by weight."""

import math
from array import array
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
    """Draw from `entries`, each as often as its `weight` says; by lot when all have none.

    Costs 16 bytes for each entry, as the sums are floats: a share below 2**-52 counts as none.
    """

    def __init__(self, entries: Sequence[T], weight: Callable[[T], int]) -> None:
        self.entries = tuple(entries)
        self._weight = weight
        self._sums = array("d", accumulate(map(weight, self.entries)))
        if self._sums and not self._sums[-1]:
            self._weight = _alike
            self._sums = array("d", range(1, len(self.entries) + 1))

    def __len__(self) -> int:
        return len(self.entries)

    def draw(self, rng: Chance) -> T:
        """Return one entry; there must be some."""
        index = bisect_right(self._sums, rng.random() * self._sums[-1])
        return self.entries[min(index, len(self.entries) - 1)]  # the product may round up

    def shuffled(self, rng: Chance) -> Iterator[T]:
        """Yield all entries, each once, as if they were drawn one after the other."""
        # Each waits for its turn, the heavier the shorter (Efraimidis and Spirakis 2006).
        waits = [
            (weight == 0, -math.log(1 - rng.random()) / (weight or 1))
            for weight in map(self._weight, self.entries)
        ]
        for index in sorted(range(len(waits)), key=waits.__getitem__):
            yield self.entries[index]


def _alike(_: object) -> int:
    return 1
