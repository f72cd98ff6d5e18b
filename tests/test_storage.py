import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import structlog.testing

import warren
from tests.support.full_disk import FullDisk
from warren.errors import ConfigError, NewerSchema
from warren.storage import LOCK, MOST_BYTES, RETRY_SECONDS, DataFolder

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

    with pytest.raises(ConfigError, match="chmod go-w"):
        DataFolder(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")

    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        DataFolder(tmp_path / "data")


def test_what_a_crash_left_half_written_is_removed(folder: DataFolder) -> None:  # T38
    folder.write("state", OLD)
    (folder.path / "state.tmp").write_bytes(NEW[:10])

    again = DataFolder(folder.path)
    with again.held():
        assert again.names("*") == {"state", "lock"}

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
from warren.storage import MOST_BYTES, RETRY_SECONDS, DataFolder
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

        with folder.held():
            assert folder.read("state") in (b"a" * 200_000, b"b" * 200_000)
            assert folder.names("*") == {"state", "lock"}


def test_a_second_process_leaves_the_files_of_the_first_alone(folder: DataFolder) -> None:
    half_written = folder.path / "state.tmp"
    with folder.held():
        half_written.write_bytes(NEW[:10])

        with pytest.raises(ConfigError, match="uses"), DataFolder(folder.path).held():
            pass

        assert half_written.read_bytes() == NEW[:10]


def test_a_file_is_created_while_another_process_begins_to_hold_the_folder(tmp_path: Path) -> None:
    """As with ``warren keys`` beside a relay that starts: it clears what looks left over."""
    folder, other = DataFolder(tmp_path / "state"), DataFolder(tmp_path / "state")
    is_over = threading.Event()
    failures: list[Exception] = []

    def hold() -> None:
        while not is_over.is_set():
            try:
                with other.held():
                    pass
            except ConfigError as error:
                failures.append(error)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        for number in range(300):
            folder.create(f"file{number}", b"x")
    finally:
        is_over.set()
        thread.join()

    assert not failures
    assert all(folder.read(f"file{number}") == b"x" for number in range(300))


def test_a_folder_stays_held_when_its_lock_is_removed(folder: DataFolder) -> None:
    second = DataFolder(folder.path)

    with folder.held():
        (folder.path / LOCK).unlink()
        with pytest.raises(ConfigError, match="uses"), second.held():
            pass

    with second.held():
        assert (folder.path / LOCK).exists()


def test_a_folder_that_was_removed_and_made_again_is_held_again(
    folder: DataFolder,
) -> None:
    with folder.held():
        folder.keep("state", OLD)
        shutil.rmtree(folder.path)
        with structlog.testing.capture_logs() as logs:
            folder.keep("state", NEW)
        is_made_again = folder.path.exists()

        folder.path.mkdir()
        folder.write_again()

        assert folder.read("state") == NEW
        uses = pytest.raises(ConfigError, match=f"process {os.getpid()} uses")
        with uses, DataFolder(folder.path).held():
            pass
    assert [line["event"] for line in logs] == ["going on from memory"]
    assert not is_made_again  # whoever removed keys does not want them back


def test_a_folder_that_somebody_else_made_and_holds_is_left_alone(folder: DataFolder) -> None:
    with folder.held():
        folder.keep("state", OLD)
        shutil.rmtree(folder.path)
        second = DataFolder(folder.path)
        with second.held():
            second.write("state", b"of the second")

            folder.keep("state", NEW)
            for act in (folder.write, folder.create):
                with pytest.raises(ConfigError, match="uses"):
                    act("other", NEW)
            with pytest.raises(ConfigError, match="uses"):
                folder.set_aside("state")

            assert second.read("state") == b"of the second"
            assert second.names("*") == {"state", "lock"}
        folder.write_again()

    assert folder.read("state") == NEW


def test_a_folder_that_others_may_write_to_by_now_is_left_alone(folder: DataFolder) -> None:
    with folder.held():
        shutil.rmtree(folder.path)
        folder.path.mkdir()
        folder.path.chmod(0o777)

        with pytest.raises(ConfigError, match="others may write to"):
            folder.write("state", NEW)

    assert not folder.names("*")


def test_a_file_that_is_there_is_not_made_again(folder: DataFolder) -> None:
    folder.create("state", OLD)
    folder.create("state", NEW)

    assert folder.read("state") == OLD
    assert folder.names("*") == {"state"}


# ---- files that somebody else may have written


@pytest.mark.parametrize("mode_bits", [0o602, 0o620, 0o666, 0o777])
def test_a_file_that_others_may_write_to_is_refused(
    folder: DataFolder, mode_bits: int
) -> None:  # T40
    folder.write("state", OLD)
    (folder.path / "state").chmod(mode_bits)

    with pytest.raises(ConfigError, match="chmod 600"):
        folder.read("state")


def test_a_file_of_another_user_is_refused(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:  # T40
    folder.write("state", OLD)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)

    with pytest.raises(ConfigError, match="another user"):
        folder.read("state")


def test_a_file_that_others_could_read_is_made_private(folder: DataFolder) -> None:
    folder.write("state", OLD)
    (folder.path / "state").chmod(0o644)

    assert folder.read("state") == OLD
    assert mode(folder.path / "state") == 0o600


def test_what_is_no_file_of_ours_is_refused(folder: DataFolder) -> None:  # T40
    (folder.path / "folder").mkdir()
    (folder.path / "link").symlink_to("/dev/zero")
    os.mkfifo(folder.path / "pipe", 0o600)
    with (folder.path / "huge").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    (folder.path / "huge").chmod(0o600)

    for name, what in (
        ("folder", "is no file, expected one"),
        ("link", "it is a symbolic link, expected a file"),
        ("pipe", "is no file, expected one"),
        ("huge", "bytes, expected"),
    ):
        with pytest.raises(ConfigError, match=f"{name}.* {what}"):
            folder.read(name)


# ---- files that can be had again


def parse(content: bytes) -> str:
    if content.startswith(b"schema 2"):
        raise NewerSchema("a later version")
    return content.decode("ascii")


def test_a_file_of_no_use_is_set_aside(folder: DataFolder) -> None:  # T40, REL-5
    folder.write("good", b"good")
    folder.write("bad", b"\xff")
    folder.write("newer", b"schema 2")
    (folder.path / "odd").mkdir()

    found = [folder.load(name, parse) for name in ("good", "bad", "newer", "odd", "none")]

    assert found == ["good", None, None, None, None]
    assert folder.names("*") == {"good", "bad.bad.1", "newer.newer.1", "odd.bad.1"}
    assert folder.read("newer.newer.1") == b"schema 2"


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_full_disk_costs_a_line_an_hour_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    folder = DataFolder(tmp_path / "data", clock=clock)
    folder.keep("state", OLD)
    disk = FullDisk(monkeypatch)

    with structlog.testing.capture_logs() as logs:
        for _ in range(240):  # two hours
            folder.keep("state", NEW)
            folder.write_again()
            clock.time += RETRY_SECONDS

    assert len(logs) == 2
    assert "No space left" in logs[0]["error"]
    assert folder.read("state") == OLD
    assert folder.names("*") == {"state"}
    disk.is_full = False
    folder.write_again()
    assert folder.read("state") == NEW


def test_what_was_written_since_is_not_overwritten(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    folder.keep("state", OLD)
    disk.is_full = False
    folder.keep("state", NEW)

    folder.write_again()

    assert folder.read("state") == NEW


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
