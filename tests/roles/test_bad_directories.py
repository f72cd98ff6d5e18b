"""Mirrors that lie and authorities that are gone: what is kept, what is said, and what comes back.

Whoever is asked gives what the test says; the directory and its archive are the real ones.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from tests.support.archives import next_consensus
from tests.support.client_network import client_network
from tests.support.directories import (
    NETWORK,
    NOW,
    consensus_document,
    content_of,
    network_of,
    signed,
)
from warren.addresses import Address
from warren.directory.documents import Kind
from warren.errors import DirectoryError, NoConsensus, WarrenError
from warren.identity import Hop
from warren.roles.archive import Archive
from warren.roles.attempts import REQUEST_SECONDS
from warren.roles.mirror import Directory
from warren.storage import DataFolder

HOUR = 3600
RELAYS = (1, 2, 3, 4, 5)
AUTHORITIES = set(NETWORK.authority_ids)


def wall_clock() -> float:
    return NOW + trio.current_time()


def document(hours: int, relays: tuple[int, ...] = RELAYS) -> bytes:
    return consensus_document(relays, valid_after=NOW + hours * HOUR)


class World:
    """Be all peers one can ask.

    ``mirrors`` and ``authorities`` give the document for whole hours since NOW, or raise.
    """

    def __init__(self) -> None:
        self.mirrors: Callable[[int], bytes] = document
        self.authorities: Callable[[int], bytes] = document
        self.asked: list[tuple[float, Hop]] = []

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        self.asked.append((trio.current_time(), hop))
        await trio.sleep(0.1)
        answer = self.authorities if hop.peer_id in AUTHORITIES else self.mirrors
        return answer(int(trio.current_time()) // HOUR)


def nobody(hours: int) -> bytes:
    raise DirectoryError("cannot be asked")


@pytest.fixture
def world() -> World:
    return World()


def archive_in(folder: Path) -> Archive:
    return Archive(NETWORK, DataFolder(folder), wall_clock)


def directory_of(world: World, archive: Archive) -> Directory:
    return Directory(archive, world.fetch, now=wall_clock, rng=random.Random(1))


# ---- mirrors that lie


def signed_by(*signers: int) -> Callable[[int], bytes]:
    """Return what gives consensuses with the signatures of these authorities alone."""

    def give(hours: int) -> bytes:
        content = content_of(RELAYS, valid_after=NOW + hours * HOUR)
        whole = signed(content, (0, 1, 2))
        head, size = whole[:10], 96  # the envelope's head, and one signature
        parts = [whole[10 + n * size : 10 + (n + 1) * size] for n in range(3)]
        kept = b"".join(parts[n] for n in signers)
        return head[:5] + bytes([len(signers)]) + head[6:] + kept + content

    return give


def with_other_content(hours: int) -> bytes:
    """Give other relays under the signatures of the right ones."""
    right, other = document(hours), content_of((6, 7), valid_after=NOW + hours * HOUR)
    return right[:6] + len(other).to_bytes(4, "big") + right[10:202] + other


def of_another_network(hours: int) -> bytes:
    network = network_of(name="other")
    return consensus_document(RELAYS, network, valid_after=NOW + hours * HOUR)


LIES: dict[str, Callable[[int], bytes]] = {
    "old": lambda hours: document(hours - 1),
    "older than what is held": lambda hours: document(hours - 2),
    "from the future": lambda hours: document(hours + 2),
    "cut in the middle": lambda hours: document(hours)[:-200],
    "cut by a byte": lambda hours: document(hours)[:-1],
    "cut in the signatures": lambda hours: document(hours)[:150],
    "nothing": lambda _: b"",
    "longer": lambda hours: document(hours) + b"\x00",
    "a flipped bit": lambda hours: document(hours)[:-9] + b"\x7f" + document(hours)[-8:],
    "other content": with_other_content,
    "one signature": signed_by(1),
    "one signature twice": signed_by(1, 1),
    "no signature": signed_by(),
    "another network": of_another_network,
    "another kind": lambda hours: b"WRRN" + bytes([Kind.VOTE.value]) + document(hours)[5:],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_mirrors_that_lie_are_passed_over_for_an_authority(
    lie: Callable[[int], bytes],
    world: World,
    tmp_path: Path,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:  # DIR-16, T08, T09
    archive = archive_in(tmp_path)
    nursery.start_soon(directory_of(world, archive).run)
    first = await archive.wait_for_consensus()
    world.mirrors = lie

    newer = await next_consensus(archive)

    assert newer.valid_after == first.valid_after + HOUR
    assert archive.document == (tmp_path / "consensus").read_bytes() == document(1)
    asked = world.asked[1:]
    assert [hop.peer_id in AUTHORITIES for _, hop in asked] == [False] * 3 + [True]
    assert asked[-1][0] - asked[0][0] < 5


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_whatever_all_say_the_one_that_is_held_goes_on(
    lie: Callable[[int], bytes],
    world: World,
    tmp_path: Path,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:  # REL-4
    archive = archive_in(tmp_path)
    nursery.start_soon(directory_of(world, archive).run)
    await archive.wait_for_consensus()
    world.mirrors = lambda hours: lie(1)
    world.authorities = nobody

    await trio.sleep(1.99 * HOUR)

    assert archive.document == (tmp_path / "consensus").read_bytes() == document(0)
    assert archive.current is not None


async def test_an_authority_that_gives_an_old_one_is_found_out_at_once(
    world: World, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # DIR-13: at the first start there is nobody else to ask
    await trio.sleep(20 * HOUR)
    world.authorities = lambda hours: document(hours - 15)
    archive = archive_in(tmp_path)
    nursery.start_soon(directory_of(world, archive).run)

    await archive.wait_for_consensus()
    with trio.fail_after(60):
        newest = await next_consensus(archive)

    assert newest.valid_after == NOW + 20 * HOUR


# ---- authorities that are gone


async def test_without_authorities_the_last_consensus_serves_until_its_limit(
    world: World, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # T35, DIR-8, DIR-13
    archive = archive_in(tmp_path)
    nursery.start_soon(directory_of(world, archive).run)
    first = await archive.wait_for_consensus()
    world.mirrors = lambda _: document(0)
    world.authorities = nobody

    with structlog.testing.capture_logs() as logs:
        await trio.sleep(2 * HOUR - 60)
        too_early = [entry for entry in logs if entry["log_level"] == "warning"]
        await trio.sleep(25 * HOUR + 58)
        last_moment = archive.current
        told = [entry for entry in logs if entry["log_level"] == "warning"]
        await trio.sleep(100)
        ended = [entry for entry in logs if entry["log_level"] == "warning"][len(told) :]

    assert last_moment is first
    assert archive.current is None
    assert not too_early
    assert 24 <= len(told) <= 26  # one an hour, once a second consensus is missing
    assert all("there is no newer consensus" in entry["event"] for entry in told)
    assert (told[0]["old"], told[0]["usable_for"]) == ("2.0 hours", "25.0 hours")
    assert [entry["event"] for entry in ended] == ["no consensus fits the clock of this machine"]


async def test_the_status_says_what_is_wrong_until_it_is_over(
    world: World, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    archive = archive_in(tmp_path)
    directory = directory_of(world, archive)
    world.mirrors = world.authorities = nobody
    nursery.start_soon(directory.run)
    troubles = [directory.statistics()["trouble"]]

    await trio.sleep(60)
    troubles.append(directory.statistics()["trouble"])
    world.authorities = document
    await archive.wait_for_consensus()
    await trio.sleep(1)
    troubles.append(directory.statistics()["trouble"])

    assert troubles[0] is troubles[2] is None
    assert "no authority can be reached, or they have made none: cannot be asked" in troubles[1]


async def test_they_are_heard_again_within_two_intervals(
    world: World, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # T35
    archive = archive_in(tmp_path)
    nursery.start_soon(directory_of(world, archive).run)
    await archive.wait_for_consensus()
    world.mirrors = world.authorities = nobody
    await trio.sleep(30 * HOUR)
    assert archive.current is None

    world.authorities = document  # the mirrors have nothing newer yet
    with trio.fail_after(60):
        newest = await next_consensus(archive)

    assert newest.valid_after == NOW + 30 * HOUR
    assert archive.current is newest


async def test_a_peer_that_is_started_meanwhile_begins_with_what_is_on_its_disk(
    world: World, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # T35
    archive_in(tmp_path).offer(document(0))
    world.mirrors = world.authorities = nobody
    await trio.sleep(26.9 * HOUR)

    again = archive_in(tmp_path)
    nursery.start_soon(directory_of(world, again).run)

    with trio.fail_after(1):
        consensus = await again.wait_for_consensus()
    assert consensus.valid_after == NOW
    await trio.sleep(600)  # however often it is told that there is no other
    assert again.current is None  # by now it has ended, and
    assert (tmp_path / "consensus").read_bytes() == document(0)  # is kept all the same (REL-4)


async def test_a_request_that_finds_no_consensus_is_told_so_within_a_minute(
    tmp_path: Path, autojump_clock: MockClock
) -> None:  # T35
    async with client_network(tmp_path) as network:
        archive = network.client._attempts._directory.archive
        archive._held.clear()
        for slot in network.client._circuits._pool:
            slot.retire()
        start = trio.current_time()

        with pytest.raises(NoConsensus, match="no consensus can be used"):
            await network.client.open_stream(Address("5.6.0.1", 7), "somebody")
        took = trio.current_time() - start
        network.client._attempts._directory._clock_error = lambda: 7200.0
        with pytest.raises(
            WarrenError, match="used: the clock of this machine is about 2 hours fast"
        ):
            await network.client.open_association(None, "somebody")

    assert took <= REQUEST_SECONDS + 0.1
