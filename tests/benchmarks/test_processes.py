"""Processes that end with whoever started them."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.processes import ROOT, ProcessError, Processes, environment, free_port
from tests.support.labs import is_alive, wait_until_dead

SLEEP = ["sleep", "60"]


def wait_until_runs(pid: int, name: str) -> None:
    """Wait until the process `pid` has become the program `name`."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_stopping_ends_all_and_removes_the_folder() -> None:
    processes = Processes("test")
    pids = [processes.start(name, SLEEP).pid for name in ("one", "two")]

    processes.stop()

    assert not any(map(is_alive, pids))
    assert not processes.folder.exists()


def test_one_can_be_stopped_and_started_again() -> None:
    processes = Processes("test")
    first = processes.start("one", SLEEP).pid

    processes.stop_one("one")
    second = processes.start("one", SLEEP).pid

    assert processes.pid_of("one") == second != first
    processes.stop()


def test_one_that_ended_is_reported_with_its_last_words() -> None:
    processes = Processes("test")
    processes.start("speaker", [sys.executable, "-c", "import sys; sys.exit('no such key')"]).wait()

    with pytest.raises(ProcessError, match="speaker ended with code 1: no such key"):
        processes.check()
    processes.stop()


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "from benchmarks.processes import Processes\n"
        "import time\n"
        "print(Processes('test').start('one', ['sleep', '60']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), "TMPDIR": str(tmp_path)},
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until_runs(child, "sleep")
        parent.send_signal(signal.SIGKILL)

    assert wait_until_dead([child]) == []


def test_processes_find_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")

    assert environment()["PYTHONPATH"] == f"{ROOT}{os.pathsep}elsewhere"


def test_a_free_port_can_be_used() -> None:
    assert 0 < free_port() < 65536


def test_the_folder_of_a_run_that_was_killed_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, signal\n"
        "from benchmarks.processes import Processes\n"
        "kept = Processes('test')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**environment(), "TMPDIR": str(tmp_path)}, check=False
    )
    [left] = tmp_path.iterdir()
    living = Processes("test")

    other = Processes("test")

    assert not left.exists()
    assert living.folder.exists()
    living.stop()
    other.stop()


def test_the_folder_goes_however_python_ends(tmp_path: Path) -> None:
    code = (
        "from benchmarks.processes import Processes\nkept = Processes('test')\nraise SystemExit(1)"
    )

    subprocess.run(
        [sys.executable, "-c", code], env={**environment(), "TMPDIR": str(tmp_path)}, check=False
    )

    assert not list(tmp_path.iterdir())
