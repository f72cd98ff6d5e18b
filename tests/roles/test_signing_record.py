from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import NOW
from warren.errors import ConfigError, DirectoryError, NewerSchema
from warren.roles.signing_record import MOST_ENTRIES, SigningRecord
from warren.storage import DataFolder

ONE, OTHER = b"1" * 32, b"2" * 32


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def test_one_digest_for_one_time_as_often_as_asked(folder: DataFolder) -> None:
    record = SigningRecord(folder)

    record.commit(NOW, ONE)
    record.commit(NOW, ONE)
    record.commit(NOW + 1, OTHER)


def test_a_second_digest_is_refused_also_after_a_restart(folder: DataFolder) -> None:  # DIR-5
    record = SigningRecord(folder)
    record.commit(NOW, ONE)
    record.commit(NOW + 1, ONE)

    for held in (record, SigningRecord(folder)):
        with pytest.raises(DirectoryError, match="already signed"):
            held.commit(NOW, OTHER)
        held.commit(NOW, ONE)


def test_what_cannot_be_written_down_is_not_promised(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ConfigError("No space left on device")

    record = SigningRecord(folder)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "write", full)
        with pytest.raises(ConfigError):
            record.commit(NOW, ONE)

    record.commit(NOW, OTHER)


def test_it_is_on_the_disk_before_commit_returns(folder: DataFolder) -> None:
    SigningRecord(folder).commit(NOW, ONE)

    content = folder.read("signed")

    assert content is not None
    assert f"{NOW} {ONE.hex()}\n".encode() in content


def test_what_has_been_dropped_from_the_record_is_never_signed_again(folder: DataFolder) -> None:
    record = SigningRecord(folder)
    for number in range(MOST_ENTRIES + 1):
        record.commit(NOW + number, ONE)

    with pytest.raises(DirectoryError, match="older"):
        record.commit(NOW, OTHER)
    with pytest.raises(DirectoryError, match="older"):
        SigningRecord(folder).commit(NOW, OTHER)


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from([ONE, OTHER])), max_size=40))
def test_whatever_is_asked_no_time_gets_two_digests(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, bytes]]
) -> None:
    folder = DataFolder(tmp_path_factory.mktemp("authority"))
    signed: set[tuple[int, bytes]] = set()

    for valid_after, digest in asked:
        try:
            SigningRecord(folder).commit(valid_after, digest)
            signed.add((valid_after, digest))
        except DirectoryError:
            pass

    assert len({valid_after for valid_after, _ in signed}) == len(signed)
    assert {valid_after for valid_after, _ in asked} == {valid_after for valid_after, _ in signed}


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content.replace(b"consensuses 1", b"consensuses x"),
        lambda content: content.replace(ONE.hex().encode(), OTHER.hex().encode()),
        lambda content: content.replace(str(NOW).encode(), str(NOW + 1).encode()),
        lambda content: b"\xff" * len(content),
        lambda content: content[: len(content) // 2],
    ],
)
def test_a_damaged_record_stops_the_authority(
    folder: DataFolder, damage: Callable[[bytes], bytes]
) -> None:  # T40
    SigningRecord(folder).commit(NOW, ONE)
    content = folder.read("signed")
    assert content is not None
    folder.write("signed", damage(content))

    with pytest.raises(ConfigError, match="damaged"):
        SigningRecord(folder)


def test_a_record_of_a_later_version_stops_the_authority(folder: DataFolder) -> None:  # REL-5
    SigningRecord(folder).commit(NOW, ONE)
    content = folder.read("signed")
    assert content is not None
    newer = content.replace(b"consensuses 1", b"consensuses 2")
    folder.write("signed", newer)

    with pytest.raises(NewerSchema, match="later version"):
        SigningRecord(folder)

    assert folder.read("signed") == newer


@given(st.binary(max_size=200))
def test_garbage_stops_the_authority(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = DataFolder(tmp_path_factory.mktemp("authority"))
    folder.write("signed", content)

    with pytest.raises(ConfigError, match="damaged"):
        SigningRecord(folder)
