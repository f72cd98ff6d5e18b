"""A long, slow or lossy line, on paper: when bytes that enter it come out at its far end.

``Impairment`` is what somebody asks for, ``Line`` is one direction of one connection::

    enter > queue, bounded as a router's > leaves at the rate > flies for the latency > come out

A line has no clock: every call says what time it is. Loss is shown as what TCP makes of it, a
pause: the direction stands still for as long as a retransmission takes. Order is never changed
and nothing is dropped, so whatever speaks over it needs no retransmission of its own.
"""

import math
import random
import re
from collections import deque
from dataclasses import dataclass

from warren.errors import ConfigError

#: What TCP sends in one packet over Ethernet; each of them may be lost.
SEGMENT_BYTES = 1460
MOST_LATENCY_SECONDS = 10.0
LEAST_RATE = 1000.0
MOST_STALL = 0.5

#: Even a router with no path behind it has some room.
_LEAST_QUEUE = 64 * 1024
#: Bytes on the way at once where no rate bounds them.
_MOST_BYTES = 16 * 1024 * 1024
#: What leaves in less time than this leaves in one piece.
_PIECE_SECONDS = 0.002

_SECONDS = {"ms": 0.001, "s": 1.0}
_BYTES = {"B/s": 1, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9}
_BITS = {"kbit/s": 125, "Mbit/s": 125e3, "Gbit/s": 125e6}
_RATES = {**_BYTES, **_BITS}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)([A-Za-z/]+)")
_EXPECTED = "a latency such as 150ms, a rate such as 12.5MB/s or 100Mbit/s, stall=0.001, or several"


@dataclass(frozen=True)
class Impairment:
    """Hold what a line is like, in both directions; raise ConfigError for what cannot be.

    ``latency`` is in seconds and one way, ``rate`` in bytes per second; ``stall`` is the
    probability that a segment stops its direction, for ``stall_seconds``.
    """

    latency: float = 0.0
    rate: float = math.inf
    stall: float = 0.0
    stall_seconds: float = 0.2  # the least time after which Linux sends again

    def __post_init__(self) -> None:
        for name, seconds in (("latency", self.latency), ("stall time", self.stall_seconds)):
            if not 0 <= seconds <= MOST_LATENCY_SECONDS:
                raise ConfigError(
                    f"a {name} of {seconds:g} s, expected 0 to {MOST_LATENCY_SECONDS:g} s"
                )
        if not self.rate >= LEAST_RATE:
            raise ConfigError(f"a rate of {self.rate:g} B/s, expected {LEAST_RATE:g} B/s or more")
        if not 0 <= self.stall <= MOST_STALL:
            raise ConfigError(f"a stall of {self.stall:g}, expected a probability to {MOST_STALL}")

    @classmethod
    def parse(cls, text: str) -> "Impairment":
        """Read ``150ms,12.5MB/s,stall=0.001:200ms``, of which any part may be missing."""
        found: dict[str, float] = {}
        for part in text.split(","):
            for name, value in _read_part(part.strip()).items():
                if name in found:
                    raise ConfigError(f"a second {name.replace('_', ' ')} in {text[:80]!r}")
                found[name] = value
        return cls(**found)

    def __str__(self) -> str:
        parts = [f"{self.latency!r}s"]
        if self.rate < math.inf:
            parts.append(f"{self.rate!r}B/s")
        if self.stall:
            parts.append(f"stall={self.stall!r}:{self.stall_seconds!r}s")
        return ",".join(parts)

    @property
    def queue_bytes(self) -> int:
        """Return how many bytes may wait to leave: what a round trip carries."""
        if self.rate == math.inf:
            return _MOST_BYTES
        return max(_LEAST_QUEUE, int(2 * self.latency * self.rate))

    @property
    def most_bytes(self) -> int:
        """Return how many bytes may be on the way in one direction, waiting or flying."""
        if self.rate == math.inf:
            return _MOST_BYTES
        return self.queue_bytes + int(self.latency * self.rate)


def _read_part(part: str) -> dict[str, float]:
    if part.startswith("stall="):
        share, colon, seconds = part.removeprefix("stall=").partition(":")
        try:
            stall = {"stall": float(share)}
        except ValueError:
            raise ConfigError(f"found {part[:40]!r}, expected stall=0.001") from None
        if not colon:
            return stall
        return {**stall, "stall_seconds": _read_quantity(seconds, _SECONDS, "a time as 200ms")}
    match = _QUANTITY.fullmatch(part)
    if match is not None and match[2] in _SECONDS:
        return {"latency": float(match[1]) * _SECONDS[match[2]]}
    return {"rate": _read_quantity(part, _RATES, _EXPECTED)}


def _read_quantity(text: str, units: dict[str, float], expected: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ConfigError(f"found {text[:40]!r}, expected {expected}")
    return float(match[1]) * units[match[2]]


class Line:
    """Own the bytes on their way in one direction of one connection.

    `rng` draws which segments stall. Times are in seconds, of any clock that never goes back.
    """

    def __init__(self, impairment: Impairment, rng: random.Random) -> None:
        self.impairment = impairment
        self.carried = 0  # bytes that came out
        self.stalls = 0
        self._rng = rng
        self._waiting: deque[tuple[float, bytes]] = deque()  # when it leaves, what
        self._flying: deque[tuple[float, bytes]] = deque()  # when it comes out, what
        self._waiting_bytes = self._flying_bytes = 0
        self._free_at = -math.inf  # when all that waits has left
        self._segments = self._draw() if impairment.stall else 0.0  # until the next stall
        rate = impairment.rate
        self._piece = max(SEGMENT_BYTES, int(rate * _PIECE_SECONDS)) if rate < math.inf else 0

    def __repr__(self) -> str:
        return (
            f"<Line {self.impairment}, {self._waiting_bytes} waiting, {self._flying_bytes} flying>"
        )

    def room(self, now: float) -> int:
        """Return how many bytes may enter now; when there are none, not before some came out."""
        self._advance(now)
        most = self.impairment.most_bytes - self._flying_bytes
        return max(0, min(self.impairment.queue_bytes, most) - self._waiting_bytes)

    @property
    def next_at(self) -> float:
        """Return when the next bytes come out, infinity when there are none."""
        if self._flying:
            return self._flying[0][0]
        return self._waiting[0][0] + self.impairment.latency if self._waiting else math.inf

    def enter(self, data: bytes, now: float) -> None:
        """Let `data` in, for which there must be room."""
        assert len(data) <= self.room(now), "more than the line takes"
        piece = self._piece or len(data)
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            begins_at = max(now, self._free_at) + self._stall_seconds(len(part))
            self._free_at = begins_at + len(part) / self.impairment.rate
            self._waiting.append((self._free_at, part))
        self._waiting_bytes += len(data)

    def end(self, now: float) -> None:
        """Let the end of the stream in; it travels behind all bytes and comes out as b""."""
        self._waiting.append((max(now, self._free_at), b""))

    def leave(self, now: float) -> list[bytes]:
        """Return what has come out by now, in order."""
        self._advance(now)
        out: list[bytes] = []
        while self._flying and self._flying[0][0] <= now:
            out.append(self._flying.popleft()[1])
        size = sum(map(len, out))
        self._flying_bytes -= size
        self.carried += size
        return out

    def _advance(self, now: float) -> None:
        """Let what has left by now fly."""
        while self._waiting and self._waiting[0][0] <= now:
            left_at, part = self._waiting.popleft()
            self._waiting_bytes -= len(part)
            self._flying.append((left_at + self.impairment.latency, part))
            self._flying_bytes += len(part)

    def _stall_seconds(self, size: int) -> float:
        """Return for how long the next `size` bytes stand still before they leave."""
        if not self.impairment.stall:
            return 0.0
        stalls = 0
        self._segments -= math.ceil(size / SEGMENT_BYTES)
        while self._segments < 0:
            self._segments += self._draw()
            stalls += 1
        self.stalls += stalls
        return stalls * self.impairment.stall_seconds

    def _draw(self) -> float:
        """Draw how many segments come through up to and with the next one that stalls."""
        return 1 + math.log1p(-self._rng.random()) // math.log1p(-self.impairment.stall)
