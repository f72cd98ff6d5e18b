"""A lab's temporary folder goes with it; that of a killed one goes with the next, and no other."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from warren.errors import ConfigError
from warren.lab.scratch import lab_folder, remove_dead

HOLD = """
from warren.lab.scratch import lab_folder
with lab_folder(None) as path:
    print(path, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files of this test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start_lab() -> tuple["subprocess.Popen[str]", Path]:
    """Start a process that has the folder of a lab until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def dead_folder(tmp: Path, name: str) -> Path:
    """Make what a killed lab leaves."""
    path = tmp / name
    (path / "relay1").mkdir(parents=True, mode=0o700)
    (path / "lock").write_text("4711\n")
    return path


def test_the_folder_of_a_killed_lab_goes_with_the_next_one(tmp: Path) -> None:
    killed, left = start_lab()
    killed.kill()
    killed.communicate()
    assert left.exists()

    with lab_folder(None) as mine:
        assert list(tmp.iterdir()) == [mine]

    assert list(tmp.iterdir()) == []


def test_the_folder_of_a_living_lab_stays(tmp: Path) -> None:
    living, path = start_lab()

    remove_dead()

    assert path.exists()
    living.communicate("\n")
    assert list(tmp.iterdir()) == []


def test_what_is_no_folder_of_a_dead_lab_stays(tmp: Path) -> None:
    precious = tmp / "precious"
    precious.mkdir()
    (precious / "lock").write_text("4711\n")
    (tmp / "warren-lab-link").symlink_to(precious)
    (tmp / "warren-lab-file").write_text("4711\n")
    (tmp / "warren-lab-without").mkdir()
    (dead_folder(tmp, "warren-lab-begun") / "lock").write_text("")
    linked = tmp / "warren-lab-linked"
    linked.mkdir()
    (linked / "lock").symlink_to(precious / "lock")
    before = sorted(tmp.rglob("*"))

    remove_dead()

    assert sorted(tmp.rglob("*")) == before


def test_a_link_in_the_folder_is_removed_and_not_followed(tmp: Path) -> None:
    precious = tmp / "precious"
    precious.write_text("mine")
    path = dead_folder(tmp, "warren-lab-dead")
    (path / "link").symlink_to(precious)
    (path / "parent").symlink_to(tmp)

    remove_dead()

    assert [each.name for each in tmp.iterdir()] == ["precious"]


def test_that_of_another_user_stays(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dead_folder(tmp, "warren-lab-theirs")
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)

    remove_dead()

    assert path.exists()


def test_a_folder_that_was_named_is_kept(tmp: Path) -> None:
    with lab_folder(tmp / "mine") as path:
        (path / "log").write_text("")

    assert (tmp / "mine" / "log").exists()


def test_where_there_is_no_room_for_one_it_is_said(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp / "nowhere"))

    complaint = "cannot make a temporary folder: No such file"
    with pytest.raises(ConfigError, match=complaint), lab_folder(None):
        pass
