"""A bug that happens again and again is told once a minute, whoever logs it."""

import logging
import subprocess
import sys

import structlog

from warren.repetitions import BETWEEN_SECONDS, Repetitions

FLOOD = """
import logging
import structlog
from warren.service import LogStyle, set_up_logging

set_up_logging(LogStyle())

def happen(log, word):
    try:
        if word == "one":
            raise ValueError("the first bug")
        raise ValueError("the second bug")
    except ValueError:
        log.exception("a bug")

for _ in range(500):
    for word in ("one", "two"):
        happen(structlog.get_logger(), word)
    happen(logging.getLogger("a.library"), "one")
structlog.get_logger().warning("no bug")
structlog.get_logger().warning("no bug")
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tell(repetitions: Repetitions, error: Exception, event: str = "a bug") -> int | None:
    """Log `error`; return how often it is said to have happened meanwhile, None for not at all."""
    try:
        fields = repetitions(None, "error", {"event": event, "exc_info": error})
    except structlog.DropEvent:
        return None
    return int(fields.get("repeated", 0))


def raised(message: str = "") -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_bug_is_told_once_a_minute_with_its_number() -> None:
    clock = Clock()
    repetitions = Repetitions(clock)

    told = [tell(repetitions, raised()) for _ in range(10)]
    clock.now = BETWEEN_SECONDS
    later = [tell(repetitions, raised()) for _ in range(2)]

    assert told == [0] + [None] * 9
    assert later == [9, None]


def test_another_line_or_other_words_are_another_bug() -> None:
    repetitions = Repetitions(Clock())

    assert tell(repetitions, raised()) == 0
    assert tell(repetitions, ZeroDivisionError()) == 0
    assert tell(repetitions, raised(), "elsewhere") == 0
    assert tell(repetitions, raised("with another message")) is None


def test_what_has_no_traceback_passes() -> None:
    repetitions = Repetitions(Clock())
    fields = {"event": "no consensus yet"}
    record = logging.LogRecord("a.library", logging.WARNING, "", 1, "slow", (), None)

    assert [repetitions(None, "warning", dict(fields)) for _ in range(3)] == [fields] * 3
    assert all(repetitions.filter(record) for _ in range(3))


def test_a_flood_of_bugs_is_a_few_lines_in_the_log() -> None:  # DOS-9
    done = subprocess.run(
        [sys.executable, "-c", FLOOD], capture_output=True, text=True, timeout=30, check=True
    )

    text = done.stderr
    assert text.count("ValueError: the first bug") == 2
    assert text.count("ValueError: the second bug") == 1
    assert text.count("no bug") == 2
