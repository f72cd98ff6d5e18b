"""Many sockets in one process, at little cost to the machine that is measured.

A task is a generator that owns one non-blocking socket: it works until the socket lets it no
further, and yields what it waits for. So both ends of a transfer read from top to bottom, and a
thousand of them need one loop and no threads.
"""

import contextlib
import select
import socket
import time
from collections.abc import Generator

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT

#: What a task yields is READABLE or WRITABLE.
Task = Generator[int, None, None]


class StalledError(Exception):
    """Tell that nothing moved any more."""


class Reactor:
    """Own which task waits for which socket. The tasks close their sockets, or their maker does.

    An error of a task is raised by ``add`` or ``run``; tasks that are to fail alone catch theirs.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Task, int]] = {}

    def add(self, sock: socket.socket, task: Task) -> None:
        """Begin `task`, whose socket is `sock`: it runs until it has to wait."""
        self._advance(sock.fileno(), task, 0)

    def run(self, *, patience: float | None = None) -> None:
        """Run until no task is left; raise StalledError after `patience` seconds of silence."""
        while self._waiting:
            events = self._epoll.poll(patience)
            if not events:
                raise StalledError(f"{len(self._waiting)} sockets were silent for {patience} s")
            for descriptor, _ in events:
                found = self._waiting.pop(descriptor, None)
                if found is not None:
                    self._advance(descriptor, *found)

    def close(self) -> None:
        """Forget all tasks; each is closed, with what it has to close."""
        waiting, self._waiting = self._waiting, {}
        for task, _ in waiting.values():
            task.close()
        self._epoll.close()

    def _advance(self, descriptor: int, task: Task, mask: int) -> None:
        try:
            wanted = next(task)
        except BaseException as end:
            # A socket that was closed has left by itself, and its number may be another's now.
            if descriptor not in self._waiting and mask:
                self._leave(descriptor)
            if not isinstance(end, StopIteration):
                raise
            return
        if not mask:
            self._epoll.register(descriptor, wanted)
        elif wanted != mask:
            self._epoll.modify(descriptor, wanted)
        self._waiting[descriptor] = task, wanted

    def _leave(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)


def receive_exactly(sock: socket.socket, count: int) -> Generator[int, None, bytes]:
    """Receive `count` bytes; raise ConnectionError when the stream ends before."""
    data = b""
    while len(data) < count:
        try:
            chunk = sock.recv(count - len(data))
        except BlockingIOError:
            yield READABLE
            continue
        if not chunk:
            raise ConnectionError(f"the stream ended {count - len(data)} bytes early")
        data += chunk
    return data


def send_all(sock: socket.socket, data: bytes) -> Task:
    """Send all of `data`."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            yield WRITABLE


def now() -> float:
    """Return seconds of the clock that everything here is timed with."""
    return time.perf_counter()
