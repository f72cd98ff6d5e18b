"""Places: of what somebody has under way at the same time there is only so much, the rest waits.

Whoever is done gives his place to the one who has waited longest. How much may wait is for the
caller to bound; nothing here takes a task.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable

Act = Callable[[], None]


class Places:
    """Own who has a place, and who waits for one: `most` places for each owner.

    `soon` calls what it is given a little later, not at once: one that is over as soon as it
    begins must not begin the next one inside itself, and that one another.
    """

    def __init__(self, most: int, soon: Callable[[Act], None]) -> None:
        self._most = most
        self._soon = soon
        self._taken: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[Act]] = {}

    @property
    def taken(self) -> int:
        """Return how many places are taken, by all owners together."""
        return self._taken.total()

    @property
    def waiting(self) -> int:
        """Return how many wait for a place."""
        return sum(map(len, self._waiting.values()))

    def take(self, owner: Hashable, begin: Act) -> None:
        """Call `begin`, now or once a place of `owner` is free; it ends with ``leave``."""
        if self._taken[owner] >= self._most:
            self._waiting.setdefault(owner, deque()).append(begin)
        else:
            self._taken[owner] += 1
            begin()

    def leave(self, owner: Hashable) -> None:
        """Give a place of `owner` back."""
        waiting = self._waiting.get(owner)
        if waiting:
            self._soon(waiting.popleft())
            if not waiting:
                del self._waiting[owner]
            return
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
