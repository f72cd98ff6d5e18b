"""Three authorities wired in memory: a consensus each period, whatever one of them does."""

import gc
import shutil
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.directories import (
    NOW,
    authority_hop,
    authority_identity,
    descriptor_of,
    document_of,
    network_of,
    vote_document,
    vote_of,
)
from warren.addresses import Address
from warren.directory.consensus import Consensus, Flag, read_consensus
from warren.directory.descriptor import Descriptor, descriptor_lifetime
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import Parameters
from warren.errors import ConfigError, DirectoryError, LinkError
from warren.identity import Hop, PeerId
from warren.roles.archive import Archive
from warren.roles.authority import Authority
from warren.storage import DataFolder

LAB = Parameters(
    consensus_interval_seconds=5,
    initial_interval_seconds=1,
    founding_relays=2,
    descriptor_upload_seconds=3,
    descriptor_interval_seconds=30,
)
NETWORK = network_of(parameters=LAB)


class City:
    """Be the authorities of a network in one process, each in a task, and all their links."""

    def __init__(self, nursery: trio.Nursery, path: Path, network: NetworkFile = NETWORK) -> None:
        self.network = network
        self.down: set[int] = set()
        self.hung: set[int] = set()
        self.unreachable: set[PeerId] = set()
        self.set_back = 0.0
        #: By how much the clock of an authority is fast.
        self.skew: dict[int, float] = {}
        #: What gets lost on its way: (from, to, start of "METHOD /path").
        self.lost: set[tuple[int, int, str]] = set()
        self.authorities: dict[int, Authority] = {}
        self.archives: dict[int, Archive] = {}
        self._nursery = nursery
        self._path = path
        self._scopes: dict[int, trio.CancelScope] = {}

    def now(self, number: int | None = None) -> float:
        """Return Unix seconds that go with trio's clock, with a fraction to be awkward."""
        skew = 0.0 if number is None else self.skew.get(number, 0.0)
        return NOW + 0.3 + trio.current_time() - self.set_back + skew

    def folder(self, number: int) -> DataFolder:
        return DataFolder(self._path / str(number))

    async def start(self, number: int) -> None:
        folder = self.folder(number)
        clock = partial(self.now, number)
        archive = self.archives[number] = Archive(self.network, folder, clock)
        authority = self.authorities[number] = Authority(
            authority_identity(number),
            archive,
            folder,
            partial(self._fetch, number),
            self._check,
            now=clock,
            country_of=lambda ip: "de" if ip.packed[2] == 2 else "??",
        )
        self.down.discard(number)
        await self._nursery.start(self._run, number, authority)

    async def start_all(self) -> None:
        for number in range(len(self.network.authorities)):
            await self.start(number)

    def kill(self, number: int) -> None:
        self.down.add(number)
        self._scopes[number].cancel()

    async def upload(self, *relays: int, to: int | None = None) -> None:
        published = int(self.now())
        for relay in relays:
            document = document_of(relay, self.network, published=published)
            for number in self.authorities if to is None else (to,):
                if number not in self.down:
                    await self.authorities[number].handle("POST", "/descriptor", document)

    def valid_after(self, number: int) -> int:
        newest = self.archives[number].newest
        return newest.valid_after if newest else 0

    def listed(self, number: int) -> set[PeerId]:
        newest = self.archives[number].newest
        return {entry.peer_id for entry in newest.relays} if newest else set()

    async def _run(
        self, number: int, authority: Authority, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.CancelScope() as self._scopes[number]:
            await authority.run(task_status=task_status)

    async def _fetch(
        self, asker: int, hop: Hop, method: str, path: str, body: bytes, *, limit: int
    ) -> bytes:
        hops = [authority.hop for authority in self.network.authorities]
        number = hops.index(hop)
        await trio.sleep(0.02)
        is_lost = any(
            (asker, number) == (a, b) and f"{method} {path}".startswith(what)
            for a, b, what in self.lost
        )
        if number in self.hung or is_lost:
            await trio.sleep_forever()
        if number in self.down or number not in self.authorities:
            raise LinkError("connection refused")
        response = await self.authorities[number].handle(method, path, body)
        if response.status != 200:
            raise DirectoryError(f"status {response.status}")
        assert len(response.body) <= limit
        return response.body

    async def _check(self, hop: Hop) -> bool:
        await trio.sleep(0.05)
        if hop.peer_id in self.unreachable:
            raise LinkError("no answer")
        return True


@pytest.fixture
def city(nursery: trio.Nursery, tmp_path: Path) -> City:
    return City(nursery, tmp_path)


async def founded(city: City) -> None:
    """Start everything and wait for the first consensus."""
    await city.start_all()
    await city.upload(1, 2, 3)
    await trio.sleep(2.5)
    assert all(city.valid_after(number) for number in range(3))


def peers(*relays: int) -> set[PeerId]:
    return {descriptor_of(relay).peer_id for relay in relays}


async def test_a_network_is_founded_within_three_initial_intervals(
    city: City, autojump_clock: MockClock
) -> None:
    await city.start_all()
    await city.upload(1, 2, 3)

    await trio.sleep(2.5)

    assert [city.listed(number) for number in range(3)] == [peers(1, 2, 3)] * 3


async def test_there_is_no_first_consensus_with_too_few_relays(
    city: City, autojump_clock: MockClock
) -> None:
    await city.start_all()
    await city.upload(1)

    await trio.sleep(4)

    assert [city.archives[number].newest for number in range(3)] == [None] * 3


async def test_there_is_a_consensus_in_every_period_and_it_names_the_last(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    seen: list[Consensus] = []
    city.archives[0].on_change.append(seen.append)

    await trio.sleep(25)

    assert len(seen) >= 4
    assert {b.valid_after - a.valid_after for a, b in pairwise(seen)} == {5}
    assert all(b.previous_digest == a.digest for a, b in pairwise(seen))


async def test_all_authorities_publish_the_same_bytes_signed_by_all(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)

    documents = {city.archives[number].document for number in range(3)}

    (document,) = documents
    assert document is not None
    assert read_consensus(document, city.network, city.now()).relays


async def test_one_authority_down_costs_no_consensus(
    city: City, autojump_clock: MockClock
) -> None:  # T34
    await founded(city)
    city.kill(2)

    await trio.sleep(20)

    assert city.valid_after(0) == city.valid_after(1) > city.now() - 5.1
    assert city.authorities[0].statistics()["consensuses_missed"] == 0


async def test_one_authority_hung_costs_no_consensus(
    city: City, autojump_clock: MockClock
) -> None:  # T34
    await founded(city)
    city.kill(2)
    city.hung.add(2)

    await trio.sleep(20)

    assert city.valid_after(0) == city.valid_after(1) > city.now() - 5.1
    assert city.authorities[0].statistics()["consensuses_missed"] == 0


async def test_who_cannot_write_signs_nothing_and_takes_what_the_others_make(
    city: City, autojump_clock: MockClock
) -> None:  # DIR-5: not on the disk, not signed
    await founded(city)
    shutil.rmtree(city.folder(2).path)
    await trio.sleep(10)
    with_two = [city.valid_after(number) > city.now() - 5.1 for number in range(3)]

    shutil.rmtree(city.folder(1).path)
    await trio.sleep(10)
    with_one = city.valid_after(0) > city.now() - 5.1
    city.folder(1)  # which makes it
    await trio.sleep(10)

    assert with_two == [True, True, True]
    assert not with_one
    assert city.valid_after(0) == city.valid_after(2) > city.now() - 5.1
    assert (city.folder(1).path / "signed").exists()


PAIRS = [(a, b) for a in range(3) for b in range(3) if a != b]


@pytest.mark.parametrize("what", ["POST /vote", "GET /vote", "POST /signature", "GET /signatures"])
async def test_what_gets_lost_one_way_is_had_the_other_way(
    city: City, autojump_clock: MockClock, what: str
) -> None:
    await founded(city)
    city.lost = {(a, b, what) for a, b in PAIRS}

    await trio.sleep(20)

    assert {city.valid_after(n) >= city.now() - 5.1 for n in range(3)} == {True}
    assert city.authorities[0].statistics()["consensuses_missed"] == 0


async def test_two_that_cannot_talk_hear_of_each_other_from_the_third(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    city.lost = {(0, 2, ""), (2, 0, "")}

    await trio.sleep(20)

    documents = {city.archives[n].document for n in range(3)}
    assert len(documents) == 1
    assert city.authorities[0].statistics()["consensuses_missed"] == 0
    assert city.authorities[0]._ballots[-1].vote_of(authority_identity(2).peer_id) is not None


async def test_who_missed_a_consensus_gets_it_from_the_others(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    city.lost = {(a, 2, "POST /vote") for a in (0, 1)} | {(2, a, "GET /vote") for a in (0, 1)}

    await trio.sleep(18)

    assert city.valid_after(2) == city.valid_after(0) > city.now() - 5.1
    assert city.authorities[2].statistics()["consensuses_missed"] >= 3


async def test_a_signature_that_comes_late_still_makes_the_consensus(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    city.lost = {(a, b, f"{how} /signature") for a, b in PAIRS for how in ("POST", "GET")}
    valid_after = NOW + 10
    await trio.sleep(valid_after - city.now() + 0.1)
    missed = city.valid_after(0)

    late = await city.authorities[1].handle("GET", f"/signatures/{valid_after}", b"")
    await city.authorities[0].handle("POST", "/signature", late.body)

    assert missed < valid_after == city.valid_after(0)


async def test_all_restarted_at_once_still_know_their_relays(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    for number in range(3):
        city.kill(number)

    await city.start_all()
    await trio.sleep(12)

    assert city.valid_after(0) > city.now() - 5.1
    assert city.listed(0) == peers(1, 2, 3)


async def test_a_clock_that_is_set_right_brings_an_authority_back(
    city: City, autojump_clock: MockClock
) -> None:  # DIR-9
    city.skew[2] = 2 * 86400.0
    await city.start_all()
    for number in (0, 1):
        await city.upload(1, 2, to=number)
    await trio.sleep(10)
    before = city.valid_after(2)

    city.skew[2] = 0.0
    await trio.sleep(25)
    city.kill(1)
    await trio.sleep(15)

    assert before == 0
    assert city.valid_after(2) == city.valid_after(0) > city.now() - 5.1


async def test_two_authorities_down_stop_it_until_one_returns(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    city.kill(1)
    city.kill(2)
    await trio.sleep(10)
    stopped = city.valid_after(0)

    await city.start(1)
    await trio.sleep(12)

    assert city.valid_after(0) > stopped
    assert city.valid_after(1) == city.valid_after(0)


async def test_what_keeps_a_consensus_away_is_told_until_there_is_one(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    names = [authority.name for authority in city.network.authorities]
    city.kill(1)
    city.kill(2)
    await trio.sleep(10)

    alone = city.authorities[0].statistics()
    await city.start(1)
    await trio.sleep(12)
    together = city.authorities[0].statistics()

    assert alone["trouble"] == "1 of 3 authorities voted, expected at least 2"
    assert alone["last_count"]["votes"] == 1
    assert alone["last_count"]["missing"] == names[1:]
    assert 0 < alone["consensus_valid_after"] < alone["last_count"]["valid_after"]
    assert together["trouble"] is None
    assert together["last_count"]["valid_after"] >= city.valid_after(0) > 0
    assert (together["last_count"]["votes"], together["last_count"]["missing"]) == (2, names[2:])
    assert (together["authorities"], together["relays_listed"]) == (3, 3)


async def test_a_restarted_authority_catches_up_and_takes_part_again(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    city.kill(2)
    await trio.sleep(11)

    await city.start(2)
    await trio.sleep(0.5)
    caught_up = city.valid_after(2) == city.valid_after(0)
    city.kill(1)
    await trio.sleep(12)

    assert caught_up
    assert city.valid_after(2) == city.valid_after(0) > city.now() - 6
    assert city.listed(2) == peers(1, 2, 3)


async def test_an_authority_learns_relays_from_the_votes_of_the_others(
    city: City, autojump_clock: MockClock
) -> None:
    await city.start_all()
    await city.upload(1, 2, 3, to=0)

    await trio.sleep(4.5)

    assert city.listed(2) == peers(1, 2, 3)


async def test_a_relay_that_stops_answering_leaves_the_consensus(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    city.unreachable |= peers(3)

    await trio.sleep(10)

    assert city.listed(0) == peers(1, 2)


async def test_a_relay_that_stops_publishing_leaves_the_consensus(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    await trio.sleep(descriptor_lifetime(LAB) / 2)
    await city.upload(1, 2)

    await trio.sleep(descriptor_lifetime(LAB) / 2 + 12)

    assert city.listed(0) == peers(1, 2)


async def test_relays_get_flags_and_countries(city: City, autojump_clock: MockClock) -> None:
    await founded(city)

    newest = city.archives[0].newest

    assert newest is not None
    entry = newest.get(descriptor_of(1).peer_id)
    assert entry is not None
    assert {Flag.RUNNING, Flag.GUARD, Flag.MIRROR} <= entry.flags
    assert entry.country == "de"


async def test_descriptors_that_were_replaced_are_forgotten(
    city: City, autojump_clock: MockClock
) -> None:
    await founded(city)
    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, Descriptor)}

    for _ in range(20):
        await trio.sleep(LAB.consensus_interval_seconds)
        await city.upload(1, 2, 3)

    gc.collect()
    new = [
        each for each in gc.get_objects() if isinstance(each, Descriptor) and id(each) not in before
    ]
    periods = 3  # the one in the making, and two that are remembered
    assert len(new) <= len(city.authorities) * 3 * periods


async def test_a_second_descriptor_must_wait(
    city: City, autojump_clock: MockClock
) -> None:  # DIR-17
    await city.start(0)
    await city.upload(1)

    await trio.sleep(2)
    with pytest.raises(DirectoryError, match="too soon"):
        await city.upload(1)
    await trio.sleep(2)
    await city.upload(1)

    assert city.authorities[0].statistics()["descriptors"] == 2


async def test_five_hundred_relays_in_one_network_get_the_places_of_one_and_keep_nobody_out(
    nursery: trio.Nursery, tmp_path: Path, autojump_clock: MockClock
) -> None:  # T73, DIR-11
    city = City(nursery, tmp_path, network_of(parameters=LAB, testing=False))
    await founded(city)
    crowd = [
        document_of(n, city.network, address=Address(f"9.9.9.{n % 250}", 9001), bandwidth=10**9)
        for n in range(1001, 1501)
    ]
    for document in crowd:
        for authority in city.authorities.values():
            await authority.handle("POST", "/descriptor", document)
    await trio.sleep(2 * LAB.consensus_interval_seconds)
    first = city.listed(0)

    await city.upload(4)
    await trio.sleep(2 * LAB.consensus_interval_seconds)

    assert len(first) == 3 + 8
    assert peers(1, 2, 3) < first
    assert city.listed(0) == city.listed(1) == city.listed(2) == first | peers(4)
    assert city.authorities[0].statistics()["relays_running"] == 504


async def test_after_a_restart_nothing_else_is_signed_for_the_same_time(
    city: City, autojump_clock: MockClock
) -> None:  # DIR-5
    await founded(city)
    first = city.valid_after(0)
    for number in range(3):
        city.kill(number)
        (city.folder(number).path / "consensus").unlink()
        (city.folder(number).path / "vote").unlink()

    city.set_back = trio.current_time()
    await city.start_all()
    await city.upload(4, 5)
    await trio.sleep(first - city.now() + 0.5)
    repeated = city.valid_after(0)
    await trio.sleep(2)

    assert repeated == 0
    assert city.listed(0) == peers(4, 5)
    assert city.valid_after(0) > first


def authority_in(path: Path, number: int = 0) -> Authority:
    async def nothing(*_: object, **__: object) -> bytes:
        raise LinkError("nobody there")

    async def no(_: Hop) -> bool:
        return False

    folder = DataFolder(path)
    archive = Archive(NETWORK, folder, lambda: NOW)
    return Authority(authority_identity(number), archive, folder, nothing, no, now=lambda: NOW)


def damaged(content: bytes) -> bytes:
    return content[:-10] + bytes([content[-10] ^ 1]) + content[-9:]


@pytest.mark.parametrize(
    "damage", [damaged, lambda _: b"", lambda c: c[: len(c) // 2]], ids=["damaged", "empty", "cut"]
)
async def test_a_damaged_record_of_signatures_keeps_it_from_starting(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:  # T40
    authority_in(tmp_path)._record.commit(NOW, bytes(32))
    path = tmp_path / "signed"
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ConfigError, match="damaged"):
        authority_in(tmp_path)


async def test_somebody_who_is_no_authority_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not among the authorities"):
        authority_in(tmp_path, number=7)


async def test_a_damaged_last_vote_is_set_aside(tmp_path: Path) -> None:  # T40
    DataFolder(tmp_path).write("vote", b"rubbish")

    authority_in(tmp_path)

    assert (tmp_path / "vote.bad.1").exists()


async def test_a_second_different_vote_is_kept_as_evidence(
    city: City, autojump_clock: MockClock
) -> None:  # DIR-10
    await founded(city)
    city.kill(2)
    await trio.sleep(5 - city.now() % 5 + 0.5)
    valid_after = (int(city.now()) // 5 + 1) * 5
    first, second = (
        vote_document(vote_of(2, [], city.network, valid_after=valid_after, **changes), 2, NETWORK)
        for changes in ({}, {"previous_digest": bytes(31) + b"2"})
    )

    await city.authorities[0].handle("POST", "/vote", first)
    with pytest.raises(DirectoryError, match="second"):
        await city.authorities[0].handle("POST", "/vote", second)

    names = {name[-2:] for name in city.folder(0).names("evidence-*")}
    assert names == {"-a", "-b"}


async def test_unknown_paths_are_not_found(city: City, autojump_clock: MockClock) -> None:
    await city.start(0)

    paths = ("/", "/vote/1/2", "/vote/1", "/signatures/7", "/consensus", "/descriptor")
    answers = [await city.authorities[0].handle("GET", path, b"") for path in paths]

    assert {answer.status for answer in answers} == {404}


def test_the_hops_of_the_network_file_are_the_ones_asked() -> None:
    assert [authority.hop for authority in NETWORK.authorities] == [
        authority_hop(number) for number in range(3)
    ]
