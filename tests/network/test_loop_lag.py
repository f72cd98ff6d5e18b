"""Loop lag: when it is overload, when that is over, and what is measured (DOS-10)."""

import contextlib
import socket
import time
from collections.abc import Iterable

import pytest
import trio

from warren.network import readiness
from warren.network.loop_lag import (
    LASTING_LOOKS,
    LASTING_SECONDS,
    LATE_SECONDS,
    LOOK_SECONDS,
    LagJudge,
    LoopWatch,
    measure_lag,
)
from warren.network.readiness import LoopClock

ON_TIME, LATE = 0.0, 0.3


class Course:
    """Own a judge and its clock: one lag after the other passes as it would."""

    def __init__(self) -> None:
        self.judge = LagJudge()
        self.now = 1000.0

    def take(self, lags: Iterable[float]) -> list[tuple[float, bool]]:
        """Return after how many seconds of `lags` overload began or ended, and which."""
        began, changes = self.now, []
        for lag in lags:
            self.now += LOOK_SECONDS + lag
            if self.judge.note(lag, self.now):
                changes.append((self.now - began, self.judge.is_overloaded))
        return changes


def test_five_seconds_of_late_looks_are_overload() -> None:
    course = Course()

    ((seconds, is_overloaded),) = course.take([LATE] * 20)

    assert is_overloaded
    assert LASTING_SECONDS < seconds < LASTING_SECONDS + 2 * (LOOK_SECONDS + LATE)


def test_what_is_just_quick_enough_is_none() -> None:
    assert Course().take([LATE_SECONDS] * 1000) == []


def test_one_look_on_time_begins_the_count_anew() -> None:
    assert Course().take(([LATE] * 6 + [ON_TIME]) * 100) == []


def test_it_is_over_after_five_seconds_in_which_no_look_was_late() -> None:
    course = Course()
    course.take([LATE] * 20)

    still = course.take(([ON_TIME] * 9 + [LATE]) * 20)
    ((seconds, is_overloaded),) = course.take([ON_TIME] * 20)

    assert still == []
    assert not is_overloaded
    assert LASTING_SECONDS <= seconds <= LASTING_SECONDS + LOOK_SECONDS


@pytest.mark.parametrize("seconds", [1.0, 6.0, 60.0, 86400.0])
def test_a_process_that_was_stopped_or_slept_is_not_overloaded(seconds: float) -> None:
    """Also when it was busy before, and makes good what it missed after."""
    course = Course()

    assert course.take([LATE, seconds, LATE, ON_TIME] * 10) == []


def test_looks_that_take_seconds_each_are_overload_too() -> None:
    course = Course()

    ((_, is_overloaded),) = course.take([2.0] * (LASTING_LOOKS + 1))

    assert is_overloaded


async def test_without_a_measure_nobody_looks() -> None:
    watch = LoopWatch(None)

    await watch.watch()

    assert watch.statistics() == {"overloaded": 0, "overloads": 0}


# ---- what is measured, on the real loop


def lag_beside(sockets: int, seconds: float) -> float:
    """Return the lag measured where so many sockets are always ready and take so long each."""

    async def main() -> float:
        here = readiness.here()
        with contextlib.ExitStack() as undo, trio.fail_after(20):
            for _ in range(sockets):
                near, far = socket.socketpair()
                undo.enter_context(near)
                undo.enter_context(far)
                far.send(b"never read")
                here.read_with(near.fileno(), lambda: time.sleep(seconds))
                undo.callback(here.forget, near.fileno())
            await trio.sleep(0.01)
            return await measure_lag()

    return trio.run(main, clock=LoopClock())


def test_an_idle_loop_is_not_late() -> None:
    assert min(lag_beside(0, 0) for _ in range(5)) < 0.05


def test_the_lag_is_what_all_sockets_before_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that are not served in the same round as a timer."""
    monkeypatch.setattr(readiness, "_MOST_EVENTS", 4)

    lag = lag_beside(20, 0.005)

    assert lag >= 20 * 0.005 * 0.8
