import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import warren
from warren.errors import ConfigError
from warren.storage import DataFolder

OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read(folder: DataFolder) -> None:
    folder.write("state", OLD)
    folder.write("state", NEW)

    assert folder.read("state") == NEW
    assert folder.read("other") is None
    assert folder.names("*") == {"state"}


def test_folder_and_files_are_for_their_owner_only(folder: DataFolder) -> None:  # T86
    folder.write("state", OLD)

    assert mode(folder.path) == 0o700
    assert mode(folder.path / "state") == 0o600


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:  # FE-15
    tmp_path.chmod(0o770)

    with pytest.raises(ConfigError, match="chmod 700"):
        DataFolder(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")

    with pytest.raises(ConfigError, match="cannot use"):
        DataFolder(tmp_path / "data")


def test_what_a_crash_left_half_written_is_removed(folder: DataFolder) -> None:  # T38
    folder.write("state", OLD)
    (folder.path / "state.tmp").write_bytes(NEW[:10])

    again = DataFolder(folder.path)

    assert again.names("*") == {"state"}
    assert again.read("state") == OLD


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_failure_leaves_the_old_content(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder.write("state", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(ConfigError, match="No space left"):
            folder.write("state", NEW)

    assert folder.read("state") == OLD
    assert folder.names("*") == {"state"}


def test_the_content_is_on_the_disk_before_it_gets_its_name(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    flush, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    folder.write("state", NEW)

    assert steps == ["file", "rename", "folder"]


WRITER = """
import sys
from pathlib import Path
from warren.storage import DataFolder
folder = DataFolder(Path(sys.argv[1]))
while True:
    for letter in b"ab":
        folder.write("state", bytes([letter]) * 200_000)
        print(flush=True)
"""


def test_a_kill_at_any_moment_leaves_one_content_whole(tmp_path: Path) -> None:  # T38
    environment = os.environ | {"PYTHONPATH": str(Path(warren.__file__).parents[1])}
    for attempt in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "data")]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.0007 * attempt)
            process.send_signal(signal.SIGKILL)

        folder = DataFolder(tmp_path / "data")

        assert folder.read("state") in (b"a" * 200_000, b"b" * 200_000)
        assert folder.names("*") == {"state"}


def test_damaged_files_are_set_aside_under_names_of_their_own(folder: DataFolder) -> None:  # T40
    places = []
    for content in (b"bad", b"worse"):
        folder.write("state", content)
        places.append(folder.set_aside("state"))

    assert folder.read("state") is None
    assert [place.read_bytes() for place in places if place] == [b"bad", b"worse"]


def test_there_is_an_end_to_setting_aside(folder: DataFolder) -> None:
    for number in range(1, 101):
        (folder.path / f"state.bad.{number}").touch()
    folder.write("state", b"bad")

    assert folder.set_aside("state") is None
    assert folder.read("state") is None


def test_a_file_can_be_removed_twice(folder: DataFolder) -> None:
    folder.write("state", OLD)

    folder.remove("state")
    folder.remove("state")

    assert folder.read("state") is None
