"""The send queue: what the kernel may hold follows the line, and only while it is the limit."""

import pytest
from trio.testing import MockClock

from tests.support.memory_network import Line, MemoryNetwork, connected_pair
from warren.network.byte_streams import NOTSENT_BYTES
from warren.network.send_queue import LEAST_QUEUE, MOST_QUEUE, QUEUE_SECONDS, SendQueue


class PacedSocket:
    """Say what a kernel would that sends at `rate` bytes per second."""

    most_ready = MOST_QUEUE

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.waiting = 0.0
        self.asked: list[int] = []

    def unsent(self) -> int:
        return int(self.waiting)

    def keep_send_queue_short(self, size: int) -> None:
        self.asked.append(size)


def fill(queue: SendQueue, sock: PacedSocket, begin: float, seconds: float) -> float:
    """Send whenever the socket says that it takes something; return the time at the end."""
    now = begin
    while now < begin + seconds:
        sock.waiting += queue.size
        queue.sent(queue.size)
        queue.blocked(now)
        least = sock.asked[-1] if sock.asked else NOTSENT_BYTES
        while True:
            now += 0.0001
            sock.waiting = max(0.0, sock.waiting - sock.rate * 0.0001)
            if sock.waiting < least:
                break
        queue.writable(now)
    return now


@pytest.mark.parametrize("rate", [5e6, 12.5e6])
def test_a_line_is_given_what_it_takes_in_five_milliseconds(rate: float) -> None:
    sock = PacedSocket(rate)
    queue = SendQueue(sock)

    fill(queue, sock, 0.0, 1.0)

    assert queue.size == pytest.approx(rate * QUEUE_SECONDS, rel=0.25)
    assert sock.asked[-1] == pytest.approx(min(queue.size, 128 * 1024), rel=1.0)


@pytest.mark.parametrize(("rate", "size"), [(1e5, LEAST_QUEUE), (1e9, MOST_QUEUE)])
def test_there_is_a_least_and_a_most(rate: float, size: int) -> None:
    sock = PacedSocket(rate)
    queue = SendQueue(sock)

    fill(queue, sock, 0.0, 1.0)

    assert queue.size == size


def test_a_line_that_becomes_fast_is_given_more_again() -> None:
    sock = PacedSocket(1e5)
    queue = SendQueue(sock)
    now = fill(queue, sock, 0.0, 1.0)

    sock.rate = 1e9
    fill(queue, sock, now, 1.0)

    assert queue.size == MOST_QUEUE
    assert sock.asked[-1] == 128 * 1024


def test_a_fast_line_is_given_more_though_it_is_never_full_for_long() -> None:
    sock = PacedSocket(1e5)
    queue = SendQueue(sock)
    now = fill(queue, sock, 0.0, 1.0)
    narrow = queue.size

    for _ in range(10):  # a little to send now and then, gone at once
        queue.sent(queue.size)
        queue.blocked(now)
        now += 0.0001
        queue.writable(now)
        queue.has_idled()
        now += 0.01

    assert narrow == LEAST_QUEUE
    assert queue.size == MOST_QUEUE


def test_a_pause_for_want_of_data_is_no_measure_of_the_line() -> None:
    sock = PacedSocket(1e9)
    queue = SendQueue(sock)
    queue.sent(20_000)
    queue.blocked(0.0)
    queue.has_idled()

    queue.writable(10.0)

    assert queue.size == MOST_QUEUE


async def test_a_socket_in_memory_counts_what_has_not_left(autojump_clock: MockClock) -> None:
    line = Line(rate=1000.0, capacity=100_000, queue=5000)
    near, _ = await connected_pair(MemoryNetwork(line=line))

    near.keep_send_queue_short(2000)
    sent = near.send_now(bytes(4000))

    assert sent == near.unsent() == 2000
