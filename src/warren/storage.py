"""Files of our own: written whole or not at all, and readable by nobody else.

A file is written beside its place, flushed to the disk, renamed over the old one, and the
folder flushed too. After a crash at any moment there is the old content or the new, never a
mix (REL-4, T38); what a crash left half written is removed at the next start.
"""

import contextlib
import os
import stat
from pathlib import Path

from warren.errors import ConfigError

_TEMPORARY = ".tmp"
_MOST_SET_ASIDE = 100


class DataFolder:
    """Own a folder of small files: mode 0700, the files in it 0600 (FE-15).

    Blocks for as long as the disk takes, usually a millisecond. Raises ConfigError when the
    folder cannot be made, belongs to somebody else, or can be written by others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.stat()
            if status.st_uid != os.geteuid():
                raise ConfigError(f"{path} belongs to another user; choose or make your own")
            if stat.S_IMODE(status.st_mode) & 0o022:
                raise ConfigError(f"others may write to {path}; run: chmod 700 {path}")
            for leftover in path.glob("*" + _TEMPORARY):
                leftover.unlink()
        except OSError as error:
            raise _failed("use", path, error) from error

    def read(self, name: str) -> bytes | None:
        """Return the content of the file `name`, or None when there is none.

        Raises ConfigError when it is there and cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", self.path / name, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Replace the file `name`; when this returns, the content is on the disk.

        Raises ConfigError when that fails, and then the old content is still there.
        """
        target = self.path / name
        temporary = self.path / (name + _TEMPORARY)
        try:
            _write_flushed(temporary, content)
            temporary.replace(target)
            _flush_folder(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise _failed("write", target, error) from error

    def names(self, pattern: str) -> frozenset[str]:
        """Return the names of the files that match the shell `pattern`."""
        return frozenset(path.name for path in self.path.glob(pattern))

    def remove(self, name: str) -> None:
        """Remove the file `name`, if it is there."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", self.path / name, error) from error

    def set_aside(self, name: str) -> Path | None:
        """Rename a damaged file to ``NAME.bad.N`` and return where it is now.

        Past a hundred of them it is removed instead, and None returned.
        """
        for number in range(1, _MOST_SET_ASIDE + 1):
            target = self.path / f"{name}.bad.{number}"
            if not target.exists():
                try:
                    (self.path / name).replace(target)
                except OSError as error:
                    raise _failed("rename", self.path / name, error) from error
                return target
        self.remove(name)
        return None

    def __repr__(self) -> str:
        return f"<DataFolder {self.path}>"


def _write_flushed(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(verb: str, path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot {verb} {path}: {error.strerror or error}")
