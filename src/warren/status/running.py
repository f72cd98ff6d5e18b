"""Which processes of this user run: each leaves a link to its state folder in a common place.

The place is ``warren`` in XDG_RUNTIME_DIR, or else a folder in the one for temporary files that
only this user can enter. A link is named after role and process, ``proxy.4711``, so nobody ever
removes one of a process that has just started. What a process that was killed left behind is found
dead by its control socket, and removed by whoever looks. Where there is no such place a process
goes on without, and ``--state`` still finds it.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warren.status.control import answers, find_socket, temporary_folder


@dataclass(frozen=True)
class Running:
    """Hold a process that runs: its role, its number, and its state folder."""

    role: str
    pid: int
    state: Path

    def __str__(self) -> str:
        return f"{self.state} ({self.role}, process {self.pid})"


@contextlib.contextmanager
def known_as_running(role: str, state: Path) -> Iterator[None]:
    """Let ``find_running`` find this process while inside; it holds the state folder `state`."""
    place = _place()
    link = place / f"{role}.{os.getpid()}"
    is_left = False
    with contextlib.suppress(OSError):
        is_left = _leave_link(place, link, state.resolve())
    try:
        yield
    finally:
        if is_left:
            with contextlib.suppress(OSError):
                link.unlink()
                place.rmdir()  # which only the last one can


def find_running() -> list[Running]:
    """Return the processes of this user that answer, in the order of their folders."""
    found = []
    for link, running in _links(_place()):
        is_alive = answers(find_socket(running.state))
        if is_alive:
            found.append(running)
        elif is_alive is False:
            with contextlib.suppress(OSError):
                link.unlink()
    return sorted(found, key=lambda running: running.state)


def find_links() -> list[Running]:
    """Return the processes of this user that left a link, without a look whether they live."""
    return [running for _, running in _links(_place())]


def _place() -> Path:
    # The variable may be that of the user who became this one, and unset in a remote shell.
    for runtime in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.geteuid()}"):
        if runtime and _is_ours(Path(runtime).resolve()):
            return Path(runtime) / "warren"
    return temporary_folder() / f"warren-of-{os.geteuid()}"


def _is_ours(place: Path) -> bool:
    """Tell whether nobody else can put anything into the folder `place`, so that it is believed."""
    try:
        status = place.lstat()
    except OSError:
        return False
    is_private = not stat.S_IMODE(status.st_mode) & 0o022
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and is_private


def _leave_link(place: Path, link: Path, state: Path) -> bool:
    """Leave the link, in place of older ones to the folder; return whether that was possible."""
    for _ in range(3):  # the last one to end may remove the folder just now
        place.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(place):
            return False
        for old, running in _links(place):
            # Killed: the folder is held by this process now, or is gone as that of a lab.
            if running.state == state or old == link or not running.state.exists():
                old.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            link.symlink_to(state)
            return True
    return False


def _links(place: Path) -> Iterator[tuple[Path, Running]]:
    if not _is_ours(place):
        return
    with contextlib.suppress(OSError):
        for link in list(place.iterdir()):
            role, _, number = link.name.partition(".")
            if number.isascii() and number.isdigit():
                with contextlib.suppress(OSError):
                    yield link, Running(role, int(number), link.readlink())
