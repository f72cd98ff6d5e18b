import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from tests.support.archives import next_consensus
from tests.support.directories import NETWORK, NOW, consensus_document, identity
from warren.errors import DirectoryError
from warren.identity import Hop, PeerId
from warren.roles.archive import Archive
from warren.roles.mirror import WRONG_CLOCK, Directory, Mirror, newer_path
from warren.storage import DataFolder

HOUR = 3600
AUTHORITIES = set(NETWORK.authority_ids)


def wall_clock() -> float:
    return NOW + trio.current_time()


class World:
    """Be all peers one can ask: each gives the newest consensus there is, or misbehaves.

    ``asked`` has the time and the peer of every request.
    """

    def __init__(self) -> None:
        self.relays: tuple[int, ...] = (1, 2, 3, 4, 5)
        self.exits: tuple[int, ...] = (4,)
        self.last_made = 0
        self.is_making = True
        self.hung: set[PeerId] = set()
        self.lying: set[PeerId] = set()
        self.down: set[PeerId] = set()
        self.asked: list[tuple[float, PeerId, str]] = []

    def document(self) -> bytes:
        if self.is_making:
            self.last_made = int(wall_clock() - NOW) // HOUR
        valid_after = NOW + self.last_made * HOUR
        return consensus_document(self.relays, valid_after=valid_after, exits=self.exits)

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        assert (method, body) == ("GET", b"")
        self.asked.append((wall_clock() - NOW, hop.peer_id, path))
        await trio.sleep(0.1)
        if hop.peer_id in self.hung:
            await trio.sleep_forever()
        if hop.peer_id in self.down:
            raise DirectoryError("cannot be asked")
        if hop.peer_id in self.lying:
            return b"rubbish" * 100
        return self.document()

    def asked_since(self, number: int) -> list[PeerId]:
        return [peer for _, peer, _ in self.asked[number:]]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(NETWORK, DataFolder(tmp_path), wall_clock)


def directory_of(
    world: World, archive: Archive, *, seed: int = 1, is_mirror: bool = False
) -> Directory:
    return Directory(
        archive,
        world.fetch,
        now=wall_clock,
        rng=random.Random(seed),
        own={identity(5).peer_id},
        is_mirror=is_mirror,
    )


# ---- fetching


async def test_the_first_consensus_comes_from_an_authority(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    directory = directory_of(world, archive)
    nursery.start_soon(directory.run)

    with trio.fail_after(1):
        consensus = await directory.wait_for_consensus()

    assert consensus.valid_after == NOW
    assert len(world.asked) == 1
    assert set(world.asked_since(0)) <= AUTHORITIES


async def test_later_ones_come_from_mirrors_but_never_from_itself(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(directory_of(world, archive).run)

    await trio.sleep(50 * HOUR)

    later = set(world.asked_since(1))
    assert later == {identity(n).peer_id for n in (1, 2, 3, 4)}
    assert archive.current is not None
    assert archive.current.valid_until > wall_clock()


@pytest.mark.parametrize(
    ("is_mirror", "exits", "earliest", "latest"),
    [(True, (4,), 0, 900), (False, (4,), 0, 3600), (False, (), 0, 900)],
    ids=["mirror", "client", "client without exits"],
)
async def test_mirrors_and_who_has_no_exit_fetch_first_and_clients_within_the_first_half(
    world: World,
    archive: Archive,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    is_mirror: bool,
    exits: tuple[int, ...],
    earliest: int,
    latest: int,
) -> None:  # DIR-8
    world.exits = exits
    nursery.start_soon(directory_of(world, archive, is_mirror=is_mirror).run)
    previous = await archive.wait_for_consensus()
    delays = []

    for _ in range(30):
        consensus = await next_consensus(archive)
        delays.append(world.asked[-1][0] + NOW - previous.fresh_until)
        previous = consensus

    assert earliest <= min(delays) < latest * 0.2
    assert latest * 0.8 < max(delays) <= latest + 1


@pytest.mark.parametrize("days", [-2, 2])
async def test_a_clock_that_is_days_wrong_is_told_of_and_recovered_from(
    days: int, world: World, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # DIR-9
    error = 0.0

    def clock() -> float:
        return wall_clock() + error

    archive = Archive(NETWORK, DataFolder(tmp_path), clock)
    rng = random.Random(1)
    directory = Directory(archive, world.fetch, now=clock, rng=rng, own={identity(5).peer_id})
    nursery.start_soon(directory.run)
    await archive.wait_for_consensus()
    waited: list[float] = []

    error = days * 24.0 * HOUR
    directory.look_again()
    before = len(world.asked)
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(3 * HOUR)
        asked = len(world.asked) - before
    error = 0.0
    archive.look_again()
    directory.look_again()
    with trio.fail_after(60):
        await archive.wait_for_consensus()
        waited.append(trio.current_time())

    told = [entry for entry in logs if "clock of this machine" in entry["event"]]
    assert 1 <= len(told) <= 3  # an hour
    assert all("hours" in entry["error"] for entry in told)
    assert asked < 3 * HOUR / 4  # no busy loop: six are asked, and again half a minute later
    assert waited


class Clock:
    """Be a clock that is fast by ``error`` seconds, and know it, as from other peers, if told."""

    def __init__(self, error: float, *, is_known: bool) -> None:
        self.error = error
        self._is_known = is_known

    def __call__(self) -> float:
        return wall_clock() + self.error

    def known_error(self) -> float | None:
        return self.error if self._is_known and self.error else None


@pytest.fixture
def follow(world: World, tmp_path: Path, nursery: trio.Nursery) -> Callable[[Clock], Directory]:
    """Return what starts a directory without any consensus that goes by a clock."""

    def start(clock: Clock) -> Directory:
        archive = Archive(NETWORK, DataFolder(tmp_path), clock)
        directory = Directory(
            archive,
            world.fetch,
            now=clock,
            rng=random.Random(1),
            own={identity(5).peer_id},
            clock_error=clock.known_error,
        )
        nursery.start_soon(directory.run)
        return directory

    return start


def trouble_of(directory: Directory) -> str | None:
    return cast(str | None, directory.statistics()["trouble"])


@pytest.mark.parametrize("days", [-365, -2, 2, 365])
async def test_a_wrong_clock_is_told_of_in_one_sentence_as_soon_as_others_say_so(
    days: int, follow: Callable[[Clock], Directory], autojump_clock: MockClock
) -> None:  # DIR-9
    clock = Clock(days * 24 * HOUR, is_known=True)
    way = "fast" if days > 0 else "slow"

    with structlog.testing.capture_logs() as logs:
        directory = follow(clock)
        await trio.sleep(HOUR - 1)

    (told,) = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert told.startswith(f"the clock of this machine is about {abs(days)} days {way}, as several")
    assert told == trouble_of(directory) == directory.clock_trouble


async def test_a_clock_that_is_fast_by_hours_is_told_of_though_all_works(
    follow: Callable[[Clock], Directory], autojump_clock: MockClock
) -> None:
    directory = follow(Clock(3 * HOUR, is_known=True))

    with structlog.testing.capture_logs() as logs:
        await trio.sleep(10)

    (told,) = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert told == trouble_of(directory)
    assert "about 3 hours fast" in told
    assert directory.current is not None


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("hours", [-48, 3, 48])
async def test_when_the_clock_is_set_right_nothing_is_said_of_it_any_more(
    hours: int,
    is_known: bool,
    follow: Callable[[Clock], Directory],
    autojump_clock: MockClock,
) -> None:
    clock = Clock(hours * HOUR, is_known=is_known)
    directory = follow(clock)
    await trio.sleep(HOUR / 2)
    before = trouble_of(directory)

    clock.error = 0.0
    at_once = trouble_of(directory)
    directory.look_again()
    await trio.sleep(1)

    assert before is not None
    assert at_once is None or not is_known
    assert trouble_of(directory) is None
    assert directory.current is not None


@pytest.mark.parametrize("days", [-2, 2])
async def test_a_wrong_clock_of_which_nobody_speaks_is_not_taken_for_authorities_out_of_reach(
    days: int, follow: Callable[[Clock], Directory], autojump_clock: MockClock
) -> None:
    directory = follow(Clock(days * 24 * HOUR, is_known=False))

    with structlog.testing.capture_logs() as logs:
        await trio.sleep(60)

    (told,) = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert told == WRONG_CLOCK
    assert (trouble_of(directory) or "").startswith(f"{WRONG_CLOCK}: the consensus ")


async def test_what_others_say_of_a_clock_is_kept_quiet_while_nothing_is_wrong(
    follow: Callable[[Clock], Directory], autojump_clock: MockClock
) -> None:  # nor does it change what is fetched when
    clock = Clock(0.0, is_known=True)
    clock.known_error = lambda: 2 * 24.0 * HOUR  # type: ignore[method-assign]

    with structlog.testing.capture_logs() as logs:
        directory = follow(clock)
        await trio.sleep(2 * HOUR)

    assert [entry for entry in logs if entry["log_level"] != "debug"] == []
    assert trouble_of(directory) is None


async def test_bad_mirrors_cost_five_seconds_each_and_then_an_authority_is_asked(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # T77
    nursery.start_soon(directory_of(world, archive).run)
    await archive.wait_for_consensus()
    world.hung = {identity(1).peer_id, identity(2).peer_id}
    world.lying = {identity(3).peer_id, identity(4).peer_id}

    await next_consensus(archive)

    times = [time for time, _, _ in world.asked[1:]]
    assert len(times) == 4
    assert world.asked[-1][1] in AUTHORITIES
    assert times[-1] - times[0] <= 3 * 5


async def test_bootstrap_gets_by_with_one_good_authority(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # T77: at most 30 s
    first, second, _ = NETWORK.authority_ids
    world.hung, world.lying = {first}, {second}
    nursery.start_soon(directory_of(world, archive).run)

    with trio.fail_after(30):
        await archive.wait_for_consensus()

    assert archive.current is not None


async def test_without_any_consensus_it_asks_often_but_never_without_pause(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # REL-3
    world.down = set(AUTHORITIES)
    nursery.start_soon(directory_of(world, archive).run)

    await trio.sleep(300)

    rounds = len(world.asked) / 3
    assert 300 / (2 + 0.3) <= rounds <= 300 / 0.5


async def test_that_there_is_no_consensus_at_all_is_said_after_ten_seconds_and_once(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world.down |= AUTHORITIES

    with structlog.testing.capture_logs() as logs:
        nursery.start_soon(directory_of(world, archive).run)
        await trio.sleep(9)
        assert [line for line in logs if line["log_level"] != "debug"] == []
        await trio.sleep(60)

    (line,) = [line for line in logs if line["log_level"] != "debug"]
    assert line["event"].startswith("no consensus yet: no authority can be reached")
    assert line["error"] == "cannot be asked"


async def test_with_a_usable_consensus_it_asks_with_patience(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # REL-3
    nursery.start_soon(directory_of(world, archive).run)
    await archive.wait_for_consensus()
    world.is_making = False

    await trio.sleep(6 * HOUR)

    rounds = (len(world.asked) - 1) / 4
    assert 5 * HOUR / 60 <= rounds <= 6 * HOUR / 20


async def test_a_slow_network_gets_more_time(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def slow_fetch(hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        await trio.sleep(18)
        return await world.fetch(hop, method, path, body, limit=limit)

    directory = Directory(archive, slow_fetch, now=wall_clock, rng=random.Random(1))
    nursery.start_soon(directory.run)

    with trio.fail_after(120):
        await archive.wait_for_consensus()

    assert archive.current is not None


async def test_when_the_consensus_has_run_out_everybody_is_asked(
    world: World, archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    archive.offer(consensus_document(valid_after=NOW))
    await trio.sleep(28 * HOUR)
    world.down = AUTHORITIES | {identity(1).peer_id}
    nursery.start_soon(directory_of(world, archive).run)

    with trio.fail_after(5):
        await archive.wait_for_consensus()

    assert set(world.asked_since(0)) > AUTHORITIES


async def test_a_bug_in_fetching_does_not_stop_it(
    archive: Archive, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # DOS-1
    calls = 0

    async def fetch(hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise KeyError("oops")
        return consensus_document(valid_after=NOW)

    nursery.start_soon(Directory(archive, fetch, now=wall_clock, rng=random.Random(1)).run)

    with trio.fail_after(20):
        await archive.wait_for_consensus()

    assert archive.current is not None


async def test_a_consensus_from_the_cache_needs_no_request(
    world: World, archive: Archive, tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    archive.offer(consensus_document(valid_after=NOW))
    again = Archive(NETWORK, DataFolder(tmp_path), wall_clock)
    directory = directory_of(world, again)
    nursery.start_soon(directory.run)

    await trio.sleep(HOUR - 1)

    assert world.asked == []
    assert directory.current == archive.current
    assert archive.usable == (archive.current,)
    assert directory.statistics()["relays_listed"] == 3


# ---- serving


async def got(archive: Archive, path: str, method: str = "GET") -> tuple[int, bytes]:
    response = await Mirror(archive).handle(method, path, b"")
    return response.status, response.body


async def test_a_mirror_gives_the_bytes_it_has_verified(archive: Archive) -> None:
    document = consensus_document(valid_after=int(wall_clock()))
    archive.offer(document)

    assert await got(archive, "/consensus") == (200, document)


async def test_a_mirror_without_consensus_has_nothing(archive: Archive) -> None:
    status, _ = await got(archive, "/consensus")

    assert status == 404


async def test_a_mirror_serves_nothing_it_would_not_use(
    archive: Archive, autojump_clock: MockClock
) -> None:  # DIR-16
    archive.offer(consensus_document(valid_after=NOW))

    await trio.sleep(28 * HOUR)

    assert (await got(archive, "/consensus"))[0] == 404


async def test_only_a_newer_consensus_answers_the_question_for_one(
    archive: Archive, autojump_clock: MockClock
) -> None:
    archive.offer(consensus_document(valid_after=NOW))

    statuses = [(await got(archive, newer_path(NOW + t)))[0] for t in (-1, 0, 1)]

    assert statuses == [200, 404, 404]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/consensus/", "/consensus/newer/", "/consensus/newer/x", "/consensus/newer/-1"),
        *("/consensus/newer/1/", "/consensus/newer/" + "1" * 13, "/consensus/newer/٣", "/vote"),
    ],
)
async def test_other_paths_are_not_there(
    archive: Archive, autojump_clock: MockClock, path: str
) -> None:
    archive.offer(consensus_document(valid_after=NOW))

    assert (await got(archive, path))[0] == 404
    assert (await got(archive, "/consensus", "POST"))[0] == 404
