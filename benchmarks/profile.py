"""``scripts/profile``: what one role of a circuit spends its processor time on, under a load.

A span without a profiler says how much time a cell takes, because being sampled makes a process
slower. Then py-spy looks at it twice: stacks for the shares of that time, and a flame graph.

A thread that waits for a core looks to py-spy as if it ran, and where it waits is no accident:
who sends wakes another, and makes room for it. So while py-spy looks, both go before all others,
which only root may ask for. Without that, sending seems to cost several times what it does; the
share of the time in the kernel, which the process's own clock knows too, tells.
"""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import namespace
from benchmarks.accounting import Watch, kernel_seconds
from benchmarks.arguments import new_folder, seconds
from benchmarks.breakdown import Breakdown, break_down, read_samples
from benchmarks.figures import show
from benchmarks.load import LOADS, Load
from benchmarks.origin import raise_file_limit
from benchmarks.processes import ProcessError, end_in_good_order, run_script
from benchmarks.schedule import FAILURES
from benchmarks.systems import WarrenLab, running_origin

#: Where in the path of a circuit a role stands; the client is before it.
ROLES = {"guard": 0, "middle": 1, "exit": -1, "client": None}
#: What a load is counted in; the others in cells.
_UNITS = {"echo": "round trip", "streams": "new stream"}

#: Windows have grown, and the circuit that is used has been chosen.
_WARM_UP_SECONDS = 1.5
_SPY = Path(sys.executable).with_name("py-spy")
#: At 500 py-spy takes more than half of a core, and the process stands still for as long.
_SAMPLES_PER_SECOND = 200
#: Reading the symbols of all libraries takes py-spy some seconds more.
_SPY_PATIENCE_SECONDS = 60.0
_HOTTEST = 10
_MICRO = 1e6


@dataclass(frozen=True)
class Span:
    """Hold what a process did: processor time and wall time in seconds, and units of work.

    `kernel` is the part of `cpu` that system calls took; `load` is what neither the lab nor we
    did meanwhile, in cores.
    """

    cpu: float
    kernel: float
    seconds: float
    done: int
    load: float

    @property
    def cost(self) -> float:
        """Return the microseconds of processor time for each unit."""
        return self.cpu * _MICRO / self.done


@dataclass(frozen=True)
class Profile:
    """Hold what was found of one role under one load.

    `went_first` tells whether it had a core whenever it wanted one while it was sampled.
    """

    role: str
    load: str
    process: str
    span: Span
    breakdown: Breakdown
    went_first: bool
    picture: Path

    @property
    def unit(self) -> str:
        """Return what the load is counted in."""
        return unit_of(self.load)


def unit_of(load: str) -> str:
    """Return what `load` is counted in."""
    return _UNITS.get(load, "cell")


class Subject:
    """Be the process that is looked at, and count what it does under `load`."""

    def __init__(self, lab: WarrenLab, role: str, load: Load, unit: str) -> None:
        self._lab, self._load, self._unit = lab, load, unit
        self._path = lab.busiest_circuit()
        place = ROLES[role]
        self.name = "client" if place is None else self._path[place]
        self.pid = lab.pids[self.name]

    def check(self) -> None:
        """Raise ProcessError when it is not what it was: a process of the circuit in use."""
        self._load.check()
        self._lab.check()
        if self._lab.busiest_circuit() != self._path:
            raise ProcessError("the load moved to another circuit; try again")

    def watch(self, seconds: float) -> Span:
        """Let it work for `seconds`; return what it did. Raises ProcessError if that is nothing."""
        done, kernel = self._count(), kernel_seconds(self.pid)
        with Watch(self._lab.pids, [self._lab.origin.pid, self._load.pid]) as watch:
            time.sleep(seconds)
        done, kernel = self._count() - done, kernel_seconds(self.pid) - kernel
        span = Span(watch.cpu[self.name], kernel, watch.seconds, done, watch.load)
        self.check()
        if not span.done or not span.cpu:
            raise ProcessError(f"not one {self._unit} in {seconds:.0f} s")
        return span

    def _count(self) -> int:
        if self._unit == "round trip":
            return self._load.round_trips
        if self._unit == "new stream":
            return int(self._lab.statistics("client")["opened"])
        said = self._lab.statistics(self.name)
        if self.name == "client":
            return int(said["links"]["cells_received"] + said["links"]["cells_sent"])
        return int(said["cells"]["forward"] + said["cells"]["backward"])


@contextlib.contextmanager
def going_first(*pids: int) -> Iterator[bool]:
    """Give processes a core whenever they want one, while inside; gives False where we may not.

    Whatever they start meanwhile goes first too. 0 is this process.
    """
    before = {pid: (os.sched_getscheduler(pid), os.sched_getparam(pid)) for pid in pids}
    is_allowed = True
    try:
        try:
            for pid in pids:
                os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            is_allowed = False
        yield is_allowed
    finally:
        for pid, (policy, parameters) in before.items():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setscheduler(pid, policy, parameters)


def main(arguments: Sequence[str]) -> int:
    """Profile and print; return 1 when that failed."""
    given = _read_arguments(arguments)
    if not _SPY.exists():
        sys.stderr.write(f"scripts/profile: there is no {_SPY}: let scripts/setup dev install it\n")
        return 2
    if namespace.is_inside():
        namespace.set_up()
    elif not given.no_namespace:
        namespace.run_inside(arguments, "benchmarks.profile")
    raise_file_limit()
    end_in_good_order()
    try:
        found = _profile(given)
    except FAILURES as error:
        sys.stderr.write(f"scripts/profile: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in describe(found))
    return 0


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/profile",
        description="Show what one role spends its processor time on while a lab carries a load.",
    )
    parser.add_argument("role", nargs="?", choices=ROLES, default="client", help="(client)")
    parser.add_argument("load", nargs="?", choices=LOADS, default="down", help="(down)")
    parser.add_argument(
        "--seconds", type=seconds(1), default=5.0, metavar="N", help="of each of three spans (5)"
    )
    parser.add_argument(
        "--output", type=new_folder, metavar="DIR", help="for the samples and the flame graph"
    )
    parser.add_argument(
        "--no-namespace", action="store_true", help="stay on the machine's own loopback"
    )
    return parser.parse_args(arguments)


def _profile(given: argparse.Namespace) -> Profile:
    folder = given.output or Path(tempfile.mkdtemp(prefix="warren-profile-"))
    stacks, picture = (folder / f"{given.role}-{given.load}.{end}" for end in ("raw", "svg"))
    with contextlib.ExitStack() as running:
        running.callback(_remove_if_empty, folder)
        lab = WarrenLab(running.enter_context(running_origin()))
        running.callback(lab.close)
        load = running.enter_context(Load(lab.route, given.load))
        time.sleep(_WARM_UP_SECONDS)
        subject = Subject(lab, given.role, load, unit_of(given.load))
        span = subject.watch(given.seconds)
        with going_first(0, subject.pid) as went_first:
            record(subject.pid, given.seconds, "raw", stacks)
            record(subject.pid, given.seconds, "flamegraph", picture)
        subject.check()
    found = break_down(read_samples(stacks.read_text(encoding="utf-8")))
    return Profile(given.role, given.load, subject.name, span, found, went_first, picture)


def _remove_if_empty(folder: Path) -> None:
    """Remove `folder` where nothing was written into it, because something failed before."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def record(pid: int, seconds: float, form: str, path: Path) -> None:
    """Let py-spy sample the process `pid` and write `path`; libraries too, where it can.

    Raises ProcessError that says what to do.
    """
    wish = f"--pid {pid} --duration {max(1, round(seconds))} --rate {_SAMPLES_PER_SECOND}"
    command = [str(_SPY), "record", *wish.split(), "--format", form, "--output", str(path)]
    said, patience = "", seconds + _SPY_PATIENCE_SECONDS
    for more in (["--native"], []):  # not every platform has --native
        try:
            done = subprocess.run(
                [*command, *more], capture_output=True, text=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ProcessError(f"py-spy did not end within {patience:.0f} s") from error
        if done.returncode == 0:
            return
        said = done.stderr
    raise ProcessError(explain(said))


def explain(said: str) -> str:
    """Return what to do when py-spy ended with the words `said`."""
    first = said.strip().partition("\n")[0]
    if "permission" in said.lower():
        return (
            "py-spy may not look into other processes: run as root, or let every user look into "
            "their own with sysctl kernel.yama.ptrace_scope=0"
        )
    return f"py-spy failed: {first or 'it did not say why'}"


def describe(found: Profile) -> Iterator[str]:
    """Yield the lines that tell people what was found."""
    span, breakdown, unit = found.span, found.breakdown, found.unit
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield f"{found.role} under {found.load}: process {found.process}"
    yield f"{python}, Linux {platform.release()}, {os.cpu_count()} cores"
    yield ""
    yield f"{f'CPU per {unit}':36}{'µs':>8}{'share':>9}"
    shares = breakdown.shares()
    for cost, share in shares.items():
        yield f"{cost:36}{show(share * span.cost):>8}{share:9.1%}"
    yield f"{'all':36}{show(span.cost):>8}{sum(shares.values()):9.1%}"
    yield ""
    yield "hottest functions, without what they call"
    for call, share in breakdown.hottest(_HOTTEST):
        yield f"{share:6.1%}  {call}"
    yield ""
    rate = span.done / span.seconds
    share = span.cpu / span.seconds
    yield f"{show(rate)} {unit}s/s with {share:.0%} of a core; other load {span.load:.2f} cores"
    yield f"{breakdown.total} samples; not counted: {breakdown.idle} in the poll, without a core"
    in_kernel = breakdown.in_kernel / (breakdown.total or 1)
    kernel = span.kernel / span.cpu
    yield f"in system calls: {kernel:.0%} of the time, {in_kernel:.0%} of the samples"
    if not found.went_first:
        yield "not run as root: time without a core counts as time of whatever it interrupted"
    yield f"flame graph: {found.picture}, and the samples beside it"


if __name__ == "__main__":
    run_script("scripts/profile", main)
