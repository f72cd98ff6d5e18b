"""State folders in memory. They outlive the peer that writes to them, and may be full."""

from fnmatch import fnmatchcase
from pathlib import Path

import trio

from warren.errors import ConfigError
from warren.storage import COMPLAINT_SECONDS, DataFolder


class MemoryFolder(DataFolder):
    """Own the files of one peer; nothing touches a disk, so nothing is flushed."""

    def __init__(self, name: str) -> None:
        self.path = Path("/simulated") / name
        self.is_full = False
        self._files: dict[str, bytes] = {}
        self._clock = trio.current_time
        self._unwritten = {}
        self._complained_at = -COMPLAINT_SECONDS

    def read(self, name: str) -> bytes | None:
        return self._files.get(name)

    def write(self, name: str, content: bytes) -> None:
        if self.is_full:
            raise ConfigError(f"cannot write {self.path / name}: No space left on device")
        self._files[name] = content
        self._unwritten.pop(name, None)

    def names(self, pattern: str) -> frozenset[str]:
        return frozenset(name for name in self._files if fnmatchcase(name, pattern))

    def remove(self, name: str) -> None:
        self._files.pop(name, None)

    def set_aside(self, name: str, why: str = "bad") -> Path | None:
        target = f"{name}.{why}.{len(self.names(f'{name}.{why}.*')) + 1}"
        self._files[target] = self._files.pop(name)
        return self.path / target
