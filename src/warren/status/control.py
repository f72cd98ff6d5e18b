"""The control socket: a running process answers what it is doing, to its own user only.

``control.sock`` lies in the state folder, a unix socket of mode 0600. One line asks, one line of
JSON answers, and the connection is closed. The only question so far is ``statistics``.

A unix socket's path has to be short. Where the state folder's is too long, the socket lies in a
private folder of its own, and ``control.path`` in the state folder says where.
"""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from warren.errors import ConfigError

log = structlog.get_logger()

Statistics = Callable[[], Awaitable[Mapping[str, Any]]]

SOCKET, POINTER = "control.sock", "control.path"
#: Linux takes 107 bytes, other systems 103.
LONGEST_PATH = 103
POINTER_LIMIT = 1024
REQUEST_LIMIT = 256
REPLY_LIMIT = 64 * 1024 * 1024
PATIENCE_SECONDS = 5


@contextlib.asynccontextmanager
async def serve_control(folder: Path, statistics: Statistics) -> AsyncIterator[Path]:
    """Answer questions at the control socket of the state folder `folder` while inside.

    A socket that an earlier process left behind is replaced; whoever calls holds the folder
    (``node.holding_state``), so it cannot be a living one's. Gives the socket's path.
    """

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                with trio.move_on_after(PATIENCE_SECONDS):
                    request = await _read_line(stream, REQUEST_LIMIT)
                    await stream.send_all(await _reply(request, statistics) + b"\n")
            except (trio.BrokenResourceError, ConfigError):
                pass  # whoever asked is gone, or has no question
            except Exception:  # DOS-1
                log.exception("the control socket failed")

    with _bound_socket(folder) as (sock, path):
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            yield path
            nursery.cancel_scope.cancel()


async def _reply(request: bytes, statistics: Statistics) -> bytes:
    if request == b"statistics":
        return msgspec.json.encode(await statistics())
    return msgspec.json.encode({"error": f"unknown request {request[:64]!r}, expected statistics"})


@contextlib.contextmanager
def _bound_socket(folder: Path) -> Iterator[tuple[socket.socket, Path]]:
    path, pointer = folder / SOCKET, folder / POINTER
    _discard(folder)
    if len(os.fsencode(path)) > LONGEST_PATH:
        path = _private_folder() / SOCKET
        try:
            with pointer.open("x", encoding="utf-8") as file:
                file.write(str(path))
        except OSError as error:
            raise ConfigError(f"cannot write {pointer}: {error.strerror}") from error
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                # The folder is private already; the mode says so once more.
                before = os.umask(0o177)
                try:
                    sock.bind(os.fsencode(path))
                finally:
                    os.umask(before)
                sock.listen(1024)  # whoever comes while it is full is refused, not kept waiting
            except OSError as error:
                raise ConfigError(f"cannot make the control socket {path}: {error}") from error
            yield sock, path
    finally:
        _discard(folder)


def _private_folder() -> Path:
    """Make a folder for one socket, of mode 0700, at a place with a short path."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), temporary_folder(), "/tmp"):  # noqa: S108
        # mkdtemp adds eight characters, and makes a folder that nobody else can enter or guess.
        if parent and len(os.fsencode(f"{parent}/warren-12345678/{SOCKET}")) <= LONGEST_PATH:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="warren-", dir=parent))
    raise ConfigError("found no place for the control socket: set XDG_RUNTIME_DIR to a short path")


def temporary_folder() -> Path:
    """Return the folder for temporary files, also where nothing can be written: the disk is full.

    ``tempfile`` tries to write, and a process is to start all the same.
    """
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108


def _discard(folder: Path) -> None:
    """Remove the control socket of `folder`, wherever it lies."""
    with contextlib.suppress(OSError):
        (folder / SOCKET).unlink()
    path = _read_pointer(folder)
    with contextlib.suppress(OSError):
        (folder / POINTER).unlink()
    if path is not None and path.name == SOCKET and path.parent.name.startswith("warren-"):
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # which refuses a folder that has something else in it


def _read_pointer(folder: Path) -> Path | None:
    """Return where the state folder says that its socket lies; None if it does not, or no path."""
    try:
        # O_NONBLOCK: it may be a pipe by now, and nobody is to wait for that.
        pointer = os.open(folder / POINTER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            text = os.read(pointer, POINTER_LIMIT).decode("utf-8")
        finally:
            os.close(pointer)
    except (OSError, ValueError):
        return None
    return Path(text) if text and "\0" not in text else None


def find_socket(folder: Path) -> Path:
    """Return the path of the control socket of the state folder `folder`; it need not exist."""
    return _read_pointer(folder) or folder / SOCKET


def answers(path: Path) -> bool | None:
    """Tell whether a process listens at the socket `path`; None when that cannot be told."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_SECONDS)
            sock.connect(os.fsencode(path))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return False
    except OSError:
        return None
    return True


def ask(path: Path, request: str = "statistics") -> dict[str, Any]:
    """Ask the process whose control socket is at `path`; wait up to 5 s for its answer.

    Raises ConfigError when nobody answers.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_SECONDS)
            sock.connect(os.fsencode(path))
            sock.sendall(request.encode() + b"\n")
            reply = _read_all(sock, deadline)
    except OSError as error:
        raise _silent(path, error) from error
    return _read_reply(path, reply)


def _read_all(sock: socket.socket, deadline: float) -> bytes:
    """Read up to the end; raise TimeoutError at `deadline`, ConfigError for what never ends."""
    reply = bytearray()
    while len(reply) <= REPLY_LIMIT:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = sock.recv(65536)
        if not chunk:
            return bytes(reply)
        reply += chunk
    raise ConfigError(f"{sock.getpeername()} goes on answering: is it another program?")


async def ask_soon(path: Path, request: str = "statistics") -> dict[str, Any]:
    """Do ``ask`` without keeping other tasks waiting."""
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await trio.open_unix_socket(os.fsencode(path))
            async with stream:
                await stream.send_all(request.encode() + b"\n")
                reply = await _read_line(stream, REPLY_LIMIT)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise _silent(path, error) from error
    return _read_reply(path, reply)


async def _read_line(stream: trio.SocketStream, limit: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= limit:
        chunk = await stream.receive_some()
        if not chunk:
            break
        line += chunk
    if not line.endswith(b"\n"):
        raise ConfigError(f"{len(line)} bytes without the end of a line")
    return bytes(line[:-1])


def _read_reply(path: Path, reply: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(reply, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} answered with something other than JSON: {error}") from error
    if "error" in answer:
        raise ConfigError(f"{path} refused: {answer['error']}")
    return answer


def _silent(path: Path, error: BaseException) -> ConfigError:
    return ConfigError(f"no running process answers at {path}: {_why_silent(path, error)}")


def _why_silent(path: Path, error: BaseException) -> str:
    start_it = "Start it, or name the state folder of one that runs (warren status alone finds it)"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}. {start_it}"
    if not os.path.lexists(path):
        return f"there is no such socket, so nothing runs in this folder now. {start_it}"
    if not path.is_socket():
        return f"that is no socket. {start_it}"
    if isinstance(error, ConnectionRefusedError):
        return f"who made this socket has ended, and left it behind. {start_it}"
    if isinstance(error, PermissionError):
        return "it belongs to another user. Ask as that one"
    if isinstance(error, (TimeoutError, trio.TooSlowError)):
        seconds = PATIENCE_SECONDS
        return f"it took the question and gave no answer within {seconds} s. It may be stopped"
    if isinstance(error, (ConnectionError, trio.BrokenResourceError)):
        return "it broke off the conversation. It may end just now, or be another program"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
