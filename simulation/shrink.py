"""The shortest list of faults that still breaks an invariant.

Halves, then quarters and so on are left out, as long as the same kind of invariant breaks
without them (delta debugging, Zeller and Hildebrandt 2002); at last each fault by itself. Every
try is a whole simulation, so their number is bounded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from simulation.run import Outcome
from simulation.scenario import Fault, Scenario

MOST_TRIES = 100

Simulate = Callable[[Scenario], Outcome]


def shrink(
    broken: Outcome, simulate: Simulate, *, most_tries: int = MOST_TRIES
) -> tuple[Outcome, int]:
    """Return the outcome with the fewest faults that were found to break the same invariant.

    Also returns how many simulations it took. Faults that begin after the invariant broke are
    left out at once.
    """
    kind = broken.violations[0].kind
    search = _Search(broken, kind, simulate, most_tries)
    search.try_with([f for f in broken.faults if f.at <= broken.violations[0].at])
    search.try_with([])
    parts = 2
    while (faults := search.faults) and parts <= len(faults):
        size = -(-len(faults) // parts)
        for start in range(0, len(faults), size):
            if search.try_with([*faults[:start], *faults[start + size :]]):
                parts = max(2, parts - 1)
                break
        else:
            if parts == len(faults):
                break
            parts = min(2 * parts, len(faults))
        if search.tries >= most_tries:
            break
    return search.best, search.tries


class _Search:
    """Own the best found so far."""

    def __init__(self, best: Outcome, kind: str, simulate: Simulate, most_tries: int) -> None:
        self.best = best
        self.tries = 0
        self._kind = kind
        self._simulate = simulate
        self._most_tries = most_tries

    @property
    def faults(self) -> tuple[Fault, ...]:
        return self.best.faults

    def try_with(self, faults: Sequence[Fault]) -> bool:
        """Simulate with `faults` alone; return whether they do."""
        if len(faults) >= len(self.faults) or self.tries >= self._most_tries:
            return False
        self.tries += 1
        outcome = self._simulate(replace(self.best.scenario, faults=tuple(faults)))
        if not outcome.violations or outcome.violations[0].kind != self._kind:
            return False
        self.best = outcome
        return True
