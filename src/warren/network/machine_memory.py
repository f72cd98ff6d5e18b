"""The memory of this machine, or of the part of it that this process may use, and what it uses.

A container, or a unit with MemoryMax=, has less than the machine: the least of its control group
and of all groups around it counts. What cannot be read is no limit.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc/self")


def whole_memory(groups: Path = _GROUPS, proc: Path = _PROC) -> int:
    """Return how many bytes of memory this process, and those it shares them with, may use."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((machine, *_group_limits(groups, proc)))


def used_memory(proc: Path = _PROC) -> int:
    """Return how many bytes this process has, in memory or swapped out.

    Where nobody says, as on other systems than Linux, it might be any number.
    """
    used = 0
    with contextlib.suppress(OSError), (proc / "status").open("rb") as file:
        for line in file:
            if line.startswith((b"VmRSS:", b"VmSwap:")):
                used += int(line.split()[1]) * 1024
    return used or sys.maxsize


def _group_limits(groups: Path, proc: Path) -> Iterator[int]:
    """Yield the limits of the control groups that this process is in, innermost first."""
    for controllers, path in _groups_of(proc):
        if controllers:  # version 1
            folder, name = groups / "memory", "memory.limit_in_bytes"
        else:
            folder, name = groups, "memory.max"
        # In a container the path may be that of outside: what is mounted is its own group then.
        for each in (path, *path.parents):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                yield int((folder / each.relative_to("/") / name).read_text())


def _groups_of(proc: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield the groups of this process that may bound its memory, with their controllers."""
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            is_ours = not controllers or "memory" in controllers.split(",")
            if is_ours and path.startswith("/") and ".." not in path:
                yield controllers, PurePosixPath(path)
