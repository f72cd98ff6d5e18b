"""Repetitions in the log: a bug is told once a minute, with how often it happened meanwhile.

Whoever can cause a bug can cause it a thousand times a second, and each traceback has kilobytes:
the log would fill the disk, and hide everything else (DOS-9). Bugs are the same if they are told in
the same words and were raised at the same line.
"""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType

import structlog

BETWEEN_SECONDS = 60.0
#: Bugs that are told apart; there are fewer lines than this that raise one.
_MOST_KEYS = 1024

Key = tuple[str, str, int]


class Repetitions:
    """Own when each bug was told last, and how often it happened since then.

    It is a processor of structlog and a filter of ``logging``: what has no traceback passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[Key, tuple[float, int]] = {}

    def admit(self, key: Key) -> int | None:
        """Return how many were left out before this one, or None if it is to be left out."""
        now = self._clock()
        at, left_out = self._told.get(key, (None, 0))
        if at is not None and now - at < BETWEEN_SECONDS:
            self._told[key] = at, left_out + 1
            return None
        if len(self._told) >= _MOST_KEYS:
            self._told.clear()
        self._told[key] = now, 0
        return left_out

    def __call__(
        self, _logger: object, _method: str, fields: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Leave out what was just told; raises structlog.DropEvent then."""
        error = _error_in(fields.get("exc_info"))
        if error is not None:
            left_out = self.admit((str(fields.get("event")), *_place_of(error.__traceback__)))
            if left_out is None:
                raise structlog.DropEvent
            if left_out:
                fields["repeated"] = left_out
        return fields

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a library's `record` is to be written."""
        error = _error_in(record.exc_info)
        if error is None:
            return True
        return self.admit((record.name, *_place_of(error.__traceback__))) is not None


def _error_in(exc_info: object) -> BaseException | None:
    """Return the exception that is logged: given as itself, as a triple, or as the present one."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    if isinstance(exc_info, BaseException):
        return exc_info
    return sys.exception() if exc_info else None


def _place_of(traceback: TracebackType | None) -> tuple[str, int]:
    """Return the file and line where it was raised."""
    if traceback is None:
        return "", 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
