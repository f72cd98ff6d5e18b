"""Too much is kept for others: who goes at a relay, an exit and a client, and what becomes of it.

The quotas are small and the networks in memory; what a process takes at all is said to be much.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.clients import client_scene
from tests.support.memory_network import MemoryStream, receive
from tests.support.small_network import (
    TARGET_HOST,
    Origin,
    Peer,
    RelayPeer,
    SmallNetwork,
    pattern,
    small_network,
)
from warren.addresses import Address
from warren.errors import CircuitError, EndReason, LinkError
from warren.network.byte_streams import ByteStream
from warren.network.circuits import Circuit
from warren.network.quota import STALE_SECONDS, Quota, Source
from warren.network.streams import CircuitStream
from warren.roles.relay import LAST_WORDS_SECONDS

KIB = 1024
FLOOD = Address(TARGET_HOST, 1000)
LIMIT = 1024 * KIB


def quota_of(peer: Peer, *sources: Source, limit: int = LIMIT) -> Quota:
    """Return the quota of `peer`, which nobody looks after yet."""
    quota = Quota(limit, peer.settings.budget, peer.turn, used=lambda: limit)
    quota.sources += [peer.links.backlogs, *sources]
    return quota


def relay_quota(peer: RelayPeer, limit: int = LIMIT) -> Quota:
    return quota_of(peer, peer.relay.backlogs, limit=limit)


def flood(net: SmallNetwork) -> Address:
    """Start a target that sends without end."""

    async def send(stream: ByteStream) -> None:
        while True:
            await stream.send_all(bytes(64 * KIB))

    return serve(net, FLOOD.port, send)


def serve(net: SmallNetwork, port: int, target: Callable[[ByteStream], Awaitable[None]]) -> Address:
    address = net._serve(port, target)
    assert address.port == port
    return address


async def leave_lying(
    origin: Origin, circuit: Circuit, count: int, target: Address = FLOOD
) -> list[CircuitStream]:
    """Open `count` streams that nobody reads; the exit keeps 192 KiB of each."""
    streams = [await origin.connect(circuit, target) for _ in range(count)]
    await wait_all_tasks_blocked()
    return streams


# ---- an exit


async def test_at_an_exit_the_circuit_goes_whose_data_has_lain_longest(
    autojump_clock: MockClock,
) -> None:
    async with small_network() as net:
        origin = await net.add_origin()
        flood(net)
        quota = relay_quota(net.relays[-1])
        idle, old, young = [await origin.build(net.hops) for _ in range(3)]
        stalled = await leave_lying(origin, old, 2)
        quota.look()
        await trio.sleep(1)
        await leave_lying(origin, young, 4)

        quota.look()
        await trio.sleep(2 * LAST_WORDS_SECONDS)

        assert [each.is_open for each in (idle, old, young)] == [True, False, True]
        assert {each.reason for each in stalled} == {EndReason.RESOURCE_LIMIT}
        assert quota.closed == {"circuits": 1}
        assert int(str(quota.statistics()["kept"])) < LIMIT


async def test_what_an_exit_gave_up_it_does_not_hold(autojump_clock: MockClock) -> None:
    async with small_network() as net:
        origin = await net.add_origin()
        flood(net)
        leaving = net.relays[-1]
        await leave_lying(origin, await origin.build(net.hops), 8)

        relay_quota(leaving).look()
        await trio.sleep(2 * LAST_WORDS_SECONDS)

        assert leaving.streams == []
        assert leaving.relay.statistics()["held"] == {
            "circuits": 0, "streams": 0, "resumed": 0, "lost": 0
        }  # fmt: skip


async def test_streams_that_an_exit_holds_go_like_others(autojump_clock: MockClock) -> None:
    async with small_network() as net:
        origin = await net.add_origin()
        flood(net)
        leaving = net.relays[-1]
        await leave_lying(origin, await origin.build(net.hops), 8)
        leaving.circuit.machine.destroy()  # as when a link breaks
        await wait_all_tasks_blocked()
        quota = relay_quota(leaving)

        quota.look()

        assert quota.closed == {"circuits that had died": 1}
        assert leaving.relay.statistics()["held"]["streams"] == 0  # type: ignore[index]


async def test_pressure_comes_and_goes(autojump_clock: MockClock) -> None:
    """While there is too much no circuit is taken; then those go who leave it lying."""
    async with small_network() as net:
        origin = await net.add_origin()
        flood(net)
        leaving = net.relays[-1]
        quota = relay_quota(leaving)
        leaving.nursery.start_soon(quota.watch)
        circuits = [await origin.build(net.hops) for _ in range(7)]
        echo = await origin.connect(await origin.build(net.hops), net.echo())
        for circuit in circuits:
            await leave_lying(origin, circuit, 1)
            await trio.sleep(0.2)

        pressed = [quota.statistics()["pressed"]]
        with pytest.raises(CircuitError):
            await origin.build(net.hops)
        turned_away = leaving.relay.turned_away
        await trio.sleep(STALE_SECONDS + 2)
        pressed.append(quota.statistics()["pressed"])
        await origin.build(net.hops)
        await echo.send_all(b"still here")

        assert pressed == [1, 0]
        assert turned_away == 1
        assert await echo.receive_some() == b"still here"
        assert [each.is_open for each in circuits] == [False] * 4 + [True] * 3
        assert quota.statistics()["pressures"] == 1


# ---- a relay on the way


async def stop_reading(origin: Origin) -> None:
    """Let `origin` read nothing any more from any link, as a sniper does."""
    for link in origin.links:
        link._stream.stop_reading()
    await trio.sleep(0.01)


async def test_at_a_guard_a_client_goes_who_does_not_read(autojump_clock: MockClock) -> None:
    async with small_network() as net:
        honest, sniper = await net.add_origin(), await net.add_origin("5.5.0.2")
        flood(net)
        guard = net.relays[0]
        quota = relay_quota(guard)
        good = await honest.connect(await honest.build(net.hops), net.echo())
        bad = [await sniper.build(net.hops) for _ in range(8)]
        await stop_reading(sniper)
        for circuit in bad:
            for _ in range(8):
                circuit.open_stream(FLOOD).protocol.limit = 1 << 40
        await trio.sleep(1)
        before = int(str(quota.statistics()["kept"]))

        quota.look()
        await trio.sleep(1)
        await good.send_all(b"still here")

        assert before > LIMIT
        assert int(str(quota.statistics()["kept"])) < LIMIT
        assert quota.closed.total() >= 1
        assert await good.receive_some() == b"still here"


async def test_streams_of_a_circuit_that_a_middle_gave_up_go_on_elsewhere(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with client_scene(tmp_path) as scene:
        data = pattern(300_000)
        listener = scene.net.target()
        application = await scene.browse(listener.local)
        target = await listener.accept()
        _, middle, _ = scene.path
        await target.send_all(data[:100_000])
        await trio.sleep(1)

        middle.relay._give_up(middle.circuits[-1])
        middle.turn.run()
        scene.net.nursery.start_soon(send_and_end, target, data[100_000:])
        received = await receive(application)

        assert received == data
        assert scene.resuming["resumed"] == 1


async def send_and_end(stream: MemoryStream, data: bytes) -> None:
    await stream.send_all(data)
    stream.send_eof()


# ---- a client


async def test_at_a_client_the_circuit_goes_of_a_program_that_does_not_read(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with client_scene(tmp_path) as scene:
        flood(scene.net)
        lazy = [await scene.browse(FLOOD, "lazy") for _ in range(4)]
        busy = await scene.browse(scene.net.echo(), "busy")
        await trio.sleep(1)
        quota = quota_of(scene.origin, scene.client.backlogs, limit=128 * KIB)

        quota.look()
        await busy.send_all(b"still here")
        busy.send_eof()

        assert quota.closed == {"circuits": 1}
        assert await receive(busy) == b"still here"
        for application in lazy:  # SID-4
            with pytest.raises(LinkError):
                await receive(application)


async def test_streams_between_two_circuits_go_like_others(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with client_scene(tmp_path, exits=1) as scene:
        flood(scene.net)
        lazy = [await scene.browse(FLOOD) for _ in range(4)]
        await trio.sleep(1)
        scene.cut(scene.path[-1])
        scene.net.memory.refuse(scene.exits[0].host)
        await wait_all_tasks_blocked()
        quota = quota_of(scene.origin, scene.client.backlogs, limit=128 * KIB)

        quota.look()
        await trio.sleep(30)

        assert quota.closed == {"circuits that had died": 1}
        assert scene.resuming["waiting"] == 0
        for application in lazy:
            with pytest.raises(LinkError):
                await receive(application)
