"""Expiry: what is not over after a fixed time is ended, by one task for all of them.

A cancel scope for each would be the plain way. Where thousands a second begin and nearly all are
over in a moment, entering and leaving it costs more than what it watches over.
"""

from collections import deque

import trio

from warren.network.readiness import Act


class Expiring:
    """Be one entry: ``act`` is called once unless ``end`` was called before its time."""

    __slots__ = ("act", "deadline", "has_expired", "waits_for")

    def __init__(self, deadline: float, act: Act, waits_for: object) -> None:
        self.deadline = deadline
        self.waits_for = waits_for
        self.act: Act | None = act  # None once the entry is over
        self.has_expired = False

    def end(self) -> None:
        """Watch no more, and keep nothing alive that was watched over."""
        self.act = self.waits_for = None

    def stay(self) -> None:
        """Let nothing but its time end it."""
        self.waits_for = None

    def expire(self) -> None:
        """End it as if its time had come, unless it is over."""
        if (act := self.act) is not None:
            self.end()
            self.has_expired = True
            act()


class Expiry:
    """Own the entries that end after `seconds`, and the task in `nursery` that ends them.

    The task lives while there are entries, at most `seconds` longer than the last one needed it.
    """

    def __init__(self, nursery: trio.Nursery, seconds: float) -> None:
        self._nursery = nursery
        self._seconds = seconds
        self._entries: deque[Expiring] = deque()  # in the order of their deadlines

    def watch(self, act: Act, waits_for: object = None) -> Expiring:
        """Call `act`, which must not wait, in `seconds`, unless the entry is over by then.

        Or sooner, when ``hurry`` is told what it `waits_for`.
        """
        entry = Expiring(trio.current_time() + self._seconds, act, waits_for)
        if not self._entries:
            self._nursery.start_soon(self._expire)
        self._entries.append(entry)
        return entry

    def hurry(self, what: object) -> None:
        """End now what waits for `what`."""
        for entry in tuple(self._entries):
            if entry.waits_for is what:
                entry.expire()

    async def _expire(self) -> None:
        entries = self._entries
        while entries:
            if entries[0].act is not None:
                await trio.sleep_until(entries[0].deadline)
            entries[0].expire()  # it stays there meanwhile: what watches now finds this task
            entries.popleft()
