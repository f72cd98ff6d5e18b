"""The measuring client against the origin, with no proxy between them."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.bulk import Bulk
from benchmarks.client import (
    Direction,
    Echo,
    IdleStreams,
    first_byte_seconds,
    open_many,
    transfer,
    wait_for_answer,
)
from benchmarks.origin import pattern
from benchmarks.processes import ProcessError
from benchmarks.route import Route, RouteError
from benchmarks.systems import running_origin


@pytest.fixture(scope="module")
def route() -> Iterator[Route]:
    with running_origin() as origin:
        yield Route(origin.place)


@contextlib.contextmanager
def liar(answer: bytes) -> Iterator[Route]:
    """Serve one connection with `answer`, whatever is asked."""

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(1000)
            sock.sendall(answer)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(100_000):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Route(listener.getsockname())
        thread.join(5)


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("streams", [1, 3])
def test_all_bytes_are_checked_either_way(route: Route, direction: Direction, streams: int) -> None:
    assert transfer(route, direction, streams, 3_000_000, is_checked=True) > 0
    assert transfer(route, direction, streams, 3_000_000) > 0


def test_a_changed_byte_on_the_way_down_is_noticed() -> None:
    changed = bytearray(pattern()[:10_000])
    changed[5_000] ^= 1

    with liar(bytes(changed)) as route, pytest.raises(RouteError, match="changed"):
        transfer(route, "down", 1, 10_000, is_checked=True)


def test_a_download_that_ends_early_is_noticed() -> None:
    with liar(pattern()[:9_999]) as route, pytest.raises(RouteError, match="1 bytes early"):
        transfer(route, "down", 1, 10_000)


def test_an_upload_that_arrives_changed_is_noticed() -> None:
    with liar(b"0" * 64 + b"\n") as route, pytest.raises(RouteError, match="the origin found"):
        transfer(route, "up", 1, 1_000, is_checked=True)


def test_one_byte_is_timed_from_connecting_to_the_answer(route: Route) -> None:
    begun = time.perf_counter()
    taken = first_byte_seconds(route)

    assert 0 < taken < time.perf_counter() - begun


def test_an_echo_gives_a_time_for_every_byte(route: Route) -> None:
    with Echo(route) as echo:
        taken = echo.round_trips(5.0, most=20)

    assert len(taken) == 20
    assert min(taken) > 0


def test_idle_streams_stay_usable(route: Route) -> None:
    with IdleStreams(route, 20) as streams:
        streams.check()


def test_many_workers_open_stream_after_stream(route: Route) -> None:
    visits = open_many(route, 5, 0.2)

    assert visits.count > 5
    assert visits.failures == []


def test_a_failed_visit_is_counted_as_such() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        visits = open_many(Route(nobody.getsockname()), 1, 0.01)

    assert visits.count == 0
    assert visits.failures


def test_a_bulk_download_flows_while_others_do_something_else(route: Route) -> None:
    with Bulk(route) as bulk:
        before, deadline = bulk.moved, time.monotonic() + 10
        while bulk.moved == before and time.monotonic() < deadline:
            time.sleep(0.01)

        assert bulk.moved > before > 0


def test_waiting_for_an_answer_has_an_end() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))

        with pytest.raises(RouteError, match="no answer within"):
            wait_for_answer(Route(nobody.getsockname()), 0.02, lambda: None)


def test_waiting_for_an_answer_ends_when_there_can_be_none() -> None:
    def check() -> None:
        raise ProcessError("the proxy has died")

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))

        with pytest.raises(ProcessError):
            wait_for_answer(Route(nobody.getsockname()), 60, check)
