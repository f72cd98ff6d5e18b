"""Files of our own: written whole or not at all, and readable by others only if they are public.

A file is written beside its place, flushed to the disk, renamed over the old one, and the
folder flushed too. After a crash at any moment there is the old content or the new, never a
mix (REL-4, T38); what a crash left half written is removed at the next start.

Some files a peer cannot do without (``read``, ``write``): their damage stops it. Of the others
(``load``, ``keep``) a damaged one is set aside, and while the disk is full it goes on from memory.
A folder that was removed under a peer is not made again; one that is there again in its place is
written to once it is this process's, and nobody else's.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from warren.errors import ConfigError, NewerSchema

logger = structlog.get_logger()

T = TypeVar("T")

#: Nothing of ours is nearly as large; what is was not written by us.
MOST_BYTES = 64 * 1024 * 1024
#: How often what could not be kept is written again, and how often that is worth a line.
RETRY_SECONDS = 30.0
COMPLAINT_SECONDS = 3600.0
LOCK = "lock"
_TEMPORARY = ".tmp"
_MOST_SET_ASIDE = 100


class DataFolder:
    """Own a folder of small files: mode 0700, the files in it 0600 (FE-15).

    Blocks for as long as the disk takes, usually a millisecond. Raises ConfigError when the
    folder cannot be made, belongs to somebody else, or can be written by others. `clock` counts
    seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._unwritten: dict[str, bytes] = {}
        self._complained_at = -COMPLAINT_SECONDS
        self._hold: contextlib.ExitStack | None = None  # while it is, or should be, held
        self._place = (0, 0)  # device and inode of what is held
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.stat()
        except FileExistsError as error:
            raise ConfigError(f"{path} is a file, expected a folder: choose another") from error
        except OSError as error:
            raise ConfigError(f"{_failed('use', path, error)}: choose another folder") from error
        _check_ours(path, status)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder to this process while inside, and remove what a crash left in it.

        Raises ConfigError when another process holds it, whose files are left alone.
        """
        with contextlib.ExitStack() as hold:
            self._take(hold)
            self._hold = hold
            try:
                self._remove_leftovers()
                yield
            finally:
                self._hold = None

    def _take(self, hold: contextlib.ExitStack) -> None:
        """Lock the folder, for as long as `hold` is open."""
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            lock = hold.enter_context(os.fdopen(descriptor, "rb+", buffering=0))
            folder = hold.enter_context(_opened_folder(self.path))
        except OSError as error:
            raise _failed("lock", self.path / LOCK, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _lock_folder(folder)
        except OSError as error:
            holder = lock.read(20).strip().decode("ascii", "replace")
            which = f"process {holder}" if holder.isdigit() else "another process"
            raise ConfigError(
                f"{which} uses {self.path}: stop it, or give this one a state folder of its "
                "own with --state"
            ) from error
        with contextlib.suppress(OSError):  # the number is for people; a full disk is fine
            lock.truncate(0)
            lock.write(b"%d\n" % os.getpid())
        self._place = _place_of(os.fstat(folder))

    def _stay(self) -> None:
        """Hold what is at the folder's place now, if it should be held: it may be another one.

        Raises ConfigError when it may not be used. One that is gone is found out by the write.
        """
        try:
            status = self.path.stat()
        except OSError:
            return
        if self._hold is None or _place_of(status) == self._place:
            return
        self._hold.close()
        self._place = (0, 0)
        _check_ours(self.path, status)
        with contextlib.ExitStack() as hold:
            self._take(hold)
            self._hold.push(hold.pop_all())

    def _remove_leftovers(self) -> None:
        try:
            for leftover in self.path.glob("*" + _TEMPORARY):
                leftover.unlink(missing_ok=True)  # whoever was writing it may have been faster
        except OSError as error:
            raise _failed("clear", self.path, error) from error

    # ---- files a peer cannot do without

    def read(self, name: str) -> bytes | None:
        """Return the content of the file `name`, or None when there is none.

        Raises ConfigError when it is there and cannot be read, is no file, or may be the work of
        somebody else. One that others could only read is made private.
        """
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                _check_private(path, descriptor)
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    return file.read(MOST_BYTES)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", path, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name`; when this returns, the content is on the disk.

        Raises ConfigError when that fails, and then the old content is still there.
        """
        self._stay()
        _replace(self.path / name, content)
        self._unwritten.pop(name, None)

    def create(self, name: str, content: bytes) -> None:
        """Write the file `name` unless there is one already, which then stays as it is.

        Raises ConfigError when that fails.
        """
        self._stay()
        target = self.path / name
        draft = self.path / f"{name}.{os.getpid()}{_TEMPORARY}"
        with _removing(draft, "write", target):
            while not os.path.lexists(target):  # whoever begins to hold the folder clears it
                _write_flushed(draft, content)
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    os.link(draft, target)  # which fails where a rename would replace
                draft.unlink(missing_ok=True)
            _flush_folder(self.path)

    # ---- files that can be had again

    def load(self, name: str, parse: Callable[[bytes], T]) -> T | None:
        """Return what `parse` makes of the file `name`, or None when there is nothing to use.

        Whatever is wrong with it, it is set aside: as ``NAME.newer.N`` when a later version of the
        program wrote it, so that going forward again finds it (REL-5), or as ``NAME.bad.N``.
        """
        try:
            content = self.read(name)
            return None if content is None else parse(content)
        except Exception as error:  # noqa: BLE001  no content may keep a peer from starting (T40)
            kept = self.set_aside(name, "newer" if isinstance(error, NewerSchema) else "bad")
            why = str(error) or type(error).__name__
            logger.warning("a file is of no use: set aside", file=name, kept=str(kept), error=why)
            return None

    def keep(self, name: str, content: bytes) -> None:
        """Replace the file `name`, or go on without: ``write_again`` tries until it succeeds.

        What could not be written costs a line in the log, one an hour for the whole folder.
        """
        try:
            self.write(name, content)
        except ConfigError as error:
            self._unwritten[name] = content
            if self._clock() >= self._complained_at + COMPLAINT_SECONDS:
                self._complained_at = self._clock()
                logger.warning("going on from memory", error=str(error))

    def write_again(self) -> None:
        """Try to write what could not be kept; called every ``RETRY_SECONDS``."""
        for name, content in tuple(self._unwritten.items()):
            self.keep(name, content)

    # ---- the folder

    def names(self, pattern: str) -> frozenset[str]:
        """Return the names of the files that match the shell `pattern`."""
        return frozenset(path.name for path in self.path.glob(pattern))

    def set_aside(self, name: str, why: str = "bad") -> Path | None:
        """Rename a file to ``NAME.WHY.N`` and return where it is now.

        Past a hundred of them it is removed instead, and None returned.
        """
        self._stay()
        try:
            for number in range(1, _MOST_SET_ASIDE + 1):
                target = self.path / f"{name}.{why}.{number}"
                if not os.path.lexists(target):
                    (self.path / name).replace(target)
                    return target
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed("set aside", self.path / name, error) from error
        return None

    def __repr__(self) -> str:
        return f"<DataFolder {self.path}>"


def replace_public(path: Path, content: bytes) -> None:
    """Replace the file `path`, which everybody may read (0644, less what the umask takes).

    Raises ConfigError when that fails, and then the old content is still there. A link is followed.
    """
    _replace(path.resolve(), content, 0o644, called=path)


def _replace(path: Path, content: bytes, mode: int = 0o600, *, called: Path | None = None) -> None:
    """Replace the file `path`, whole or not at all; an error names it as it was `called`."""
    temporary = path.with_name(path.name + _TEMPORARY)
    with _removing(temporary, "write", called or path):
        _write_flushed(temporary, content, mode)
        temporary.replace(path)
        _flush_folder(path.parent)


def _check_ours(path: Path, status: os.stat_result) -> None:
    """Raise ConfigError unless nobody else can have put anything into the folder."""
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user; choose or make your own")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigError(
            f"others may write to {path}: choose a folder of your own, or if it is one, run: "
            f"chmod go-w {path}"
        )


def _place_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _check_private(path: Path, descriptor: int) -> None:
    """Raise ConfigError unless the open file is one that only we can have written."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file, expected one: move it away")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user: if it is yours, change its owner")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigError(f"others may write to {path}: if it is unchanged, run: chmod 600 {path}")
    if status.st_size > MOST_BYTES:
        raise ConfigError(f"{path} has {status.st_size} bytes, expected {MOST_BYTES} at most")
    if stat.S_IMODE(status.st_mode) & 0o077:
        os.fchmod(descriptor, 0o600)
        logger.warning("others could read a file until now", file=str(path))


@contextlib.contextmanager
def _removing(temporary: Path, verb: str, target: Path) -> Iterator[None]:
    """Remove `temporary` when what is inside fails, and say what failed."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _failed(verb, target, error) from error


def _write_flushed(path: Path, content: bytes, mode: int = 0o600) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    with _opened_folder(path) as handle:
        os.fsync(handle)


def _lock_folder(handle: int) -> None:
    """Lock the folder itself too: who tidies up may remove the file, and its lock with it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a network's file system may lock no folders
        return


@contextlib.contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def _failed(verb: str, path: Path, error: OSError) -> ConfigError:
    why = error.strerror or error
    if error.errno == errno.ELOOP:  # O_NOFOLLOW
        why = "it is a symbolic link, expected a file"
    return ConfigError(f"cannot {verb} {path}: {why}")
