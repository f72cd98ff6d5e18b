"""A client in trouble: its network goes, its guard goes, its machine sleeps."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.support.client_network import ClientNetwork, client_network
from tests.support.memory_network import Line
from tests.support.small_network import tasks_in
from warren.addresses import Address
from warren.errors import EndReason, ExitError, WarrenError
from warren.network.circuits import Circuit
from warren.network.streams import CircuitStream
from warren.protocol.messages import Begin
from warren.protocol.stream import StreamProtocol
from warren.roles.attempts import REQUEST_SECONDS
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.paths import AVOID_SECONDS


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[ClientNetwork]:
    async with client_network(tmp_path, relays=8) as network:
        yield network


async def get(network: ClientNetwork, port: int = 7) -> float:
    """Open a stream to an echo, use it, and return the seconds that took."""
    start = trio.current_time()
    address = Address("5.6.0.1", port)
    if address not in network.net.memory.listeners:
        network.net.echo(port)
    stream = await network.client.open_stream(address, f"user {start}")
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()
    return trio.current_time() - start


def interrupt(network: ClientNetwork) -> None:
    """Do what a peer does when it learns of an interruption."""
    network.origin.links.interrupted()
    network.client.interrupted()


def sample_on_disk(tmp_path: Path) -> list[str]:
    return [guard["peer"] for guard in json.loads((tmp_path / "guards.json").read_text())["guards"]]


# ---- spares


async def test_a_spare_is_replaced_only_once_the_stream_that_took_it_is_open(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    await trio.sleep(1)
    built, address = network.built, network.net.echo()

    stream = await network.client.open_stream(address, "somebody new")
    at_once = network.built
    await trio.sleep(1)

    assert at_once == built >= 2
    assert network.built == built + 1
    await stream.aclose()


# ---- T43: the network goes and comes


@pytest.mark.parametrize("seconds", [2, 30, 200, 3000])
async def test_the_first_request_after_an_outage_succeeds_at_once_and_no_guard_is_burned(
    seconds: float, network: ClientNetwork, tmp_path: Path, autojump_clock: MockClock
) -> None:  # T43
    await get(network)
    first, contacted = network.guard, network.contacted
    sample = sample_on_disk(tmp_path)

    network.net.memory.unplug(network.origin.host)
    with trio.move_on_after(seconds):
        while True:  # somebody who does not believe it
            with pytest.raises(WarrenError):
                await get(network)
    await trio.sleep(seconds % 7)
    network.net.memory.plug_in(network.origin.host)
    interrupt(network)

    assert await get(network) <= 5
    assert network.guard is first
    assert network.contacted <= contacted
    assert sample_on_disk(tmp_path) == sample


async def test_a_request_made_in_an_outage_is_fulfilled_when_it_ends(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # T43
    await get(network)
    network.net.memory.unplug(network.origin.host)
    seconds: list[float] = []

    async def ask() -> None:
        seconds.append(await get(network))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(REQUEST_SECONDS - 20)
        network.net.memory.plug_in(network.origin.host)
        interrupt(network)

    assert seconds[0] <= REQUEST_SECONDS - 15


async def test_a_request_in_an_outage_that_lasts_gets_an_answer_within_a_minute(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    network.net.memory.unplug(network.origin.host)
    interrupt(network)
    start = trio.current_time()

    with pytest.raises(WarrenError):
        await get(network)

    assert trio.current_time() - start <= REQUEST_SECONDS + 0.1


# ---- T42: the machine sleeps


async def test_the_first_request_after_a_sleep_takes_a_new_circuit(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # T42
    await get(network)
    before = [slot.circuit for slot in network.client._circuits._pool]
    links = list(network.origin.links)
    network.net.memory.plug_in(network.origin.host)  # nothing from before answers
    assert not any(link.is_closed for link in links)

    interrupt(network)

    assert await get(network) <= 10
    assert all(link.is_closed for link in links)
    assert not any(circuit.is_open for circuit in before)


async def test_a_dial_under_way_in_an_interruption_is_begun_again(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    first = network.guard
    network.net.memory.stall(first.host)
    network.origin.links.interrupted()  # so that it has to dial, which hangs
    seconds: list[float] = []

    async def ask() -> None:
        seconds.append(await get(network))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(2)  # no other guard is tried yet
        network.net.memory.resume(first.host)
        interrupt(network)

    assert seconds[0] <= 3
    assert network.guard is first


# ---- guards


async def test_a_guard_that_flaps_for_an_hour_costs_three_guards_at_most(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # T31
    await get(network)
    first = network.guard

    for _ in range(180):
        network.net.memory.stall(first.host)
        assert await get(network) <= 25
        network.net.memory.resume(first.host)
        await trio.sleep(10)
        assert len(network.contacted) <= 3

    await trio.sleep(700)  # the longest wait of a primary guard within six hours
    interrupt(network)
    await get(network)
    assert network.guard is first


async def test_when_the_guard_dies_the_next_page_comes_within_three_seconds(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # T31
    going_on = await network.client.open_stream(network.net.echo(), "somebody")
    first = network.guard

    first.crash()
    await going_on.send_all(b"still here")

    assert await get(network, 8) <= 3
    assert await going_on.receive_some() == b"still here"
    assert network.guard is not first


async def test_the_death_of_the_guard_blames_nobody_behind_it(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    guard = network.guard
    network.net.memory.dial_seconds = dict.fromkeys((p.host for p in network.net.relays), 0.5)

    async def cut() -> None:
        for _ in range(20):
            await trio.sleep(0.2)
            network.net.memory.cut(network.origin.host, guard.host)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        for port in range(8, 12):
            await get(network, port)

    assert not network.client._circuits._paths.avoided


# ---- the others


async def test_a_blackholed_middle_costs_less_than_half_a_minute(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # T32
    stream = await network.client.open_stream(network.net.echo(), "somebody")
    [slot] = [slot for slot in network.client._circuits._pool if slot.circuit.stream_count]
    await trio.sleep(60)
    start = trio.current_time()

    network.net.memory.stall(network.relay(slot.path[1].peer_id).host)
    await stream.send_all(b"hello")
    answer = await stream.receive_some()  # over another circuit
    declared_dead = trio.current_time() - start
    await get(network, 8)

    assert answer == b"hello"
    assert declared_dead <= 25
    assert trio.current_time() - start <= 30


async def test_an_exit_that_died_is_not_chosen_for_five_minutes(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    await network.client.open_stream(network.net.echo(), "somebody")
    [slot] = [slot for slot in network.client._circuits._pool if slot.circuit.stream_count]
    network.relay(slot.exit_id).crash()
    start = trio.current_time()
    built = 0

    while trio.current_time() - start < AVOID_SECONDS:
        assert await get(network, 8) <= 2
        await trio.sleep(5)
        built += 1
        assert slot.exit_id not in {each.exit_id for each in network.client._circuits._pool}

    assert built > 50


async def test_everybody_goes_on_at_once_when_all_circuits_die(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # REL-2
    address = network.net.echo()
    users = [f"user {number}" for number in range(3)]
    for user in users:
        (await network.client.open_stream(address, user)).reset()
    await trio.sleep(10)
    used = [slot for slot in network.client._circuits._pool if slot.isolation is not None]
    spares = [slot for slot in network.client._circuits._pool if slot.isolation is None]
    built = network.built

    for slot in used:
        assert isinstance(slot.circuit, Circuit)
        slot.circuit.give_up()
    for user in users:
        (await network.client.open_stream(address, user)).reset()
        assert network.built == built  # nobody had to wait for one

    assert len(spares) == 2 * len(users)
    assert len({slot.path[1].peer_id for slot in spares}) > len(spares) // 2


async def test_an_exit_that_is_about_to_end_is_asked_once(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # security F, SIGTERM
    address = network.net.echo()
    going_on = await network.client.open_stream(address, "somebody")
    [slot] = [slot for slot in network.client._circuits._pool if slot.circuit.stream_count]
    asked = 0

    def refuse(circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        nonlocal asked
        asked += 1
        raise ExitError(EndReason.HIBERNATING)

    network.relay(slot.exit_id).relay._last_hop._serve_exit = refuse
    for number in range(20):
        (await network.client.open_stream(address, "somebody")).reset()
        (await network.client.open_stream(address, number)).reset()
    await going_on.send_all(b"still here")

    assert asked == 1
    assert await going_on.receive_some() == b"still here"


async def test_an_exit_that_keeps_its_ends_back_keeps_no_circuit_standing(
    network: ClientNetwork, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 34: nor does it cost those that are in use."""
    told = StreamProtocol.receive_end

    def receive_end(self: StreamProtocol, reason: EndReason) -> None:
        if self.is_origin:
            told(self, reason)

    monkeypatch.setattr(StreamProtocol, "receive_end", receive_end)
    address, pool = network.net.echo(), network.client._circuits._pool
    in_use = await network.client.open_stream(address, "one")
    for _ in range(20):
        (await network.client.open_stream(address, "one")).reset()
        (await network.client.open_stream(address, "two")).reset()
    await trio.sleep(60)
    after_a_minute = [slot.circuit.stream_count for slot in pool if slot.isolation is not None]

    for _ in range(10):
        await trio.sleep(60)
        await in_use.send_all(b"still here")
        assert await in_use.receive_some() == b"still here"
    left = {
        slot.isolation: slot.circuit.stream_count for slot in pool if slot.isolation is not None
    }

    assert sorted(after_a_minute) == [20, 21]
    assert left == {"one": 21}


async def test_when_no_exit_is_left_an_error_says_so_and_their_return_is_noticed(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    others = [peer for peer in network.net.relays if peer is not network.guard]
    for peer in others:
        network.net.memory.refuse(peer.host)
        network.net.memory.cut(peer.host)
    start = trio.current_time()

    with pytest.raises((WarrenError, ExitError)):
        await get(network)
    took = trio.current_time() - start
    for peer in others:
        network.net.memory.refusing.discard(peer.host)

    assert took <= REQUEST_SECONDS
    assert await get(network) <= 10


# ---- cancelled at any moment


async def cancelled(network: ClientNetwork, seconds: float, port: int, user: object) -> bool:
    """Use a stream and be cancelled after `seconds`; return whether that came too late."""
    with trio.move_on_after(seconds):
        try:
            stream = await network.client.open_stream(Address("5.6.0.1", port), user, b"hello")
        except WarrenError:  # the links are cut now and then
            return False
        try:
            assert await stream.receive_some() == b"hello"
            await stream.send_eof()
            assert await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return False
        finally:
            stream.reset()
        return True
    return False


@pytest.mark.parametrize("times", [2_000, pytest.param(50_000, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
async def test_whoever_is_cancelled_leaves_nothing_behind(
    times: int, network: ClientNetwork, autojump_clock: MockClock
) -> None:  # T82
    rng = Random(82)
    network.net.echo()
    for peer in network.net.relays:
        network.net.memory.join(network.origin.host, peer.host, Line(latency=0.01))
    await get(network, 8)
    await trio.sleep(400)
    tasks, streams = tasks_in(network.net.nursery), len(network.net.memory.streams)
    done = 0

    for _ in range(times // 10):
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                nonlocal done
                came_through = await cancelled(network, rng.uniform(0, 0.06), 7, rng.randrange(4))
                done += came_through

            for _ in range(10):
                nursery.start_soon(one)
        if rng.random() < 0.02:
            network.net.memory.cut(network.origin.host)
    await trio.sleep(1000)

    assert times / 10 < done < times * 9 / 10
    assert not any(slot.circuit.stream_count for slot in network.client._circuits._pool)
    assert not any(peer.streams for peer in network.net.relays)
    assert tasks_in(network.net.nursery) <= tasks + 2 * len(network.net.relays)
    assert len(network.net.memory.streams) <= streams + 2 * len(network.net.relays)
