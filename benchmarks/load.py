"""Loads without end, in a process of their own, to see what they cost somebody else.

``benchmarks.client`` does the work; here it goes on until the load is closed, which resets
whatever is open then. Only round trips are counted here: cells and streams are counted by those
who carry them.
"""

import dataclasses
import json
import math
import mmap
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.bulk import NUMBER, open_counter
from benchmarks.client import Direction, Echo, open_many, transfer
from benchmarks.origin import raise_file_limit
from benchmarks.processes import Processes
from benchmarks.route import Route

_ENDLESS_BYTES = 1 << 50
_WORKERS = 50


class Load:
    """Own the process of one of ``LOADS``; a context manager."""

    def __init__(self, route: Route, name: str) -> None:
        self._route, self._name = route, name

    def __enter__(self) -> "Load":
        self._processes = Processes("load")
        path = self._processes.folder / "count"
        path.write_bytes(bytes(NUMBER.size))
        self._counter = open_counter(str(path))
        route = json.dumps(dataclasses.asdict(self._route))
        program = [sys.executable, "-P", "-m", "benchmarks.load", self._name, route, str(path)]
        self._processes.start(self._name, program)
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._processes.pid_of(self._name)

    @property
    def round_trips(self) -> int:
        """Return how many bytes have come back, for ``echo``."""
        (count,) = NUMBER.unpack_from(self._counter)
        assert isinstance(count, int)
        return count

    def check(self) -> None:
        """Raise ProcessError when the load has ended, with the reason."""
        self._processes.check()


def _move(direction: Direction, streams: int, route: Route, _: mmap.mmap) -> None:
    transfer(route, direction, streams, _ENDLESS_BYTES)


def _echo(route: Route, counter: mmap.mmap) -> None:
    with Echo(route) as echo:
        count = 0
        while True:
            count += len(echo.round_trips(math.inf, most=1))
            NUMBER.pack_into(counter, 0, count)


def _visit(route: Route, _: mmap.mmap) -> None:
    visits = open_many(route, _WORKERS, math.inf)
    raise AssertionError(f"visits ended after {visits.count}")


LOADS: dict[str, Callable[[Route, mmap.mmap], None]] = {
    "down": partial(_move, "down", 1),
    "up": partial(_move, "up", 1),
    "down50": partial(_move, "down", 50),
    "up50": partial(_move, "up", 50),
    "echo": _echo,
    "streams": _visit,
}


def main(name: str, text: str, path: str) -> None:
    """Put the load `name` on the route `text` until killed."""
    raise_file_limit()
    read = json.loads(text)
    proxy = read["proxy"]
    route = Route(tuple(read["target"]), tuple(proxy) if proxy else None, read["login"])
    LOADS[name](route, open_counter(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
