"""``scripts/bench growth`` as people run it."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.growth_child import run_child
from benchmarks.growth_topics import TOPICS
from benchmarks.processes import ROOT, ProcessError

BENCH = ROOT / "scripts" / "bench"


@pytest.mark.parametrize("arguments", [["luck"], ["path", "--runs", "0"]])
def test_a_wrong_argument_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["growth", *arguments])

    assert refusal.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_what_a_measuring_process_died_of_is_told() -> None:
    with pytest.raises(ProcessError, match=r"(?s)growth_path ended with code 1: .*no/such/folder"):
        run_child("growth_path", "no/such/folder")


@pytest.mark.processes
@pytest.mark.timeout(240)
def test_a_quick_run_measures_every_topic(tmp_path: Path) -> None:
    written = tmp_path / "found.json"

    done = subprocess.run(
        [BENCH, "growth", "--quick", "--json", written],
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    topics = json.loads(written.read_text())["topics"]
    assert list(topics) == list(TOPICS)
    for name, topic in TOPICS.items():
        assert topic.title in done.stdout
        assert topics[name]["sizes"] == [topic.quick, 2 * topic.quick, 4 * topic.quick]
        assert set(topics[name]["figures"]) == {figure.key for figure in topic.figures}
