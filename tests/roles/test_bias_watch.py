"""Guards that let circuits fail are told of, and nobody is blamed for what others did (PATH-4)."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.support.clients import ClientScene, client_scene
from tests.support.small_network import RelayPeer
from tests.support.wayward import swallow
from warren.directory.path_bias import LEAST_CIRCUITS, PathBias, Verdict
from warren.errors import CircuitError, LinkError
from warren.protocol.messages import Extend, ExtendStatus
from warren.roles.bias_watch import SOON_SECONDS
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.paths import AVOID_SECONDS

MOST = "most circuits through a guard fail"


def refuse(circuit: PassingCircuit, _: Extend) -> None:
    circuit.machine.refuse_extend(ExtendStatus.UNREACHABLE)


def destroy(circuit: PassingCircuit, _: Extend) -> None:
    circuit.machine.destroy()


def ignore(_: PassingCircuit, __: Extend) -> None:
    return


def let_extend(
    peer: RelayPeer, share: float, otherwise: Callable[..., None], seed: int = 1
) -> None:
    """Let a relay extend such a share of circuits, drawn by chance, and treat others otherwise."""
    extend, rng = peer.relay._extend, Random(seed)

    def choose(circuit: PassingCircuit, asked: Extend) -> None:
        (extend if rng.random() < share else otherwise)(circuit, asked)

    peer.relay._extend = choose  # type: ignore[assignment, method-assign]


def bias_of(scene: ClientScene, guard: RelayPeer) -> PathBias:
    """Return the counts of a guard, with those that have waited for it."""
    scene.client._circuits._bias.settle()
    bias = scene.client._guards._guards.bias(guard.peer_id)
    assert bias is not None
    return bias


def warnings(scene: ClientScene) -> list[str]:
    """Return what the log says of guards."""
    return [
        str(entry["event"]) for entry in scene.net.logs if "through a guard" in str(entry["event"])
    ]


def biased(scene: ClientScene) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], scene.client._guards.statistics()["biased"])


async def build_many(scene: ClientScene, count: int, *, at_once: int = 10) -> None:
    """Build so many circuits, or enough, and close them.

    After some, wait until nobody is avoided any more.
    """
    builder = scene.client._circuits._builder
    for number in range(count):
        if bias_of(scene, scene.guards[0]).builds.tried >= LEAST_CIRCUITS + 10:
            break
        if number % at_once == 0:
            await trio.sleep(AVOID_SECONDS)
        try:
            (await builder.build(None)).circuit.close()
        except CircuitError:
            continue


@pytest.mark.parametrize("manner", [refuse, destroy, ignore])
async def test_a_guard_that_drops_60_percent_of_circuits_is_told_of_once(
    manner: Callable[..., None], tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, middles=12, exits=3) as scene:
        let_extend(scene.guards[0], 0.4, manner)

        await build_many(scene, 200, at_once=6)

        assert bias_of(scene, scene.guards[0]).builds.tried >= LEAST_CIRCUITS
        assert bias_of(scene, scene.guards[0]).verdict is Verdict.VERY_LOW
        assert [line.split(":")[0] for line in warnings(scene)] == [MOST]
        (said,) = biased(scene)
        assert said["guard"] == str(scene.guards[0].peer_id)
        assert said["below_percent"] == 50


async def test_a_guard_behind_which_middles_come_and_go_is_not_told_of(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    rng = Random(3)
    async with client_scene(tmp_path, guards=1, middles=20, exits=4) as scene:
        for _ in range(25):
            gone = [*rng.sample(scene.middles, 2), *rng.sample(scene.exits, 1)]
            for peer in gone[::2]:
                scene.net.memory.refuse(peer.host)
                scene.cut(peer)
            scene.net.memory.stall(gone[1].host)
            await build_many(scene, 10)
            for peer in gone:
                scene.net.memory.refusing.discard(peer.host)
                scene.net.memory.resume(peer.host)

        bias = bias_of(scene, scene.guards[0])
        assert bias.builds.tried >= LEAST_CIRCUITS
        assert bias.builds.percent < 99
        assert bias.verdict is Verdict.FINE
        assert warnings(scene) == []
        assert biased(scene) == []


async def test_what_a_middle_says_of_an_exit_is_no_fault_of_the_guard(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, exits=4) as scene:
        for middle in scene.middles:
            let_extend(middle, 0.0, refuse)
        before = bias_of(scene, scene.guards[0]).builds.tried

        with pytest.raises(CircuitError):
            await scene.client._circuits._builder.build(None)

        assert bias_of(scene, scene.guards[0]).builds.tried == before


async def test_a_relay_that_is_gone_counts_once_in_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, middles=1, exits=1) as scene:
        await trio.sleep(1)
        let_extend(scene.middles[0], 0.0, ignore)
        before = bias_of(scene, scene.guards[0]).builds

        tried, succeeded = before.tried, before.succeeded
        with pytest.raises(CircuitError):
            await scene.client._circuits._builder.build(None)
        await trio.sleep(10)

        after = bias_of(scene, scene.guards[0]).builds
        assert (after.tried, after.succeeded) == (tried + 1, succeeded)


@pytest.mark.parametrize("way", ["stall", "unplug"])
async def test_a_client_without_a_network_blames_no_guard(
    way: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, middles=12, exits=3) as scene:
        memory, host = scene.net.memory, scene.origin.host
        scene.client._circuits._builder._is_offline = lambda: host in memory.offline
        scene.client._circuits._bias._is_offline = lambda: host in memory.offline
        failures = 0
        for round_ in range(6):
            await build_many(scene, 5)
            stream = await scene.client.open_stream(scene.net.echo(100 + round_), "a")
            async with trio.open_nursery() as nursery:
                for _ in range(8):  # they are under way when it happens
                    nursery.start_soon(_try_to_build, scene)
                await trio.lowlevel.checkpoint()
                getattr(memory, way)(host)
                await trio.sleep(60)
                (memory.resume if way == "stall" else memory.plug_in)(host)
                nursery.cancel_scope.cancel()
            failures = scene.client._circuits._builder.failed
            stream.reset()

        bias = bias_of(scene, scene.guards[0])
        assert failures
        assert bias.builds.succeeded == bias.builds.tried
        assert bias.uses.succeeded == bias.uses.tried


async def _try_to_build(scene: ClientScene) -> None:
    try:
        await scene.client._circuits._builder.build(None)
    except (CircuitError, LinkError):
        return


async def test_a_request_that_was_given_up_counts_for_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        let_extend(scene.guards[0], 0.0, ignore)
        before = bias_of(scene, scene.guards[0]).builds.tried

        with trio.move_on_after(1):
            await scene.client._circuits._builder.build(None)
        await trio.sleep(0.1)

        assert bias_of(scene, scene.guards[0]).builds.tried == before


# ---- circuits that stood


async def use(scene: ClientScene, port: int) -> PassingCircuit:
    """Open a stream on a circuit of its own; return that circuit at its guard."""
    stream = await scene.client.open_stream(scene.net.echo(port), port)
    await stream.send_all(b"x")
    assert await stream.receive_some() == b"x"
    slots = [slot for slot in scene.client._circuits._pool if slot.isolation == port]
    number = slots[0].circuit.machine.leg.number  # type: ignore[attr-defined]
    circuits = scene.guards[0].circuits
    return next(each for each in circuits if each.machine.previous.number == number)


async def test_a_circuit_in_use_that_is_destroyed_soon_is_a_failed_use(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        early, late = await use(scene, 1), await use(scene, 2)

        early.machine.destroy()
        scene.guards[0].turn.run()
        await trio.sleep(SOON_SECONDS + 20)
        before = bias_of(scene, scene.guards[0]).uses.succeeded
        late.machine.destroy()
        scene.guards[0].turn.run()
        await trio.sleep(1)

        uses = bias_of(scene, scene.guards[0]).uses
        assert uses.tried - uses.succeeded == 1
        assert uses.succeeded == before + 1


async def test_a_circuit_that_is_closed_after_use_was_of_use(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        await use(scene, 1)

        scene.client.close()
        await trio.sleep(10)

        uses = bias_of(scene, scene.guards[0]).uses
        assert (uses.succeeded, uses.tried) == (1, 1)


async def test_a_circuit_in_use_that_falls_silent_is_a_failed_use(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        stream = await scene.client.open_stream(scene.net.echo(), "a")
        swallow(scene.path[2])
        await stream.send_all(b"x")

        await trio.sleep(60)

        uses = bias_of(scene, scene.guards[0]).uses
        assert uses.tried - uses.succeeded == 1


async def test_a_spare_that_is_destroyed_was_not_built_after_all(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        await trio.sleep(1)
        before = bias_of(scene, scene.guards[0]).builds
        assert before.succeeded == before.tried

        scene.guards[0].circuits[0].machine.destroy()
        scene.guards[0].turn.run()
        await trio.sleep(1)

        builds = bias_of(scene, scene.guards[0]).builds
        assert builds.tried - builds.succeeded == 1


async def test_a_link_that_breaks_counts_once_however_much_it_carried(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        for port in range(1, 5):
            await use(scene, port)

        scene.cut(scene.guards[0])
        await trio.sleep(5)

        bias = bias_of(scene, scene.guards[0])
        failures = [each.tried - each.succeeded for each in (bias.builds, bias.uses)]
        assert sum(failures) == 1


async def test_an_exit_that_ends_many_circuits_at_once_counts_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, middles=2, exits=1) as scene:
        for port in range(1, 7):
            await use(scene, port)

        (leaving,) = scene.exits
        for circuit in list(leaving.circuits):
            circuit.machine.destroy()
        leaving.turn.run()
        await trio.sleep(5)

        uses = bias_of(scene, scene.guards[0]).uses
        assert uses.tried - uses.succeeded == 1


# ---- what is kept


async def test_what_was_counted_is_there_again_after_a_restart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1) as scene:
        await build_many(scene, 5)
        bias = bias_of(scene, scene.guards[0])

    (kept,) = json.loads((tmp_path / "state" / "guards.json").read_text())["guards"]

    assert kept["builds"] == [bias.builds.tried, bias.builds.succeeded]
    assert bias.builds.tried >= 5
    async with client_scene(tmp_path, guards=1) as scene:
        assert bias_of(scene, scene.guards[0]).builds.tried > kept["builds"][0]
