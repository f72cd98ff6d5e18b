"""Publishing: keys that grew old are replaced, and known here before anybody else learns them."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.support.directories import NETWORK, descriptor_of
from tests.support.full_disk import FullDisk
from tests.support.small_network import wall_clock
from warren.directory.descriptor import Descriptor, read_descriptor
from warren.directory.parameters import DAY, HOUR
from warren.errors import DirectoryError, TooSoon
from warren.identity import Hop, Suite, SystemKeys
from warren.key_files import KeyFiles
from warren.network.link import RelayKeys
from warren.roles.archive import Archive
from warren.roles.mirror import Fetch
from warren.roles.publisher import LIFETIME_SECONDS, Publisher
from warren.storage import DataFolder


@dataclass
class Authorities:
    """Stand for all authorities: they take every descriptor."""

    onion_keys: list[bytes] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    has_two: trio.Event = field(default_factory=trio.Event)

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        self.onion_keys.append(read_descriptor(body, NETWORK.network_id).onion_key)
        self.log.append("published")
        if len(set(self.onion_keys)) == 2:
            self.has_two.set()
        return b""


class Judge(Authorities):
    """Stand for all authorities: they refuse a descriptor that is a day old."""

    def __init__(self) -> None:
        super().__init__()
        self.has_taken = trio.Event()

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        published = read_descriptor(body, NETWORK.network_id).published
        if wall_clock() - published > DAY:
            raise DirectoryError("409: publish a new one")
        self.has_taken.set()
        return b""


class Busy(Judge):
    """Stand for all authorities: twice they say how long to wait, and they mean it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_at: list[float] = []

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        if hop.peer_id == NETWORK.authority_ids[0]:
            self.asked_at.append(trio.current_time())
            if len(self.asked_at) <= 2:
                raise TooSoon("429: too many descriptors from one address: wait 300 s", 300)
        return await super().fetch(hop, method, path, body, limit=limit)


def describe(keys: RelayKeys, now: int, count: int) -> Descriptor:
    return descriptor_of(
        1,
        peer_id=keys.identity.peer_id,
        link_key=keys.link_keys[0].public,
        onion_key=keys.onion_keys[0].public,
        published=now,
        counter=count,
    )


async def test_new_keys_are_told_before_they_are_published(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    folder = DataFolder(tmp_path)
    files = KeyFiles(folder, SystemKeys())
    born = wall_clock() - LIFETIME_SECONDS["onion"] - DAY
    old = files.load("onion", born).current
    keys = RelayKeys(
        files.identity(), [files.load("link", wall_clock()).current], [old], (Suite.AESGCM,)
    )
    authorities, told = Authorities(), list[tuple[bytes, ...]]()
    publisher = Publisher(
        keys,
        files,
        Archive(NETWORK, folder, wall_clock),
        authorities.fetch,
        describe,
        now=wall_clock,
        rng=Random(1),
    )

    def note(changed: RelayKeys) -> None:
        told.append(tuple(pair.public for pair in changed.onion_keys))
        authorities.log.append("told")

    publisher.on_new_keys.append(note)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run)
        await authorities.has_two.wait()
        nursery.cancel_scope.cancel()

    new = keys.onion_keys[0].public
    assert told == [(new, old.public)]
    assert set(authorities.onion_keys) == {old.public, new}
    first_of_new = authorities.onion_keys.index(new)
    before_it = [each for each in authorities.log if each == "published"][:first_of_new]
    assert authorities.log[: first_of_new + 1] == [*before_it, "told"]


async def test_a_clock_that_was_set_right_is_followed_by_a_new_descriptor(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    folder, error = DataFolder(tmp_path), [-2 * DAY]
    files = KeyFiles(folder, SystemKeys())

    def wrong_clock() -> float:
        return wall_clock() + error[0]

    link_keys, onion_keys = (
        list(files.load(name, wrong_clock()).pairs) for name in LIFETIME_SECONDS
    )
    keys = RelayKeys(files.identity(), link_keys, onion_keys, (Suite.AESGCM,))
    judge = Judge()
    publisher = Publisher(
        keys,
        files,
        Archive(NETWORK, folder, wrong_clock),
        judge.fetch,
        describe,
        now=wrong_clock,
        rng=Random(1),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run)
        await trio.sleep(300)
        assert publisher.failures > 0
        assert publisher.statistics()["last_error"] == "409: publish a new one"

        error[0] = 0
        with trio.fail_after(60):  # security F: wall clock jump
            await judge.has_taken.wait()
        nursery.cancel_scope.cancel()

    assert publisher.uploads > 0


async def test_an_authority_that_asks_to_wait_is_asked_again_when_it_said(
    tmp_path: Path, autojump_clock: MockClock
) -> None:  # DIR-17
    folder, busy = DataFolder(tmp_path), Busy()
    upkeep = Upkeep(folder)
    publisher = upkeep.publisher(busy.fetch)

    with trio.move_on_after(HOUR):
        await publisher.run()

    first, second, third = busy.asked_at
    assert first == 0
    assert 300 <= second - first <= 301
    assert 300 <= third - second <= 301
    assert publisher.uploads == len(NETWORK.authorities)
    assert publisher.failures == 0
    assert "wait 300 s" in publisher.last_error


@dataclass
class Upkeep:
    """Hold a relay's keys while hours pass, and its files."""

    folder: DataFolder
    error: float = 0.0

    def __post_init__(self) -> None:
        self.files = KeyFiles(self.folder, SystemKeys())
        pairs = {name: list(self.files.load(name, self.now()).pairs) for name in LIFETIME_SECONDS}
        self.keys = RelayKeys(self.files.identity(), pairs["link"], pairs["onion"], (Suite.AESGCM,))

    def now(self) -> float:
        return wall_clock() + self.error

    def publisher(self, fetch: Fetch) -> Publisher:
        return Publisher(
            self.keys,
            self.files,
            Archive(NETWORK, self.folder, self.now),
            fetch,
            describe,
            now=self.now,
            rng=Random(1),
        )

    async def publish_for(self, seconds: float) -> None:
        publisher = self.publisher(Authorities().fetch)
        with trio.move_on_after(seconds):
            await publisher.run()


@pytest.mark.parametrize("damage", [b"", None])
async def test_keys_in_use_outlive_their_file(
    damage: bytes | None, tmp_path: Path, autojump_clock: MockClock
) -> None:  # T40
    upkeep = Upkeep(DataFolder(tmp_path))
    used = upkeep.keys.onion_keys[0]
    if damage is None:
        (tmp_path / "onion.keys").unlink()
    else:
        upkeep.folder.write("onion.keys", damage)

    await upkeep.publish_for(2 * 3600)

    assert upkeep.files.load("onion", upkeep.now()).current == used
    assert upkeep.keys.onion_keys == [used]


async def test_a_key_that_changes_after_its_file_was_lost_is_accepted_for_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    upkeep = Upkeep(DataFolder(tmp_path))
    used = upkeep.keys.onion_keys[0]
    await upkeep.publish_for(3 * DAY)
    (tmp_path / "onion.keys").unlink()

    await upkeep.publish_for(LIFETIME_SECONDS["onion"] + DAY)

    current, previous = upkeep.keys.onion_keys
    assert previous == used
    assert upkeep.files.load("onion", upkeep.now()).pairs == (current, previous)


async def test_a_key_that_finds_no_room_on_the_disk_is_not_used_until_it_does(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:  # HS-4
    upkeep = Upkeep(DataFolder(tmp_path))
    used = upkeep.keys.onion_keys[0]
    disk = FullDisk(monkeypatch)

    await upkeep.publish_for(LIFETIME_SECONDS["onion"] + DAY)
    while_full, on_disk = list(upkeep.keys.onion_keys), upkeep.files.load("onion", upkeep.now())
    disk.is_full = False
    await upkeep.publish_for(2 * 3600)

    assert while_full == [used]
    assert on_disk.pairs == (used,)
    assert upkeep.keys.onion_keys[1:] == [used]
    assert upkeep.files.load("onion", upkeep.now()).pairs == tuple(upkeep.keys.onion_keys)


async def test_keys_that_a_wrong_clock_dated_change_in_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    upkeep = Upkeep(DataFolder(tmp_path), error=1000 * DAY)
    used = upkeep.keys.onion_keys[0]
    upkeep.error = 0

    await upkeep.publish_for(LIFETIME_SECONDS["onion"] + DAY)

    assert upkeep.keys.onion_keys[1:] == [used]
