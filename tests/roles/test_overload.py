"""A relay whose loop is late takes no new circuits, and its clients build elsewhere (DOS-10)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.client_network import ClientNetwork, client_network
from tests.support.small_network import RelayPeer, small_network
from warren.errors import CircuitError
from warren.network.loop_lag import LASTING_SECONDS, LoopWatch
from warren.roles.create_limits import CreateDoor, CreateLimits
from warren.roles.guard_keeper import BUSY_SECONDS, REFUSED_SECONDS
from warren.roles.paths import AVOID_SECONDS

#: Until overload has begun or ended for sure.
A_WHILE = 2 * LASTING_SECONDS


class Lag:
    """Be a loop that is as late as the test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def measure(self) -> float:
        await trio.lowlevel.checkpoint()
        return self.seconds


def watched(relay: RelayPeer) -> tuple[Lag, LoopWatch]:
    """Let `relay` watch a loop that is as late as the test says."""
    lag = Lag()
    watch = LoopWatch(lag.measure)
    relay.relay._is_overloaded = lambda: watch.is_overloaded
    relay.nursery.start_soon(watch.watch)
    return lag, watch


async def overload(relay: RelayPeer) -> Lag:
    lag, watch = watched(relay)
    lag.seconds = 0.4
    await trio.sleep(A_WHILE)
    assert watch.is_overloaded
    return lag


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[ClientNetwork]:
    async with client_network(tmp_path) as network:
        yield network


async def test_circuits_that_stand_go_on_and_new_ones_are_refused_until_it_is_over(
    autojump_clock: MockClock,
) -> None:
    async with small_network() as net:
        origin = await net.add_origin()
        middle = net.relays[1]
        echo = net.echo()
        stream = await origin.connect(await origin.build(net.hops), echo)

        lag = await overload(middle)
        with pytest.raises(CircuitError, match="it refused") as refusal:
            await origin.build(net.hops)
        await stream.send_all(b"still here")
        echoed = await stream.receive_some()
        other = await origin.connect(await origin.build([net.hops[0], net.hops[2]]), echo)
        lag.seconds = 0.0
        await trio.sleep(A_WHILE)
        await origin.build(net.hops)

        assert refusal.value.hop == 1
        assert middle.relay.statistics()["turned_away"] == 1
        assert echoed == b"still here"
        assert not other.is_ended


async def test_the_log_says_once_that_it_began_and_once_that_it_is_over(
    autojump_clock: MockClock,
) -> None:
    async with small_network(1) as net:
        lag = await overload(net.relays[0])
        await trio.sleep(60)
        lag.seconds = 0.0
        await trio.sleep(60)

        told = [(each["log_level"], str(each["event"])) for each in net.logs]

        assert [level for level, _ in told] == ["warning", "info"]
        assert "new circuits are refused" in told[0][1]
        assert "takes new circuits" in told[1][1]


async def test_overload_that_comes_and_goes_is_told_once_a_minute(
    autojump_clock: MockClock,
) -> None:
    async with small_network(1) as net:
        lag, watch = watched(net.relays[0])
        for _ in range(4):
            lag.seconds = 0.4
            await trio.sleep(7)
            lag.seconds = 0.0
            await trio.sleep(7)

        assert watch.statistics() == {"overloaded": 0, "overloads": 4}
        assert len(net.logs) == 2


async def test_a_client_builds_over_other_middles_and_exits_for_a_while(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    busy = network.net.relays[-1]  # an exit, and so a middle of the others
    lag, echo = await overload(busy), network.net.echo()

    for number in range(12):
        await network.client.open_stream(echo, f"user {number}")
    turned_away = busy.relay.turned_away
    lag.seconds = 0.0
    await trio.sleep(AVOID_SECONDS)
    created = busy.relay.created
    for number in range(12):
        await network.client.open_stream(echo, f"later user {number}")

    assert 1 <= turned_away <= 2
    assert busy.relay.created > created


async def test_a_client_whose_guard_is_overloaded_goes_to_its_next_one_and_comes_back(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    guard, echo = network.guard, network.net.echo()
    stands = await network.client.open_stream(echo, "before")
    for slot in list(network.client._circuits._pool):
        if slot.first_used is None:
            slot.circuit.close()  # type: ignore[attr-defined]  # no spare is left
    lag = await overload(guard)
    primary, contacted = set(network.guards.primary), network.contacted

    began = trio.current_time()
    for number in range(12):
        await network.client.open_stream(echo, f"user {number}")
    seconds = trio.current_time() - began
    await stands.send_all(b"still here")
    echoed = await stands.receive_some()
    lag.seconds = 0.0
    await trio.sleep(BUSY_SECONDS + A_WHILE)
    created = guard.relay.created
    for number in range(12):
        await network.client.open_stream(echo, f"later user {number}")

    assert seconds < 3 * REFUSED_SECONDS
    assert echoed == b"still here"
    assert network.contacted - contacted < primary
    assert guard.relay.created > created


async def test_a_single_refusal_moves_no_client_to_another_guard(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    guard, echo = network.guard, network.net.echo()
    guard.relay._is_overloaded = lambda: True
    with trio.move_on_after(1):
        await network.client.open_stream(echo, "a")
    for number in range(12):
        with trio.move_on_after(0.1):
            await network.client.open_stream(echo, f"user {number}")
    guard.relay._is_overloaded = lambda: False

    for number in range(12):
        await network.client.open_stream(echo, f"later user {number}")

    assert network.contacted == {guard.peer_id}


async def test_a_client_that_asks_for_too_much_stays_with_its_guard(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    """DOS-3: it is given a little all the time, and waits for more."""
    little = CreateLimits(creates_per_second=2, create_burst=2)
    guard, echo = network.guard, network.net.echo()
    guard.relay._door = CreateDoor(little, lambda _: False)

    for number in range(40):
        await network.client.open_stream(echo, f"user {number}")

    assert guard.relay.turned_away > 10
    assert network.contacted == {guard.peer_id}
