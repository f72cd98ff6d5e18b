"""The measuring client: an application that speaks SOCKS5, and says how long things took.

It holds one route to the origin, opens streams over it, moves bytes either way, asks for one
byte, or opens streams as fast as it can. What all of it costs the machine is kept small, because
the client shares two cores with what it measures.
"""

import hashlib
import itertools
import socket
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.origin import TURN_BYTES, digest, pattern
from benchmarks.reactor import READABLE, WRITABLE, Reactor, Task, now, receive_exactly, send_all

Direction = Literal["down", "up"]
Place = tuple[str, int]

PATIENCE_SECONDS = 60.0
_ENDLESS_BYTES = 1 << 50
_RETRY_SECONDS = 0.005

_numbers = itertools.count(1)


class RouteError(Exception):
    """Tell that a proxy refused, or that what came is not what was sent."""


@dataclass(frozen=True)
class Route:
    """Hold how to reach the origin: directly, or through a SOCKS5 proxy, perhaps with a login.

    Streams of different logins never share a circuit, where there are circuits.
    """

    target: Place
    proxy: Place | None = None
    login: str = ""

    def alone(self) -> "Route":
        """Return this route with a login that nobody had before."""
        return replace(self, login=f"bench-{time.time_ns():x}-{next(_numbers)}")

    def open(self) -> socket.socket:
        """Return a blocking stream to the origin; raise RouteError or OSError."""
        sock = socket.create_connection(self.proxy or self.target, timeout=PATIENCE_SECONDS)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _talk(sock, _introduce(self))
        except BaseException:
            sock.close()
            raise
        return sock


#: Yields what to send and how many bytes to wait for, and gets them.
_Talk = Generator[tuple[bytes, int], bytes, None]


def _introduce(route: Route) -> _Talk:
    """Speak the application's side of SOCKS5 (RFC 1928, RFC 1929) until the stream is open."""
    if route.proxy is None:
        return
    method = b"\x02" if route.login else b"\x00"
    if (yield b"\x05\x01" + method, 2) != b"\x05" + method:
        raise RouteError("the proxy does not take this kind of login")
    if route.login:
        name = route.login.encode("ascii")
        if (yield b"\x01" + bytes((len(name),)) + name + b"\x01x", 2) != b"\x01\x00":
            raise RouteError("the proxy refused the login")
    host, port = route.target
    request = b"\x05\x01\x00\x01" + socket.inet_aton(host) + struct.pack("!H", port)
    _, code, _, kind = yield request, 4
    if code:
        raise RouteError(f"the proxy answered with SOCKS5 code {code}, expected 0")
    yield b"", (16 if kind == 4 else 4) + 2


def _talk(sock: socket.socket, talk: _Talk) -> None:
    """Hold `talk` over a blocking socket."""
    try:
        message, count = next(talk)
        while True:
            sock.sendall(message)
            message, count = talk.send(_receive_exactly(sock, count))
    except StopIteration:
        pass


def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = sock.recv(count)
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise RouteError("the proxy closed the connection")
        data += chunk
    return data


# ---- one byte


def first_byte_seconds(route: Route) -> float:
    """Return the seconds from connecting to the first byte of an answer, on a new stream."""
    begun = now()
    with route.open() as sock:
        _ping(sock)
        return now() - begun


def _ping(sock: socket.socket) -> None:
    sock.sendall(b"ping\n")
    if _receive_exactly(sock, 5) != b"pong\n":
        raise RouteError("the origin's answer was changed on its way")


def wait_for_answer(route: Route, seconds: float) -> None:
    """Ask until the origin answers; raise RouteError when it has not after `seconds`."""
    deadline = now() + seconds
    while True:
        try:
            first_byte_seconds(route)
        except (OSError, RouteError) as error:
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
    SHA-256 that is compared; otherwise bytes are counted.
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


_scratch = memoryview(bytearray(TURN_BYTES))


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
        place = sent % len(view)
        try:
            sent += sock.send(view[place : place + min(size - sent, TURN_BYTES)])
        except BlockingIOError:
            pass
        yield WRITABLE
    expected = (proof or str(size)).encode() + b"\n"
    answer = yield from receive_exactly(sock, len(expected))
    if answer != expected:
        raise RouteError(f"{size} bytes went up, and the origin found {answer!r}")


def drain(route: Route, add: "Counter") -> None:
    """Download without end, until the process is killed; `add` is told of every byte."""
    with route.open() as sock:
        sock.sendall(b"send %d\n" % _ENDLESS_BYTES)
        while count := sock.recv_into(_scratch):
            add(count)


# ---- many streams


class Counter:
    """Add up numbers where another process can see them."""

    def __init__(self, cell: "Cell") -> None:
        self._cell = cell

    def __call__(self, count: int) -> None:
        self._cell.value += count


class Cell:
    """Be a number in shared memory."""

    value: int


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


def _visit(
    sock: socket.socket, reactor: Reactor, route: Route, end: float, visits: Visits
) -> Task:
    with sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect_ex(route.proxy or route.target)
            yield WRITABLE
            yield from _talk_in_turn(sock, _introduce(route))
            yield from send_all(sock, b"ping\n")
            if (yield from receive_exactly(sock, 5)) != b"pong\n":
                raise RouteError("the origin's answer was changed on its way")
            visits.count += now() < end
        except (OSError, RouteError) as error:
            visits.failures.append(str(error))
    _visit_again(reactor, route, end, visits)


def _talk_in_turn(sock: socket.socket, talk: _Talk) -> Task:
    """Hold `talk` over a socket of a reactor."""
    try:
        message, count = next(talk)
        while True:
            yield from send_all(sock, message)
            message, count = talk.send((yield from receive_exactly(sock, count)))
    except StopIteration:
        pass
