"""A download without end, in a process of its own, to see what it does to others.

Another process, because two threads of one would wait for each other. It writes how much has
come into eight bytes of memory that both have, which costs neither of them a system call.
"""

import dataclasses
import json
import mmap
import os
import struct
import sys
import time

from benchmarks.origin import TURN_BYTES
from benchmarks.processes import Processes
from benchmarks.reactor import now
from benchmarks.route import PATIENCE_SECONDS, Route, RouteError

#: How a count lies in the memory that a load shares with whoever watches it.
NUMBER = struct.Struct("=Q")
_ENDLESS_BYTES = 1 << 50
#: It has found its pace when this much has come.
_FLOWING_BYTES = 4_000_000


class Bulk:
    """Own the process of an endless download; a context manager, entered when it flows."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def __enter__(self) -> "Bulk":
        self._processes = Processes("bulk")
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._processes.pid_of("bulk")

    @property
    def moved(self) -> int:
        """Return how many bytes have come."""
        (count,) = NUMBER.unpack_from(self._counter)
        assert isinstance(count, int)
        return count

    def _start(self) -> None:
        path = self._processes.folder / "moved"
        path.write_bytes(bytes(NUMBER.size))
        self._counter = open_counter(str(path))
        route = json.dumps(dataclasses.asdict(self._route))
        program = [sys.executable, "-P", "-m", "benchmarks.bulk", route, str(path)]
        self._processes.start("bulk", program)
        deadline = now() + PATIENCE_SECONDS
        while self.moved < _FLOWING_BYTES:
            self._processes.check()
            if now() > deadline:
                raise RouteError("the bulk download did not begin to flow")
            time.sleep(0.01)


def open_counter(path: str) -> mmap.mmap:
    """Map the file `path`, which holds one ``NUMBER``, so that all who do see what one writes."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, NUMBER.size)
    finally:
        os.close(descriptor)


def main(text: str, path: str) -> None:
    """Download over the route `text` until killed, and count into the file `path`."""
    read = json.loads(text)
    target, proxy = read["target"], read["proxy"]
    route = Route(tuple(target), tuple(proxy) if proxy else None, read["login"])
    counter, scratch = open_counter(path), bytearray(TURN_BYTES)
    moved = 0
    with route.open() as sock:
        sock.sendall(b"send %d\n" % _ENDLESS_BYTES)
        while count := sock.recv_into(scratch):
            moved += count
            NUMBER.pack_into(counter, 0, moved)


if __name__ == "__main__":
    main(*sys.argv[1:])
