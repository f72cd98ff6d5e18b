"""A disk that is full: what is written cannot be flushed to it, until there is room again."""

import errno
import os

import pytest


class FullDisk:
    """Refuse every write of the whole process while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self._flush = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, handle: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._flush(handle)
