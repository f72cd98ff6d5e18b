"""``scripts/bench`` as people run it."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.processes import ROOT

BENCH = ROOT / "scripts" / "bench"


def test_peers_that_are_missing_are_named_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert main(["--peers"]) == 2
    assert "scripts/bench: missing for --peers: tor" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--only", "luck"], ["--peers", "i2p"]])
def test_a_wrong_argument_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)

    assert refusal.value.code == 2
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.timeout(180)
def test_a_quick_run_prints_figures_and_writes_them(tmp_path: Path) -> None:
    written = tmp_path / "found.json"

    done = subprocess.run(
        [BENCH, "--quick", "--only", "down", "--json", written],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "one stream down, MB/s" in done.stdout
    figures = json.loads(written.read_text())["figures"]
    assert figures["down"]["systems"]["warren"]["median"] > 0
    assert figures["down.cpu"]["systems"]["warren"]["median"] > 0
    assert written.with_suffix(".svg").read_text().startswith("<svg")
