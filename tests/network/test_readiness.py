"""Readiness: sockets are served while trio would sleep, and trio loses nothing by it."""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from warren.network import readiness
from warren.network.readiness import LoopClock, Readiness

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["with the clock", "with trio's own clock"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test's main function under trio, with a deadline that only a hang can reach."""

    def run_it(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with trio.fail_after(20):
                await main()

        trio.run(bounded, clock=LoopClock() if request.param == "with the clock" else None)

    return run_it


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two sockets that are connected to each other and do not block."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


async def wait_for(fulfilled: Callable[[], bool]) -> None:
    """Let the loop go round until something is true."""
    while not fulfilled():  # noqa: ASYNC110  what is waited for is no task's doing
        await trio.sleep(0.001)


def test_what_comes_is_read_while_every_task_sleeps(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far):
            got, done = [], trio.Event()

            def read() -> None:
                got.append(near.recv(10))
                if len(got) == 3:
                    done.set()
                else:
                    far.send(b"more")

            readiness.here().read_with(near.fileno(), read)
            far.send(b"first")

            await done.wait()

            assert got == [b"first", b"more", b"more"]
            readiness.here().forget(near.fileno())

    run(main)


def test_a_task_goes_on_although_a_socket_always_has_something(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far):
            served = []
            far.send(b"never read")
            readiness.here().read_with(near.fileno(), lambda: served.append(1))

            for _ in range(20):
                await trio.sleep(0.001)
                await trio.lowlevel.checkpoint()

            assert served
            readiness.here().forget(near.fileno())

    run(main)


def test_a_socket_is_served_although_tasks_never_sleep(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far):
            served = []
            readiness.here().read_with(near.fileno(), lambda: served.append(near.recv(10)))
            far.send(b"hello")

            while not served:
                await trio.lowlevel.checkpoint()

            assert served == [b"hello"]
            readiness.here().forget(near.fileno())

    run(main)


def test_trios_own_sockets_and_threads_wake_their_tasks(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far), pair() as (watched, _):
            readiness.here().read_with(watched.fileno(), lambda: None)

            assert await trio.to_thread.run_sync(far.send, b"from a thread") == 13
            await trio.lowlevel.wait_readable(near)

            assert near.recv(20) == b"from a thread"
            readiness.here().forget(watched.fileno())

    run(main)


def test_a_deadline_is_kept_while_nothing_happens(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, _):
            readiness.here().read_with(near.fileno(), lambda: None)

            with trio.move_on_after(0.01) as scope:
                await trio.sleep_forever()

            assert scope.cancelled_caught
            readiness.here().forget(near.fileno())

    run(main)


def test_who_stopped_reading_is_not_called_even_when_the_other_side_hangs_up(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far):
            served: list[int] = []
            here = readiness.here()
            here.read_with(near.fileno(), lambda: served.append(1))
            here.stop_reading(near.fileno())
            far.send(b"hello")
            far.close()

            await trio.sleep(0.01)

            assert not served
            here.forget(near.fileno())

    run(main)


def test_a_writer_is_called_once(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, _):
            called: list[int] = []
            here = readiness.here()

            here.write_with(near.fileno(), lambda: called.append(1))
            await wait_for(lambda: bool(called))
            await trio.sleep(0.01)

            assert called == [1]
            here.forget(near.fileno())

    run(main)


def test_reading_and_writing_are_served_side_by_side(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far):
            log: list[object] = []
            here = readiness.here()
            here.read_with(near.fileno(), lambda: log.append(near.recv(10)))
            here.write_with(near.fileno(), lambda: log.append("writable"))
            await wait_for(lambda: bool(log))

            far.send(b"hello")
            await wait_for(lambda: len(log) > 1)

            assert log == ["writable", b"hello"]
            here.forget(near.fileno())

    run(main)


def test_the_next_socket_of_the_same_number_is_not_served_by_the_last_ones_reader(run: Run) -> None:
    async def main() -> None:
        wrong, right = list[int](), list[int]()
        here = readiness.here()
        with pair() as (near, _):
            number = near.fileno()
            here.read_with(number, lambda: wrong.append(1))
            here.forget(number)
        with pair() as (near, far):
            os.dup2(near.fileno(), number) if near.fileno() != number else None
            here.read_with(number, lambda: right.append(len(os.read(number, 10))))
            far.send(b"hello")

            await wait_for(lambda: bool(right))

            assert right == [5]
            assert not wrong
            here.forget(number)

    run(main)


def test_a_bug_in_a_reader_is_logged_and_the_loop_goes_on(run: Run) -> None:
    async def main() -> None:
        with pair() as (near, far), structlog.testing.capture_logs() as logs:

            def fail() -> None:
                near.recv(10)
                raise RuntimeError("a bug")

            readiness.here().read_with(near.fileno(), fail)
            far.send(b"hello")

            await wait_for(lambda: bool(logs))

            assert [entry["log_level"] for entry in logs] == ["error"]
            readiness.here().forget(near.fileno())

    run(main)


def test_what_is_to_be_done_soon_is_done_once_behind_what_the_round_has_read(run: Run) -> None:
    async def main() -> None:
        with pair() as (one, far_one), pair() as (two, far_two):
            log, done, here = list[str](), trio.Event(), readiness.here()

            def act() -> None:
                log.append("soon")
                done.set()

            def read(sock: socket.socket) -> None:
                sock.recv(10)
                if not log:
                    here.soon(act)
                log.append("read")

            far_one.send(b"x")
            far_two.send(b"x")
            for sock in (one, two):
                here.read_with(sock.fileno(), partial(read, sock))
            await done.wait()

            assert log == ["read", "read", "soon"]
            here.forget(one.fileno())
            here.forget(two.fileno())

    run(main)


def test_a_mock_clock_does_not_jump_over_what_is_to_be_done_soon() -> None:
    async def main() -> float:
        done = trio.Event()
        readiness.here().soon(done.set)
        with trio.move_on_after(100):
            await done.wait()
        return trio.current_time()

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) < 100


async def test_without_an_epoll_of_trios_sockets_are_left_to_tasks() -> None:
    assert not Readiness(None).is_working
    assert readiness.here().is_working
