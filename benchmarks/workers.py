"""``scripts/bench workers``: what a relay gains from several workers, by processor time.

Eight clients download at once through a lab of three relays, so that every relay carries every
byte. A rate would say little: clients, relays and origin share the machine's few cores. So each
process' own processor time is read. A worker uses one core at most; what a relay can carry on a
machine with cores enough is therefore bounded by its busiest process, and the bytes it carried in
one second of that one's processor time are its capacity.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks import namespace
from benchmarks.accounting import cpu_seconds
from benchmarks.arguments import MOST_RUNS, counted, seconds
from benchmarks.bulk import Bulk
from benchmarks.origin import raise_file_limit
from benchmarks.processes import end_in_good_order
from benchmarks.schedule import FAILURES
from benchmarks.systems import Origin, WarrenLab, running_origin
from warren.config.relay import MOST_WORKERS

CLIENTS = 8
COUNTS = (1, 2, 4)
#: A path takes three relays, so with three each of them is in all paths.
LAB = ("--relays", "3", "--exits", "1", "--authorities", "1")
MEGABYTE, GIGABYTE = 10**6, 10**9
_WIDTH = 110


@dataclass(frozen=True)
class Spent:
    """Hold what one relay spent to carry `moved` bytes: processor seconds, by process."""

    moved: int
    main: float
    workers: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Return the processor seconds of the whole relay for a gigabyte."""
        return (self.main + sum(self.workers)) * GIGABYTE / self.moved

    @property
    def main_share(self) -> float:
        """Return the part of them that is the main process'; 0 where it is the only worker."""
        return self.main / (self.main + sum(self.workers))

    @property
    def busiest_share(self) -> float:
        """Return the busiest worker's part of what all workers spent: at best one Nth."""
        return max(self.workers) / sum(self.workers)

    @property
    def capacity(self) -> float:
        """Return the megabytes carried in one processor second of the busiest process."""
        return self.moved / MEGABYTE / max(self.main, *self.workers)


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table; return 1 when something failed."""
    given = _read_arguments(arguments[1:])
    if namespace.is_inside():
        namespace.set_up()
    else:
        namespace.run_inside(arguments)
    raise_file_limit()
    end_in_good_order()
    found: dict[int, list[dict[str, Spent]]] = {}
    try:
        with running_origin() as origin:
            for run in range(given.runs):
                for count in given.workers:
                    sys.stderr.write(f"run {run + 1}: {count} workers\n")
                    spent = _measure(origin, count, given.seconds)
                    found.setdefault(count, []).append(spent)
    except FAILURES as error:
        sys.stderr.write(f"scripts/bench: {error}\n")
        return 1
    Console(highlight=False, width=_WIDTH).print(make_table(found))
    return 0


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench workers", description=__doc__)
    parser.add_argument(
        "--runs",
        type=counted(MOST_RUNS),
        default=3,
        metavar="N",
        help="runs to take the median of (3)",
    )
    parser.add_argument(
        "--seconds", type=seconds(0.1), default=8.0, metavar="N", help="how long each measures (8)"
    )
    parser.add_argument(
        "--workers",
        type=counted(MOST_WORKERS),
        nargs="+",
        default=COUNTS,
        metavar="N",
        help=f"numbers of workers to compare ({' '.join(map(str, COUNTS))})",
    )
    given = parser.parse_args(arguments)
    given.workers = list(dict.fromkeys(given.workers))
    return given


def _measure(origin: Origin, count: int, seconds: float) -> dict[str, Spent]:
    """Run a lab whose relays have `count` workers under load; return what each relay spent."""
    with contextlib.ExitStack() as running:
        lab = WarrenLab(origin, *LAB, "--workers", str(count))
        running.callback(lab.close)
        routes = [lab.route, *(lab.add_client(f"client{n}") for n in range(2, CLIENTS + 1))]
        bulks = [running.enter_context(Bulk(route)) for route in routes]
        processes = {name: lab.processes_of(name) for name in sorted(lab.relays)}

        def take() -> tuple[int, dict[str, list[float]]]:
            cpu = {name: list(map(cpu_seconds, pids)) for name, pids in processes.items()}
            return sum(bulk.moved for bulk in bulks), cpu

        moved, before = take()
        time.sleep(seconds)
        moved_now, after = take()
        lab.check()
        return {name: _spent(moved_now - moved, before[name], after[name]) for name in processes}


def _spent(moved: int, before: Sequence[float], after: Sequence[float]) -> Spent:
    """Return what the processes of a relay spent; the first is the main one."""
    first, *others = (now - then for then, now in zip(before, after, strict=True))
    return Spent(moved, first, tuple(others)) if others else Spent(moved, 0.0, (first,))


def make_table(found: Mapping[int, Sequence[Mapping[str, Spent]]]) -> Table:
    """Return the medians of all runs, a line for each number of workers and each relay."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in (
        *("workers", "relay", "MB per CPU s of busiest", "against one", "CPU s/GB"),
        *("busiest worker's part", "main's part"),
    ):
        table.add_column(title, justify="left" if title == "relay" else "right")
    for cells in _rows(found):
        table.add_row(*cells)
    return table


def _rows(found: Mapping[int, Sequence[Mapping[str, Spent]]]) -> Iterator[tuple[str, ...]]:
    def median(count: int, relay: str, figure: Callable[[Spent], float]) -> float:
        return statistics.median(figure(run[relay]) for run in found[count])

    least = min(found)
    for count in sorted(found):
        for relay in sorted(found[count][0]):
            capacity = median(count, relay, lambda spent: spent.capacity)
            alone = median(least, relay, lambda spent: spent.capacity)
            yield (
                str(count),
                relay,
                f"{capacity:.0f}",
                f"{capacity / alone:.2f}" if least == 1 else "-",
                f"{median(count, relay, lambda spent: spent.cost):.2f}",
                f"{median(count, relay, lambda spent: spent.busiest_share):.0%}",
                f"{median(count, relay, lambda spent: spent.main_share):.1%}",
            )
