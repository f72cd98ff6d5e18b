"""Relays that do not die but go astray, at the worst moments: streams go on all the same."""

from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.support.clients import ClientScene, client_scene
from tests.support.memory_network import Line, receive
from tests.support.small_network import RelayPeer, pattern
from tests.support.wayward import BACKWARD, FORWARD, Wayward
from warren.network.streams import CircuitStream
from warren.protocol.messages import Extend, ExtendStatus
from warren.roles.build_times import BUILD_SECONDS
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.resumer import MOST_REFUSALS


def keep_two_middles(scene: ClientScene) -> tuple[RelayPeer, RelayPeer]:
    """Keep the middle in use and another one, which will be tried next; return both."""
    middle = scene.path[1]
    other = next(each for each in scene.middles if each is not middle)
    ids = [each.peer_id for each in (middle, other)]
    scene.client._resumer._middles.keep(scene.slot.exit_id, ids)
    return middle, other


def refuse_to_extend(circuit: PassingCircuit, extend: Extend) -> None:
    circuit.machine.refuse_extend(ExtendStatus.UNREACHABLE)


async def wait_for_a_request(stream: CircuitStream) -> None:
    await stream.receive_some()


async def test_circuits_that_die_while_the_exit_is_asked_for_are_no_refusals_of_the_exit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        application = await scene.browse(scene.net.echo())
        guard, middle, leaving = scene.path

        Wayward(guard).snap(FORWARD, circuits=MOST_REFUSALS + 1, is_before=True)
        scene.cut(middle)
        await application.send_all(b"x")

        assert await receive(application, 1) == b"x"
        assert scene.path[2] is leaving
        assert leaving.peer_id not in scene.client._circuits._paths.avoided


async def test_an_exit_that_one_middle_cannot_reach_is_asked_for_over_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    for seed in range(6):
        async with client_scene(tmp_path / str(seed), seed=seed) as scene:
            application = await scene.browse(scene.net.echo())
            middle, blind = keep_two_middles(scene)
            blind.relay._extend = refuse_to_extend  # type: ignore[method-assign]

            scene.cut(middle)
            await application.send_all(b"x")

            assert await receive(application, 1) == b"x"


@pytest.mark.parametrize("manner", ["drop", "hold"])
async def test_a_middle_in_which_a_circuit_got_stuck_is_not_tried_again_at_once(
    manner: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    for seed in range(6):
        async with client_scene(tmp_path / str(seed), seed=seed) as scene:
            application = await scene.browse(scene.net.echo())
            middle, stuck = keep_two_middles(scene)
            Wayward(stuck).be(manner)

            scene.cut(middle)
            began = trio.current_time()
            await application.send_all(b"x")

            assert await receive(application, 1) == b"x"
            assert trio.current_time() - began < BUILD_SECONDS + 3


async def test_a_stream_whose_last_end_got_lost_came_to_its_end_and_counts_as_such(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.source(10))
        assert await receive(application) == pattern(10)
        middle = scene.path[1]

        Wayward(middle).be("drop", BACKWARD)
        application.send_eof()
        await trio.sleep(1)
        scene.cut(middle)
        await trio.sleep(5)

        assert scene.resuming["deaths"] == 1
        assert scene.resuming["streams_lost"] == 0


async def test_a_guard_in_which_circuits_get_stuck_gives_way_to_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=3) as scene:
        application = await scene.browse(scene.net.echo())
        guard = scene.path[0]
        Wayward(guard).be("drop")
        began = trio.current_time()

        await application.send_all(b"x")
        assert await receive(application, 1) == b"x"
        until_resumed = trio.current_time() - began
        await scene.client.open_stream(scene.net.echo(8), "b")

        assert until_resumed < 14 + 2 * BUILD_SECONDS + 3
        assert trio.current_time() - began < 14 + 2 * BUILD_SECONDS + 4
        used = [slot.path[0].peer_id for slot in scene.client._circuits._pool if slot.first_used]
        assert guard.peer_id not in used


async def test_an_exit_in_which_circuits_get_stuck_is_no_reason_to_give_the_guard_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=3) as scene:
        await scene.browse(scene.net.echo())
        guard, middle, leaving = scene.path
        scene.net.memory.stall(leaving.host)

        scene.cut(middle)
        await trio.sleep(100)

        assert scene.client.statistics()["built"]
        paths = [slot.path for slot in scene.client._circuits._pool]
        assert {path[0].peer_id for path in paths} == {guard.peer_id}


async def test_what_the_client_asks_of_a_directory_meanwhile_is_neither_held_nor_claimed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.echo())
        _, middle, leaving = scene.path
        leaving.relay._last_hop._serve_directory = wait_for_a_request
        question = scene.slot.circuit.open_directory()  # type: ignore[attr-defined]
        await question.wait_connected()

        scene.cut(middle)
        await application.send_all(b"x")

        assert await receive(application, 1) == b"x"
        assert question.is_ended
        assert scene.resuming["streams_lost"] == 0
        assert leaving.relay._holdings is not None
        assert leaving.relay._holdings.resumed == 1


async def move_both_ways(scene: ClientScene, port: int, delay: float) -> None:
    """Send a file, half-close, and read it back, however long that takes; it must be whole."""
    await trio.sleep(delay)
    application = await scene.browse(scene.net.echo(port))
    got: list[bytes] = []

    async def read() -> None:
        got.append(await receive(application))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await application.send_all(pattern(300_000))
        application.send_eof()

    assert got == [pattern(300_000)]


async def go_astray(scene: ClientScene, rng: Random) -> None:
    """Let relays in use go astray, one after the other, for a while each."""
    wayward = {peer.peer_id: Wayward(peer) for peer in scene.net.relays}
    for _ in range(4):
        await trio.sleep(rng.uniform(0.0, 2.0))
        used = [slot.path for slot in scene.client._circuits._pool if slot.circuit.stream_count]
        paths = [[relay.peer_id for relay in path[:-1]] for path in used]
        relay = wayward[rng.choice(rng.choice(paths or [list(wayward)]))]
        way = rng.choice([FORWARD, BACKWARD])
        manner = rng.choice(["drop", "hold", "starve", "snap"])
        if manner == "snap":
            relay.snap(way, cells=rng.randrange(5), circuits=2, is_before=rng.random() < 0.5)
            continue
        relay.be(manner, way)
        await trio.sleep(rng.choice([0.5, 5.0, 20.0]))
        relay.release()


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_relays_on_the_way_do_streams_come_whole(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    rng = Random(seed)
    line = Line(latency=0.01, rate=1e6)
    async with client_scene(tmp_path, guards=3, middles=5, line=line, seed=seed) as scene:
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_astray, scene, rng)
                for port in range(100, 105):
                    nursery.start_soon(move_both_ways, scene, port, rng.uniform(0.0, 10.0))

        await trio.sleep(90)
        assert [peer.streams for peer in scene.exits] == [[], []]
        assert scene.resuming["streams_lost"] == 0
