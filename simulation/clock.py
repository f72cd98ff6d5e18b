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
from typing import TYPE_CHECKING, Any

import structlog
import trio
import trio._core._run as trio_loop

from warren.network import readiness
from warren.network.readiness import Act, LoopClock

if TYPE_CHECKING:
    from collections import deque

logger = structlog.get_logger()

#: Where the time begins: not at 0, which might pass for "never".
BEGINNING = 1000.0


class _Nap:
    """Own the sleep of one task, None once it was cancelled."""

    __slots__ = ("task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task: trio.lowlevel.Task | None = task

    def __call__(self) -> None:
        """Wake the task."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Let the task be cancelled."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


def _not_yet(act: Act) -> None:
    raise AssertionError("the clock is not attached to a running loop")


class _BetweenTasks(trio.abc.Instrument):
    """Do what is to be done soon when tasks leave no time to sleep, as readiness does itself."""

    def __init__(self, act_soon: Act) -> None:
        self._act_soon = act_soon

    def before_io_wait(self, timeout: float) -> None:
        """Act; where the clock was asked before, nothing is left to do."""
        self._act_soon()


class SimulatedClock(LoopClock):
    """Own the time and the events that are to come."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGINNING
        self.happened = 0
        self._events: list[tuple[float, int, Act]] = []  # a heap
        self._order = count()
        self._due: deque[Any] | None = None  # the tasks that trio is going to run
        #: Calls what it is given in this moment, behind what happens in it already.
        self.soon: Callable[[Act], None] = _not_yet

    def attach(self) -> None:
        """Take the place of the running loop's readiness, which looks at sockets: there are none.

        Whether a task was woken is read from trio's own queue, not noted at every step of a task.
        """
        here = readiness.here()
        trio.lowlevel.remove_instrument(here)
        trio.lowlevel.add_instrument(_BetweenTasks(here.act_soon))
        self._due = trio_loop.GLOBAL_RUN_CONTEXT.runner.runq
        self.soon = here.soon

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
            self.at(deadline, nap)
        await trio.lowlevel.wait_task_rescheduled(nap.abort)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Go to `deadline`, or to the first event that makes trio something to do."""
        readiness, events, due = self.readiness, self._events, self._due
        assert readiness is not None, "the simulation asks for it before anything else"
        assert due is not None
        act_soon = readiness.act_soon
        act_soon()
        while not due:
            while events:  # drop the ends of sleeps that are over
                act = events[0][2]
                if type(act) is not _Nap or act.task is not None:
                    break
                heapq.heappop(events)
            at = events[0][0] if events else math.inf
            if at >= deadline:
                if deadline == math.inf:
                    return math.inf  # trio shuts down, and has a word with itself
                self.now = max(self.now, deadline)
                return 0.0
            self.now = at
            while events and events[0][0] <= at:
                self.happened += 1
                try:
                    heapq.heappop(events)[2]()
                except Exception:  # as readiness does
                    logger.exception("a bug in an event")
            act_soon()
        return 0.0
