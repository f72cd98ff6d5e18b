"""``scripts/bench growth``: what a larger network, more circuits and more streams cost.

Each topic is measured at three sizes, n, 2n and 4n, and in fresh processes for every run. What
is measured is mostly memory and processor time, so a busy machine disturbs little.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from benchmarks import namespace
from benchmarks.arguments import MOST_RUNS, counted, new_file
from benchmarks.figures import Summary, show
from benchmarks.growth_child import run_child
from benchmarks.growth_results import Growth, GrowthResults
from benchmarks.growth_topics import TOPICS
from benchmarks.origin import raise_file_limit
from benchmarks.processes import ROOT, end_in_good_order
from benchmarks.results import Conditions
from benchmarks.schedule import FAILURES, Tell

#: Where a complete run is written.
KEPT = ROOT / "benchmarks" / "growth.json"
_STEPS = (1, 2, 4)
_WIDEST = 400


def main(arguments: Sequence[str], tell: Tell) -> int:
    """Measure what is asked for; return 1 when something failed."""
    given = _read_arguments(arguments)
    if namespace.is_inside():
        namespace.set_up()
    else:
        namespace.run_inside(["growth", *arguments])
    raise_file_limit()
    end_in_good_order()
    found = {}
    for name in given.topics:
        try:
            found[name] = _measure(name, given, tell)
        except FAILURES as error:
            tell(f"{name} failed: {error}")
        else:
            print_growth(found[name])
    has_failed = len(found) < len(given.topics)
    path = given.json or (KEPT if given.is_complete and not has_failed else None)
    if path is not None:
        try:
            path.write_text(json.dumps(_as_json(found, given), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            tell(f"cannot write the results: {error}")
            return 1
        tell(f"written: {path}")
    return 1 if has_failed else 0


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench growth",
        description="Measure what growing costs: each topic at n, 2n and 4n. A complete run, of "
        "all topics and not --quick, is written to benchmarks/growth.json.",
    )
    parser.add_argument(
        "topics", nargs="*", metavar="NAME", help=f"only these: {', '.join(TOPICS)}"
    )
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument(
        "--runs", type=counted(MOST_RUNS), metavar="N", help="runs to take the median of (3)"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results here")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.topics if name not in TOPICS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no topic, expected some of {', '.join(TOPICS)}")
    given.is_complete = not given.topics and not given.quick
    given.topics = list(dict.fromkeys(given.topics)) or list(TOPICS)
    if given.runs is None:
        given.runs = 1 if given.quick else 3
    return given


def _measure(name: str, given: argparse.Namespace, tell: Tell) -> GrowthResults:
    topic = TOPICS[name]
    results = GrowthResults(topic.title, topic.unit_of_size, topic.figures)
    for step in _STEPS:
        size = step * (topic.quick if given.quick else topic.least)
        with tempfile.TemporaryDirectory(prefix="warren-growth-") as folder:
            if topic.needs_files:
                run_child("growth_network", size, folder)
            for run in range(1, given.runs + 1):
                tell(f"{name}: {size} {topic.unit_of_size}, run {run} of {given.runs}")
                results.add(size, topic.measure(size, Path(folder)))
    return results


def print_growth(results: GrowthResults, output: TextIO | None = None) -> None:
    """Print the table of one topic: medians, the spread where there is one, and exponents."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(results.topic)
    for size in results.sizes:
        table.add_column(f"{size} {results.unit_of_size}", justify="right")
    table.add_column("exponent", justify="right", style="bold")
    for growth in results:
        cells = [_cell(growth.summaries.get(size)) for size in results.sizes]
        table.add_row(f"{growth.figure.title}, {growth.figure.unit}", *cells, _power(growth))
    console = Console(file=output, width=_WIDEST, highlight=False, soft_wrap=True)
    console.print(table)
    console.print()


def _cell(runs: Summary | None) -> str:
    if runs is None:
        return "-"
    spread = f" \\[{show(runs.least)}..{show(runs.most)}]" if len(runs.values) > 1 else ""
    return show(runs.median) + spread


def _power(growth: Growth) -> str:
    return "-" if growth.exponent is None else f"{growth.exponent:.2f}"


def _as_json(found: Mapping[str, GrowthResults], given: argparse.Namespace) -> dict[str, Any]:
    conditions = Conditions.here(
        is_private_network=namespace.is_inside(),
        congestion_control=namespace.congestion_control(),
        runs=given.runs,
        is_quick=given.quick,
    )
    return {
        "conditions": asdict(conditions),
        "topics": {name: results.as_json() for name, results in found.items()},
    }
