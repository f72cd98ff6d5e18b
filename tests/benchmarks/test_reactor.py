"""Tasks over sockets: they run until they must wait, and go on when they may."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from benchmarks.reactor import READABLE, Reactor, StalledError, Task, receive_exactly, send_all

LARGE = bytes(range(256)) * 16384


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


def test_more_than_the_kernel_buffers_goes_through() -> None:
    received: list[bytes] = []

    def receive(sock: socket.socket) -> Task:
        received.append((yield from receive_exactly(sock, len(LARGE))))

    with socket_pair() as (left, right), contextlib.closing(Reactor()) as reactor:
        reactor.add(left, send_all(left, LARGE))
        reactor.add(right, receive(right))
        reactor.run(patience=5)

    assert received == [LARGE]


def test_a_stream_that_ends_early_is_an_error() -> None:
    def receive(sock: socket.socket) -> Task:
        yield from receive_exactly(sock, 2)

    with socket_pair() as (left, right), contextlib.closing(Reactor()) as reactor:
        left.send(b"1")
        left.close()

        with pytest.raises(ConnectionError, match="1 bytes early"):
            reactor.add(right, receive(right))


def test_silence_ends_a_run() -> None:
    def wait() -> Task:
        yield READABLE

    with socket_pair() as (left, _right), contextlib.closing(Reactor()) as reactor:
        reactor.add(left, wait())

        with pytest.raises(StalledError):
            reactor.run(patience=0.01)


def test_a_number_that_is_reused_at_once_belongs_to_the_new_socket() -> None:
    """The end of one visit closes its socket and opens the next, which gets the same number."""
    seen: list[bytes] = []

    def visit(reactor: Reactor, left: int) -> None:
        here, there = socket.socketpair()
        here.setblocking(False)
        there.send(b"x")
        reactor.add(here, read(here, there, reactor, left))

    def read(here: socket.socket, there: socket.socket, reactor: Reactor, left: int) -> Task:
        yield READABLE
        seen.append(here.recv(1))
        here.close()
        there.close()
        if left:
            visit(reactor, left - 1)

    with contextlib.closing(Reactor()) as reactor:
        visit(reactor, 5)
        reactor.run(patience=5)

    assert seen == [b"x"] * 6


def test_closing_closes_the_tasks_that_still_wait() -> None:
    closed: list[bool] = []

    def wait() -> Task:
        try:
            yield READABLE
        finally:
            closed.append(True)

    with socket_pair() as (left, _right):
        reactor = Reactor()
        reactor.add(left, wait())
        reactor.close()

    assert closed == [True]
