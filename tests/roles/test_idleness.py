"""EXT-10, FE-11: what is idle ends, and what is half-open ends some time, though one side talks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.client_network import ClientNetwork, client_network
from warren.addresses import Address
from warren.errors import EndReason, LinkError
from warren.network.byte_streams import ByteStream
from warren.network.streams import CircuitStream
from warren.protocol.pace import Pace
from warren.protocol.stream import StreamProtocol
from warren.roles.idleness import LOOK_SECONDS, IdleLimits, Idleness, IdleWatch

LIMITS = IdleLimits()


def stream() -> StreamProtocol:
    return StreamProtocol(1, Pace(lambda: 0.0), is_origin=True)


# ---- one stream on paper


def test_one_that_moves_is_never_overdue() -> None:
    watched, idleness = stream(), Idleness(0)

    for now in range(0, 100_000, 300):
        watched.write(b"x")

        assert not idleness.is_overdue(watched, now, LIMITS)


def test_one_that_stands_still_is_overdue_after_ten_minutes() -> None:
    watched, idleness = stream(), Idleness(0)
    watched.write(b"x")

    overdue = [now for now in range(30, 1000, 30) if idleness.is_overdue(watched, now, LIMITS)]

    assert overdue[0] == 660  # it was seen to have moved at 30


@pytest.mark.parametrize("is_their_end", [False, True])
def test_a_half_open_one_is_overdue_after_an_hour_though_it_moves(is_their_end: bool) -> None:
    watched, idleness = stream(), Idleness(0)
    overdue = []
    for now in range(0, 5400, 30):
        if now == 600:
            watched.eof_received, watched.eof_due = is_their_end, not is_their_end
        watched.received += 1

        if idleness.is_overdue(watched, now, LIMITS):
            overdue.append(now)

    assert overdue[0] == 600 + 3630


def test_one_that_was_ended_by_both_sides_is_not_half_open() -> None:
    watched, idleness = stream(), Idleness(0)
    for now in range(0, 10_000, 30):
        watched.eof_received = now >= 60
        watched.eof_due = now >= 120
        watched.received += 1

        assert not idleness.is_overdue(watched, now, LIMITS)


def test_a_watch_forgets_what_is_gone_and_passes_over_what_has_ended() -> None:
    watch, quiet, ended = IdleWatch(LIMITS), stream(), stream()
    ended.end(EndReason.MISC)

    looks = [watch.overdue([quiet, ended], now) for now in (0, 300, 660)]
    gone = watch.overdue([], 690)
    again = watch.overdue([quiet], 720)

    assert looks == [[], [], [quiet]]
    assert (gone, again) == ([], [])


# ---- a client


@pytest.fixture
async def network(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[ClientNetwork]:
    """Return a client whose exits end nothing by themselves."""
    async with client_network(tmp_path) as network:
        yield network


async def test_a_client_ends_what_its_exit_keeps_open(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:
    address = network.net.echo()
    quiet = await network.client.open_stream(address, "somebody")
    busy = await network.client.open_stream(address, "somebody")
    half_open = await network.client.open_stream(dripping(network), "somebody else")
    await half_open.send_eof()

    for _ in range(13):
        await trio.sleep(60)
        await busy.send_all(b"x")
    after_minutes = [quiet.reason, busy.reason, half_open.reason]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, half_open)
        for _ in range(50):
            await trio.sleep(60)
            await busy.send_all(b"x")
        nursery.cancel_scope.cancel()

    assert after_minutes == [EndReason.TIMEOUT, None, None]
    assert [busy.reason, half_open.reason] == [None, EndReason.TIMEOUT]


async def test_what_came_on_a_quiet_stream_is_acknowledged_within_two_looks(
    network: ClientNetwork, autojump_clock: MockClock
) -> None:  # DOS-5
    stream = await network.client.open_stream(network.net.echo(), "somebody")
    await stream.send_all(b"a little")
    assert await stream.receive_some() == b"a little"
    [far] = [each for peer in network.net.relays for each in peer.streams]
    before = far.kept_bytes

    await trio.sleep(2 * LOOK_SECONDS + 1)

    assert (before, far.kept_bytes) == (8, 0)
    assert not far.end_received


def dripping(network: ClientNetwork) -> Address:
    """Start a target that says a little, again and again."""

    async def drip(stream: ByteStream) -> None:
        while True:
            await trio.sleep(60)
            await stream.send_all(b"x")

    return network.net._serve(81, drip)


async def read_all(stream: CircuitStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except (trio.BrokenResourceError, LinkError):
        pass
