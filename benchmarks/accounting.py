"""Who used the processors, and how much memory is whose: read from ``/proc``.

A machine does other things too. What it did beside the system under test and the measuring
itself is the *other load*, in cores, and stands beside every figure: above about 0.3 of two
cores a rate may be too low.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MEBIBYTE = 1 << 20


def with_descendants(pid: int) -> Iterator[int]:
    """Yield `pid` and all processes below it that are alive."""
    yield pid
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(listing).split():
            yield from with_descendants(int(child))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that `pid` has used, without its descendants; 0 when gone."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def kernel_seconds(pid: int) -> float:
    """Return the part of ``cpu_seconds`` that `pid` spent in system calls."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[12]) / _TICKS if fields else 0.0


def busy_seconds() -> float:
    """Return the processor time that this whole machine has used, all cores together."""
    first = _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, first)
    return (user + nice + system + irq + softirq + steal) / _TICKS


@dataclass(frozen=True)
class Memory:
    """Hold the resident memory of a process in MiB: the most it had, and what it has."""

    peak: float
    current: float


def memory(pid: int) -> Memory:
    """Return the memory of `pid` and its descendants together."""
    peak = current = 0
    for each in with_descendants(pid):
        for line in _read(Path(f"/proc/{each}/status")).splitlines():
            if line.startswith("VmHWM:"):
                peak += int(line.split()[1]) * 1024
            elif line.startswith("VmRSS:"):
                current += int(line.split()[1]) * 1024
    return Memory(peak / _MEBIBYTE, current / _MEBIBYTE)


class Watch:
    """Own a time span: what the system under test used in it, and what others did; re-usable.

    `pids` are the processes under test by name, their descendants included; `helpers` belong to
    the measuring, as this process does.
    """

    def __init__(self, pids: Mapping[str, int], helpers: Iterable[int] = ()) -> None:
        self._pids = dict(pids)
        self._helpers = tuple(helpers)
        self.seconds = self.load = 0.0
        self.cpu: dict[str, float] = {}

    def __enter__(self) -> "Watch":
        self._before = self._take()
        return self

    def __exit__(self, *_: object) -> None:
        then, busy, measuring, cpu = self._before
        now, busy_now, measuring_now, cpu_now = self._take()
        self.seconds = now - then
        self.cpu = {name: cpu_now[name] - cpu[name] for name in cpu}
        others = (busy_now - busy) - (measuring_now - measuring) - sum(self.cpu.values())
        self.load = max(0.0, others / self.seconds)

    def _take(self) -> tuple[float, float, float, dict[str, float]]:
        cpu = {
            name: sum(map(cpu_seconds, with_descendants(pid))) for name, pid in self._pids.items()
        }
        # With the children that have ended: those that a measure starts and waits for.
        measuring = sum(os.times()[:4]) + sum(map(cpu_seconds, self._helpers))
        return time.perf_counter(), busy_seconds(), measuring, cpu


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the process has just ended
        return ""
