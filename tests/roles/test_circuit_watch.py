"""Circuits whose far end is silent while their link lives, and those that only look so."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.client_network import PATIENT, ClientNetwork, client_network
from tests.support.memory_network import MemoryStream, receive
from tests.support.small_network import connect, in_a_task, to_each_circuit
from tests.support.wayward import BACKWARD, FORWARD, Wayward, swallow
from warren.addresses import Address
from warren.errors import WarrenError
from warren.network.circuits import Circuit
from warren.network.streams import CircuitStream
from warren.protocol.messages import Begin
from warren.protocol.round_trips import LEAST_PATIENCE
from warren.roles.circuit_watch import (
    DEAF_SECONDS,
    MOST_DEAF_SECONDS,
    PEACE_SECONDS,
    QUIET_SECONDS,
)
from warren.roles.client import CONNECT_SECONDS
from warren.roles.passing_circuit import PassingCircuit


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[ClientNetwork]:
    async with client_network(tmp_path, idle=PATIENT) as network:
        yield network


async def open_stream(network: ClientNetwork, address: Address) -> tuple[CircuitStream, Circuit]:
    """Open a stream; return it and the circuit that carries it."""
    stream = await network.client.open_stream(address, "somebody")
    for slot in network.client._circuits._pool:
        assert isinstance(slot.circuit, Circuit)
        if stream.protocol in slot.circuit.machine.streams.streams.values():
            return stream, slot.circuit
    raise AssertionError("the stream is on no circuit")


def moved(circuit: Circuit) -> int:
    """Return how many cells went either way on a circuit."""
    return circuit.cells_sent + circuit.cells_received


def let_directories_wait(network: ClientNetwork) -> None:
    """Let every relay wait for what its directory is to be asked for, as mirrors do."""

    async def serve(stream: CircuitStream) -> None:
        await stream.receive_some()

    for peer in network.net.relays:
        peer.relay._last_hop._serve_directory = to_each_circuit(serve)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, to a hundredth of a second."""
    while True:
        if is_so():
            return
        await trio.sleep(0.01)


def silence(network: ClientNetwork, circuit: Circuit) -> None:
    """Let the last hop swallow what comes on its circuits."""
    swallow(network.relay(circuit.hops[-1].peer_id))


async def open_asked(network: ClientNetwork) -> tuple[CircuitStream, Circuit, Wayward]:
    """Open a stream to an echo; return it, its circuit whose far end is being asked, its middle."""
    let_directories_wait(network)
    stream, circuit = await open_stream(network, network.net.echo())
    middle = Wayward(network.relay(circuit.hops[1].peer_id))
    await until(lambda: circuit.stream_count > 1)
    return stream, circuit, middle


async def test_a_stream_goes_on_when_its_circuit_falls_silent(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit = await open_stream(network, network.net.echo())
    await trio.sleep(60)
    silence(network, circuit)
    start = trio.current_time()

    await stream.send_all(b"hello")
    answer = await stream.receive_some()

    assert answer == b"hello"
    assert trio.current_time() - start <= QUIET_SECONDS + LEAST_PATIENCE + 3
    assert not circuit.link.is_closed
    assert not circuit.is_open
    assert network.client.statistics()["given_up"] == 1


async def test_a_circuit_that_falls_silent_behind_the_answer_to_a_question_is_given_up(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit, middle = await open_asked(network)
    await trio.sleep(0.1)

    middle.be("drop", FORWARD)  # the question is answered, and nobody hears of its end
    await trio.sleep(QUIET_SECONDS)
    await stream.send_all(b"hello")

    with trio.fail_after(30):
        assert await stream.receive_some() == b"hello"
    assert not circuit.is_open


async def test_what_was_lost_behind_the_end_of_a_question_is_asked_about_again(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit, middle = await open_asked(network)
    ends = circuit.cells_sent + 1  # that of the question is the next cell

    middle.be("hold", BACKWARD)  # its answer is late
    await until(lambda: circuit.cells_sent == ends)
    middle.be("drop", FORWARD)
    await stream.send_all(b"hello")
    middle.release(BACKWARD)

    with trio.fail_after(40):
        assert await stream.receive_some() == b"hello"
    assert not circuit.is_open


async def test_what_was_sent_behind_a_question_that_the_far_end_ended_is_asked_about_again(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    async def serve(stream: CircuitStream) -> None:
        stream.reset()

    for peer in network.net.relays:
        peer.relay._last_hop._serve_directory = to_each_circuit(serve)
    stream, circuit = await open_stream(network, network.net.echo())
    middle = Wayward(network.relay(circuit.hops[1].peer_id))
    before = circuit.cells_sent
    await until(lambda: circuit.cells_sent == before + 2)  # and nobody has looked since

    middle.be("drop", FORWARD)
    await stream.send_all(b"hello")

    with trio.fail_after(40):
        assert await stream.receive_some() == b"hello"
    assert not circuit.is_open


async def open_to_a_talker(network: ClientNetwork) -> tuple[CircuitStream, Circuit, MemoryStream]:
    """Open a stream to a target that says something every second, and has for a minute."""
    listener = network.net.target(80)
    stream, circuit = await open_stream(network, listener.local)
    target = await listener.accept()

    async def talk() -> None:
        while True:
            await target.send_all(b"tick")
            await trio.sleep(1)

    network.net.nursery.start_soon(talk)
    await trio.sleep(60)
    return stream, circuit, target


async def test_what_is_lost_on_its_way_to_a_target_that_talks_on_is_noticed(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit, target = await open_to_a_talker(network)

    Wayward(network.relay(circuit.hops[1].peer_id)).be("drop", FORWARD)
    await stream.send_all(b"hello")

    with trio.fail_after(PEACE_SECONDS + DEAF_SECONDS + MOST_DEAF_SECONDS + 10):
        assert await receive(target, 5) == b"hello"
    assert not circuit.is_open


async def test_who_listens_to_a_talker_asks_twice_a_minute_and_not_without_having_sent(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit, _ = await open_to_a_talker(network)

    silent = circuit.cells_sent
    for _ in range(300):
        await stream.receive_some()
    without = circuit.cells_sent - silent
    for _ in range(300):
        await stream.receive_some()
        await stream.send_all(b"hm")
    asked = circuit.cells_sent - silent - without - 300

    assert without <= 300 / 60 * 2  # what credit there is to give
    assert 2 * 5 <= asked <= 2 * 300 / (PEACE_SECONDS + DEAF_SECONDS) + without
    assert circuit.is_open


async def test_the_next_circuit_avoids_who_may_have_been_silent(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit = await open_stream(network, network.net.echo())
    silence(network, circuit)
    await stream.send_all(b"hello")
    await stream.receive_some()

    other = await network.client.open_stream(network.net.echo(8), "somebody else")
    [after] = [
        slot.circuit
        for slot in network.client._circuits._pool
        if isinstance(slot.circuit, Circuit)
        and other.protocol in slot.circuit.machine.streams.streams.values()
    ]

    assert after.hops[0].peer_id == circuit.hops[0].peer_id
    assert not {hop.peer_id for hop in circuit.hops[1:]} & {hop.peer_id for hop in after.hops}


async def test_a_target_that_thinks_for_an_hour_is_waited_for(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    listener = network.net.target(80)
    stream, circuit = await open_stream(network, listener.local)
    target = await listener.accept()

    await stream.send_all(b"a hard question")
    await receive(target, 15)
    await trio.sleep(3600)
    await target.send_all(b"42")

    assert await stream.receive_some() == b"42"
    assert circuit.is_open


async def test_an_idle_stream_costs_one_question_and_no_more(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit = await open_stream(network, network.net.echo())
    await stream.send_all(b"hello")
    await trio.sleep(60)
    before = moved(circuit)

    await trio.sleep(3600)

    assert moved(circuit) == before


async def test_a_busy_talker_is_asked_once_in_ten_seconds(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    stream, circuit = await open_stream(network, network.net.echo())
    before = moved(circuit)

    for _ in range(60):  # a key every five seconds
        await stream.send_all(b"k")
        assert await stream.receive_some() == b"k"
        await trio.sleep(5)

    talk = 60 * 3  # there, back, and credit for it now and then
    assert moved(circuit) - before <= talk + 4 * 300 / PEACE_SECONDS
    assert circuit.is_open


# ---- requests that wait on a circuit in doubt

#: Until a request leaves a circuit whose far end is silent: asked, late, and another way taken.
LEAVE_SECONDS = 4.5


async def quiet_spare(network: ClientNetwork) -> Circuit:
    """Return the circuit that the next request will be given, when all have been quiet."""
    await trio.sleep(60)
    slot = network.client._circuits.pick("somebody", Address("192.0.2.1", 7), ())
    assert slot is not None
    assert isinstance(slot.circuit, Circuit)
    return slot.circuit


async def test_a_stream_leaves_a_spare_whose_middle_is_silent_within_seconds(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    circuit = await quiet_spare(network)
    swallow(network.relay(circuit.hops[1].peer_id))
    start = trio.current_time()

    stream, other = await open_stream(network, network.net.echo())

    assert trio.current_time() - start <= LEAVE_SECONDS
    assert other is not circuit
    assert network.client.statistics()["retried"] == 1
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"


async def test_a_name_leaves_a_spare_whose_exit_is_silent_within_seconds(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    circuit = await quiet_spare(network)
    silence(network, circuit)
    start = trio.current_time()

    with pytest.raises(WarrenError):  # these exits know no names, and say so at once
        await network.client.resolve(Address("example.org", 0), "somebody")

    assert trio.current_time() - start <= LEAVE_SECONDS


async def test_a_request_that_was_sent_along_stays_as_long_as_it_may_be_answered(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    circuit = await quiet_spare(network)
    silence(network, circuit)
    start = trio.current_time()

    await network.client.open_stream(network.net.echo(), "somebody", b"POST")

    assert LEAST_PATIENCE <= trio.current_time() - start <= CONNECT_SECONDS + 1


async def test_a_target_that_is_slow_to_accept_is_waited_for_on_its_circuit(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    circuit = await quiet_spare(network)

    async def connect_slowly(circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        await trio.sleep(CONNECT_SECONDS - 1)
        connect(circuit, stream, begin.address)
        await trio.sleep_forever()

    last_hop = network.relay(circuit.hops[-1].peer_id).relay._last_hop
    last_hop._serve_exit = in_a_task(connect_slowly)
    start = trio.current_time()

    _, carrier = await open_stream(network, network.net.echo())

    assert carrier is circuit
    assert trio.current_time() - start >= CONNECT_SECONDS - 1
    assert network.client.statistics()["retried"] == 0


async def test_when_nothing_is_heard_of_the_guard_no_request_goes_elsewhere(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    circuit = await quiet_spare(network)
    network.net.memory.stall(network.origin.host)
    tried = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_stream, network, network.net.echo())
        await trio.sleep(2 * LEAVE_SECONDS)
        tried = network.client.statistics()["retried"]
        network.net.memory.resume(network.origin.host)

    assert tried == 0
    assert circuit.is_open


async def test_where_all_behind_the_guard_is_silent_for_half_a_minute_the_request_waits(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    await quiet_spare(network)
    guard = Wayward(network.guard)
    guard.be("drop")
    start = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_stream, network, network.net.echo())
        await trio.sleep(30)
        guard.be("pass")

    assert 30 <= trio.current_time() - start <= 60
