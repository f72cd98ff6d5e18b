"""Idle streams: nothing has moved for long, or only one side still talks, and has for longer.

Nothing is noted when bytes move, which would cost something for every cell: whoever looks now and
again compares counts that the streams have anyway. So a time is exact to one look. Exits end idle
streams (EXT-10), and so does a client, which need not trust its exits to do it (FE-11). One that is
only quiet acknowledges the little that it had not yet, so that nobody keeps it for long (DOS-5).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from warren.protocol.stream import StreamProtocol, StreamState

LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class IdleLimits:
    """Bound how long a stream lives on which nothing moves, and how long one that is half-open.

    Half-open is a stream of which one side has said its last; the other may go on meanwhile.
    """

    idle_seconds: float = 600
    half_open_seconds: float = 3600


class Idleness:
    """Own how far one stream was when it last moved, and since when it has been half-open."""

    __slots__ = ("_half_open_since", "_moved", "_moved_at")

    def __init__(self, now: float) -> None:
        self._moved = 0
        self._moved_at = now
        self._half_open_since: float | None = None

    def is_overdue(self, stream: StreamProtocol, now: float, limits: IdleLimits) -> bool:
        """Look at the stream; tell whether it has lived too long (EXT-10)."""
        moved = stream.written + stream.received
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        elif now - self._moved_at > limits.idle_seconds:
            return True
        else:
            stream.settle()
        if stream.eof_received == stream.eof_due:  # neither side has ended, or both
            self._half_open_since = None
        elif self._half_open_since is None:
            self._half_open_since = now
        else:
            return now - self._half_open_since > limits.half_open_seconds
        return False


class IdleWatch:
    """Own the idleness of all streams that there were at the last look."""

    def __init__(self, limits: IdleLimits) -> None:
        self._limits = limits
        self._known: dict[StreamProtocol, Idleness] = {}

    def overdue(self, streams: Iterable[StreamProtocol], now: float) -> list[StreamProtocol]:
        """Look at `streams`, which are all there are; return those that have lived too long."""
        before, self._known = self._known, {}
        overdue = []
        for stream in streams:
            if stream.state is StreamState.ENDED or stream.end_due is not None:
                continue
            known = self._known[stream] = before.get(stream) or Idleness(now)
            if known.is_overdue(stream, now, self._limits):
                overdue.append(stream)
        return overdue
