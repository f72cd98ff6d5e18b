"""A web site that means ill, or is broken: ``GET /NAME`` asks for one of its ``MANNERS``.

Each manner is what the site does with a connection once it has read the head of the request. At
``rude`` it resets whoever connects before they say a word. It runs in threads of the test.
"""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator

from warren.addresses import Address

HOSTILE_NAME = "hostile.origin.example"
#: An address of its own: whoever asks what 127.0.0.1 is called hears of the origin.
HOSTILE_HOST = "127.0.0.3"
MOST_SECONDS, SILENT_SECONDS = 60, 8
BODY = bytes(range(250)) * 400
#: What a site that is paced says at a time, and how long it then waits: enough to be a flood for
#: whoever reads it piece by piece, and no more than a small machine makes beside other things.
PIECE_BYTES, PAUSE_SECONDS = 16_000, 0.02
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"


def _break(sock: socket.socket) -> None:
    """Reset the connection when it is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _length(size: int) -> bytes:
    return _OK + b"Content-Length: %d\r\n\r\n" % size


def _flood(sock: socket.socket, first: bytes, piece: bytes) -> None:
    """Say `first`, and then `piece` without an end."""
    sock.sendall(first)
    pieces = piece * (PIECE_BYTES // len(piece))
    while True:
        sock.sendall(pieces)
        time.sleep(PAUSE_SECONDS)


def _drip(sock: socket.socket) -> None:
    sock.sendall(_length(MOST_SECONDS))
    for _ in range(MOST_SECONDS):
        sock.sendall(b"x")
        time.sleep(1)


def _say(*parts: bytes) -> Callable[[socket.socket], None]:
    """Say `parts`, each by itself, and end."""

    def say(sock: socket.socket) -> None:
        for number, part in enumerate(parts):
            time.sleep(0.2 if number else 0)
            sock.sendall(part)

    return say


def _say_and_break(words: bytes) -> Callable[[socket.socket], None]:
    """Say `words`, let them leave, and reset."""

    def say(sock: socket.socket) -> None:
        sock.sendall(words)
        time.sleep(0.5)
        _break(sock)

    return say


def _be_silent(sock: socket.socket) -> None:
    """Read nothing and say nothing for as long as visitors stay, and a little more."""
    time.sleep(SILENT_SECONDS)


def _keep(sock: socket.socket) -> None:
    """Answer as if more requests were welcome, and go."""
    sock.sendall(_OK + b"Connection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")
    time.sleep(0.5)


MANNERS: dict[str, Callable[[socket.socket], None]] = {
    "drip": _drip,
    "reset": _say_and_break(b""),
    "reset-in-head": _say_and_break(_OK + b"Content-"),
    "reset-in-body": _say_and_break(_length(1_000_000) + BODY),
    "reset-behind-body": _say_and_break(_length(len(BODY)) + BODY),
    "silent": _be_silent,
    "nothing": _say(),
    "half-a-head": _say(_OK + b"Content-"),
    "short-body": _say(_length(1_000_000) + BODY),
    "long-body": _say(_length(5) + b"hello" + BODY),
    "ten-gigabytes": lambda sock: _flood(sock, _length(10_000_000_000), bytes(1000)),
    "no-length": _say(_OK + b"\r\n" + BODY),
    "head-of-60k": _say(_OK + b"X: %b\r\n" % (b"x" * 60_000) + b"Content-Length: 5\r\n\r\nhello"),
    "head-of-90k": _say(_OK + b"X: %b\r\n" % (b"x" * 90_000) + b"Content-Length: 5\r\n\r\nhello"),
    "endless-head": lambda sock: _flood(sock, _OK, b"X: y\r\n"),
    "endless-line": lambda sock: _flood(sock, _OK + b"X: ", b"y"),
    "endless-early": lambda sock: _flood(sock, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "endless-crumbs": lambda sock: _flood(sock, _CHUNKED, b"1\r\nx\r\n"),
    "endless-trailers": lambda sock: _flood(sock, _CHUNKED + b"0\r\n", b"X: y\r\n"),
    "no-chunks": _say(_CHUNKED + b"5\r\nhello\r\n", b"wxyz\r\n", BODY),
    "chunk-cut": _say(_CHUNKED + b"5\r\nhel"),
    "huge-chunk": _say(_CHUNKED + b"ffffffffffffffff\r\nhello"),
    "two-lengths": _say(_OK + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nhello"),
    "keep": _keep,
    "no-http": _say(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "zeros": _say(bytes(5000)),
}


class HostileSite:
    """Own the servers; see ``running_hostile_site``."""

    def __init__(self) -> None:
        self._web = _Server(_Visit)
        self._rude = _Server(_Rudeness)

    @property
    def web(self) -> Address:
        """Return where it answers, in its manners."""
        return self._web.address

    @property
    def rude(self) -> Address:
        """Return where it resets everybody at once."""
        return self._rude.address

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Return both, for ``--allow-target``."""
        return self.web, self.rude

    def close(self) -> None:
        """End both."""
        for server in (self._web, self._rude):
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def running_hostile_site() -> Iterator[HostileSite]:
    """Run one while inside."""
    site = HostileSite()
    try:
        yield site
    finally:
        site.close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__((HOSTILE_HOST, 0), handler)
        self.address = Address(HOSTILE_HOST, self.socket.getsockname()[1])
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def shutdown_request(self, request: object) -> None:
        """Close without an end before it: one that is to be reset must not end first."""
        assert isinstance(request, socket.socket)
        request.close()


class _Rudeness(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        _break(self.request)


class _Visit(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        sock = self.request
        sock.settimeout(MOST_SECONDS)
        with contextlib.suppress(OSError):  # the client has had enough
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(4096)
                if not piece:
                    return
                head += piece
            MANNERS[head.split(b" ")[1].decode().rpartition("/")[2]](sock)
