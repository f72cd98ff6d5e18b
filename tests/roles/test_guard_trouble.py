"""Guards that do not answer: who waits for whom, and for how long."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.clients import ClientScene, client_scene
from tests.support.memory_network import Line, receive
from warren.roles.guard_links import SLOW_SECONDS


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[ClientScene]:
    async with client_scene(tmp_path, guards=3, line=Line(latency=0.02)) as scene:
        yield scene


def refuse(scene: ClientScene) -> None:
    """Let no guard be reached, and break the links to them."""
    for guard in scene.guards:
        scene.net.memory.refuse(guard.host)
        scene.cut(guard)


def in_their_order(scene: ClientScene) -> list[str]:
    """Return the hosts of the guards, the one to prefer first."""
    order = scene.client._circuits._builder._guards.primary
    hosts = {guard.peer_id: guard.host for guard in scene.guards}
    return [hosts[peer_id] for peer_id in order]


async def test_a_request_waits_while_all_guards_restart(
    scene: ClientScene, autojump_clock: MockClock
) -> None:
    refuse(scene)
    await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.client.open_stream, scene.net.echo(), "a")
        await trio.sleep(1)
        scene.net.memory.refusing.clear()
        began = trio.current_time()

    assert trio.current_time() - began < 3


async def test_streams_go_on_soon_after_a_guard_is_back(
    scene: ClientScene, autojump_clock: MockClock
) -> None:
    application = await scene.browse(scene.net.echo())
    first = scene.path[0]

    refuse(scene)
    await trio.sleep(1)
    scene.net.memory.refusing.discard(first.host)
    began = trio.current_time()
    await application.send_all(b"x")

    assert await receive(application, 1) == b"x"
    assert trio.current_time() - began < 3
    assert scene.path[0] is first


async def test_a_guard_that_is_switched_off_costs_three_seconds(
    scene: ClientScene, autojump_clock: MockClock
) -> None:
    first, second, _ = in_their_order(scene)
    scene.net.memory.stall(first)
    scene.net.memory.cut(scene.origin.host)  # nothing arrives: its link is not heard of again
    scene.origin.links.interrupted()
    began = trio.current_time()

    await scene.client.open_stream(scene.net.echo(), "a")

    assert trio.current_time() - began < SLOW_SECONDS + 2
    assert scene.path[0].host == second


async def test_guards_that_are_all_slow_are_waited_for(
    scene: ClientScene, autojump_clock: MockClock
) -> None:
    scene.origin.network.dial_seconds = dict.fromkeys(in_their_order(scene), 7.0)
    scene.origin.links.interrupted()
    began = trio.current_time()

    await scene.client.open_stream(scene.net.echo(), "a")

    assert trio.current_time() - began < 12


async def test_a_slow_guard_is_preferred_again_once_it_has_answered(
    scene: ClientScene, autojump_clock: MockClock
) -> None:
    first, second, third = in_their_order(scene)
    scene.origin.network.dial_seconds = {first: 5.0}
    scene.origin.links.interrupted()
    await scene.client.open_stream(scene.net.echo(), "a")
    assert scene.path[0].host == second

    await trio.sleep(5)
    keeper = scene.client._circuits._builder._guards
    consensus = await scene.client._circuits._builder._directory.wait_for_consensus()
    hosts = {guard.peer_id: guard.host for guard in scene.guards}

    assert [hosts[peer_id] for peer_id in keeper.candidates(consensus)] == [first, second, third]
    contacted = [guard.peer_id for guard in keeper._guards._sample if guard.contacted is not None]
    assert {hosts[peer_id] for peer_id in contacted} == {first, second}


async def test_a_guard_that_does_not_answer_is_no_middle_where_there_are_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    for seed in range(8):
        async with client_scene(tmp_path / str(seed), guards=3, middles=2, seed=seed) as scene:
            first, *others = in_their_order(scene)
            for host in others:
                scene.net.memory.stall(host)
            scene.net.memory.refuse(first)
            scene.origin.links.interrupted()
            await trio.sleep(3 * SLOW_SECONDS)
            scene.net.memory.refusing.clear()
            began = trio.current_time()

            await scene.client.open_stream(scene.net.echo(), "a")

            assert trio.current_time() - began < 2 * SLOW_SECONDS + 2
            assert scene.path[1].host not in others
