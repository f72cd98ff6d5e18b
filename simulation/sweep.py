"""Many seeds: in parallel, on this machine or a cluster, and gone on with after a stop.

A sweep is a file with a line of JSON for each seed that is done, the first line of which says
what is swept. A seed whose line is there is not simulated again, so a sweep that was stopped, by
whatever, goes on where it was; one of another scenario or another version of the code is refused.
Where the work is done is a ``concurrent.futures`` executor: one process for each core, or an
existing Dask cluster, which needs the extra ``cluster`` and workers that run in the same clone.
"""

import contextlib
import fcntl
import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec

from simulation.run import Outcome, simulate
from simulation.scenario import Scenario
from warren.errors import ConfigError, WarrenError

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
_ANOTHER = "name another file with --results"
#: How long a scheduler may take to answer, and to have a worker.
SCHEDULER_SECONDS = 20


class SweepError(WarrenError):
    """Tell that a sweep cannot go on; what is done is kept."""


class Row(TypedDict):
    """Be what a sweep keeps of one seed; a violation is its kind, its time and what it was."""

    seed: int
    digest: str
    violations: list[tuple[str, float, str]]
    outcomes: dict[str, int]
    faults: int
    recovered: float
    seconds: float
    processor_seconds: float
    cells: int


@cache
def version() -> str:
    """Return a digest of the code that decides what happens: Warren's and the simulation's."""
    digest = sha256()
    for place in (ROOT / "src" / "warren", ROOT / "simulation"):
        for path in sorted(place.rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def row_of(outcome: Outcome) -> Row:
    """Return what a sweep keeps of one seed."""
    return {
        "seed": outcome.scenario.seed,
        "digest": outcome.digest,
        "violations": [(v.kind, v.at, v.what) for v in outcome.violations],
        "outcomes": dict(sorted(outcome.outcomes.items())),
        "faults": len(outcome.faults),
        "recovered": round(outcome.recovered, 3),
        "seconds": round(outcome.seconds, 3),
        "processor_seconds": round(outcome.processor_seconds, 3),
        "cells": outcome.cells,
    }


def simulate_seed(scenario: Scenario, wanted: str) -> Row:
    """Simulate one seed where the executor is; refuse to where other code is."""
    if version() != wanted:
        raise ConfigError(
            f"a worker at {ROOT} has another version of the code ({version()}, expected {wanted}): "
            "let it run in a clone of the same commit"
        )
    return row_of(simulate(scenario))


def _read(line: str, kind: type[T]) -> T | None:
    """Return the `kind` of thing in a line of JSON, or None when it is none."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return None


class Results:
    """Own the file of a sweep."""

    def __init__(self, path: Path, scenario: Scenario) -> None:
        """Open the file, or begin it.

        Raises ConfigError when it is of another sweep, or none at all, or cannot be written. A line
        that is no row was being written when we were stopped: that seed is not done.
        """
        self.rows: dict[int, Row] = {}
        self._path = path
        head = {"sweep": replace(scenario, seed=0).command, "version": version()}
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ConfigError(f"{path} is no file, expected one or none; {_ANOTHER}")
            text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
            if not text:
                self._write(head)
                return
            first, *lines = text.splitlines()
            if _read(first, dict[str, str]) != head:
                raise ConfigError(
                    f"{path} is of another sweep or version: found {first:.400}, expected "
                    f"{json.dumps(head)}; {_ANOTHER}"
                )
            if not text.endswith("\n"):
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")
        except OSError as error:
            raise ConfigError(
                f"cannot keep results in {path}: {error.strerror}; {_ANOTHER}"
            ) from error
        for line in lines:
            if (row := _read(line, Row)) is not None:
                self.rows[row["seed"]] = row

    @contextlib.contextmanager
    def held(self) -> Iterator["Results"]:
        """Keep the file to this process while inside.

        Raises ConfigError when another sweep has it, which would simulate the same seeds.
        """
        with self._path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another sweep is writing to {self._path}: wait for its end, or {_ANOTHER}"
                ) from error
            yield self

    def add(self, row: Row) -> None:
        """Keep the row of a seed; raise SweepError when that is not possible."""
        try:
            self._write(row)
        except OSError as error:
            raise SweepError(
                f"cannot keep the result of seed {row['seed']} in {self._path}: {error.strerror}; "
                f"make room, and the same command goes on with what is left"
            ) from error
        self.rows[row["seed"]] = row

    def _write(self, row: Row | dict[str, str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def executor(scheduler: str | None, jobs: int) -> Iterator[tuple[Executor, int]]:
    """Give where to work, and how much of it at a time, while inside."""
    if scheduler is None:
        with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_leave_it_to_us) as pool:
            try:
                yield pool, 2 * jobs
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in active_children():  # a seed may have minutes to go
                    worker.terminate()
                raise
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            "a scheduler needs Dask: install the extra, pip install -e .[cluster]"
        ) from error
    with _without_logs(), _connected(Client, scheduler) as client:
        yield client.get_executor(), 2 * sum(client.ncores().values())


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Let Dask log nothing while inside: what becomes of it is told by us, in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _connected(client_of: Callable[..., Any], scheduler: str) -> Iterator[Any]:
    """Give a client of the Dask cluster at `scheduler`, which has a worker, while inside.

    Raises ConfigError when there is none.
    """
    expected = "expected the address of a Dask scheduler, such as tcp://10.0.0.1:8786"
    if not scheduler.strip():
        raise ConfigError(f"--scheduler is empty, {expected}")
    try:
        client = client_of(scheduler, timeout=SCHEDULER_SECONDS)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"no scheduler at {scheduler!r}: {error}; {expected}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=SCHEDULER_SECONDS)
        except TimeoutError as error:
            raise ConfigError(
                f"the scheduler at {scheduler} has had no worker for {SCHEDULER_SECONDS} s: start "
                f"one, with PYTHONPATH={ROOT} or that of a clone of the same commit"
            ) from error
        yield client


def _leave_it_to_us() -> None:
    """Let a key that interrupts reach the process that ends the others; and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the end of whoever started us, who may have been killed and tell nobody."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def sweep(
    scenario: Scenario,
    seeds: Iterable[int],
    results: Results,
    workers: Executor,
    most_at_once: int,
    tell: Callable[[Row], None],
) -> None:
    """Simulate every seed that `results` lacks; `tell` hears of each as it is done."""
    left = (seed for seed in seeds if seed not in results.rows)
    running: dict[Future[Row], Scenario] = {}
    while True:
        for seed in islice(left, most_at_once - len(running)):
            each = replace(scenario, seed=seed)
            running[workers.submit(simulate_seed, each, version())] = each
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            row = _row_of(future, running.pop(future))
            results.add(row)
            tell(row)


def _row_of(future: Future[Row], scenario: Scenario) -> Row:
    """Return what came of a seed; raise SweepError when its worker died, or could not do it."""
    try:
        return future.result()
    except ConfigError:
        raise
    except (Exception, CancelledError) as error:  # whatever a cluster may fail with
        raise SweepError(
            f"seed {scenario.seed} came to no end where it was simulated: {error!r:.300}. What is "
            "done is kept, and the same command goes on with the rest. To see whether it is the "
            f"seed, alone: {scenario.command}"
        ) from error


def summary(rows: Iterable[Row]) -> str:
    """Return the figures of a sweep as lines of text."""
    rows = list(rows)
    if not rows:
        return "no seed was simulated"
    outcomes: Counter[str] = Counter()
    for row in rows:
        outcomes.update(row["outcomes"])
    simulated = sum(row["seconds"] for row in rows)
    took = sum(row["processor_seconds"] for row in rows)
    broken = [row for row in rows if row["violations"]]
    kinds = Counter(row["violations"][0][0] for row in broken)
    recovered = sorted(row["recovered"] for row in rows)
    faults, seals = sum(row["faults"] for row in rows), sum(row["cells"] for row in rows)
    half, all_of_them = recovered[len(recovered) // 2], recovered[-1]
    whole = f"{len(rows)} seeds, {simulated / 3600:.1f} simulated hours"
    each_hour = took / simulated * 3600
    return "\n".join(
        (
            f"{whole}, {faults:,} faults, {seals:,} seals",
            f"{took:,.0f} s of processor time, {each_hour:.0f} s for a simulated hour",
            f"a page for everybody at the end: median {half:.1f} s, at most {all_of_them:.1f} s",
            ", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items())),
            f"{len(broken)} with a broken invariant"
            + "".join(f"; {count} {kind}" for kind, count in sorted(kinds.items())),
        )
    )


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))
