"""Whole simulations: they repeat, they go well, and with everything that can go wrong too."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulation import probes
from simulation.run import simulate
from simulation.scenario import KINDS, Fault, Scenario
from simulation.sweep import cores, simulate_seed, version
from warren.protocol import ciphers

ROOT = Path(__file__).parents[2]
SMALL = Scenario(5, peers=14, seconds=120.0, traffic=4.0, fault_seconds=6.0)


@pytest.mark.timeout(120)
def test_when_nothing_goes_wrong_everything_is_done() -> None:
    outcome = simulate(replace(SMALL, kinds=(), traffic=12.0))

    assert not outcome.violations
    ends = {name.rpartition(" ")[2] for name in outcome.outcomes}
    assert ends <= {"done", "up"}  # "given up" by the application itself
    kinds = {name.partition(" ")[0] for name in outcome.outcomes}
    assert kinds == {"page", "download", "upload", "talk", "vigil"}


@pytest.mark.timeout(120)
def test_the_same_seed_gives_the_same_trace_in_another_process() -> None:
    outcome = simulate(SMALL)
    code = (
        "from simulation.run import simulate\n"
        "from tests.simulation.test_run import SMALL\n"
        "outcome = simulate(SMALL)\n"
        "print('\\n'.join(outcome.trace), outcome.digest, sep='\\n')"
    )

    # Another order of sets, and other addresses of objects, which nothing may follow.
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True, text=True
    )

    assert other.stdout.splitlines() == [*outcome.trace, outcome.digest]


@pytest.mark.timeout(120)
def test_another_seed_gives_another_trace() -> None:
    one, two = (simulate(replace(SMALL, seed=seed, seconds=20.0)) for seed in (1, 2))

    assert one.digest != two.digest


@pytest.mark.timeout(120)
def test_a_simulation_whose_seals_nobody_watches_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = SimpleNamespace(make_aead=ciphers.make_aead)
    monkeypatch.setattr(probes, "ciphers", elsewhere)  # as where the code is compiled

    with pytest.raises(RuntimeError, match="no seal was seen"):
        simulate(replace(SMALL, seconds=20.0))


@pytest.mark.timeout(120)
def test_streams_outlive_relays_that_are_not_their_exits() -> None:
    faults = tuple(
        Fault(4.0 + 8 * n, kind, (f"relay{(2, 3, 5, 6)[n % 4]}",), seconds)
        for n, (kind, seconds) in enumerate([("cut", 0.0), ("crash", 3.0)] * 5)
    )
    outcome = simulate(replace(SMALL, traffic=12.0, faults=faults))

    assert not outcome.violations
    assert not [name for name in outcome.outcomes if name.endswith(("reset", "refused"))]


@pytest.mark.timeout(120)
def test_all_kinds_of_faults_break_no_invariant() -> None:
    broken = [v for seed in range(6, 10) for v in simulate(replace(SMALL, seed=seed)).violations]

    assert not broken


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_a_hundred_seeds_of_forty_peers_with_all_faults_break_no_invariant() -> None:
    scenario = Scenario(0, peers=40, seconds=600.0, kinds=tuple(KINDS))
    with ProcessPoolExecutor(cores(), get_context("spawn")) as workers:
        futures = [
            workers.submit(simulate_seed, replace(scenario, seed=seed), version())
            for seed in range(100)
        ]
        rows = [future.result() for future in futures]

    assert not [(row["seed"], row["violations"]) for row in rows if row["violations"]]
