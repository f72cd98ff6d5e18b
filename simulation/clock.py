"""The time of a simulation: it stands still while anything can be done, then jumps.

Trio asks its clock how long to sleep when no task can run. The answer here is always "not at
all": the clock goes to the next event of the wire, or to the next deadline of a task, whichever
comes first, and lets that happen. Events are plain functions, called where a socket's readiness
would be served (``warren.network.readiness``), so bytes that cross ten hosts wake no task.

Most of what a hundred peers do is sleep, and trio ends a sleep as it ends a deadline, by an
exception. Here it is an event like the others, for a third of the price.
"""

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio

from warren.network.readiness import Act, LoopClock

#: Where the time begins: not at 0, which might pass for "never".
BEGINNING = 1000.0


class _Nap:
    """Own the sleep of one task, None once it was cancelled."""

    __slots__ = ("task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task: trio.lowlevel.Task | None = task

    def end(self) -> None:
        """Wake the task."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Let the task be cancelled."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class SimulatedClock(LoopClock):
    """Own the time and the events that are to come."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGINNING
        self.happened = 0
        self._events: list[tuple[float, int, Act]] = []  # a heap
        self._order = count()

    def at(self, time: float, act: Act) -> None:
        """Call `act` at `time`; those of one time in the order they were asked for."""
        heapq.heappush(self._events, (max(time, self.now), next(self._order), act))

    def current_time(self) -> float:
        """Return the simulated seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Be ``trio.sleep``."""
        if seconds < 0:
            raise ValueError(f"cannot sleep for {seconds} seconds")
        await self.sleep_until(self.now + seconds)

    async def sleep_until(self, deadline: float) -> None:
        """Be ``trio.sleep_until``."""
        if deadline <= self.now:
            await trio.lowlevel.checkpoint()
            return
        nap = _Nap(trio.lowlevel.current_task())
        if deadline < math.inf:
            self.at(deadline, nap.end)
        await trio.lowlevel.wait_task_rescheduled(nap.abort)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Go to `deadline`, or to the first event that makes trio something to do."""
        readiness, events = self.readiness, self._events
        assert readiness is not None, "the simulation asks for it before anything else"
        while readiness.serve(1.0) > 0:
            at = self._next_at()
            if at >= deadline:
                if deadline == math.inf:
                    return math.inf  # trio shuts down, and has a word with itself
                self.now = max(self.now, deadline)
                return 0.0
            self.now = at
            while events and events[0][0] <= at:
                self.happened += 1
                readiness.soon(heapq.heappop(events)[2])
        return 0.0

    def _next_at(self) -> float:
        """Return when the next event is, dropping the ends of sleeps that are over."""
        events = self._events
        while events:
            at, _, act = events[0]
            nap = getattr(act, "__self__", None)
            if type(nap) is not _Nap or nap.task is not None:
                return at
            heapq.heappop(events)
        return math.inf


WallClock = Callable[[], float]
