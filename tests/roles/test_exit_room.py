"""Room at an exit: circuits lose their streams, and their sockets with them (EXT-12)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from random import Random
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.memory_network import MemoryStream, receive
from tests.support.small_network import Origin, SmallNetwork, small_network
from warren.addresses import Address
from warren.directory.exit_policy import ExitPolicy
from warren.errors import EndReason, ExitError, LinkError
from warren.network.circuits import Circuit
from warren.network.names import Resolver
from warren.network.own_addresses import OwnAddresses
from warren.network.streams import CircuitStream
from warren.roles.exit import Exit
from warren.roles.exit_room import ExitRoom
from warren.roles.relay import HOLD_SECONDS, LAST_WORDS_SECONDS, Relay

TARGET = Address("93.184.216.34", 80)


class NoNames:
    """Be a resolver that knows nothing, and own places that are nowhere."""

    async def resolve(self, host: str, key: object = None) -> None:
        raise ExitError(EndReason.RESOLVE_FAILED)

    def contains(self, ip: IPv4Address) -> str | None:
        return None


@dataclass
class Full:
    """Hold an exit, its relay, the target's ends of what it opened, and circuits of an origin."""

    net: SmallNetwork
    origin: Origin
    relay: Relay
    exit: Exit
    targets: list[MemoryStream] = field(default_factory=list)
    circuits: list[Circuit] = field(default_factory=list)
    streams: list[list[CircuitStream]] = field(default_factory=list)

    async def occupy(self, *counts: int) -> None:
        """Build a circuit for each of `counts`, with so many streams."""
        for count in counts:
            circuit = await self.origin.build(self.net.hops)
            self.circuits.append(circuit)
            self.streams.append([await self.origin.connect(circuit, TARGET) for _ in range(count)])

    async def make_room(self, count: int, seed: int = 1) -> dict[str, int]:
        closed = ExitRoom(self.relay, self.exit, Random(seed)).make_room(count)
        await wait_all_tasks_blocked()
        return dict(closed)

    @property
    def open(self) -> int:
        """Return how many sockets the exit has open."""
        return sum(1 for each in self.targets if each.peer and not each.peer.is_closed)


@pytest.fixture
async def full() -> AsyncIterator[Full]:
    async with small_network(relays=2) as net:
        nothing = NoNames()
        leaving = Exit(
            net.memory.at("5.5.3.5"),
            ExitPolicy.parse(("accept *:*",)),
            cast(Resolver, nothing),
            cast(OwnAddresses, nothing),
            is_relay=lambda _: True,
            network_places=frozenset,
        )
        peer = await net.add_relay(serve_exit=leaving.serve)
        scene = Full(net, await net.add_origin(), peer.relay, leaving)
        listener = net.memory.listen(TARGET)

        async def accept(stream: object) -> None:
            scene.targets.append(cast(MemoryStream, stream))

        net.nursery.start_soon(listener.serve, accept, net.nursery)
        yield scene


async def test_a_circuit_goes_with_all_its_streams(full: Full, autojump_clock: MockClock) -> None:
    await full.occupy(5)

    closed = await full.make_room(1)

    assert closed == {"circuits at the exit": 1, "streams at the exit": 5}
    assert full.open == 0
    for target in full.targets:  # SID-4
        with pytest.raises(LinkError):
            await receive(target)
    await trio.sleep(LAST_WORDS_SECONDS + 0.1)
    assert not full.circuits[0].is_open


async def test_the_origin_hears_why_before_the_circuit_goes(
    full: Full, autojump_clock: MockClock
) -> None:
    await full.occupy(3)

    await full.make_room(1)

    assert full.circuits[0].is_open
    assert {each.reason for each in full.streams[0]} == {EndReason.RESOURCE_LIMIT}


async def test_nothing_more_is_begun_on_a_circuit_that_is_to_go(
    full: Full, autojump_clock: MockClock
) -> None:
    await full.occupy(3)
    await full.make_room(1)

    with pytest.raises(ExitError):
        await full.origin.connect(full.circuits[0], TARGET)

    assert len(full.targets) == 3
    assert not full.circuits[0].is_open


async def test_no_more_circuits_go_than_have_to(full: Full, autojump_clock: MockClock) -> None:
    await full.occupy(4, 4, 4, 4)

    closed = await full.make_room(6)

    assert closed == {"circuits at the exit": 2, "streams at the exit": 8}
    assert full.open == 8
    await trio.sleep(LAST_WORDS_SECONDS + 0.1)
    left = [circuit for circuit in full.circuits if circuit.is_open]
    assert [circuit.stream_count for circuit in left] == [4, 4]


async def test_circuits_without_open_targets_are_left_alone(
    full: Full, autojump_clock: MockClock
) -> None:
    await full.occupy(0, 0, 2)

    await full.make_room(100)
    await trio.sleep(LAST_WORDS_SECONDS + 0.1)

    assert [circuit.is_open for circuit in full.circuits] == [True, True, False]


async def test_nothing_of_it_is_held_for_a_resume(full: Full, autojump_clock: MockClock) -> None:
    await full.occupy(3)
    stalled = full.streams[0][0]
    await stalled.send_all(b"x" * 1000)  # the target does not read

    await full.make_room(1)
    await trio.sleep(LAST_WORDS_SECONDS + 0.1)

    assert full.relay.statistics()["held"] == {
        "circuits": 0, "streams": 0, "resumed": 0, "lost": 0
    }  # fmt: skip


async def test_streams_that_are_held_go_as_well(full: Full, autojump_clock: MockClock) -> None:
    await full.occupy(3)
    full.relay._circuits.copy().pop().machine.destroy()  # as when a link breaks
    await wait_all_tasks_blocked()
    held = full.open

    closed = await full.make_room(1)

    assert held == 3
    assert closed == {"circuits at the exit": 1, "streams at the exit": 3}
    assert full.open == 0
    await trio.sleep(2 * HOLD_SECONDS)  # what looks after what is held finds nothing amiss


async def test_an_exit_serves_on_after_it(full: Full, autojump_clock: MockClock) -> None:
    await full.occupy(2, 2)

    await full.make_room(100)
    await full.occupy(1)

    assert full.open == 1
    assert len(full.exit.open_streams) == 1
