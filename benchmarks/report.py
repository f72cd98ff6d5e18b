"""The results as a table: medians, spread, ratios, and how they stand to the goals."""

import textwrap
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table

from benchmarks.figures import FIGURES, Figure, Goal, Summary, show
from benchmarks.results import Results

_COLOURS = {"met": "green", "floor": "yellow", "missed": "red"}
#: Above this many cores of other load a figure should not be trusted.
NOISY_LOAD = 0.3

_WIDEST, _LINE = 400, 100


def print_report(results: Results, output: TextIO | None = None) -> None:
    """Print the table, the memory of each process, the conditions and the errors."""
    # A terminal that is narrower wraps lines by itself, and nothing is cut off.
    console = Console(file=output, width=_WIDEST, highlight=False, soft_wrap=True)
    console.print(_table(results))
    texts = [f"{system}, MiB now (peak): {_memory(results, system)}" for system in results.systems]
    if results.by_process("memory", "now MiB", results.systems[0]):
        console.print()
        for text in texts:
            console.print(textwrap.fill(text, _LINE, subsequent_indent="  "), markup=False)
    console.print("\n" + textwrap.fill(describe(results), _LINE), markup=False)
    for error in results.errors:
        console.print(f"failed: {error}", style="red", markup=False)


def _table(results: Results) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("median \\[lowest..highest]")
    for system in results.systems:
        table.add_column(system, justify="right")
        table.add_column("load", justify="right", style="dim")
        if system != results.systems[0]:
            table.add_column("ratio", justify="right", style="bold")
    table.add_column("goals")
    for key in results.figures():
        figure = FIGURES[key]
        cells = [f"{figure.title}, {figure.unit}"]
        for system in results.systems:
            cells += _cells(results.summary(key, system))
            if system != results.systems[0]:
                value = results.ratio(key, system)
                cells.append("-" if value is None else f"{show(value)} ×")
        table.add_row(*cells, "; ".join(_judge(results, figure)))
    return table


def _cells(runs: Summary | None) -> tuple[str, str]:
    if runs is None:
        return "-", ""
    spread = f" \\[{show(runs.least)}..{show(runs.most)}]" if len(runs.values) > 1 else ""
    return show(runs.median) + spread, _show_load(runs.load)


def _show_load(load: float | None) -> str:
    if load is None:
        return ""
    return f"[red]{load:.2f}[/]" if load > NOISY_LOAD else f"{load:.2f}"


def _judge(results: Results, figure: Figure) -> Iterator[str]:
    """Yield each goal that can be judged, and how the figure stands to it."""
    for goal in figure.goals:
        value = _judged_value(results, figure, goal)
        if value is not None:
            verdict = figure.meets(goal, value)
            yield f"{describe_goal(figure, goal)} [{_COLOURS[verdict]}]{verdict}[/]"


def _judged_value(results: Results, figure: Figure, goal: Goal) -> float | None:
    if goal.peer:
        return results.ratio(figure.key, goal.peer)
    runs = results.summary(figure.key, results.systems[0])
    return None if runs is None else runs.median


def describe_goal(figure: Figure, goal: Goal) -> str:
    """Return a goal in few characters; the floor stands first where it is another."""
    sign = "≥" if figure.is_more_better else "≤"
    numbers = dict.fromkeys(f"{number:g}" for number in (goal.floor, goal.best))
    return f"{sign} {', '.join(numbers)}" + (f" × {goal.peer}" if goal.peer else "")


def describe(results: Results) -> str:
    """Return what a reader must know to judge the table."""
    given = results.conditions
    is_private = given.is_private_network
    place = "in a network namespace of its own" if is_private else "on the host's loopback"
    machine = f"{given.cores} cores, Linux {given.kernel}, Python {given.python}"
    runs = f"{given.runs} run{'s' * (given.runs > 1)}{', quick' if given.is_quick else ''}"
    load = "what the machine did besides the system and the measuring, in cores"
    sentences = [
        f"{given.date}, {machine}; {place}, TCP {given.congestion_control}; {runs}.",
        f"Load is {load}: above {NOISY_LOAD} a figure is doubtful.",
    ]
    if len(results.systems) > 1:
        sentences.append(f"Ratios are {results.systems[0]} to the other, run by run.")
    if not is_private and any(name.startswith("tor") for name in results.systems):
        sentences.append("Outside of a namespace acknowledgements are delayed, which slows Tor.")
    return " ".join(sentences)


def _memory(results: Results, system: str) -> str:
    peaks = results.by_process("memory", "peak MiB", system)
    current = results.by_process("memory", "now MiB", system)
    return ", ".join(f"{name} {current[name]:.0f} ({peaks[name]:.0f})" for name in peaks)
