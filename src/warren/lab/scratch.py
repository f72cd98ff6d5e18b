"""The folder of a lab: a new one that was named, or a temporary one that goes when the lab does.

A lab that was killed cannot remove its folder, so the next one of the same user does. A living lab
holds the lock in its folder, and wrote its number into it after it had it: a lock that has a number
and is free is that of a dead one.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from warren.errors import ConfigError
from warren.storage import LOCK, DataFolder

PREFIX = "warren-lab-"


@contextlib.contextmanager
def lab_folder(given: Path | None) -> Iterator[Path]:
    """Give the folder of the lab; a temporary one is removed at the end.

    Raises ConfigError when the one that was given is not empty, or there is none to be used.
    """
    if given is None:
        remove_dead()
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
        except OSError as error:
            raise ConfigError(
                f"cannot make a temporary folder: {error.strerror}. Name another one with --dir"
            ) from error
        try:
            with DataFolder(path).held():
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
        return
    try:
        given.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(given.iterdir()):
            raise ConfigError(f"{given} is not empty: name a new folder with --dir")
    except OSError as error:
        raise ConfigError(f"cannot use {given}: {error.strerror}") from error
    yield given.resolve()


def remove_dead(prefix: str = PREFIX) -> None:
    """Remove the temporary folders of labs of this user that live no more, or of what `prefix` is.

    Whoever makes one holds it (``DataFolder.held``).
    """
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    """Remove the folder `path` if it is that of a dead lab; raise OSError for most that are not."""
    status = path.lstat()  # a link to a folder is no folder
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(descriptor, 20).strip().isdigit():
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
