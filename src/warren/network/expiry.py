"""Expiry: what is not over after a fixed time is ended, by one task for all of them.

A cancel scope for each would be the plain way. Where thousands a second begin and nearly all are
over in a moment, entering and leaving it costs more than what it watches over.
"""

from collections import deque

import trio

from warren.network.readiness import Act


class Expiring:
    """Be one entry: ``act`` is called once unless ``end`` was called before its time."""

    __slots__ = ("act", "deadline", "has_expired")

    def __init__(self, deadline: float, act: Act) -> None:
        self.deadline = deadline
        self.act: Act | None = act  # None once the entry is over
        self.has_expired = False

    def end(self) -> None:
        """Watch no more, and keep nothing alive that was watched over."""
        self.act = None


class Expiry:
    """Own the entries that end after `seconds`, and the task in `nursery` that ends them.

    The task lives while there are entries, at most `seconds` longer than the last one needed it.
    """

    def __init__(self, nursery: trio.Nursery, seconds: float) -> None:
        self._nursery = nursery
        self._seconds = seconds
        self._entries: deque[Expiring] = deque()  # in the order of their deadlines

    def watch(self, act: Act) -> Expiring:
        """Call `act`, which must not wait, in `seconds`, unless the entry is over by then."""
        entry = Expiring(trio.current_time() + self._seconds, act)
        if not self._entries:
            self._nursery.start_soon(self._expire)
        self._entries.append(entry)
        return entry

    async def _expire(self) -> None:
        entries = self._entries
        while entries:
            if entries[0].act is not None:
                await trio.sleep_until(entries[0].deadline)
            entry = entries[0]  # it stays there meanwhile: what watches now finds this task
            if (act := entry.act) is not None:
                entry.end()
                entry.has_expired = True
                act()
            entries.popleft()
