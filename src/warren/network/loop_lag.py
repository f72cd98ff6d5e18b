"""Loop lag: how long whoever has something for this process waits for his turn (DOS-10).

All that a process does is done in turns of one loop. One link has 64 cells or a few more in a turn
(``link``), so nobody keeps the others out alone; but all of them together may ask for more than a
processor can do, and then every turn is long for everybody. So twice a second a socket of our own
becomes readable, as any peer's does, and we see when we are told: behind all others that are
ready. That every look is late, for seconds, is overload; that none is any more is its end. A
process that was stopped, or slept, is late once, and has soon made good what it missed.
"""

import contextlib
import os
import time
from collections.abc import Awaitable, Callable

import structlog
import trio

from warren.network import readiness
from warren.network.bucket import SeldomLine

logger = structlog.get_logger()

LOOK_SECONDS = 0.5
#: A look that took longer is late.
LATE_SECONDS = 0.25
#: All looks for so long, and so many at least, must be late for overload, and none for its end.
LASTING_SECONDS, LASTING_LOOKS = 5.0, 4

#: Waits until whoever has become ready now has had his turn; returns after how many seconds.
MeasureLag = Callable[[], Awaitable[float]]


class LagJudge:
    """Own whether the loop is overloaded, by how late it was lately."""

    def __init__(self) -> None:
        self.is_overloaded = False
        self._since = 0.0
        self._looks = 0  # in a row, that say the contrary

    def note(self, lag: float, now: float) -> bool:
        """Take one more lag, in seconds; return whether overload has begun or ended with it."""
        if (lag > LATE_SECONDS) is self.is_overloaded:
            self._looks = 0
            return False
        if not self._looks:
            self._since = now
        self._looks += 1
        if self._looks < LASTING_LOOKS or now - self._since < LASTING_SECONDS:
            return False
        self._looks = 0
        self.is_overloaded = not self.is_overloaded
        return True


class LoopWatch:
    """Own the looking at this process's loop, and how often it was overloaded.

    ``watch`` must be running; without `measure` nobody looks.
    """

    def __init__(self, measure: MeasureLag | None) -> None:
        self._measure = measure
        self._judge = LagJudge()
        self._line = SeldomLine()
        self._is_told = False
        self._began = 0.0
        self.overloads = 0

    @property
    def is_overloaded(self) -> bool:
        """Tell whether there is more to do than this process can, for some seconds already."""
        return self._judge.is_overloaded

    async def watch(self) -> None:
        """Look for ever."""
        if self._measure is None:
            return
        while True:
            due = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(due)
            late = trio.current_time() - due  # as it is when tasks, or other processes, take long
            lag = max(late, await self._measure())
            now = trio.current_time()
            if self._judge.note(lag, now):
                self._tell(lag, now)

    def _tell(self, lag: float, now: float) -> None:
        if self.is_overloaded:
            self.overloads += 1
            self._began = now
            self._is_told = self._line.is_due(now)
            if self._is_told:
                logger.warning(
                    "this process has more to do than it can, new circuits are refused: if that "
                    "lasts and nobody attacks, give it another core (workers), or less (bandwidth)",
                    late_seconds=round(lag, 3),
                )
        elif self._is_told:
            seconds = round(now - self._began, 1)
            logger.info("this process keeps up again, and takes new circuits", after=seconds)

    def statistics(self) -> dict[str, int]:
        """Return whether it is overloaded now, 1 or 0, and how often that began."""
        return {"overloaded": int(self.is_overloaded), "overloads": self.overloads}


async def measure_lag() -> float:
    """Return how long a socket that has become readable now waits until it is served, in seconds.

    Where sockets are served by tasks it is how long a task waits that could go on.
    """
    here, began = readiness.here(), time.perf_counter()
    if not here.is_working:
        await trio.lowlevel.checkpoint()
        return time.perf_counter() - began
    told = trio.Event()
    with contextlib.ExitStack() as undo:
        try:
            reading, writing = os.pipe()
        except OSError:  # too many files are open: another look will do
            return 0.0
        undo.callback(os.close, writing)
        undo.callback(os.close, reading)
        undo.callback(here.forget, reading)
        here.read_with(reading, told.set)
        os.write(writing, b"?")
        await told.wait()
    return time.perf_counter() - began
