"""The way to the origin, and SOCKS5 as an application speaks it to get there.

The words are one generator, so that a patient client says them over a blocking socket and an
impatient one over fifty sockets at a time.
"""

import itertools
import socket
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

from benchmarks.reactor import Task, receive_exactly, send_all

Place = tuple[str, int]

PATIENCE_SECONDS = 60.0

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
            _talk(sock, introduce(self))
        except BaseException:
            sock.close()
            raise
        return sock


#: Yields what to send and how many bytes to wait for, and gets them.
Talk = Generator[tuple[bytes, int], bytes, None]


def introduce(route: Route) -> Talk:
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


def _talk(sock: socket.socket, talk: Talk) -> None:
    """Hold `talk` over a blocking socket."""
    try:
        message, count = next(talk)
        while True:
            sock.sendall(message)
            message, count = talk.send(wait_exactly(sock, count))
    except StopIteration:
        pass


def wait_exactly(sock: socket.socket, count: int) -> bytes:
    """Receive `count` bytes from a blocking socket; raise RouteError when it ends before."""
    data = sock.recv(count)
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise RouteError("the proxy closed the connection")
        data += chunk
    return data


def talk_in_turn(sock: socket.socket, talk: Talk) -> Task:
    """Hold `talk` over a socket of a reactor."""
    try:
        message, count = next(talk)
        while True:
            yield from send_all(sock, message)
            message, count = talk.send((yield from receive_exactly(sock, count)))
    except StopIteration:
        pass
