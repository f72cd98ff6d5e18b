"""Streams through real circuits of three hops, and their splices to applications and targets."""

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random

import pytest
import trio
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from tests.support.memory_network import Line, MemoryStream, receive
from tests.support.small_network import (
    FarEnds,
    Origin,
    SmallNetwork,
    pattern,
    small_network,
    tasks_in,
)
from warren.addresses import Address
from warren.errors import EndReason, ExitError, LinkError
from warren.network.circuits import Circuit
from warren.network.dialling import SocketNetwork
from warren.network.splice import splice
from warren.network.streams import LINGER_SECONDS, CircuitStream
from warren.protocol.stream import MOST_UNACKNOWLEDGED
from warren.roles.relay import EXTEND_SECONDS

TARGET = Address("5.6.0.1", 80)
#: What the ends of a circuit hold at most, beside the 4 MiB that a sender keeps: the windows of a
#: circuit that never grew, and the buffers of the sockets at both its ends.
WINDOWS = 4 * 64 * 4096


@dataclass
class Way:
    """Hold a circuit of three hops with both ends of its streams in the test's hands."""

    net: SmallNetwork
    origin: Origin
    circuit: Circuit
    far_ends: FarEnds

    async def open(self) -> tuple[CircuitStream, CircuitStream]:
        """Return both ends of a new stream."""
        near = self.circuit.open_stream(TARGET)
        far = await self.far_ends.next()
        await near.wait_connected()
        return near, far


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    far_ends = FarEnds()
    async with small_network(serve_exit=far_ends) as net:
        origin = await net.add_origin()
        yield Way(net, origin, await origin.build(net.hops), far_ends)


@dataclass
class Trip:
    """Hold a circuit of three hops whose last one connects to targets in memory."""

    net: SmallNetwork
    origin: Origin
    circuit: Circuit

    async def browse(self, port: int = 80) -> tuple[MemoryStream, MemoryStream]:
        """Return an application and the target it talks to, both in the test's hands."""
        listener = self.net.target(port)
        application = await self.origin.browse(self.circuit, listener.local)
        target = await listener.accept()
        listener.close()
        return application, target


@pytest.fixture
async def trip() -> AsyncIterator[Trip]:
    async with small_network() as net:
        origin = await net.add_origin()
        yield Trip(net, origin, await origin.build(net.hops))


async def send_until_stuck(stream: MemoryStream, most: int) -> int:
    """Send zeros until nothing is taken for an hour; return how much was."""
    sent = 0
    while sent < most:
        sent += stream.send_now(bytes(min(64 * 1024, most - sent)))
        with trio.move_on_after(3600) as patience:
            await stream.wait_writable()
        if patience.cancelled_caught:
            break
    return sent


# ---- as trio's own streams


async def test_a_circuit_stream_keeps_trios_contract(way: Way, autojump_clock: MockClock) -> None:
    async def make_clogged() -> tuple[CircuitStream, CircuitStream]:
        near, far = await way.open()
        for stream in (near, far):
            with trio.move_on_after(1):
                while True:
                    await stream.send_all(bytes(16 * 1024))
        return near, far

    await check_half_closeable_stream(way.open, make_clogged)


async def test_bytes_wait_until_they_are_asked_for(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()

    await near.send_all(b"one two")

    assert await far.receive_some(3) == b"one"
    assert await far.receive_some() == b" two"


async def test_a_reset_is_an_error_that_says_why(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()  # T29
    await far.send_all(b"half of it")

    far.reset(EndReason.CONNECTION_RESET)

    await near.wait_ended()
    assert await near.receive_some() == b"half of it"
    with pytest.raises(trio.BrokenResourceError, match="CONNECTION_RESET"):
        await near.receive_some()
    assert near.reason is EndReason.CONNECTION_RESET


async def test_a_client_says_no_more_than_other(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()

    near.reset(EndReason.CONNECTION_RESET)
    await far.wait_ended()

    assert far.reason is EndReason.MISC  # SID-3


async def test_a_refusal_comes_instead_of_connected(autojump_clock: MockClock) -> None:
    async with small_network() as net:
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)
        stream = circuit.open_stream(Address("5.6.0.1", 1))

        with pytest.raises(ExitError) as caught:
            await stream.wait_connected()

        assert caught.value.reason is EndReason.CONNECT_REFUSED


async def test_closing_delivers_what_was_written(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()
    data = pattern(150_000)  # more than the first window takes
    await far.send_all(data)

    await far.aclose()
    received = b"".join([part async for part in near])
    await near.aclose()
    await far.wait_ended()

    assert received == data
    assert (near.reason, far.reason) == (EndReason.DONE, EndReason.DONE)


async def test_data_behind_a_close_resets_its_sender(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()
    await far.aclose()

    await near.send_all(b"is anybody there?")
    await near.wait_ended()

    assert near.reason is EndReason.MISC


async def test_closing_with_data_unread_is_a_reset(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()
    await near.send_all(b"not read")
    await wait_all_tasks_blocked()

    await far.aclose()

    with pytest.raises(trio.BrokenResourceError):
        await near.receive_some()


async def test_a_closed_stream_lingers_for_a_minute(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()
    await far.aclose()
    start = trio.current_time()

    assert await near.receive_some() == b""
    await near.wait_ended()

    assert trio.current_time() - start == LINGER_SECONDS
    assert near.reason is EndReason.MISC


async def test_a_destroyed_circuit_resets_its_streams(way: Way, autojump_clock: MockClock) -> None:
    near, far = await way.open()

    way.net.relays[1].circuit.machine.destroy()
    way.net.relays[1].turn.run()

    for stream in (near, far):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert stream.reason is EndReason.DESTROY


# ---- spliced


async def test_bytes_travel_there_and_back(trip: Trip, autojump_clock: MockClock) -> None:
    data = pattern(500_000)
    application = await trip.origin.browse(trip.circuit, trip.net.echo())

    async def send() -> None:
        await application.send_all(data)
        application.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = await receive(application)

    assert received == data


async def test_early_bytes_go_first(trip: Trip, autojump_clock: MockClock) -> None:
    stream = await trip.origin.connect(trip.circuit, trip.net.echo())
    application = await trip.origin.attach(stream, early=b"read already, ")

    await application.send_all(b"and later")

    assert await receive(application, 23) == b"read already, and later"


async def test_bytes_before_connected_reach_the_target(
    trip: Trip, autojump_clock: MockClock
) -> None:
    listener = trip.net.target()
    stream = trip.circuit.open_stream(listener.local)

    await stream.send_all(b"optimistic")  # SID-6
    target = await listener.accept()

    assert await receive(target, 10) == b"optimistic"


@pytest.mark.parametrize(
    "line",
    [Line(capacity=5000), Line(latency=0.05, rate=2e6), Line(latency=0.2, capacity=10_000)],
    ids=["narrow", "slow", "far"],
)
async def test_nothing_is_lost_on_a_bad_line(line: Line, autojump_clock: MockClock) -> None:
    async with small_network(line=line) as net:
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)
        applications = [
            await origin.browse(circuit, net.source(size, port)) for port, size in SIZES.items()
        ]

        received = {}
        for port, application in zip(SIZES, applications, strict=True):
            received[port] = await receive(application)

        assert received == {port: pattern(size) for port, size in SIZES.items()}


SIZES = {101: 1, 102: 4069, 103: 70_000, 104: 300_000}


async def test_half_closing_works_both_ways_every_time(
    trip: Trip, autojump_clock: MockClock
) -> None:
    """T30: who has said everything may still listen, whoever that is."""
    rng = Random(30)
    for turn in range(100):
        first, second = await trip.browse()
        if turn % 2:
            first, second = second, first
        question, answer = pattern(rng.randrange(20_000)), pattern(rng.randrange(20_000))

        await first.send_all(question)
        first.send_eof()
        assert await receive(second) == question
        await second.send_all(answer)
        second.send_eof()
        assert await receive(first) == answer
    await wait_all_tasks_blocked()

    assert trip.circuit.stream_count == 0
    assert not trip.net.relays[-1].streams


async def test_a_target_that_resets_resets_the_application(
    trip: Trip, autojump_clock: MockClock
) -> None:
    application, target = await trip.browse()
    await target.send_all(b"half of it")

    target.reset()

    with pytest.raises(LinkError):
        await receive(application)


async def test_an_application_that_resets_resets_the_target(
    trip: Trip, autojump_clock: MockClock
) -> None:
    application, target = await trip.browse()
    await application.send_all(b"half of it")

    application.reset()

    with pytest.raises(LinkError):
        await receive(target)


async def test_a_reset_behind_an_end_that_waits_is_no_end(
    trip: Trip, autojump_clock: MockClock
) -> None:
    """SID-4: an application ends, and vanishes before all it said was sent."""
    application, target = await trip.browse()
    await send_until_stuck(application, 1 << 20)
    application.send_eof()
    await target.send_all(bytes(200_000))  # more than the application's socket holds

    application.reset()

    with pytest.raises(LinkError):
        await receive(target)


@pytest.mark.parametrize("fault", ["target", "exit", "middle", "guard", "circuit", "stream"])
async def test_a_transfer_that_breaks_never_looks_whole(
    fault: str, autojump_clock: MockClock
) -> None:
    """T29: whatever breaks, and whenever, the application never reads a clean end too early."""
    rng, size = Random(fault), 200_000
    for _ in range(4):
        async with small_network(line=Line(latency=0.01, rate=2e6)) as net:
            origin = await net.add_origin()
            circuit = await origin.build(net.hops)
            stream = await origin.connect(circuit, net.source(size))
            application = await origin.attach(stream)
            await trio.sleep(rng.uniform(0, 0.1))

            if fault == "target":
                net.memory.cut("5.6.0.1")
            elif fault == "circuit":
                circuit.close()
            elif fault == "stream":
                stream.reset()
            else:
                net.relays[["guard", "middle", "exit"].index(fault)].crash()

            with pytest.raises(LinkError), trio.fail_after(60):
                await receive(application)


async def test_a_stalled_stream_does_not_slow_its_siblings(autojump_clock: MockClock) -> None:
    """T17: one of eight applications stops reading; the others keep their pace."""

    async def seconds_for_siblings(*, is_stalled: bool) -> float:
        async with small_network(line=Line(latency=0.01, rate=4e6)) as net:
            origin = await net.add_origin()
            circuit = await origin.build(net.hops)
            address = net.source(250_000)
            applications = [await origin.browse(circuit, address) for _ in range(8)]
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                for application in applications[1:]:
                    nursery.start_soon(receive, application)
                if not is_stalled:
                    nursery.start_soon(receive, applications[0])
            return trio.current_time() - start

    baseline = await seconds_for_siblings(is_stalled=False)
    with_a_stalled_one = await seconds_for_siblings(is_stalled=True)

    assert with_a_stalled_one <= baseline / 0.9


async def test_an_upload_nobody_reads_blocks_the_application(
    trip: Trip, autojump_clock: MockClock
) -> None:
    """T18: what is under way is bounded, also once the windows have grown."""
    application, target = await trip.browse()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, target, 10_000_000)
        await application.send_all(bytes(10_000_000))

    under_way = await send_until_stuck(application, 40_000_000)
    (exit_stream,) = trip.net.relays[-1].streams

    assert 1_000_000 < under_way <= MOST_UNACKNOWLEDGED + WINDOWS
    assert exit_stream.received - exit_stream.consumed <= MOST_UNACKNOWLEDGED
    assert await receive(target, under_way) == bytes(under_way)


async def test_a_download_nobody_reads_blocks_the_target(
    trip: Trip, autojump_clock: MockClock
) -> None:
    application, target = await trip.browse()

    under_way = await send_until_stuck(target, 40_000_000)

    assert under_way <= WINDOWS
    assert await receive(application, under_way) == bytes(under_way)


async def test_a_cancelled_splice_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """T82: cancelled anywhere, it resets both sides and leaves no task and no open socket."""
    rng = Random(82)
    async with small_network(line=Line(latency=0.002, rate=1e7, capacity=20_000)) as net:
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)
        echo = net.echo()
        await trio.sleep(EXTEND_SECONDS)  # relays watch their extensions for so long
        tasks, sockets = tasks_in(net.nursery), len(net.memory.streams)

        for _ in range(60):
            await cancel_somewhere(net, origin, circuit, echo, rng)
            await trio.sleep(1)

        assert (tasks_in(net.nursery), len(net.memory.streams)) == (tasks, sockets)
        assert circuit.is_open
        assert circuit.stream_count == 0


async def cancel_somewhere(
    net: SmallNetwork, origin: Origin, circuit: Circuit, echo: Address, rng: Random
) -> None:
    """Splice an application that talks to `echo`, and cancel that after a while."""
    listener = net.memory.listen(Address("127.0.0.1", 0))
    application = await net.memory.at("127.0.0.1").dial(listener.local)
    accepted = await listener.accept()
    listener.close()
    stream = await origin.connect(circuit, echo)

    async def talk() -> None:
        with contextlib.suppress(LinkError):
            await application.send_all(bytes(rng.randrange(100_000)))
            application.send_eof()
            more = True
            while more:
                more = bool(await receive(application, 5000))
                await trio.sleep(0.002)

    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            with trio.move_on_after(rng.uniform(0, 0.1)):
                await splice(accepted, stream)
            assert accepted.is_closed
    application.reset()


async def test_an_answer_before_a_reset_is_delivered(way: Way) -> None:
    near, far = await way.open()
    answer = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n"
    received = bytearray()

    def serve(server: socket.socket) -> None:  # as one who does not read a body that is too long
        client, _ = server.accept()
        with client:
            client.recv(100)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve, server)
            target = await SocketNetwork().dial(Address(*server.getsockname()))
            nursery.start_soon(splice, target, far)
            with pytest.raises(trio.BrokenResourceError):
                await near.send_all(bytes(50_000_000))  # more than all windows and sockets take
            while len(received) < len(answer):
                received += await near.receive_some()
            with pytest.raises(trio.BrokenResourceError):  # SID-4
                await near.receive_some()

    assert received == answer
