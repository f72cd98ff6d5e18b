"""The measuring client: an application that says how long things took.

It opens streams over a route, moves bytes either way, asks for one byte, or opens streams as
fast as it can. What that costs the machine is kept small, because the client shares it with what
it measures.
"""

import hashlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.origin import TURN_BYTES, digest, pattern
from benchmarks.reactor import READABLE, WRITABLE, Reactor, Task, now, receive_exactly, send_all
from benchmarks.route import (
    PATIENCE_SECONDS,
    Route,
    RouteError,
    introduce,
    talk_in_turn,
    wait_exactly,
)

Direction = Literal["down", "up"]

_RETRY_SECONDS = 0.005

_scratch = memoryview(bytearray(TURN_BYTES))


# ---- one byte


def first_byte_seconds(route: Route) -> float:
    """Return the seconds from connecting to the first byte of an answer, on a new stream."""
    begun = now()
    with route.open() as sock:
        _ping(sock)
        return now() - begun


def _ping(sock: socket.socket) -> None:
    sock.sendall(b"ping\n")
    if wait_exactly(sock, 5) != b"pong\n":
        raise RouteError("the origin's answer was changed on its way")


def wait_for_answer(route: Route, seconds: float, check: Callable[[], None]) -> None:
    """Ask until the origin answers; raise RouteError when it has not after `seconds`.

    Whenever there was no answer, `check` may raise its reason not to go on.
    """
    deadline = now() + seconds
    while True:
        try:
            first_byte_seconds(route)
        except (OSError, RouteError) as error:
            check()
            if now() > deadline:
                raise RouteError(f"no answer within {seconds:.0f} s: {error}") from error
            time.sleep(_RETRY_SECONDS)
        else:
            return


class Echo:
    """Own an open stream on which every byte comes back; a context manager."""

    def __init__(self, route: Route) -> None:
        self._sock = route.open()
        self._sock.sendall(b"echo\n")

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def round_trips(self, seconds: float, most: int = 3000) -> list[float]:
        """Send one byte after the other for `seconds`; return how long each took, in seconds."""
        taken: list[float] = []
        end = now() + seconds
        while (begun := now()) < end and len(taken) < most:
            self._sock.send(b"x")
            if self._sock.recv(1) != b"x":
                raise RouteError("the echo ended")
            taken.append(now() - begun)
        return taken


class IdleStreams:
    """Own many open streams that have each been used once; a context manager."""

    def __init__(self, route: Route, count: int) -> None:
        self._socks: list[socket.socket] = []
        try:
            for _ in range(count):
                self._socks.append(route.open())
                _ping(self._socks[-1])
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "IdleStreams":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._socks:
            sock.close()

    def check(self) -> None:
        """Use each once more; raise RouteError or OSError when one has died."""
        for sock in self._socks:
            _ping(sock)


# ---- many bytes


def transfer(
    route: Route, direction: Direction, streams: int, size: int, *, is_checked: bool = False
) -> float:
    """Move `size` bytes in all over `streams` at once; return the seconds from asking to the end.

    The streams are open before the clock starts. With `is_checked` every byte is part of a
    SHA-256 that is compared; otherwise bytes are counted. Raises RouteError, StalledError or
    OSError.
    """
    each = size // streams
    move = _download if direction == "down" else _upload
    proof = digest(each) if is_checked else ""
    reactor = Reactor()
    socks: list[socket.socket] = []
    try:
        for _ in range(streams):
            socks.append(route.open())
            socks[-1].setblocking(False)
        begun = now()
        for sock in socks:
            reactor.add(sock, move(sock, each, proof))
        reactor.run(patience=PATIENCE_SECONDS)
        return now() - begun
    finally:
        reactor.close()
        for sock in socks:
            sock.close()


def _download(sock: socket.socket, size: int, proof: str) -> Task:
    yield from send_all(sock, b"send %d\n" % size)
    total = hashlib.sha256()
    missing = size
    while missing > 0:
        yield READABLE
        try:
            count = sock.recv_into(_scratch[:missing])
        except BlockingIOError:
            continue
        if count == 0:
            raise RouteError(f"the download ended {missing} bytes early")
        missing -= count
        if proof:
            total.update(_scratch[:count])
    if proof and total.hexdigest() != proof:
        raise RouteError(f"{size} bytes came down changed: SHA-256 {total.hexdigest()}")


def _upload(sock: socket.socket, size: int, proof: str) -> Task:
    wish = " check" if proof else ""
    yield from send_all(sock, f"take {size}{wish}\n".encode())
    view = memoryview(pattern())
    sent = 0
    while sent < size:
        yield WRITABLE
        place = sent % len(view)
        try:
            sent += sock.send(view[place : place + min(size - sent, TURN_BYTES)])
        except BlockingIOError:
            continue
    expected = (proof or str(size)).encode() + b"\n"
    answer = yield from receive_exactly(sock, len(expected))
    if answer != expected:
        raise RouteError(f"{size} bytes went up, and the origin found {answer!r}")


# ---- many streams


@dataclass
class Visits:
    """Hold what came of opening one stream after the other."""

    count: int = 0
    failures: list[str] = field(default_factory=list)


def open_many(route: Route, workers: int, seconds: float) -> Visits:
    """Let each of `workers` open stream after stream, asking for one byte on each."""
    visits = Visits()
    reactor = Reactor()
    end = now() + seconds
    try:
        for _ in range(workers):
            _visit_again(reactor, route, end, visits)
        reactor.run(patience=PATIENCE_SECONDS)
    finally:
        reactor.close()
    return visits


def _visit_again(reactor: Reactor, route: Route, end: float, visits: Visits) -> None:
    if now() < end:
        sock = socket.socket()
        sock.setblocking(False)
        reactor.add(sock, _visit(sock, reactor, route, end, visits))


def _visit(sock: socket.socket, reactor: Reactor, route: Route, end: float, visits: Visits) -> Task:
    with sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect_ex(route.proxy or route.target)
            yield WRITABLE
            yield from talk_in_turn(sock, introduce(route))
            yield from send_all(sock, b"ping\n")
            if (yield from receive_exactly(sock, 5)) != b"pong\n":
                raise RouteError("the origin's answer was changed on its way")
            visits.count += 1
        except (OSError, RouteError) as error:
            visits.failures.append(str(error))
    _visit_again(reactor, route, end, visits)
