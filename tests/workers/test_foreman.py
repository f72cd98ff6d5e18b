"""The foreman gives a connection to the worker that has fewest."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest
import trio

from warren.workers.channel import Channel, FromWorker, Over, Started, Taken, Usable
from warren.workers.foreman import MOST_UNTAKEN, Worker, choose_worker


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    """Own the sockets of the workers on paper."""
    with ExitStack() as stack:
        yield stack


def worker(ends: ExitStack, *told: FromWorker) -> Worker:
    """Return a worker without a process that has `told` what it did."""
    sockets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in sockets:
        ends.enter_context(each)
    made = Worker(cast("trio.Process", None), Channel(sockets[0], FromWorker))
    for message in told:
        made.hear(message)
    return made


def connection(ends: ExitStack) -> socket.socket:
    return ends.enter_context(socket.socket())


def test_connections_are_spread_evenly(ends: ExitStack) -> None:
    workers = [worker(ends, Started()) for _ in range(3)]

    for turn in range(1, 10):
        chosen = choose_worker(workers)
        assert chosen is not None
        chosen.give(connection(ends), turn)

    assert [each.connections for each in workers] == [3, 3, 3]


def test_equals_take_turns(ends: ExitStack) -> None:
    first, second = workers = [worker(ends, Started()) for _ in range(2)]
    first.give(connection(ends), 1)
    second.give(connection(ends), 2)
    for each in workers:
        each.hear(Taken())
        each.hear(Over())

    assert choose_worker(workers) is first


def test_an_ended_connection_makes_room_for_another(ends: ExitStack) -> None:
    first, second = workers = [worker(ends, Started()) for _ in range(2)]
    for turn in range(1, 5):
        (first if turn % 2 else second).give(connection(ends), turn)

    second.hear(Over())

    assert choose_worker(workers) is second


def test_nobody_is_chosen_before_a_worker_has_started(ends: ExitStack) -> None:
    late = worker(ends)
    assert choose_worker([late]) is None

    late.hear(Started())

    assert choose_worker([late]) is late


def test_a_worker_that_takes_nothing_is_given_no_more(ends: ExitStack) -> None:
    stuck = worker(ends, Started())
    for turn in range(MOST_UNTAKEN):
        stuck.give(connection(ends), turn)
    assert choose_worker([stuck]) is None

    stuck.hear(Taken())

    assert choose_worker([stuck]) is stuck


def test_a_connection_is_kept_until_it_was_taken(ends: ExitStack) -> None:
    busy = worker(ends, Started())
    kept = connection(ends)
    busy.give(kept, 1)
    assert kept.fileno() >= 0

    busy.hear(Taken())

    assert kept.fileno() < 0
    assert not busy.untaken
    assert busy.connections == 1


def test_a_worker_is_usable_once_it_says_so(ends: ExitStack) -> None:
    assert not worker(ends, Started()).is_usable
    assert worker(ends, Started(), Usable()).is_usable
