"""State folders in memory. They outlive the peer that writes to them, and may be full."""

from fnmatch import fnmatchcase
from pathlib import Path

from warren.errors import ConfigError
from warren.storage import DataFolder


class MemoryFolder(DataFolder):
    """Own the files of one peer; nothing touches a disk, so nothing is flushed."""

    def __init__(self, name: str) -> None:
        self.path = Path("/simulated") / name
        self.is_full = False
        self._files: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self._files.get(name)

    def write(self, name: str, content: bytes) -> None:
        if self.is_full:
            raise ConfigError(f"cannot write {self.path / name}: No space left on device")
        self._files[name] = content

    def names(self, pattern: str) -> frozenset[str]:
        return frozenset(name for name in self._files if fnmatchcase(name, pattern))

    def remove(self, name: str) -> None:
        self._files.pop(name, None)

    def set_aside(self, name: str) -> Path | None:
        target = f"{name}.bad.{len(self.names(f'{name}.bad.*')) + 1}"
        self._files[target] = self._files.pop(name)
        return self.path / target
