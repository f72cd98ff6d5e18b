"""What a user runs is found, wherever its state is; what was killed is not, nor strangers'."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from warren.addresses import Address
from warren.founding import found_network
from warren.status.control import serve_control
from warren.status.running import Running, find_running, known_as_running

WARREN = [sys.executable, "-m", "warren"]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a place that no other process of this machine knows."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "warren"


async def statistics() -> dict[str, str]:
    return {"role": "proxy"}


def leave_dead_socket(folder: Path) -> None:
    """Do what a process that is killed does: it leaves its control socket."""
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "control.sock"))


async def test_who_runs_is_found_and_leaves_nothing_behind(runtime: Path, tmp_path: Path) -> None:
    state = tmp_path / "mine"
    state.mkdir()

    async with serve_control(state, statistics):
        with known_as_running("proxy", state):
            assert find_running() == [Running("proxy", os.getpid(), state)]
            assert runtime.stat().st_mode & 0o777 == 0o700

    assert find_running() == []
    assert not runtime.exists()


async def test_several_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    async with serve_control(tmp_path / "a", statistics), serve_control(tmp_path / "b", statistics):
        with known_as_running("proxy", tmp_path / "a"), known_as_running("relay", tmp_path / "b"):
            found = {(each.role, each.state.name) for each in find_running()}

    assert found == {("proxy", "a"), ("relay", "b")}


def test_what_a_killed_process_left_is_ignored_and_removed(runtime: Path, tmp_path: Path) -> None:
    leave_dead_socket(tmp_path / "dead")
    runtime.mkdir(mode=0o700)
    (runtime / "proxy.1").symlink_to(tmp_path / "dead")
    (runtime / "proxy.2").symlink_to(tmp_path / "gone")
    (runtime / "something.else").write_text("not ours")

    assert find_running() == []
    assert [path.name for path in runtime.iterdir()] == ["something.else"]


async def test_who_starts_again_replaces_what_it_left(runtime: Path, tmp_path: Path) -> None:
    leave_dead_socket(tmp_path / "state")
    runtime.mkdir(mode=0o700)
    (runtime / "relay.1").symlink_to(tmp_path / "state")
    (runtime / "relay.2").symlink_to(tmp_path / "gone")
    (runtime / "relay.3").symlink_to(tmp_path)

    with known_as_running("relay", tmp_path / "state"):
        assert {path.name for path in runtime.iterdir()} == {f"relay.{os.getpid()}", "relay.3"}


@pytest.mark.parametrize("is_link", [True, False])
def test_a_place_that_others_can_write_to_is_not_used(
    is_link: bool, runtime: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    if is_link:
        runtime.symlink_to(tmp_path / "theirs")
    else:
        runtime.mkdir()
        runtime.chmod(0o777)
    (runtime / f"proxy.{os.getpid()}").write_text("theirs")

    with known_as_running("proxy", tmp_path / "state"):
        assert find_running() == []

    assert (runtime / f"proxy.{os.getpid()}").read_text() == "theirs"


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_runtime_folder_of_others_is_passed_over(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(mode)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "theirs"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with known_as_running("proxy", tmp_path):
        assert list((tmp_path / "theirs").iterdir()) == []


def test_no_place_at_all_is_no_obstacle(runtime: Path, tmp_path: Path) -> None:
    runtime.write_text("a file")

    with known_as_running("proxy", tmp_path):
        assert find_running() == []


# ---- as a user sees it


@contextmanager
def running_proxy(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a proxy of a network that answers nobody, in the state folder `folder`."""
    addresses = {"a": Address("127.0.0.1", 1)}
    if not (folder.parent / "net").exists():
        found_network(folder.parent / "net", "home", addresses, testing=True)
    announcements, pen = os.pipe()
    process = subprocess.Popen(
        [
            *(*WARREN, "proxy", "--network", str(folder.parent / "net" / "network.toml")),
            *("--state", str(folder), "--listen", "127.0.0.1:0", "--ready-fd", str(pen)),
        ],
        pass_fds=[pen],
        stderr=subprocess.DEVNULL,
    )
    os.close(pen)
    with os.fdopen(announcements) as lines:
        assert "listening" in lines.readline()
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def status(*options: object) -> subprocess.CompletedProcess[str]:
    command = [*WARREN, "status", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def pid_of(done: subprocess.CompletedProcess[str]) -> int:
    return int(json.loads(done.stdout)["pid"])


def test_status_finds_the_one_process_wherever_its_state_is(tmp_path: Path) -> None:
    with running_proxy(tmp_path / "mine") as proxy:
        one, told = status("--json"), status()
        with running_proxy(tmp_path / "other") as other:
            two = status()
            named = status("--state", tmp_path / "other", "--json")
            other.send_signal(signal.SIGTERM)
            other.wait(10)
        again = status("--json")
        proxy.kill()
        proxy.wait()
        none = status()

    assert pid_of(one) == proxy.pid
    assert told.stdout.startswith("Proxy of the network home, running for ")
    assert "Not usable yet. It is asking for the list of relays," in told.stdout
    assert f"Process     number {proxy.pid}, version " in told.stdout
    assert two.returncode == 2
    for folder, process in (("mine", proxy), ("other", other)):
        assert f"\n    {tmp_path / folder} (proxy, process {process.pid})" in two.stderr
    assert pid_of(named) == other.pid
    assert pid_of(again) == proxy.pid
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.startswith("warren: no process of this user runs")


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("nothing", "there is no folder "),
        ("folder", "there is no such socket, so nothing runs in this folder now"),
        ("socket", "who made this socket has ended, and left it behind"),
    ],
)
def test_a_process_that_does_not_answer_is_told_in_words(
    left: str, said: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    if left == "folder":
        state.mkdir()
    if left == "socket":
        leave_dead_socket(state)

    done = status("--state", state)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Errno" not in done.stderr


def test_where_no_temporary_file_can_be_written_a_process_goes_on_without(tmp_path: Path) -> None:
    """As on a full disk, for the user of a service, who has no folder in /run."""
    (tmp_path / "state").mkdir()
    program = (
        "import sys; from pathlib import Path; from warren.status.running import *\n"
        "with known_as_running('relay', Path(sys.argv[1])): print(find_running())"
    )
    script = 'ulimit -f 0; exec "$0" -c "$1" "$2"'
    environment = {**os.environ, "XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path / "nowhere")}

    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, program, str(tmp_path / "state")],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
