"""``scripts/simulate``: simulate one network, or sweep over many."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from simulation.run import Outcome, simulate
from simulation.scenario import HOUR, KINDS, Scenario, parse_faults, parse_kinds
from simulation.shrink import shrink
from simulation.sweep import Results, Row, cores, executor, summary, sweep
from warren import outset
from warren.errors import ConfigError, WarrenError

_KINDS = "\n".join(f"    {kind:<8}  {what}" for kind, what in KINDS.items())
_COUNT = click.IntRange(1)
#: Options that say the same in two ways, those of a sweep alone, and those of one seed alone.
_EITHER = (
    ("hours", "seconds"),
    ("script", "faults"),
    ("script", "every"),
    ("jobs", "scheduler"),
)
_OF_A_SWEEP, _OF_ONE = ("results", "jobs", "scheduler"), ("trace", "no_shrink")


@click.command(
    "scripts/simulate",
    epilog="\b\nWhat can go wrong (--faults, --script):\n" + _KINDS,
    context_settings={"max_content_width": 100},
)
@click.option("--seed", default=1, show_default=True, help="Decides everything that is drawn.")
@click.option("--peers", default=40, show_default=True, help="Authorities, relays, clients.")
@click.option("--hours", type=float, help="Simulated time; or say --seconds.")
@click.option("--seconds", type=float, help="Simulated time.  [default: 600]")
@click.option("--faults", default="all", show_default=True, help="all, none, or some: crash,cut")
@click.option("--every", default=10.0, show_default=True, help="Seconds from fault to fault.")
@click.option("--script", help="The faults themselves: 'at 12 crash relay3 for 10; …', or @FILE.")
@click.option("--traffic", default=1.0, show_default=True, help="Times the usual traffic.")
@click.option("--trace", is_flag=True, help="Print every event.")
@click.option("--no-shrink", is_flag=True, help="Do not look for fewer faults that break it too.")
@click.option("--sweep", "count", type=_COUNT, help="Simulate so many seeds, --seed and up.")
@click.option("--results", type=click.Path(path_type=Path), help="Where a sweep keeps its results.")
@click.option("--jobs", type=_COUNT, help="Processes of a sweep.  [default: one for each core]")
@click.option("--scheduler", help="Sweep on the Dask cluster at this address instead.")
def main(
    seed: int,
    peers: int,
    hours: float | None,
    seconds: float | None,
    faults: str,
    every: float,
    script: str | None,
    traffic: float,
    trace: bool,
    no_shrink: bool,
    count: int | None,
    results: Path | None,
    jobs: int | None,
    scheduler: str | None,
) -> None:
    """Simulate a network in this process, on a clock of its own.

    The same options give the same events again. Exits with 1 when an invariant was broken, and
    then says with which seed and which faults.
    """
    _refuse_contradictions(click.get_current_context())
    if hours is not None:
        seconds = HOUR * hours
    try:
        scenario = Scenario(
            seed,
            peers=peers,
            seconds=600.0 if seconds is None else seconds,
            kinds=parse_kinds(faults),
            fault_seconds=every,
            faults=None if script is None else parse_faults(_text_of(script)),
            traffic=traffic,
        )
        if count is None:
            is_well = _simulate_one(scenario, trace=trace, no_shrink=no_shrink)
        else:
            path = results or Path(f"sweep-{peers}-{scenario.seconds:g}.jsonl")
            is_well = _sweep(scenario, count, path, jobs or cores(), scheduler)
    except WarrenError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if is_well else 1)


def _refuse_contradictions(context: click.Context) -> None:
    """Raise UsageError where one option would make another mean nothing."""

    def is_given(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    for one, other in _EITHER:
        if is_given(one) and is_given(other):
            raise click.UsageError(f"say --{one} or --{other}, not both")
    is_sweep = is_given("count")
    for name in _OF_ONE if is_sweep else _OF_A_SWEEP:
        if is_given(name):
            option = f"--{name.replace('_', '-')}"
            hint = f"{option} belongs to one seed, leave out --sweep, or {option}"
            raise click.UsageError(hint if is_sweep else f"{option} takes a --sweep N")


def _text_of(script: str) -> str:
    if not script.startswith("@"):
        return script
    try:
        return Path(script[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        expected = "expected a text file of faults, such as: at 12 crash relay3 for 10"
        raise ConfigError(f"--script: cannot read {script[1:]!r}: {why}; {expected}") from error


def _simulate_one(scenario: Scenario, *, trace: bool, no_shrink: bool) -> bool:
    outset.end_by_interrupts()  # an exception may come where nobody can let it pass
    outcome = simulate(scenario)
    if trace:
        click.echo("\n".join(outcome.trace))
    click.echo(_describe(outcome))
    if not outcome.violations:
        return True
    click.echo(f"\nBROKEN: {outcome.violations[0]}\nagain:  {scenario.command}")
    if outcome.faults and not no_shrink:
        outcome, tries = shrink(outcome, simulate)
        click.echo(
            f"\nIt breaks with {len(outcome.faults)} faults too ({tries} tries):\n"
            f"        {outcome.violations[0]}\nagain:  {outcome.scenario.command}\n"
        )
    click.echo("\n".join(outcome.trace[-60:]))
    return False


def _describe(outcome: Outcome) -> str:
    took = outcome.processor_seconds
    counts = ", ".join(f"{n:,} {name}" for name, n in sorted(outcome.outcomes.items()))
    return (
        f"{outcome.scenario.command}\n"
        f"{outcome.scenario.authorities} authorities, {outcome.scenario.relays} relays, "
        f"{outcome.scenario.clients} clients; {outcome.seconds:,.0f} s simulated in {took:.1f} s; "
        f"{len(outcome.faults)} faults; {outcome.deliveries:,} events, {outcome.cells:,} seals\n"
        f"{counts or 'nothing came to its end'}\n"
        f"gathered in {outcome.gathered:.1f} s; at the end every client had a page within "
        f"{outcome.recovered:.1f} s\n"
        f"digest of the trace: {outcome.digest}"
    )


def _sweep(scenario: Scenario, count: int, path: Path, jobs: int, scheduler: str | None) -> bool:
    with Results(path, scenario).held() as results:
        return _sweep_into(results, scenario, count, path, jobs, scheduler)


def _sweep_into(
    results: Results,
    scenario: Scenario,
    count: int,
    path: Path,
    jobs: int,
    scheduler: str | None,
) -> bool:
    seeds = range(scenario.seed, scenario.seed + count)
    done = sum(seed in results.rows for seed in seeds)
    if done:
        click.echo(f"{done} of {count} seeds are done already, in {path}")

    def tell(row: Row) -> None:
        for kind, at, what in row["violations"]:
            again = replace(scenario, seed=row["seed"]).command
            click.echo(f"seed {row['seed']}: {kind} at {at:.3f} s: {what}\n    {again}")

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with executor(scheduler, jobs) as (workers, most):
        sweep(scenario, seeds, results, workers, most, tell)
    rows = [results.rows[seed] for seed in seeds]
    click.echo(summary(rows))
    return not any(row["violations"] for row in rows)


if __name__ == "__main__":
    outset.run_script("scripts/simulate", lambda: main(prog_name="scripts/simulate"))
