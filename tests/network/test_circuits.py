"""Circuits that start here: how they are built, where they fail, how they end."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.memory_network import Line, receive
from tests.support.small_network import FarEnds, Origin, SmallNetwork, small_network
from warren.addresses import Address
from warren.errors import CircuitError, EndReason, ExitError, LinkError
from warren.identity import Suite
from warren.network.circuits import Circuit
from warren.network.link import Link, OnCreate
from warren.protocol.link import CreateRequested
from warren.protocol.multiplexer import MOST_STREAMS
from warren.roles.build_times import BUILD_SECONDS
from warren.roles.relay import Relay

TARGET = Address("5.6.0.1", 80)


@dataclass
class Start:
    """Hold three relays and an origin that is about to build."""

    net: SmallNetwork
    origin: Origin
    far_ends: FarEnds


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    far_ends = FarEnds()
    async with small_network(serve_exit=far_ends) as net:
        yield Start(net, await net.add_origin(), far_ends)


def legs(net: SmallNetwork) -> int:
    """Return how many circuits all relays together have on all their links."""
    return sum(len(link.protocol.legs) for peer in net.relays for link in peer.links)


# ---- building


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("hops", [2, 3, 4, 5])
async def test_a_circuit_reaches_its_last_hop(
    hops: int, suite: Suite, autojump_clock: MockClock
) -> None:
    async with small_network(relays=0) as net:
        for _ in range(hops):
            await net.add_relay(suite=suite)
        origin = await net.add_origin()

        circuit = await origin.build(net.hops)
        application = await origin.browse(circuit, net.echo())
        await application.send_all(b"hello")

        assert await receive(application, 5) == b"hello"
        assert [peer.circuit.machine.depth for peer in net.relays] == list(range(hops))


async def test_only_a_circuit_with_all_its_hops_is_open(
    start: Start, autojump_clock: MockClock
) -> None:
    link = await start.origin.links.get(start.net.hops[0], is_anonymous=True)
    seen: list[bool] = []

    circuit = await start.origin.build(start.net.hops)
    seen.append(circuit.is_open)
    circuit.close()
    seen.append(circuit.is_open)

    assert seen == [True, False]
    assert circuit.link is link


async def test_a_first_hop_without_a_known_key_is_asked_for_it(
    start: Start, autojump_clock: MockClock
) -> None:
    hop = replace(start.net.hops[0], onion_key=None)

    circuit = await start.origin.build([hop])

    assert circuit.is_open


# ---- where it fails


async def fail_at(start: Start, hop: int) -> CircuitError:
    """Build through all relays; return the error, which must be about `hop`."""
    with pytest.raises(CircuitError) as caught:
        await start.origin.build(start.net.hops)
    assert caught.value.hop == hop
    return caught.value


@pytest.mark.parametrize("hop", [1, 2])
async def test_a_hop_that_cannot_be_reached_is_named(
    hop: int, start: Start, autojump_clock: MockClock
) -> None:
    start.net.memory.refuse(start.net.relays[hop].host)

    error = await fail_at(start, hop)

    assert str(error) == f"hop {hop + 1} of 3: the hop before it could not reach it"


@pytest.mark.parametrize("hop", [1, 2])
async def test_a_hop_that_hangs_is_named_before_the_origin_gives_up(
    hop: int, start: Start, autojump_clock: MockClock
) -> None:
    start.net.memory.stall(start.net.relays[hop].host)

    with trio.fail_after(BUILD_SECONDS):
        error = await fail_at(start, hop)

    assert "could not reach" in str(error)


async def test_a_hop_that_is_not_known_is_named_and_not_blamed(
    start: Start, autojump_clock: MockClock
) -> None:
    async with small_network(relays=4, seed=2) as elsewhere:
        hops = [*start.net.hops[:2], elsewhere.hops[3]]

    with pytest.raises(CircuitError, match="does not know it") as caught:
        await start.origin.build(hops)

    assert caught.value.hop == 2
    assert not caught.value.is_its_fault


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_a_hop_without_the_onion_key_refuses(
    hop: int, start: Start, autojump_clock: MockClock
) -> None:
    hops = start.net.hops
    hops[hop] = replace(hops[hop], onion_key=start.net.hops[hop - 1].onion_key)

    with pytest.raises(CircuitError) as caught:  # T54
        await start.origin.build(hops)

    assert caught.value.hop == hop


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_an_onion_key_that_is_none_fails_its_hop(
    hop: int, start: Start, autojump_clock: MockClock
) -> None:
    hops = start.net.hops
    hops[hop] = replace(hops[hop], onion_key=bytes(32))  # T53: a point of low order

    with pytest.raises(CircuitError) as caught:
        await start.origin.build(hops)
    await trio.sleep(1)

    assert caught.value.hop == hop
    assert legs(start.net) == 0


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_an_answer_from_somebody_else_destroys_the_circuit(
    hop: int, autojump_clock: MockClock
) -> None:
    def answer_with_garbage(relay: Relay) -> OnCreate:
        def on_create(link: Link, request: CreateRequested) -> None:
            link.protocol.send_created(request.leg, bytes(range(1, 129)) * 9)

        return on_create

    async with small_network(relays=0) as net:
        for number in range(3):
            await net.add_relay(on_create=answer_with_garbage if number == hop else None)
        origin = await net.add_origin()

        with pytest.raises(CircuitError) as caught:
            await origin.build(net.hops)
        await trio.sleep(1)

        assert caught.value.hop == hop
        assert not any(peer.circuits for peer in net.relays)


@pytest.mark.parametrize("seconds", [0.7, 0.9, 1.1, 1.3, 1.5, 1.7])
async def test_giving_up_destroys_what_was_built(seconds: float, autojump_clock: MockClock) -> None:
    async with small_network(line=Line(latency=0.1)) as net:
        origin = await net.add_origin()

        with trio.move_on_after(seconds) as patience:
            await origin.build(net.hops)
        await trio.sleep(30)

        assert patience.cancelled_caught
        assert legs(net) == 0
        assert not any(peer.circuits for peer in net.relays)


async def test_a_link_that_is_gone_is_a_link_error(start: Start, autojump_clock: MockClock) -> None:
    circuit = await start.origin.build(start.net.hops)

    circuit.link.close()

    with pytest.raises(LinkError):
        circuit.link.create(0, Suite.AESGCM, bytes(1248))


# ---- how it ends


async def built(start: Start) -> tuple[Circuit, list[Circuit]]:
    """Build a circuit; return it and the list it is added to when it is gone."""
    circuit, closed = await start.origin.build(start.net.hops), list[Circuit]()
    circuit.on_closed = closed.append
    return circuit, closed


@pytest.mark.parametrize("fault", ["guard", "middle", "exit", "link", "close"])
async def test_whoever_ends_it_the_circuit_is_gone_everywhere(
    fault: str, start: Start, autojump_clock: MockClock
) -> None:
    circuit, closed = await built(start)

    if fault == "close":
        circuit.close()
    elif fault == "link":
        circuit.link.close()
    else:
        start.net.relays[["guard", "middle", "exit"].index(fault)].crash()
    await trio.sleep(1)

    assert closed == [circuit]
    assert legs(start.net) == 0
    with pytest.raises(CircuitError, match="is gone"):
        circuit.open_stream(TARGET)


async def test_closing_resets_the_streams_at_both_ends(
    start: Start, autojump_clock: MockClock
) -> None:
    circuit = await start.origin.build(start.net.hops)
    near = circuit.open_stream(TARGET)
    far = await start.far_ends.next()

    circuit.close()
    await far.wait_ended()

    for stream in (near, far):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_streams_end_when_the_exit_crashes(start: Start, autojump_clock: MockClock) -> None:
    circuit = await start.origin.build(start.net.hops)
    stream = circuit.open_stream(TARGET)

    start.net.relays[2].crash()
    with pytest.raises(ExitError) as caught:
        await stream.wait_connected()

    assert caught.value.reason is EndReason.DESTROY


async def test_a_full_circuit_refuses_one_more_stream(
    start: Start, autojump_clock: MockClock
) -> None:
    circuit = await start.origin.build(start.net.hops)
    streams = [circuit.open_stream(TARGET) for _ in range(MOST_STREAMS)]

    with pytest.raises(CircuitError, match="as many streams"):
        circuit.open_stream(TARGET)
    await streams[-1].wait_connected()

    assert circuit.is_open
    assert not circuit.has_room


# ---- one hop


async def test_a_circuit_of_one_hop_carries_no_stream_to_a_target(
    start: Start, autojump_clock: MockClock
) -> None:
    """T13, EXT-8: it would be a plain proxy."""
    circuit = await start.origin.build(start.net.hops[:1])
    stream = circuit.open_stream(TARGET)

    with pytest.raises(ExitError) as caught:
        await stream.wait_connected()
    await wait_all_tasks_blocked()

    assert caught.value.reason is EndReason.EXIT_POLICY
    assert not circuit.is_open
    assert TARGET not in start.net.memory.dialled


async def test_a_circuit_of_one_hop_reaches_the_directory(autojump_clock: MockClock) -> None:
    async def serve_directory(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"the consensus")
        await stream.aclose()

    async with small_network(relays=0) as net:
        await net.add_relay(serve_directory=serve_directory)
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)

        stream = circuit.open_directory()
        received = b"".join([part async for part in stream])

        assert received == b"the consensus"
        assert circuit.is_open
