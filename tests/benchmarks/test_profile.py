"""``scripts/profile`` as people run it, and what it says."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.breakdown import break_down, read_samples
from benchmarks.processes import ROOT, ProcessError
from benchmarks.profile import Profile, Span, describe, explain, going_first, main, record

SPAN = Span(cpu=0.5, kernel=0.05, seconds=2.0, done=100_000, load=0.25)
SAMPLES = """\
Link._read (warren/network/link.py:1);RecordKey.open (warren/protocol/records.py:90) 3
EpollIOManager.get_events (trio/_core/_io_epoll.py:243) 4
run (trio/_core/_run.py:7) 1
"""


def on_paper(*, load: str = "down", went_first: bool = True) -> str:
    found = break_down(read_samples(SAMPLES))
    picture = Path("exit-down.svg")
    return "\n".join(describe(Profile("exit", load, "exit2", SPAN, found, went_first, picture)))


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(name))
    return line[len(name) :].split()


def test_the_cost_of_a_cell_is_split_by_the_shares() -> None:
    said = on_paper()

    assert SPAN.cost == 5
    assert row(said, "CPU per cell") == ["µs", "share"]
    assert row(said, "open records") == ["3.75", "75.0%"]
    assert row(said, "event loop (trio)") == ["1.25", "25.0%"]
    assert row(said, "all") == ["5.00", "100.0%"]


def test_the_rest_says_who_how_much_and_where() -> None:
    said = on_paper()

    assert said.startswith("exit under down: process exit2\n")
    assert " 75.0%  RecordKey.open (warren/protocol/records.py)\n" in said
    assert "50000 cells/s with 25% of a core; other load 0.25 cores" in said
    assert "4 samples; not counted: 4 in the poll" in said
    assert "in system calls: 10% of the time, 0% of the samples" in said
    assert "flame graph: exit-down.svg" in said
    assert "not run as root" not in said


def test_an_echo_is_counted_in_round_trips_and_streams_in_streams() -> None:
    assert "CPU per round trip" in on_paper(load="echo")
    assert "50000 new streams/s" in on_paper(load="streams")


def test_it_says_when_it_could_not_go_first() -> None:
    assert "not run as root: time without a core" in on_paper(went_first=False)


def test_processes_go_first_for_a_while_where_that_is_allowed() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        with going_first(child.pid) as is_allowed:
            meanwhile = os.sched_getscheduler(child.pid)
        afterwards = os.sched_getscheduler(child.pid)
        child.kill()

    assert meanwhile == (os.SCHED_RR if is_allowed else os.SCHED_OTHER)
    assert afterwards == os.SCHED_OTHER


def test_one_that_ends_while_it_goes_first_does_no_harm() -> None:
    with subprocess.Popen(["sleep", "60"]) as child, going_first(child.pid):
        child.kill()
        child.wait()


def test_a_process_that_is_gone_cannot_be_recorded(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()

    with pytest.raises(ProcessError, match="py-spy failed: Error"):
        record(child.pid, 1, "raw", tmp_path / "samples")


def test_a_refusal_of_the_system_becomes_advice() -> None:
    said = "Permission Denied: Try running again with elevated permissions by going 'sudo …'\n"

    assert "kernel.yama.ptrace_scope=0" in explain(said)


def test_any_other_failure_is_told_in_its_first_line() -> None:
    said = "Error: Failed to get process executable name.\n\nCaused by:\n    0: No such file"

    assert explain(said) == "py-spy failed: Error: Failed to get process executable name."
    assert explain("") == "py-spy failed: it did not say why"


@pytest.mark.parametrize("arguments", [["entry"], ["exit", "sideways"], ["--seconds", "0.2"]])
def test_a_wrong_argument_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)

    assert refusal.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_a_short_profile_of_the_client_shows_where_its_time_went(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "profile", "client", "down", "--seconds", "1", "--output", tmp_path],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    if "kernel.yama.ptrace_scope" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("CPU per cell")[2].partition("hottest functions")[0]
    *shares, total = map(float, re.findall(r"([\d.]+)%$", table, re.MULTILINE))
    assert total == 100
    assert sum(shares) == pytest.approx(100, abs=1)
    assert float(row(done.stdout, "take a layer off, put one on")[0]) > 0
    assert "<svg" in (tmp_path / "client-down.svg").read_text()
