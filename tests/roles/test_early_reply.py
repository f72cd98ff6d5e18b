"""Early replies: a listener may tell of success before there is any, and what follows is right."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.support.choosing_network import UNKNOWN
from tests.support.house import House, open_house, words
from tests.support.memory_network import MemoryStream, receive
from warren.errors import EndReason, LinkError
from warren.network.streams import CircuitStream
from warren.roles.client import CONNECT_SECONDS
from warren.roles.head_start import MOST_KEPT
from warren.roles.listener_rules import ListenerRules
from warren.roles.requests import ProxyLimits


@pytest.fixture
async def house(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[House]:
    limits, rules = ProxyLimits(attach_seconds=30), ListenerRules(early_reply=True)
    async with open_house(tmp_path, nursery, limits, rules) as house:
        yield house


@pytest.fixture
async def early(house: House) -> MemoryStream:
    """Return an application that was told of success, while the first exit stays silent."""
    house.net.exits.silent.add(7)
    return await house.enter(words(7))


async def read(stream: CircuitStream, size: int) -> bytes:
    """Return `size` bytes of a stream, or what there is before its end."""
    taken = b""
    while len(taken) < size and (part := await stream.receive_some()):
        taken += part
    return taken


async def test_success_is_told_before_the_exit_answers(
    house: House, autojump_clock: MockClock
) -> None:
    house.net.exits.silent.add(7)
    start = trio.current_time()

    await house.enter(words(7))

    assert trio.current_time() - start < 1
    assert house.proxy.statistics()["replied_early"] == 2  # with the one that claimed a circuit


async def test_what_is_said_meanwhile_goes_along_and_goes_on(
    house: House, autojump_clock: MockClock
) -> None:
    application = await house.enter(words(1) + b"one ")
    for word in (b"two ", b"three "):
        await application.send_all(word)
        await trio.lowlevel.checkpoint()
    await house.net.exits.wait_for(1)
    await trio.sleep(1)
    far = house.net.exits.streams[1]
    await application.send_all(b"four")
    said = await read(far, 18)
    await far.send_all(b"answer")
    await far.send_eof()
    application.send_eof()

    assert said == b"one two three four"
    assert await receive(application) == b"answer"
    await trio.sleep(1)
    assert house.proxy.statistics()["connections_open"] == 1


async def test_a_stream_that_is_begun_again_is_told_all_of_it_again(  # SID-6
    house: House, autojump_clock: MockClock
) -> None:
    house.net.exits.silent.add(7)
    application = await house.enter(words(7) + b"early ")
    await house.net.exits.wait_for(7)
    first = house.net.exits.streams[7]
    await application.send_all(b"later ")
    heard_first = await read(first, 12)

    await trio.sleep(CONNECT_SECONDS + 5)
    second = house.net.exits.streams[7]
    await application.send_all(b"last")

    assert heard_first == b"early later "
    assert second is not first
    assert await read(second, 16) == b"early later last"


@pytest.mark.parametrize("size", [MOST_KEPT - 1, MOST_KEPT, MOST_KEPT + 1, 5 * MOST_KEPT])
async def test_no_more_is_taken_than_can_be_told_again(
    house: House,
    early: MemoryStream,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    size: int,
) -> None:
    sent = bytes(range(251)) * (size // 251 + 1)
    nursery.start_soon(early.send_all, sent[:size])
    await house.net.exits.wait_for(7)
    await trio.sleep(1)
    taken_first = house.net.exits.streams[7].protocol.received

    await trio.sleep(CONNECT_SECONDS + 5)
    arrived = await read(house.net.exits.streams[7], size)

    assert taken_first == min(size, MOST_KEPT)
    assert arrived == sent[:size]


async def test_what_cannot_be_reached_is_a_reset(house: House, autojump_clock: MockClock) -> None:
    application = await house.enter(words(1, b"nowhere" + UNKNOWN.encode()))

    with pytest.raises(LinkError):
        await receive(application)

    numbers = house.proxy.statistics()
    assert (numbers["replied_in_vain"], numbers["connections_open"]) == (1, 1)


async def test_what_takes_too_long_is_a_reset(
    house: House, early: MemoryStream, autojump_clock: MockClock
) -> None:
    for _ in range(5):
        await trio.sleep(CONNECT_SECONDS / 2)
        house.net.exits.silent.add(7)

    with pytest.raises(LinkError):
        await receive(early)

    await trio.sleep(5)
    assert house.proxy.statistics()["connections_open"] == 1


async def test_an_end_before_the_stream_is_connected_is_passed_on(  # SID-5
    house: House, autojump_clock: MockClock
) -> None:
    application = await house.enter(words(1))
    await application.send_all(b"all")
    application.send_eof()
    await house.net.exits.wait_for(1)
    far = house.net.exits.streams[1]

    said = await read(far, 100)
    await far.send_all(b"answer")
    await far.send_eof()

    assert said == b"all"
    assert await receive(application) == b"answer"


async def test_who_breaks_off_before_the_stream_is_connected_resets_it(  # SID-4
    house: House, early: MemoryStream, autojump_clock: MockClock
) -> None:
    await house.net.exits.wait_for(7)

    early.reset()
    await trio.sleep(1)

    assert house.net.exits.streams[7].reason is EndReason.MISC
    assert house.proxy.statistics()["connections_open"] == 1


async def test_whoever_was_told_of_success_is_reset_when_the_proxy_stops(  # SID-4
    house: House, early: MemoryStream, autojump_clock: MockClock
) -> None:
    house.scope.cancel()

    with pytest.raises(LinkError):
        await receive(early)


async def test_connect_is_answered_when_it_is_true(  # FE-7
    house: House, autojump_clock: MockClock
) -> None:
    application = await house.visit(
        f"CONNECT nowhere{UNKNOWN}:1 HTTP/1.1\r\nHost: nowhere{UNKNOWN}:1\r\n\r\n".encode()
    )

    assert (await receive(application, 12)) == b"HTTP/1.1 503"
    assert house.proxy.statistics()["replied_early"] == 1  # the one that claimed a circuit
