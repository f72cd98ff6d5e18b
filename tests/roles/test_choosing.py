"""The client in a network in memory: what a request asks of its circuit is what it gets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.choosing_network import UNKNOWN, ClientNetwork, client_network
from tests.support.small_network import RelayPeer
from warren.addresses import Address
from warren.errors import CircuitError, EndReason, ExitError, NoPathError
from warren.protocol.choice import Choice
from warren.protocol.front import Authentication, Credentials, Isolation
from warren.roles.pool import DIRTY_SECONDS, SPARE_SECONDS
from warren.roles.sessions import MOST_MISSES, MOST_SESSIONS, Sessions

EXITS = {6: "de", 7: "de", 8: "fr", 9: "??"}


@pytest.fixture
async def net(
    tmp_path: Path,
) -> AsyncIterator[ClientNetwork]:
    async with client_network(tmp_path, 9, EXITS) as network:
        yield network


def isolation(user: str, choice: Choice) -> Isolation:
    credentials = Credentials(Authentication.LEGACY, (user.encode(), b""))
    return Isolation("port", credentials, (), choice)


def country_of(net: ClientNetwork, relay: RelayPeer) -> str:
    return EXITS[net.network.relays.index(relay) + 1]


def hops_of(net: ClientNetwork, wanted: Isolation) -> set[int]:
    """Return how many relays the circuits of `wanted` have."""
    return {len(slot.path) for slot in net.client._circuits._pool if slot.isolation == wanted}


# ---- countries and exits


async def test_a_country_is_where_all_streams_leave(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    wanted = [isolation(str(number), Choice("de")) for number in range(12)]

    exits = [await net.open(each) for each in wanted]

    assert {country_of(net, each) for each in exits} == {"de"}
    assert len({each.peer_id for each in exits}) == 2


async def test_without_a_wish_streams_leave_anywhere(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    exits = [await net.open(f"user {number}") for number in range(20)]

    assert {country_of(net, each) for each in exits} == {"de", "fr", "??"}


async def test_a_spare_that_fits_is_used_and_one_that_does_not_is_left(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    await net.client.is_usable.wait()
    await trio.sleep(1)
    spares = {slot.number: slot.path[-1].country for slot in net.client._circuits._pool}
    built = net.built

    await net.open(isolation("me", Choice(next(iter(spares.values())))))
    await net.open(isolation("me", Choice("fr", hops=4)))

    used = {slot.number for slot in net.client._circuits._pool if slot.isolation is not None}
    assert len(used & spares.keys()) == 1
    assert net.built > built


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("xy"), "no exit in country 'xy' allows port 1"),
        (Choice("fr", hops=5, keeps_exit=True), None),
        (Choice(hops=5), None),
    ],
)
async def test_what_there_is_none_of_is_an_error(
    net: ClientNetwork, autojump_clock: MockClock, choice: Choice, message: str | None
) -> None:
    if message is None:
        await net.open(isolation("me", choice))
        return
    with pytest.raises(NoPathError, match=message):
        await net.open(isolation("me", choice))


async def test_a_named_exit_is_the_exit(net: ClientNetwork, autojump_clock: MockClock) -> None:
    for number in EXITS:
        relay = net.network.relays[number - 1]
        wanted = isolation("me", Choice(exit_id=relay.peer_id))

        assert await net.open(wanted) is relay


async def test_a_named_exit_must_be_in_the_country_and_be_one(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    in_germany, guard = net.network.relays[5], net.network.relays[0]

    with pytest.raises(NoPathError, match="is not in country 'fr'"):
        await net.open(isolation("me", Choice("fr", in_germany.peer_id)))
    with pytest.raises(NoPathError, match="does not allow port"):
        await net.open(isolation("me", Choice(exit_id=guard.peer_id)))


async def test_a_named_exit_that_is_gone_is_never_replaced(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    relay = net.network.relays[7]
    wanted = isolation("me", Choice(exit_id=relay.peer_id))
    await net.open(wanted)

    relay.crash()

    with pytest.raises(CircuitError):
        await net.open(wanted)


# ---- hops


@pytest.mark.parametrize("hops", [2, 3, 4, 5])
async def test_a_path_has_as_many_relays_as_are_asked_for(
    net: ClientNetwork, autojump_clock: MockClock, hops: int
) -> None:
    wanted = isolation("me", Choice(hops=hops))

    await net.open(wanted)

    assert hops_of(net, wanted) == {hops}


# ---- sessions

SESSION = isolation("me", Choice(keeps_exit=True))


async def test_a_session_keeps_its_exit_over_many_circuits_while_others_change(
    net: ClientNetwork,
    autojump_clock: MockClock,
) -> None:
    in_session, others = set(), set()

    for _ in range(20):
        in_session.add((await net.open(SESSION)).peer_id)
        others.add((await net.open("somebody else")).peer_id)
        await trio.sleep(DIRTY_SECONDS + 1)

    assert len(in_session) == 1
    assert len(others) > 1
    assert net.client.statistics()["sessions"] == 1


async def test_two_sessions_are_two() -> None:
    sessions = Sessions()
    one, other = isolation("a", Choice(keeps_exit=True)), isolation("b", Choice(keeps_exit=True))

    sessions.begin(one, b"x")  # type: ignore[arg-type]
    sessions.begin(other, b"y")  # type: ignore[arg-type]

    assert (sessions.exit_of(one), sessions.exit_of(other)) == (b"x", b"y")


async def test_a_session_whose_exit_died_goes_on_with_another_and_keeps_that(
    net: ClientNetwork,
    autojump_clock: MockClock,
) -> None:
    first = await net.open(SESSION)

    first.crash()
    second = await net.open(SESSION)
    await trio.sleep(DIRTY_SECONDS + 1)
    third = await net.open(SESSION)

    assert second is not first
    assert third is second


async def test_a_session_whose_exit_is_listed_no_more_goes_on_with_another(
    net: ClientNetwork,
    autojump_clock: MockClock,
) -> None:
    first = await net.open(SESSION)
    await trio.sleep(DIRTY_SECONDS + 1)

    net.unlist(first)
    await trio.sleep(SPARE_SECONDS + 20)  # a spare from before may lead there still

    assert await net.open(SESSION) is not first


async def test_a_name_that_is_unknown_does_not_move_a_session(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    first = await net.open(SESSION)

    for _ in range(MOST_MISSES + 1):
        with pytest.raises(ExitError) as error:
            await net.open(SESSION, UNKNOWN)
        assert error.value.reason is EndReason.RESOLVE_FAILED

    assert await net.open(SESSION) is first


async def test_a_session_in_which_nothing_ever_worked_draws_another_exit(
    net: ClientNetwork,
    autojump_clock: MockClock,
) -> None:
    tried = set()

    for _ in range(12):
        with pytest.raises(ExitError):
            await net.open(SESSION, UNKNOWN)
        tried |= {slot.exit_id for slot in net.client._circuits._pool if slot.isolation == SESSION}

    assert len(tried) > 1


async def test_a_session_does_not_leave_its_country(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    wanted = isolation("me", Choice("fr", keeps_exit=True))
    only = await net.open(wanted)

    net.unlist(only)
    await trio.sleep(DIRTY_SECONDS + 1)

    with pytest.raises(NoPathError, match="no exit in country 'fr'"):
        await net.open(wanted)


def test_the_oldest_session_makes_room() -> None:
    sessions = Sessions()

    for number in range(MOST_SESSIONS):
        sessions.begin(number, b"x")  # type: ignore[arg-type]
    sessions.begin(0, b"x")  # type: ignore[arg-type]
    sessions.begin("new", b"x")  # type: ignore[arg-type]

    assert len(sessions) == MOST_SESSIONS
    assert sessions.exit_of(0) == b"x"
    assert sessions.exit_of(1) is None


async def test_streams_of_a_session_that_come_at_once_share_an_exit(
    net: ClientNetwork, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        for port in range(1, 9):
            nursery.start_soon(net.client.open_stream, Address("a.example", port), SESSION)

    assert len({id(circuit) for circuit in net.exits.came_by.values()}) == 1
