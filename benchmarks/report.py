"""The results as a table: medians, spread, ratios, and how they stand to the goals."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.figures import FIGURES, Figure, Goal, Summary, show
from benchmarks.results import Conditions, Results

_COLOURS = {"met": "green", "floor": "yellow", "missed": "red"}
#: Above this many cores of other load a figure should not be trusted.
NOISY_LOAD = 0.3


def print_report(results: Results, console: Console) -> None:
    """Print the table, the memory of each process, the conditions and the errors."""
    console.print(_table(results))
    for system in results.systems:
        if by_process := _memory(results, system):
            console.print(f"{system}, MiB now (peak): {by_process}", highlight=False)
    console.print(describe(results.conditions), highlight=False)
    for error in results.errors:
        console.print(f"failed: {error}", style="red", highlight=False, markup=False)


def _table(results: Results) -> Table:
    ours, *peers = results.systems
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("median \\[lowest..highest]", no_wrap=True)
    for system in results.systems:
        table.add_column(system, justify="right", no_wrap=True)
        table.add_column("load", justify="right", style="dim", no_wrap=True)
    for peer in peers:
        table.add_column(f"{ours} / {peer}", justify="right", no_wrap=True)
    table.add_column("goals", no_wrap=True)
    for key in results.figures():
        figure = FIGURES[key]
        cells = [f"{figure.title}, {figure.unit}"]
        for system in results.systems:
            cells += _cells(results.summary(key, system))
        ratios = (results.ratio(key, peer) for peer in peers)
        cells += ["-" if value is None else f"{show(value)} ×" for value in ratios]
        cells.append("; ".join(_judge(results, figure)))
        table.add_row(*cells)
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


def describe(conditions: Conditions) -> str:
    """Return a line about the conditions."""
    where = (
        "a network namespace of its own"
        if conditions.is_private_network
        else "the machine's own loopback"
    )
    return (
        f"{conditions.date}, {conditions.cores} cores, Linux {conditions.kernel}, Python "
        f"{conditions.python}; in {where}, TCP {conditions.congestion_control}; "
        f"{conditions.runs} runs{', quick' if conditions.is_quick else ''}. Load: what the machine "
        f"did besides, in cores; above {NOISY_LOAD} a figure is doubtful."
    )


def _memory(results: Results, system: str) -> str:
    peaks = results.by_process("memory", "peak MiB", system)
    current = results.by_process("memory", "now MiB", system)
    return ", ".join(f"{name} {current[name]:.0f} ({peaks[name]:.0f})" for name in peaks)
