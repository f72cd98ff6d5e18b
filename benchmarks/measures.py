"""One function for each measure: what it does to a system, and the figures that come of it.

Every measure takes a system and a scale and gives a sample: its figures, the other load of the
machine meanwhile, and details by process. None of them knows which system it has before it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from benchmarks.accounting import Watch, memory
from benchmarks.bulk import Bulk
from benchmarks.client import (
    Direction,
    Echo,
    IdleStreams,
    first_byte_seconds,
    open_many,
    transfer,
)
from benchmarks.figures import percentile
from benchmarks.route import RouteError
from benchmarks.systems import System

MEGABYTE, GIGABYTE = 10**6, 10**9
WORKERS = 50
_MILLI = 1000.0
#: Idle memory is read when garbage collectors and allocators have come to rest.
_REST_SECONDS = 1.0
_IDENTITY_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Scale:
    """Hold how long everything takes."""

    checked_bytes: int = 16 * MEGABYTE
    bulk_seconds: float = 2.5
    least_bytes: int = 32 * MEGABYTE
    most_bytes: int = 256 * MEGABYTE
    first_bytes: int = 200
    visit_seconds: float = 4.0
    echo_seconds: float = 2.0
    idle_streams: int = 1000
    circuits: int = 40
    identities: int = 20
    helps: int = 5

    def bulk_bytes(self, rate: float) -> int:
        """Return how much to move when `rate` bytes per second are expected."""
        return int(min(self.most_bytes, max(self.least_bytes, rate * self.bulk_seconds)))


QUICK = Scale(
    checked_bytes=8 * MEGABYTE,
    bulk_seconds=0.5,
    least_bytes=8 * MEGABYTE,
    most_bytes=32 * MEGABYTE,
    first_bytes=40,
    visit_seconds=1.0,
    echo_seconds=0.5,
    idle_streams=200,
    circuits=8,
    identities=5,
    helps=2,
)


@dataclass(frozen=True)
class Sample:
    """Hold what one run of a measure found; `details` are by process.

    `load` is None where it says nothing, as with a measure that takes no time.
    """

    figures: Mapping[str, float]
    load: float | None
    details: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


#: None where a system has no such thing.
Take = Callable[[System, Scale], Sample | None]
When = Literal["first", "each run", "last"]


@dataclass(frozen=True)
class Measure:
    """Hold a measure: its name, what it does, and when it has its turn."""

    name: str
    take: Take
    when: When = "each run"


def _bulk(name: str, direction: Direction, streams: int, system: System, scale: Scale) -> Sample:
    """Move bytes over `streams` at once, after a pass of which every byte is checked.

    That pass warms up what warms up, and says how much is worth moving.
    """
    move = partial(transfer, system.route, direction, streams)
    seconds = move(scale.checked_bytes, is_checked=True)
    size = scale.bulk_bytes(scale.checked_bytes / seconds)
    with Watch(system.pids, [system.origin.pid]) as watch:
        seconds = move(size)
    gigabytes = size / GIGABYTE
    costs = {process: cpu / gigabytes for process, cpu in watch.cpu.items()}
    figures = {name: size / MEGABYTE / seconds}
    if costs:
        figures[f"{name}.cpu"] = sum(costs.values())
    return Sample(figures, watch.load, {"cpu s/GB": costs})


def _first_byte(system: System, scale: Scale) -> Sample:
    with Watch(system.pids, [system.origin.pid]) as watch:
        taken = [first_byte_seconds(system.route) for _ in range(scale.first_bytes)]
    return Sample(_percentiles("first-byte", taken, 50, 95, 99), watch.load)


def _early(system: System, scale: Scale) -> Sample:
    """Ask as above by a proxy that replies early, after a few times that warm it up."""
    with system.early_route() as (route, pids):
        for _ in range(scale.first_bytes // 4):
            first_byte_seconds(route)
        with Watch(system.pids, [system.origin.pid, *pids]) as watch:
            taken = [first_byte_seconds(route) for _ in range(scale.first_bytes)]
    return Sample(_percentiles("early", taken, 50), watch.load)


def _streams(system: System, scale: Scale) -> Sample:
    with Watch(system.pids, [system.origin.pid]) as watch:
        visits = open_many(system.route, WORKERS, scale.visit_seconds)
    if visits.failures:
        raise RouteError(f"{len(visits.failures)} new streams failed: {visits.failures[0]}")
    figures = {"streams": visits.count / watch.seconds}
    if watch.cpu:
        figures["streams.cpu"] = sum(watch.cpu.values()) * _MILLI / visits.count
    return Sample(figures, watch.load)


def _echo(system: System, scale: Scale) -> Sample:
    with (
        Echo(system.route) as echo,
        Watch(system.pids, [system.origin.pid]) as watch,
    ):
        taken = echo.round_trips(scale.echo_seconds)
    return Sample(_percentiles("echo", taken, 50, 99), watch.load)


def _loaded_echo(system: System, scale: Scale) -> Sample:
    """Echo while a download runs beside it, both with one login and so on one circuit."""
    route = system.route.alone() if system.takes_logins else system.route
    with (
        Echo(route) as echo,
        Bulk(route) as bulk,
        Watch(system.pids, [system.origin.pid, bulk.pid]) as watch,
    ):
        before = bulk.moved
        taken = echo.round_trips(scale.echo_seconds)
        moved = bulk.moved - before
    figures = _percentiles("loaded-echo", taken, 50, 99)
    figures["loaded-echo.bulk"] = moved / MEGABYTE / watch.seconds
    return Sample(figures, watch.load)


def _circuit(system: System, scale: Scale) -> Sample | None:
    with Watch(system.pids, [system.origin.pid]) as watch:
        taken = system.build_circuits(scale.circuits)
    if not taken:
        return None
    return Sample({"circuit": percentile(taken, 50) * _MILLI}, watch.load)


def _identity(system: System, scale: Scale) -> Sample | None:
    """Ask for one byte with a new login each time, and leave time to build ahead between."""
    if not system.takes_logins:
        return None
    taken = []
    with Watch(system.pids, [system.origin.pid]) as watch:
        for _ in range(scale.identities):
            time.sleep(_IDENTITY_PAUSE_SECONDS)
            taken.append(first_byte_seconds(system.route.alone()))
    return Sample({"identity": percentile(taken, 50) * _MILLI}, watch.load)


def _start(system: System, scale: Scale) -> Sample | None:
    del scale
    with Watch(system.pids, [system.origin.pid]) as watch:
        taken = system.time_client_start()
    if taken is None:
        return None
    fresh, cached = taken
    return Sample({"start.fresh": fresh, "start.cached": cached}, watch.load)


def _help(system: System, scale: Scale) -> Sample | None:
    with Watch(system.pids) as watch:
        taken = system.time_help(scale.helps)
    return Sample({"help": statistics.median(taken)}, watch.load) if taken else None


def _idle(system: System, scale: Scale) -> Sample | None:
    """Open streams that do nothing; comes first, while no heap has grown for other reasons."""
    if not system.pids:
        return None
    IdleStreams(system.route, WORKERS).__exit__()
    before = {name: memory(pid).current for name, pid in system.pids.items()}
    with (
        Watch(system.pids, [system.origin.pid]) as watch,
        IdleStreams(system.route, scale.idle_streams) as streams,
    ):
        time.sleep(_REST_SECONDS)
        growth = {name: memory(pid).current - before[name] for name, pid in system.pids.items()}
        streams.check()
    scaled = sum(growth.values()) * 1000 / scale.idle_streams
    return Sample({"idle": scaled}, watch.load, {"idle MiB": growth})


def _memory(system: System, scale: Scale) -> Sample | None:
    del scale
    if not system.pids:
        return None
    used = {name: memory(pid) for name, pid in system.pids.items()}
    figures = {
        "memory.relay": max(used[name].peak for name in system.relays),
        "memory.client": used["client"].peak,
        "memory.all": sum(each.current for each in used.values()),
    }
    peaks = {name: each.peak for name, each in used.items()}
    current = {name: each.current for name, each in used.items()}
    return Sample(figures, None, {"peak MiB": peaks, "now MiB": current})


def _percentiles(name: str, seconds: list[float], *percents: int) -> dict[str, float]:
    return {f"{name}.p{each}": percentile(seconds, each) * _MILLI for each in percents}


def _bulk_measure(direction: Direction, streams: int) -> Measure:
    name = direction if streams == 1 else f"{direction}{streams}"
    return Measure(name, partial(_bulk, name, direction, streams))


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("idle", _idle, "first"),
        *(_bulk_measure(direction, count) for count in (1, 10, 50) for direction in ("down", "up")),
        Measure("first-byte", _first_byte),
        Measure("early", _early),
        Measure("streams", _streams),
        Measure("echo", _echo),
        Measure("loaded-echo", _loaded_echo),
        Measure("circuit", _circuit),
        Measure("identity", _identity),
        Measure("start", _start),
        Measure("help", _help),
        Measure("memory", _memory, "last"),
    )
}
