"""``scripts/bench``: start the systems, measure them in turn, print and write what was found."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import growth, namespace, workers
from benchmarks.arguments import MOST_RUNS, counted, new_file
from benchmarks.measures import MEASURES, QUICK, Scale
from benchmarks.origin import raise_file_limit
from benchmarks.peers import DEFAULT_PEERS, PEERS, what_is_missing
from benchmarks.plot import draw
from benchmarks.processes import ROOT, end_in_good_order, run_script
from benchmarks.report import print_report
from benchmarks.results import Conditions, Results
from benchmarks.schedule import FAILURES, Tell, measure_all
from benchmarks.systems import System, WarrenLab, running_origin
from warren import outset

#: Where a complete run is written, with a plot beside it.
KEPT = ROOT / "benchmarks" / "results.json"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; return 1 when something failed, 2 when it cannot be run."""
    if arguments[:1] == ["workers"]:
        return workers.main(arguments)
    if arguments[:1] == ["growth"]:
        return growth.main(arguments[1:], _teller())
    given = _read_arguments(arguments)
    missing = what_is_missing(given.peers)
    if missing:
        sys.stderr.write(f"scripts/bench: {missing}\n")
        return 2
    if namespace.is_inside():
        namespace.set_up()
    elif not given.no_namespace:
        namespace.run_inside(arguments)
    raise_file_limit()
    end_in_good_order()
    try:
        results = _measure(given)
    except FAILURES as error:
        sys.stderr.write(f"scripts/bench: {error}\n")
        return 1
    print_report(results)
    try:
        for path in _write(given, results):
            sys.stdout.write(f"written: {path}\n")
    except outset.OutputError:
        raise
    except OSError as error:
        sys.stderr.write(f"scripts/bench: cannot write the results: {error}\n")
        return 1
    return 1 if results.errors else 0


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure Warren's lab, and with --peers what else there is, in the same run. "
        "A complete run, neither --quick nor --only, is written to benchmarks/results.json and "
        "benchmarks/results.svg. scripts/bench workers compares relays of several workers, and "
        "scripts/bench growth measures what a larger network costs.",
    )
    parser.add_argument("--quick", action="store_true", help="short: to see that it works")
    parser.add_argument(
        "--runs", type=counted(MOST_RUNS), metavar="N", help="runs to take the median of (5)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=MEASURES,
        default=list(MEASURES),
        metavar="MEASURE",
        help=f"only these: {', '.join(MEASURES)}",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        metavar="PEER",
        help=f"measure these too, in turn: {', '.join(PEERS)}; just --peers: "
        f"{', '.join(DEFAULT_PEERS)}. Nothing is installed",
    )
    parser.add_argument(
        "--json", type=new_file, metavar="FILE", help="write results here, and a plot"
    )
    parser.add_argument(
        "--no-namespace", action="store_true", help="stay on the machine's own loopback"
    )
    given = parser.parse_args(arguments)
    given.is_complete = not given.quick and set(given.only) == set(MEASURES)
    if given.runs is None:
        given.runs = 2 if given.quick else 5
    if given.peers is not None:
        given.peers = list(dict.fromkeys(given.peers or DEFAULT_PEERS))
    else:
        given.peers = []
    return given


def _measure(given: argparse.Namespace) -> Results:
    tell = _teller()
    conditions = Conditions.here(
        is_private_network=namespace.is_inside(),
        congestion_control=namespace.congestion_control(),
        runs=given.runs,
        is_quick=given.quick,
    )
    with contextlib.ExitStack() as running:
        origin = running.enter_context(running_origin())
        systems: list[System] = []
        kinds: list[type[System]] = [WarrenLab, *(PEERS[peer] for peer in given.peers)]
        for kind in kinds:
            tell(f"starting {kind.name}")
            systems.append(kind(origin))
            running.callback(systems[-1].close)
        results = Results(conditions, [system.name for system in systems])
        measures = [measure for name, measure in MEASURES.items() if name in given.only]
        measure_all(systems, measures, QUICK if given.quick else Scale(), results, tell)
    return results


def _write(given: argparse.Namespace, results: Results) -> Iterator[Path]:
    """Write the results where they are wanted; yield the files."""
    path = given.json or (KEPT if given.is_complete else None)
    if path is None:
        return
    path.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    yield path
    picture = path.with_suffix(".svg")
    picture.write_text(draw(results), encoding="utf-8")
    yield picture


def _teller() -> Tell:
    begun = time.monotonic()

    def tell(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - begun:5.0f} s  {text}\n")

    return tell


if __name__ == "__main__":
    run_script("scripts/bench", main)
