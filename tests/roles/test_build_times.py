"""How long circuits are waited for: learned from those before (PATH-5)."""

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.support.clients import client_scene
from warren.roles.build_times import (
    BUILD_SECONDS,
    ENOUGH,
    LEAST_SECONDS,
    MOST_LATE,
    PATIENCE,
    BuildTimes,
)
from warren.roles.circuit_builder import MOST_BUILDING, STUCK_SECONDS


def times_of(seconds: float, hops: int = 3) -> BuildTimes:
    times = BuildTimes()
    for _ in range(ENOUGH):
        times.note(hops, seconds)
    return times


def test_the_first_circuits_have_all_the_time_there_is() -> None:
    times = BuildTimes()
    for _ in range(ENOUGH - 1):
        assert times.patience(3) == BUILD_SECONDS
        times.note(3, 0.1)

    assert times.patience(3) == BUILD_SECONDS


@pytest.mark.parametrize(
    ("usual", "patience"),
    [(0.1, LEAST_SECONDS), (1.0, PATIENCE * 1.0), (10.0, BUILD_SECONDS)],
)
def test_the_next_one_has_a_multiple_of_what_is_usual(usual: float, patience: float) -> None:
    assert times_of(usual).patience(3) == patience


def test_a_slow_circuit_among_many_changes_nothing() -> None:
    times = times_of(1.0)

    times.note(3, 14.0)

    assert times.patience(3) == PATIENCE * 1.0


def test_each_length_has_times_of_its_own() -> None:
    times = times_of(0.1, hops=2)

    assert times.patience(2) == LEAST_SECONDS
    assert times.patience(5) == BUILD_SECONDS


def test_circuits_that_are_given_up_make_the_next_ones_wait_longer() -> None:
    times = times_of(1.0)
    before = times.patience(3)
    for _ in range(ENOUGH):
        times.gave_up(3)
        times.note(3, 1.0)  # or nothing would be known any more

    assert times.patience(3) > before


def test_when_one_after_the_other_is_given_up_the_line_is_another_one() -> None:
    times = times_of(0.1)
    for _ in range(MOST_LATE):
        assert times.patience(3) == LEAST_SECONDS
        times.gave_up(3)

    assert times.patience(3) == BUILD_SECONDS


@given(st.lists(st.one_of(st.none(), st.floats(0, BUILD_SECONDS)), max_size=200))
def test_nobody_is_waited_for_too_short_or_too_long(took: list[float | None]) -> None:
    times = BuildTimes()
    for seconds in took:
        if seconds is None:
            times.gave_up(3)
        else:
            times.note(3, seconds)
        assert LEAST_SECONDS <= times.patience(3) <= BUILD_SECONDS


async def test_a_relay_that_is_gone_without_a_word_costs_a_circuit_seconds(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    took: list[float] = []
    for seed in range(8):
        async with client_scene(tmp_path / str(seed), middles=2, seed=seed) as scene:
            builder = scene.client._circuits._builder
            for _ in range(ENOUGH):
                await builder.build(None)
            scene.net.memory.stall(scene.middles[0].host)

            began = trio.current_time()
            built = await builder.build(None)
            took.append(trio.current_time() - began)

            assert built.circuit.is_open

    assert max(took) > LEAST_SECONDS, "nobody met the relay that is gone"
    assert max(took) < LEAST_SECONDS + 1


async def test_a_busy_moment_of_all_relays_is_no_guards_fault(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, middles=2) as scene:
        builder = scene.client._circuits._builder
        for _ in range(ENOUGH - 1):
            await builder.build(None)
        guard = (await builder.build(None)).path[0]

        for relay in scene.middles:
            scene.net.memory.stall(relay.host)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(builder.build, None)
            await trio.sleep(STUCK_SECONDS - 1)
            for relay in scene.middles:
                scene.net.memory.resume(relay.host)

        assert (await builder.build(None)).path[0] == guard


async def test_no_more_circuits_are_built_at_a_time_than_a_guard_asks_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, middles=2) as scene:
        builder = scene.client._circuits._builder
        for relay in scene.middles:
            scene.net.memory.stall(relay.host)
        async with trio.open_nursery() as nursery:
            for _ in range(2 * MOST_BUILDING):
                nursery.start_soon(builder.build, None)
            await trio.sleep(1)
            waiting = sum(
                guard.relay.places.taken + guard.relay.places.waiting for guard in scene.guards
            )
            for relay in scene.middles:
                scene.net.memory.resume(relay.host)

        assert waiting == MOST_BUILDING
        assert builder.built >= 2 * MOST_BUILDING
