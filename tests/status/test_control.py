"""The control socket answers its own user, in one line, wherever the state folder is."""

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from warren.errors import ConfigError
from warren.status import control
from warren.status.control import (
    LONGEST_PATH,
    Statistics,
    ask,
    ask_soon,
    find_socket,
    serve_control,
)

NUMBERS = {"cells": {"forward": 3, "backward": 4}, "circuits": [{"id": 1, "path": ["a"]}]}


def counting(numbers: dict[str, Any] = NUMBERS) -> Statistics:
    """Return what a process counts, always the same."""

    async def statistics() -> dict[str, Any]:
        return numbers

    return statistics


async def test_a_process_answers_with_its_statistics(tmp_path: Path) -> None:
    async with serve_control(tmp_path, counting()) as path:
        assert path == tmp_path / "control.sock"
        assert await ask_soon(path) == NUMBERS
        assert await trio.to_thread.run_sync(ask, path) == NUMBERS

    assert list(tmp_path.iterdir()) == []


async def test_the_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    async with serve_control(tmp_path, counting()) as path:
        mode = path.stat().st_mode

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "control.sock"))

    async with serve_control(tmp_path, counting({"is": "new"})):
        assert await ask_soon(find_socket(tmp_path)) == {"is": "new"}


async def test_a_folder_with_a_long_path_has_its_socket_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Path("/tmp") / f"warren-test-{os.getpid()}"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = tmp_path / ("x" * LONGEST_PATH)
    folder.mkdir()

    async with serve_control(folder, counting()) as path:
        assert path.is_relative_to(runtime)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert find_socket(folder) == path
        assert await ask_soon(path) == NUMBERS

    assert list(folder.iterdir()) == []
    runtime.rmdir()  # which only an empty folder allows


async def test_a_folder_with_a_pointer_to_elsewhere_loses_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "control.path").write_text(str(precious / "control.sock"))

    async with serve_control(tmp_path / "state", counting()):
        assert precious.exists()


async def test_a_folder_of_a_short_path_is_never_taken_for_a_sockets_own(tmp_path: Path) -> None:
    state = tmp_path / "warren-state"
    state.mkdir()
    (state / "control.path").write_text(str(state / "control.sock"))
    (state / "identity.key").write_text("precious")

    async with serve_control(state, counting()):
        pass

    assert (state / "identity.key").read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"\xff\x80", b"/tmp/a\0b", b"x" * 5000, None])
@pytest.mark.parametrize("has_long_path", [False, True])
async def test_a_pointer_that_makes_no_sense_is_replaced(
    content: bytes | None, *, has_long_path: bool, tmp_path: Path
) -> None:  # T40
    folder = tmp_path / ("x" * 100 if has_long_path else "x")
    folder.mkdir()
    if content is None:
        os.mkfifo(folder / "control.path")
    else:
        (folder / "control.path").write_bytes(content)

    with pytest.raises(ConfigError):
        ask(find_socket(folder))
    async with serve_control(folder, counting()):
        answer = await ask_soon(find_socket(folder))

    assert answer == NUMBERS
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("request_line", ["", "quit", "statistics now", "\0" * 99])
async def test_an_unknown_request_is_refused(tmp_path: Path, request_line: str) -> None:
    async with serve_control(tmp_path, counting()) as path:
        with pytest.raises(ConfigError, match="refused: unknown request"):
            await ask_soon(path, request_line)
        assert await ask_soon(path) == NUMBERS


async def test_a_bad_visitor_or_a_bug_costs_only_its_connection(tmp_path: Path) -> None:  # DOS-1
    answers: list[Any] = [NUMBERS, RuntimeError("a bug")]

    async def statistics() -> Any:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with serve_control(tmp_path, statistics) as path:
        for garbage in (b"", b"x" * 1000, b"statistics"):
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(garbage)
            await stream.aclose()
        with pytest.raises(ConfigError):
            await ask_soon(path)
        assert await ask_soon(path) == NUMBERS


async def test_without_a_process_the_answer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no running process answers at .*control\.sock"):
        ask(find_socket(tmp_path))
    with pytest.raises(ConfigError, match="no running process answers"):
        await ask_soon(find_socket(tmp_path))


def drip(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x")
        time.sleep(0.02)


def flood(sock: socket.socket) -> None:
    while True:
        sock.sendall(bytes(65536))


@pytest.mark.parametrize(
    ("answer", "complaint"), [(drip, "gave no answer within"), (flood, "goes on answering")]
)
def test_an_answer_without_an_end_is_not_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[socket.socket], None],
    complaint: str,
) -> None:
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.5 if answer is drip else 60)
    monkeypatch.setattr(control, "REPLY_LIMIT", 1024 * 1024)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as sock:
            answer(sock)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(ConfigError, match=complaint):
            ask(tmp_path / "control.sock")
    thread.join()
