"""Sweeps: gone on with after a stop, never mixed, and on a Dask cluster the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import simulation.sweep
from simulation.__main__ import main
from simulation.scenario import Scenario
from simulation.sweep import Results, Row, SweepError, simulate_seed, summary, sweep, version
from tests.support.labs import wait_until_dead
from warren.errors import ConfigError

ROOT = Path(__file__).parents[2]
TINY = Scenario(0, peers=10, seconds=10.0, traffic=10.0, fault_seconds=3.0)


class Here(Executor):
    """Work at once, and remember what was asked for."""

    def __init__(self, most: int = 1000) -> None:
        self.seeds: list[int] = []
        self._most = most

    def submit(self, work: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        if len(self.seeds) >= self._most:
            raise KeyboardInterrupt
        self.seeds.append(arguments[0].seed)
        future: Future[Any] = Future()
        future.set_result(work(*arguments))
        return future


@pytest.mark.timeout(120)
def test_a_sweep_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path, told = tmp_path / "sweep.jsonl", list[Row]()
    with pytest.raises(KeyboardInterrupt):
        sweep(TINY, range(4), Results(path, TINY), Here(most=2), 1, told.append)
    with path.open("a") as file:
        file.write('{"seed": 2, "dig')  # the line that was being written

    rest = Here()
    results = Results(path, TINY)
    sweep(TINY, range(4), results, rest, 1, told.append)

    assert rest.seeds == [2, 3]
    assert sorted(Results(path, TINY).rows) == [0, 1, 2, 3]
    assert [row["seed"] for row in told] == [0, 1, 2, 3]
    assert "4 seeds" in summary(results.rows.values())
    assert "0 with a broken invariant" in summary(results.rows.values())


def test_results_of_another_sweep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    Results(path, TINY)

    with pytest.raises(ConfigError, match="is of another sweep or version"):
        Results(path, replace(TINY, peers=11))


HEAD = json.dumps({"sweep": replace(TINY, seed=0).command, "version": version()})


@pytest.mark.parametrize("content", ["{", "", "no JSON", "5", "\0"])
def test_a_file_that_holds_no_results_is_refused_and_stays(content: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text(content + "\n")

    with pytest.raises(ConfigError, match="name another file with --results"):
        Results(path, TINY)

    assert path.read_text() == content + "\n"


@pytest.mark.parametrize("row", ["5", "[]", '"x"', "{}", '{"seed": 2}', '{"seed": "2"}', "{"])
def test_a_row_that_is_none_is_simulated_again(row: str, tmp_path: Path) -> None:
    path, here = tmp_path / "sweep.jsonl", Here()
    path.write_text(f"{HEAD}\n{row}\n")

    results = Results(path, TINY)
    sweep(TINY, range(2, 3), results, here, 1, lambda _: None)

    assert here.seeds == [2]
    assert "1 seeds" in summary(results.rows.values())


@pytest.mark.parametrize("name", [".", "none/there", "binary"])
def test_results_that_cannot_be_kept_there_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")

    with pytest.raises(ConfigError, match="--results"):
        Results(tmp_path / name, TINY)


@pytest.mark.parametrize("option", ["--sweep=0", "--sweep=-1", "--jobs=0", "--jobs=-1"])
def test_counts_begin_with_one(option: str) -> None:
    refused = CliRunner().invoke(main, ["--sweep=1", option])

    assert refused.exit_code == 2
    assert "x>=1" in refused.output


def test_a_script_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")

    refused = CliRunner().invoke(main, ["--script", f"@{tmp_path}/binary"])

    assert refused.exit_code == 2
    assert "Error: --script: cannot read" in refused.output


def test_what_is_no_file_is_no_place_for_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", Path("/dev/full")):
        with pytest.raises(ConfigError, match="is no file, expected one or none"):
            Results(path, TINY)


def test_a_file_is_one_sweeps_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"

    with (
        Results(path, TINY).held(),
        pytest.raises(ConfigError, match="another sweep is writing to"),
        Results(path, TINY).held(),
    ):
        pass


def test_a_result_that_cannot_be_kept_ends_the_sweep_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    results = Results(path, TINY)
    path.unlink()
    path.mkdir()

    with pytest.raises(SweepError, match="cannot keep the result of seed 1 in"):
        sweep(TINY, range(1, 2), results, Here(), 1, lambda _: None)

    assert not results.rows


@pytest.mark.parametrize("error", [BrokenProcessPool("a child died"), CancelledError(), OSError()])
def test_a_worker_that_dies_costs_what_is_under_way_and_says_how_to_go_on(
    error: BaseException, tmp_path: Path
) -> None:
    class Dying(Here):
        def submit(self, work: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            if not self.seeds:
                return super().submit(work, *arguments)
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    results = Results(tmp_path / "sweep.jsonl", TINY)

    with pytest.raises(SweepError, match=r"seed 2 came to no end.*the same command goes on"):
        sweep(TINY, range(1, 3), results, Dying(), 1, lambda _: None)

    assert set(results.rows) == {1}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("address", ["", "nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1:1"])
def test_a_scheduler_that_is_not_there_is_told_in_a_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation.sweep, "SCHEDULER_SECONDS", 0.5)

    with pytest.raises(ConfigError, match="expected the address of a Dask scheduler"):
        simulation.sweep.executor(address, 1).__enter__()


def test_a_worker_with_other_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="has another version of the code"):
        simulate_seed(TINY, "0123456789abcdef")


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_an_interrupted_sweep_ends_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    words = ["--sweep=1000", "--peers=10", "--seconds=10", "--jobs=2", "--results", str(path)]
    process = subprocess.Popen(
        [ROOT / "scripts" / "simulate", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    while not path.exists() or path.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.1)

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=20)

    assert process.returncode == 130
    assert len(path.read_text().splitlines()) >= 4


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_no_worker_outlives_a_sweep_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    words = ["--sweep=1000", "--peers=10", "--seconds=10", "--jobs=2", "--results", str(path)]
    with subprocess.Popen([sys.executable, "-m", "simulation", *words], cwd=ROOT) as process:
        while not path.exists() or path.read_text().count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

        process.kill()

    assert len(children) >= 2
    assert wait_until_dead([int(pid) for pid in children], 20) == []


@pytest.fixture
def cluster_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a Dask cluster of two workers, whose process says its address and ends at a new line."""
    code = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as it:\n"
        "        print(it.scheduler_address, flush=True)\n"
        "        input()\n"
    )
    script = tmp_path / "cluster.py"
    script.write_text(code)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate("\n", timeout=30)


@pytest.fixture
def cluster(cluster_process: subprocess.Popen[str]) -> str:
    """Give the address of a Dask cluster."""
    assert cluster_process.stdout is not None
    return cluster_process.stdout.readline().strip()


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_a_dask_cluster_finds_what_this_machine_does(cluster: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    words = ["--sweep=3", "--peers=10", "--seconds=10", "--traffic=10", "--every=3", "--seed=0"]

    swept = subprocess.run(
        [ROOT / "scripts" / "simulate", *words, "--results", path, "--scheduler", cluster],
        capture_output=True,
        text=True,
        check=False,
    )

    assert swept.returncode == 0, swept.stderr
    assert re.search(r"^3 seeds, ", swept.stdout)
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    here = [simulate_seed(replace(TINY, seed=seed), _version(path)) for seed in range(3)]
    assert sorted((row["seed"], row["digest"]) for row in rows) == [
        (row["seed"], row["digest"]) for row in here
    ]


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_a_cluster_that_goes_away_is_one_line_and_costs_nothing_that_is_done(
    cluster_process: subprocess.Popen[str], cluster: str, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.jsonl"
    words = ["--sweep=1000", "--peers=10", "--seconds=10", "--results", str(path)]
    with subprocess.Popen(
        [ROOT / "scripts" / "simulate", *words, "--scheduler", cluster],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not path.exists() or path.read_text().count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.1)

        assert cluster_process.stdin is not None
        cluster_process.stdin.write("\n")
        cluster_process.stdin.flush()
        said = process.communicate(timeout=60)[1]

    assert process.returncode == 1
    assert re.fullmatch(r"Error: seed \d+ came to no end .*\n", said)
    assert len(path.read_text().splitlines()) >= 3


def _version(path: Path) -> str:
    return str(json.loads(path.read_text().splitlines()[0])["version"])
