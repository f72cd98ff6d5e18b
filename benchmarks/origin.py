"""The target: one small process whose every byte is known beforehand.

It speaks lines, because what travels through the network is bytes to it all the same::

    ping                    pong
    send SIZE               SIZE bytes of the pattern
    take SIZE [check]       after SIZE bytes: their number, or with check their SHA-256
    echo                    from then on every byte comes back

The pattern is noise in blocks of 64 KiB, each with its own number, so that a block that was
lost, doubled or moved is noticed; it begins again after 16 MiB.
"""

import contextlib
import functools
import hashlib
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Generator

from benchmarks.reactor import READABLE, WRITABLE, Reactor, Task, send_all

BLOCK_BYTES = 64 * 1024
PATTERN_BYTES = 16 * 1024 * 1024
#: What one connection moves before the others have their turn.
TURN_BYTES = 1024 * 1024
_LONGEST_LINE = 64
_BACKLOG = 4096


@functools.cache
def pattern() -> bytes:
    """Return the 16 MiB that all content consists of, the same in every process."""
    noise = random.Random("warren").randbytes(BLOCK_BYTES)
    blocks = PATTERN_BYTES // BLOCK_BYTES
    return b"".join(number.to_bytes(8, "big") + noise[8:] for number in range(blocks))


def digest(size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of the pattern, in hex."""
    total = hashlib.sha256()
    view = memoryview(pattern())
    while size > 0:
        total.update(view[:size])
        size -= len(view)
    return total.hexdigest()


class Origin:
    """Own the pattern as a file that the kernel can send from, and all connections."""

    def __init__(self) -> None:
        self._reactor = Reactor()
        self._file = os.memfd_create("pattern")
        os.truncate(self._file, PATTERN_BYTES)
        os.pwrite(self._file, pattern(), 0)
        self._scratch = memoryview(bytearray(TURN_BYTES))

    def serve(self, listener: socket.socket) -> None:
        """Serve all who connect to `listener`, for ever."""
        listener.setblocking(False)
        self._reactor.add(listener, self._accept(listener))
        self._reactor.run()

    def _accept(self, listener: socket.socket) -> Task:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                yield READABLE
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reactor.add(sock, self._meet(sock))

    def _meet(self, sock: socket.socket) -> Task:
        """Serve one connection; whatever goes wrong in it ends it alone."""
        with sock, contextlib.suppress(OSError, ValueError):
            yield from self._converse(sock)

    def _converse(self, sock: socket.socket) -> Task:
        buffer = bytearray()
        while True:
            line = yield from _read_line(sock, buffer)
            match line.split():
                case []:
                    return
                case ["ping"]:
                    yield from send_all(sock, b"pong\n")
                case ["send", size]:
                    yield from self._send(sock, int(size))
                case ["take", size]:
                    yield from self._count(sock, int(size), buffer)
                case ["take", size, "check"]:
                    yield from self._hash(sock, int(size), buffer)
                case ["echo"]:
                    yield from _echo(sock, buffer)
                    return
                case _:
                    raise ValueError(f"{line!r} is no request")

    def _send(self, sock: socket.socket, size: int) -> Task:
        sent = 0
        while sent < size:
            place = sent % PATTERN_BYTES
            most = min(size - sent, PATTERN_BYTES - place, TURN_BYTES)
            with contextlib.suppress(BlockingIOError):
                sent += os.sendfile(sock.fileno(), self._file, place, most)
            yield WRITABLE

    def _count(self, sock: socket.socket, size: int, buffer: bytearray) -> Task:
        missing = size - len(_cut(buffer, size))
        while missing > 0:
            missing -= len((yield from self._receive(sock, missing)))
        yield from send_all(sock, b"%d\n" % size)

    def _hash(self, sock: socket.socket, size: int, buffer: bytearray) -> Task:
        early = _cut(buffer, size)
        total = hashlib.sha256(early)
        missing = size - len(early)
        while missing > 0:
            chunk = yield from self._receive(sock, missing)
            total.update(chunk)
            missing -= len(chunk)
        yield from send_all(sock, total.hexdigest().encode() + b"\n")

    def _receive(self, sock: socket.socket, most: int) -> Generator[int, None, memoryview]:
        """Receive into the scratch buffer, which is the caller's until it waits again."""
        while True:
            yield READABLE
            try:
                count = sock.recv_into(self._scratch[:most])
            except BlockingIOError:
                continue
            if count == 0:
                raise ConnectionError("the client is gone")
            return self._scratch[:count]


def _read_line(sock: socket.socket, buffer: bytearray) -> Generator[int, None, str]:
    """Return the next line; an empty one when the client is done."""
    while b"\n" not in buffer:
        if len(buffer) > _LONGEST_LINE:
            raise ValueError(f"a request of more than {_LONGEST_LINE} bytes")
        try:
            chunk = sock.recv(TURN_BYTES)
        except BlockingIOError:
            yield READABLE
            continue
        if not chunk:
            return ""
        buffer += chunk
    return _cut(buffer, buffer.index(b"\n") + 1).decode("ascii")


def _cut(buffer: bytearray, size: int) -> bytes:
    """Take up to `size` bytes off the front of `buffer`."""
    data = bytes(buffer[:size])
    del buffer[:size]
    return data


def _echo(sock: socket.socket, buffer: bytearray) -> Task:
    data = bytes(buffer)
    while True:
        yield from send_all(sock, data)
        try:
            data = sock.recv(BLOCK_BYTES)
        except BlockingIOError:
            data = b""
            yield READABLE
            continue
        if not data:
            return


def raise_file_limit() -> None:
    """Allow this process, and those it starts, as many open files as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some name a hard limit they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Listen at a free port of 127.0.0.1, print it, and serve until told to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    raise_file_limit()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(_BACKLOG)
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        Origin().serve(listener)


if __name__ == "__main__":
    main()
