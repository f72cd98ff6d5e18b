"""The simulated wire has TCP's manners, and does what faults ask of it."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio

from simulation.clock import BEGINNING, SimulatedClock
from simulation.targets import receive_some
from simulation.wire import CAPACITY, Wire, WireStream
from warren.addresses import Address
from warren.errors import LinkError

ONE, TWO = "20.1.0.1", "20.2.0.1"
PORT = Address(TWO, 9001)


def run(test: Callable[[Wire, WireStream, WireStream], Awaitable[None]]) -> float:
    """Run `test` with a connection of 100 ms and 1 MB/s; return how many seconds it took."""
    clock = SimulatedClock()

    async def main() -> None:
        clock.attach()
        wire = Wire(clock, Random(1))
        wire.link_ports = frozenset((PORT.port,))
        for host in (ONE, TWO):
            wire.add(host, latency=0.1, rate=1e6)
        ends: list[WireStream] = []

        async def accept(stream: object) -> None:
            assert isinstance(stream, WireStream)
            ends.append(stream)

        async with trio.open_nursery() as nursery:
            listener = wire.network_of(TWO).listen(PORT)
            nursery.start_soon(listener.serve, accept, nursery)
            near = await wire.network_of(ONE).dial(PORT)
            await trio.sleep(0.01)
            await test(wire, near, ends[0])
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
    return clock.now - BEGINNING


async def receive_all(stream: WireStream) -> bytes:
    data = b""
    while more := await receive_some(stream):
        data += more
    return data


def test_bytes_arrive_in_order_at_the_rate_of_the_uplink_and_then_the_end() -> None:
    data = Random(1).randbytes(2_000_000)

    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        async def send() -> None:
            await near.send_all(data)
            near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await receive_all(far) == data

    assert 2.3 < run(test) < 2.6


def test_who_does_not_read_is_sent_no_more_than_the_capacity() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        with trio.move_on_after(60):
            await near.send_all(bytes(10_000_000))
        far.stop_reading()

        assert far._unread == CAPACITY

    run(test)


def test_what_a_callback_leaves_is_told_again() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        pieces: list[bytes] = []

        def read() -> None:
            chunk = bytearray(3)
            count = far.receive_into(chunk)
            pieces.append(bytes(chunk[:count]))
            if not count:
                far.stop_reading()

        async with trio.open_nursery() as nursery:
            far.read_with(read, nursery)
            await near.send_all(b"12345678")
            near.close()
            await trio.sleep(1)

        assert pieces == [b"123", b"456", b"78", b""]

    run(test)


def test_closing_with_bytes_unread_resets_and_half_closing_does_not() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        near.send_eof()
        await far.send_all(b"still heard")
        await trio.sleep(1)
        assert await receive_some(far) == b""
        assert await receive_some(near) == b"still heard"
        await far.send_all(b"not read")
        await trio.sleep(1)
        near.close()
        await trio.sleep(1)
        with pytest.raises(LinkError, match="Broken pipe"):
            far.send_now(b"x")

    run(test)


def test_a_stall_holds_everything_back_and_lets_it_go_in_order() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        wire.stall(TWO)
        await near.send_all(b"one")
        near.send_eof()
        await trio.sleep(100)
        assert far.receive_into(bytearray(9)) is None
        wire.resume(TWO)
        assert await receive_all(far) == b"one"

    run(test)


def test_a_partition_parts_its_sides_only() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        wire.part("here", [ONE], [])
        await near.send_all(b"passes")
        await trio.sleep(1)
        assert await receive_some(far) == b"passes"
        wire.part("there", [ONE], [TWO])
        await near.send_all(b"waits")
        await trio.sleep(1)
        assert far.receive_into(bytearray(9)) is None
        wire.join("there")
        assert await receive_some(far) == b"waits"

    run(test)


def test_who_asked_for_keep_alive_gives_up_on_a_silent_peer() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        near.keep_alive(60)
        wire.stall(TWO)
        await trio.sleep(59)
        assert near.receive_into(bytearray(9)) is None
        await trio.sleep(2)
        with pytest.raises(LinkError, match="reset by peer"):
            near.receive_into(bytearray(9))

    run(test)


def test_a_cut_breaks_both_ends_and_a_dial_of_nobody_is_refused() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        assert wire.cut(ONE, TWO) == 2
        for end in (near, far):
            with pytest.raises(LinkError, match="reset by peer"):
                end.receive_into(bytearray(9))
        with pytest.raises(LinkError, match="Connection refused"):
            await wire.network_of(ONE).dial(Address(TWO, 9))

    run(test)


def test_one_bit_of_a_link_is_changed() -> None:
    async def test(wire: Wire, near: WireStream, far: WireStream) -> None:
        wire.hosts[TWO].corrupting = 1
        await near.send_all(bytes(100))
        changed = await receive_some(far)
        await near.send_all(bytes(100))

        assert int.from_bytes(changed, "big").bit_count() == 1
        assert await receive_some(far) == bytes(100)

    run(test)
