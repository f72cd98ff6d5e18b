"""How fast one stream is over a long path, and how long an echo beside it takes.

    .venv/bin/python -m benchmarks.long_paths

Each path is a lab of three relays, all of which every circuit takes, with impairments in front of
some of them (``warren lab --impair``), so nothing is asked of the kernel. What is printed is a
table for docs/performance.md.
"""

import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.bulk import Bulk
from benchmarks.client import Direction, Echo
from benchmarks.figures import percentile
from benchmarks.origin import TURN_BYTES, pattern, raise_file_limit
from benchmarks.reactor import now
from benchmarks.route import Route, RouteError, wait_exactly
from benchmarks.systems import Origin, WarrenLab, running_origin

#: So long would a transfer take at the line's rate: windows find their pace in the first half.
TRANSFER_SECONDS = 8.0
ECHO_SECONDS = 8.0
_LAB = ("--relays", "3", "--exits", "1")


@dataclass(frozen=True)
class LongPath:
    """Hold what is in front of which relays, and the rate of it all in bytes per second."""

    name: str
    impairments: tuple[str, ...]
    rate: float

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options of the lab."""
        return (*_LAB, *(word for each in self.impairments for word in ("--impair", each)))


PATHS = (
    LongPath("1 ms, 100 Mbit/s", ("exit1=0.5ms,12.5MB/s",), 12.5e6),
    LongPath("30 ms, 10 Mbit/s", ("exit1=15ms,1.25MB/s",), 1.25e6),
    LongPath("30 ms, 100 Mbit/s", ("exit1=15ms,12.5MB/s",), 12.5e6),
    LongPath("300 ms, 10 Mbit/s", ("exit1=150ms,1.25MB/s",), 1.25e6),
    LongPath("300 ms, 100 Mbit/s", ("exit1=150ms,12.5MB/s",), 12.5e6),
    LongPath("the same, first or second link", ("relay1=150ms,12.5MB/s",), 12.5e6),
    LongPath("three links of 100 ms, 100 Mbit/s", ("all=50ms,12.5MB/s",), 12.5e6),
    LongPath(
        "300 ms, 100 Mbit/s, one segment of 10,000 lost",
        ("exit1=150ms,12.5MB/s,stall=0.0001",),
        12.5e6,
    ),
)


def second_half_rate(route: Route, direction: Direction, size: int) -> float:
    """Move `size` bytes over a new stream; return the bytes per second of the second half.

    Raises RouteError or OSError.
    """
    half = size // 2
    with route.open() as sock:
        first, end = (_download if direction == "down" else _upload)(sock, half)
    return half / (end - first)


def _download(sock: socket.socket, half: int) -> tuple[float, float]:
    """Receive two halves; return when each of them was there."""
    sock.sendall(b"send %d\n" % (2 * half))
    first = _receive(sock, half)
    return first, _receive(sock, half)


def _receive(sock: socket.socket, missing: int) -> float:
    scratch = memoryview(bytearray(TURN_BYTES))
    while missing > 0:
        count = sock.recv_into(scratch[:missing])
        if count == 0:
            raise RouteError(f"the download ended {missing} bytes early")
        missing -= count
    return now()


def _upload(sock: socket.socket, half: int) -> tuple[float, float]:
    """Send two halves without a pause; return when the origin had each of them."""
    request, answer = b"take %d\n" % half, b"%d\n" % half

    def wait_for_answer() -> float:
        if wait_exactly(sock, len(answer)) != answer:
            raise RouteError("the origin counted other bytes than were sent")
        return now()

    # The first answer comes while the second half is being sent.
    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(wait_for_answer)
        for _ in range(2):
            sock.sendall(request)
            for block in _blocks(half):
                sock.sendall(block)
        return first.result(), wait_for_answer()


def _blocks(size: int) -> Iterator[memoryview]:
    view = memoryview(pattern())
    for place in range(0, size, len(view)):
        yield view[: min(len(view), size - place)]


def measure(path: LongPath, origin: Origin) -> str:
    """Run a lab with `path` in it; return a row of the table."""
    lab = WarrenLab(origin, *path.options)
    try:
        size = int(path.rate * TRANSFER_SECONDS)
        down = second_half_rate(lab.route.alone(), "down", size)
        up = second_half_rate(lab.route.alone(), "up", size)
        with Echo(lab.route.alone()) as echo:
            idle = echo.round_trips(ECHO_SECONDS)
            with Bulk(lab.route.alone()):
                beside = echo.round_trips(ECHO_SECONDS)
        lab.check()
    finally:
        lab.close()
    rates = [f"{rate / 1e6:.2f} MB/s, {rate / path.rate:.0%}" for rate in (down, up)]
    echoes = [f"{1000 * percentile(times, 99):.0f} ms" for times in (idle, beside)]
    return f"| {' | '.join((path.name, *rates, *echoes))} |"


def main(arguments: Sequence[str]) -> int:
    """Measure all paths, or those whose names contain one of `arguments`."""
    raise_file_limit()
    sys.stdout.write(
        "| path | down | up | echo, p99 | beside a download |\n|---|---|---|---|---|\n"
    )
    with running_origin() as origin:
        for path in PATHS:
            if not arguments or any(word in path.name for word in arguments):
                sys.stdout.write(measure(path, origin) + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
