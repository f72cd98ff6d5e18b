"""Keys on disk: made once, private, rotated in order, and never replaced behind one's back."""

from pathlib import Path

import pytest
import structlog

from warren.errors import ConfigError
from warren.identity import SystemKeys
from warren.key_files import KeyFiles, Rotating
from warren.storage import DataFolder


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "state")


@pytest.fixture
def keys(folder: DataFolder) -> KeyFiles:
    return KeyFiles(folder, SystemKeys())


def reopened(folder: DataFolder) -> KeyFiles:
    return KeyFiles(DataFolder(folder.path), SystemKeys())


def test_an_identity_is_made_once(folder: DataFolder, keys: KeyFiles) -> None:
    first = keys.identity()

    assert keys.identity().peer_id == first.peer_id
    assert reopened(folder).identity().peer_id == first.peer_id
    assert [path.name for path in folder.path.iterdir()] == ["identity.key"]


def test_key_files_are_for_their_owner_only(folder: DataFolder, keys: KeyFiles) -> None:  # T86
    keys.identity()
    keys.load("link", 0)
    keys.rotate("onion", 0)

    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}


def test_a_damaged_identity_stops_the_start(folder: DataFolder, keys: KeyFiles) -> None:  # T40
    keys.identity()
    good = folder.read("identity.key")
    assert good is not None

    for position in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[position] ^= 0x11
        folder.write("identity.key", bytes(damaged))
        with pytest.raises(ConfigError, match=r"identity\.key is damaged"):
            keys.identity()
        assert folder.read("identity.key") == bytes(damaged)
    for text in (b"", b"{}", good[:-1], b"\xff" * 100, b'{"seed":"00","peer_id":"a"}'):
        folder.write("identity.key", text)
        with pytest.raises(ConfigError):
            keys.identity()


def test_an_identity_that_is_gone_is_missed(folder: DataFolder, keys: KeyFiles) -> None:
    with structlog.testing.capture_logs() as at_first:
        before = keys.identity()
    keys.load("link", 0.0)
    (folder.path / "identity.key").unlink()

    with structlog.testing.capture_logs() as logs:
        after = keys.identity()

    assert (at_first, after == before) == ([], False)
    [line] = logs
    assert line["log_level"] == "warning"
    assert line["file"] == str(folder.path / "identity.key")


def test_two_that_make_an_identity_at_once_agree(folder: DataFolder, keys: KeyFiles) -> None:
    first = keys._create_identity()  # both have seen that there is none
    second = reopened(folder)._create_identity()

    assert first == second


@pytest.mark.parametrize("name", ["link", "onion"])
def test_a_rotation_keeps_the_key_before(
    name: Rotating, folder: DataFolder, keys: KeyFiles
) -> None:
    first = keys.load(name, 100)
    second = keys.rotate(name, 200)
    third = keys.rotate(name, 300)

    assert first.previous is None
    assert first.pairs == (first.current,)
    assert second.pairs == (second.current, first.current)
    assert third.pairs == (third.current, second.current)
    assert third.since == 300
    assert reopened(folder).load(name, 400) == third


def test_a_previous_key_retires(folder: DataFolder, keys: KeyFiles) -> None:
    keys.load("onion", 100)
    rotated = keys.rotate("onion", 200)

    retired = keys.retire("onion", 300)

    assert retired.pairs == (rotated.current,)
    assert retired.since == 200
    assert reopened(folder).load("onion", 400) == retired


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b'{"since":1,"pairs":[]}', b'{"since":1,"pairs":[["00","00"]]}', b"\x80" * 50],
)
def test_a_damaged_rotating_key_is_set_aside(
    damage: bytes, folder: DataFolder, keys: KeyFiles
) -> None:
    before = keys.load("link", 100)
    folder.write("link.keys", damage)

    after = keys.load("link", 200)

    assert after.current != before.current
    assert after.since == 200
    assert folder.read("link.keys.bad.1") == damage


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 9999, b'{"since":1,"pairs":[],"schema":2}'])
def test_a_key_that_others_know_already_is_never_replaced(
    damage: bytes, folder: DataFolder, keys: KeyFiles
) -> None:
    keys.load("link", 100)
    folder.write("link.keys", damage)

    with pytest.raises(ConfigError, match=r"link\.keys"):
        keys.load("link", 200, is_known=True)

    assert folder.read("link.keys") == damage
    assert folder.names("*") == {"link.keys"}


def test_a_private_key_must_fit_its_public_one(folder: DataFolder, keys: KeyFiles) -> None:
    first = keys.load("link", 100)
    content = folder.read("link.keys")
    assert content is not None
    wrong = content.replace(first.current.private.hex().encode(), b"11" * 32)
    folder.write("link.keys", wrong)

    assert keys.load("link", 200).current != first.current
