"""The time of a simulation: it stands still while anything can be done, then jumps.

Trio asks its clock how long to sleep when no task can run. The answer here is always "not at
all": the clock goes to the next event of the wire, or to the next deadline of a task, whichever
comes first, and lets that happen. Events are plain functions, called where a socket's readiness
would be served (``warren.network.readiness``), so bytes that cross ten hosts wake no task.
"""

import heapq
import math
from collections.abc import Callable
from itertools import count

from warren.network.readiness import Act, LoopClock

#: Where the time begins: not at 0, which might pass for "never".
BEGINNING = 1000.0


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

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Go to `deadline`, or to the first event that makes trio something to do."""
        readiness, events = self.readiness, self._events
        assert readiness is not None, "the simulation asks for it before anything else"
        while readiness.serve(1.0) > 0:
            at = events[0][0] if events else math.inf
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


WallClock = Callable[[], float]
