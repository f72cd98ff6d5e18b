"""The quick way: connections for which a circuit is ready take no task, and lose nothing by it."""

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.choosing_network import UNKNOWN
from tests.support.house import GRANTED, REFUSED, House, open_house, words
from tests.support.memory_network import receive
from warren.errors import EndReason, LinkError
from warren.network.splice import Splice
from warren.network.streams import CircuitStream
from warren.protocol.stream import StreamProtocol
from warren.roles.client import CONNECT_SECONDS
from warren.roles.doorstep import Visit


@pytest.fixture
async def house(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[House]:
    async with open_house(tmp_path, nursery) as house:
        yield house


async def test_a_connection_has_no_task_of_its_own(house: House, autojump_clock: MockClock) -> None:
    await trio.sleep(2 * house.limits.request_seconds)  # its watch over the first is over
    before = house.tasks

    applications = [await house.visit(words(port)) for port in (1, 2, 3)]
    answers = [await receive(each, len(GRANTED)) for each in applications]
    await trio.sleep(2 * house.limits.request_seconds)

    assert answers == [GRANTED] * 3
    assert house.tasks == before
    assert house.proxy.statistics()["connections_open"] == 4
    assert house.proxy.statistics()["opened"] == 4


async def test_bytes_go_both_ways_and_the_end_is_clean(
    house: House, autojump_clock: MockClock
) -> None:
    application = await house.enter(words(1) + b"early")
    far = house.net.exits.streams[1]
    early = await far.receive_some()

    await application.send_all(b"more")
    more = await far.receive_some()
    await far.send_all(b"answer")
    await far.send_eof()
    application.send_eof()

    assert (early, more) == (b"early", b"more")
    assert await receive(application) == b"answer"
    await trio.sleep(1)
    assert house.proxy.statistics()["connections_open"] == 1


async def test_a_request_may_come_in_single_bytes(house: House, autojump_clock: MockClock) -> None:
    application = await house.dial()

    for byte in words(1):
        await application.send_all(bytes((byte,)))
        await trio.sleep(0.1)

    assert await receive(application, len(GRANTED)) == GRANTED


async def test_a_refused_stream_is_tried_elsewhere_before_the_application_hears_of_it(
    house: House, autojump_clock: MockClock
) -> None:
    retried = house.net.client._attempts.retried

    application = await house.visit(words(1, b"nowhere" + UNKNOWN.encode()))

    assert await receive(application, 2) == REFUSED
    assert house.net.client._attempts.retried > retried
    await trio.sleep(5)
    assert house.proxy.statistics()["connections_open"] == 1
    assert house.proxy.statistics()["refused"] == 1


async def test_a_stream_without_an_answer_is_begun_again_with_what_was_sent_early(
    house: House, autojump_clock: MockClock
) -> None:
    house.net.exits.silent.add(7)

    start = trio.current_time()
    await house.enter(words(7) + b"early")

    assert CONNECT_SECONDS <= trio.current_time() - start < CONNECT_SECONDS + 5
    assert await house.net.exits.streams[7].receive_some() == b"early"


async def test_who_says_nothing_is_closed_in_time(house: House, autojump_clock: MockClock) -> None:
    application = await house.dial()
    start = trio.current_time()

    assert await receive(application) == b""
    assert trio.current_time() - start == pytest.approx(house.limits.request_seconds, abs=0.5)
    assert house.proxy.statistics()["given_up"] == 1
    assert house.proxy.statistics()["connections_open"] == 1


async def test_who_goes_away_in_the_middle_of_a_request_is_forgotten(
    house: House, autojump_clock: MockClock
) -> None:
    gone, reset = [await house.visit(words(1)[:6]) for _ in range(2)]

    gone.close()
    reset.reset()
    await trio.sleep(1)

    numbers = house.proxy.statistics()
    assert (numbers["broken_off"], numbers["half_done"], numbers["connections_open"]) == (2, 0, 1)


async def test_who_goes_away_before_his_answer_ends_his_stream(
    house: House, autojump_clock: MockClock
) -> None:
    house.net.exits.silent.add(7)
    application = await house.visit(words(7))
    await house.net.exits.wait_for(7)

    application.reset()
    await trio.sleep(2 * CONNECT_SECONDS)

    assert house.net.exits.streams[7].is_ended
    assert house.proxy.statistics()["connections_open"] == 1


async def test_whoever_is_inside_when_the_proxy_stops_is_reset(  # SID-4
    house: House, autojump_clock: MockClock
) -> None:
    house.net.exits.silent.add(7)
    attached = await house.enter(words(1))
    waiting = await house.visit(words(7))
    await house.net.exits.wait_for(7)
    silent = await house.dial()
    await trio.sleep(1)

    house.scope.cancel()
    await trio.sleep(1)

    with pytest.raises(LinkError):
        await receive(attached)
    for other in (waiting, silent):
        assert await receive(other) == b""
    assert house.net.exits.streams[1].reason is EndReason.MISC
    assert house.net.exits.streams[7].is_ended
    assert house.proxy.statistics()["connections_open"] == 0


def _alive() -> dict[str, int]:
    kinds = (Visit, Splice, CircuitStream, StreamProtocol)
    return {kind.__name__: sum(type(o) is kind for o in gc.get_objects()) for kind in kinds}


async def test_a_visit_that_is_over_leaves_nothing_to_the_collector(
    house: House, autojump_clock: MockClock
) -> None:
    async def visit_once() -> None:
        application = await house.enter(words(1) + b"early")
        far = house.net.exits.streams[1]
        await far.send_all(await far.receive_some())
        await far.send_eof()
        application.send_eof()
        assert await receive(application) == b"early"
        application.close()
        await trio.sleep(2 * house.limits.request_seconds)

    await visit_once()
    gc.collect()
    before = _alive()
    gc.disable()
    try:
        for _ in range(5):
            await visit_once()
        after = _alive()
    finally:
        gc.enable()

    assert after == before
