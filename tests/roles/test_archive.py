from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.support.directories import (
    NETWORK,
    NOW,
    consensus_document,
    content_of,
    identity,
    signed,
)
from warren.directory.consensus import Consensus, Verdict
from warren.errors import ConfigError, DirectoryError, ProtocolError
from warren.roles.archive import MOST_CONFLICTS, MOST_HELD, Archive
from warren.storage import DataFolder

HOUR = 3600


class Clock:
    """Be a wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time = float(NOW)

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


@pytest.fixture
def archive(folder: DataFolder, clock: Clock) -> Archive:
    return Archive(NETWORK, folder, clock)


def document(hours: float = 0, relays: tuple[int, ...] = (1, 2, 3)) -> bytes:
    return consensus_document(relays, valid_after=NOW + int(hours * HOUR))


async def test_it_begins_empty(archive: Archive) -> None:
    assert (archive.newest, archive.current, archive.document) == (None, None, None)
    assert archive.usable == ()


async def test_without_a_folder_it_takes_a_consensus_all_the_same(clock: Clock) -> None:
    archive = Archive(NETWORK, None, clock)

    verdict = archive.offer(document())

    assert verdict is Verdict.NEWER
    assert archive.document == document()


async def test_a_newer_consensus_is_taken_and_told(archive: Archive) -> None:
    told: list[Consensus] = []
    archive.on_change.append(told.append)

    verdicts = [archive.offer(document(hours)) for hours in (0, 0.5, 0.5)]

    assert verdicts == [Verdict.NEWER, Verdict.NEWER, Verdict.SAME]
    assert [consensus.valid_after for consensus in told] == [NOW, NOW + HOUR // 2]
    assert archive.document == document(0.5)


async def test_those_still_usable_are_kept_newest_first(archive: Archive, clock: Clock) -> None:
    archive.offer(document(0))
    clock.time += 2 * HOUR

    archive.offer(document(1))

    assert [consensus.valid_after for consensus in archive.usable] == [NOW + HOUR, NOW]


async def test_an_older_one_is_never_taken_even_after_a_restart(
    archive: Archive, folder: DataFolder, clock: Clock
) -> None:  # T09, DIR-6
    clock.time += HOUR
    archive.offer(document(1))

    again = Archive(NETWORK, folder, clock)

    assert archive.offer(document(0)) is again.offer(document(0)) is Verdict.OLDER
    assert again.current == archive.current
    assert again.document == document(1)


@pytest.mark.parametrize(("hours", "message"), [(2, "begins"), (-28, "ended")])
async def test_one_of_another_time_is_not_taken(
    archive: Archive, hours: int, message: str
) -> None:  # T09
    with pytest.raises(DirectoryError, match=message):
        archive.offer(document(hours))

    assert archive.newest is None


async def test_one_that_too_few_signed_is_not_taken(archive: Archive) -> None:  # T08
    two = document()
    one = two[:5] + b"\x01" + two[6:10] + two[10:106] + two[202:]

    with pytest.raises(DirectoryError, match="signed by 1"):
        archive.offer(one)
    with pytest.raises(ProtocolError):
        archive.offer(two[:-1])

    assert archive.newest is None


async def test_two_consensuses_for_one_time_are_evidence(
    archive: Archive, folder: DataFolder
) -> None:  # DIR-7
    archive.offer(document(0, (1, 2)))

    verdict = archive.offer(document(0, (1, 3)))

    assert verdict is Verdict.CONFLICT
    assert archive.document == document(0, (1, 2))
    assert folder.read(f"conflict-{NOW}-a") == document(0, (1, 2))
    assert folder.read(f"conflict-{NOW}-b") == document(0, (1, 3))


async def test_evidence_does_not_fill_the_disk(
    archive: Archive, folder: DataFolder, clock: Clock
) -> None:
    for hour in range(MOST_CONFLICTS + 2):
        clock.time = NOW + hour * HOUR
        archive.offer(document(hour, (1, 2)))
        archive.offer(document(hour, (1, 3)))

    assert len(folder.names("conflict-*")) == 2 * MOST_CONFLICTS


async def test_it_is_current_as_long_as_it_is_usable(archive: Archive, clock: Clock) -> None:
    archive.offer(document())
    clock.time = NOW + 27 * HOUR - 1
    last_moment = archive.current

    clock.time += 1

    assert last_moment is archive.newest is not None
    assert archive.current is None
    assert archive.usable == ()


async def test_all_usable_ones_are_kept_and_share_their_relays(
    archive: Archive, clock: Clock
) -> None:  # LNK-4
    for hour in range(MOST_HELD + 3):
        clock.time = NOW + hour * HOUR
        archive.offer(document(hour))

    newest, before, *rest = archive.usable

    assert len(rest) == MOST_HELD - 2
    assert newest.relays[0] is before.relays[0] is rest[-1].relays[0]


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda _: b"", lambda _: b"\0" * 100, lambda d: d[:50] + d[51:]]
)
async def test_a_damaged_file_is_set_aside(
    folder: DataFolder, clock: Clock, damage: Callable[[bytes], bytes]
) -> None:  # T40
    folder.write("consensus", damage(document()))

    archive = Archive(NETWORK, folder, clock)

    assert archive.newest is None
    assert folder.names("*") == {"consensus.bad.1"}


async def test_without_a_disk_it_goes_on_from_memory(
    archive: Archive, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ConfigError("No space left on device")

    monkeypatch.setattr(folder, "write", full)

    assert archive.offer(document()) is Verdict.NEWER
    assert archive.current is not None


async def test_waiters_get_the_first_usable_consensus(
    archive: Archive, nursery: trio.Nursery
) -> None:
    got: list[Consensus] = []

    async def wait() -> None:
        got.append(await archive.wait_for_consensus())

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    before = list(got)
    archive.offer(document())
    await trio.testing.wait_all_tasks_blocked()

    assert before == []
    assert got == [archive.newest]
    assert await archive.wait_for_consensus() is archive.newest


async def test_a_peer_with_another_consensus_is_noticed(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:  # DIR-7
    archive.offer(document())
    newest = archive.newest
    assert newest is not None

    archive.notice(identity(1).peer_id, NOW, newest.digest)
    archive.notice(identity(1).peer_id, NOW + HOUR, b"x" * 32)
    quiet = capsys.readouterr().out
    archive.notice(identity(1).peer_id, NOW, b"x" * 32)

    assert "different consensus" not in quiet
    assert "different consensus" in capsys.readouterr().out


def test_more_signatures_of_the_same_content_change_nothing(archive: Archive) -> None:
    content = content_of()
    archive.offer(signed(content, (0, 1)))

    assert archive.offer(signed(content, (0, 1, 2))) is Verdict.SAME
    assert archive.document == signed(content, (0, 1))
