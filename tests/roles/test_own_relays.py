"""P2P-2: no path of a client has a relay of its user's own, listed or not, or one of its family."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.client_network import ClientNetwork, client_network
from tests.support.imagined import consensus, peer, relay
from warren.addresses import Address
from warren.errors import CircuitError
from warren.identity import PeerId
from warren.protocol.choice import Choice
from warren.protocol.front import Authentication, Credentials, Isolation
from warren.roles.own_relays import OwnRelays
from warren.roles.pool import Slot


@pytest.fixture
async def network(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[ClientNetwork]:
    async with client_network(tmp_path) as network:
        yield network


def slots_through(network: ClientNetwork, peer_id: PeerId) -> list[Slot]:
    pool = network.client._circuits._pool
    return [slot for slot in pool if peer_id in {entry.peer_id for entry in slot.path}]


async def open_many(network: ClientNetwork, address: Address, count: int = 30) -> set[PeerId]:
    """Open streams that share no circuit; return the relays that they went through."""
    used: set[PeerId] = set()
    for number in range(count):
        stream = await network.client.open_stream(address, f"isolation {number}")
        [slot] = [
            slot
            for slot in network.client._circuits._pool
            if slot.isolation == f"isolation {number}"
        ]
        used.update(entry.peer_id for entry in slot.path)
        stream.reset()
    return used


# ---- who is of one hand


def test_those_that_both_say_family_count_and_others_do_not() -> None:
    listed = consensus(
        [relay(1, family=[2, 3]), relay(2, family=[1]), relay(3), relay(4, family=[1]), relay(5)]
    )
    own = OwnRelays([peer(1), peer(9)])

    assert own.within(listed) == {peer(1), peer(2), peer(9)}
    assert peer(2) in own
    assert peer(3) not in own
    assert OwnRelays().within(listed) == frozenset()


def test_what_is_found_is_told_once() -> None:
    own, told = OwnRelays([peer(1)]), list[frozenset[PeerId]]()
    own.on_more.append(lambda: told.append(own.ids))

    new = own.add([peer(1), peer(2)])
    again = own.add([peer(2)])

    assert new == {peer(2)}
    assert not again
    assert told == [{peer(1), peer(2)}]


# ---- a client that learns of them


async def test_a_relay_of_ones_own_is_used_by_nothing_new_once_it_is_known(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    address = network.net.echo()
    going_on = await network.client.open_stream(address, "somebody")
    await trio.sleep(5)  # until there are spares
    [busy] = [slot for slot in network.client._circuits._pool if slot.circuit.stream_count]
    guard, middle, _ = (entry.peer_id for entry in busy.path)

    network.own.add([guard, middle])
    left = slots_through(network, guard) + slots_through(network, middle)
    used = await open_many(network, address)
    await open_more_for(network, address, busy)
    await going_on.send_all(b"still here")

    assert {slot.number for slot in left} == {busy.number}
    assert used.isdisjoint({guard, middle})
    assert len(used) == len(network.net.relays) - 2
    assert guard not in network.guards._guards.sample
    assert await going_on.receive_some() == b"still here"


async def open_more_for(network: ClientNetwork, address: Address, busy: Slot) -> None:
    """Open a stream of the isolation that has a circuit, which is to take no more."""
    assert busy.isolation is not None
    before = busy.circuit.stream_count
    (await network.client.open_stream(address, busy.isolation)).reset()
    assert busy.circuit.stream_count == before


async def test_a_circuit_under_way_is_given_up_when_a_relay_of_it_turns_out_to_be_ones_own(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    builder = network.client._circuits._builder
    [*_, slot] = network.client._circuits._pool

    async def find_out() -> None:
        network.own.add([slot.exit_id])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find_out)
        with pytest.raises(CircuitError, match="this user's own"):
            await builder.build_path(slot.path)


async def test_a_session_whose_exit_turns_out_to_be_ones_own_gets_another(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    address = network.net.echo()
    session = Isolation("", Credentials(Authentication.NONE), (), Choice(keeps_exit=True))
    (await network.client.open_stream(address, session)).reset()
    exit_id = network.client._circuits._sessions.exit_of(session)
    assert exit_id is not None

    network.own.add([exit_id])
    (await network.client.open_stream(address, session)).reset()

    assert network.client._circuits._sessions.exit_of(session) not in {None, exit_id}


async def test_its_own_descriptor_need_not_be_listed(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    network.own.add([peer(7)])

    used = await open_many(network, network.net.echo())

    assert used == {relay.peer_id for relay in network.net.relays}
