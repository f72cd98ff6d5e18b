"""The impairment between two real sockets, and its directions on a mock clock."""

import contextlib
import hashlib
import random
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from warren.addresses import Address
from warren.lab.impairment import Direction, Forwarder, Gate, serve
from warren.lab.line import Impairment, Line
from warren.lab.origin import content, digest
from warren.service import Announcer

NO_LINGER = struct.pack("ii", 1, 0)
CLEAN = Impairment()
Serve = Callable[[trio.SocketStream], Awaitable[None]]


class Listening(Announcer):
    """Hear where it listens."""

    def __init__(self) -> None:
        super().__init__()
        self.address = Address("127.0.0.1", 0)
        self.happened = trio.Event()

    def listening(self, addresses: object, peer_id: object = None) -> None:
        assert isinstance(addresses, list)
        [self.address] = addresses
        self.happened.set()


@asynccontextmanager
async def forwarding(target: Serve, impairment: Impairment = CLEAN) -> AsyncIterator[Address]:
    """Run `target` behind an impairment; give the impairment's address."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, target, 0, host="127.0.0.1"))
        address = Address(*listeners[0].socket.getsockname()[:2])
        told = Listening()
        nursery.start_soon(
            serve, Address("127.0.0.1", 0), Forwarder(address, impairment, seed=1), told
        )
        await told.happened.wait()
        yield told.address
        nursery.cancel_scope.cancel()


async def connect(address: Address) -> trio.SocketStream:
    return await trio.open_tcp_stream(address.host, address.port)


async def echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async with stream:
            async for data in stream:
                await stream.send_all(data)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


# ---- real sockets


async def test_bytes_pass_whole_both_ways_and_so_do_their_ends() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            found = hashlib.sha256(await read_all(stream)).hexdigest()
            await stream.send_all(found.encode())
            for block in content(3_000_000):
                await stream.send_all(block)

    impairment = Impairment(0.002, 20e6, stall=0.001, stall_seconds=0.005)
    async with forwarding(answer, impairment) as address, await connect(address) as stream:
        for block in content(2_000_000):
            await stream.send_all(block)
        await stream.send_eof()
        reply = await read_all(stream)

    assert reply[:64].decode() == digest(2_000_000)
    assert hashlib.sha256(reply[64:]).hexdigest() == digest(3_000_000)


async def test_a_round_trip_takes_two_latencies_and_connecting_one_more() -> None:
    async with (
        forwarding(echo, Impairment(0.05)) as address,
        await connect(address) as stream,
    ):
        times = []
        for _ in range(2):
            begun = trio.current_time()
            await stream.send_all(b"x")
            await stream.receive_some()
            times.append(trio.current_time() - begun)

    assert times[0] >= 0.2
    assert times[1] >= 0.1


async def test_a_reset_is_a_reset_at_the_other_side() -> None:
    ended: list[BaseException] = []
    done = trio.Event()

    async def wait_for_end(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await stream.send_all(b"here")
                await stream.receive_some()
        except trio.BrokenResourceError as error:
            ended.append(error)
        done.set()

    async with forwarding(wait_for_end) as address:
        stream = await connect(address)
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        stream.socket.close()
        await done.wait()

    assert ended


async def test_a_target_that_is_not_there_resets_who_dials() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        told = Listening()
        forwarder = Forwarder(Address(*nobody.getsockname()), CLEAN, seed=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, Address("127.0.0.1", 0), forwarder, told)
            await told.happened.wait()
            async with await connect(told.address) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            nursery.cancel_scope.cancel()


async def test_a_signal_cuts_all_connections_and_new_ones_are_welcome() -> None:
    async with forwarding(echo) as address:
        async with await connect(address) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"

            signal.raise_signal(signal.SIGUSR1)

            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        async with await connect(address) as stream:
            await stream.send_all(b"y")
            assert await stream.receive_some() == b"y"


async def test_a_signal_silences_and_another_one_gives_everything_back() -> None:
    async with forwarding(echo) as address, await connect(address) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"

        signal.raise_signal(signal.SIGUSR2)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"y")
        with trio.move_on_after(0.05) as silence:
            await stream.receive_some()
        signal.raise_signal(signal.SIGUSR2)

        assert silence.cancelled_caught
        assert await stream.receive_some() == b"y"


# ---- one direction on a mock clock


class Stuck(trio.abc.HalfCloseableStream):
    """Be a stream whose other end never reads."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def send_eof(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Slow:
    """Be both ends of a direction whose line is as `impairment` says."""

    def __init__(
        self, impairment: Impairment, sink: trio.abc.HalfCloseableStream | None = None
    ) -> None:
        self.near, self.source = memory_stream_pair()
        other, self.far = memory_stream_pair()
        self.line = Line(impairment, random.Random(1))
        self.direction = Direction(self.source, sink or other, self.line, Gate())


async def test_a_direction_takes_exactly_the_time_of_its_line(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    slow = Slow(Impairment(0.5, 1e6))
    nursery.start_soon(slow.direction.run)
    begun = trio.current_time()

    async with trio.open_nursery() as talk:
        talk.start_soon(slow.near.send_all, bytes(3_000_000))
        received = 0
        while received < 3_000_000:
            received += len(await slow.far.receive_some())

    assert trio.current_time() - begun == pytest.approx(3.5, abs=0.01)


async def test_who_does_not_read_holds_up_who_sends(autojump_clock: MockClock) -> None:
    impairment = Impairment(0.1, 1e6)
    slow = Slow(impairment, sink=Stuck())
    await slow.near.send_all(bytes(5_000_000))

    with trio.move_on_after(100):
        await slow.direction.run()
    left = len(await slow.source.receive_some(5_000_000))

    assert 0 < 5_000_000 - left <= impairment.most_bytes
