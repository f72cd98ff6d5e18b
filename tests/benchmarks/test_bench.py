"""``scripts/bench`` as people run it."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import profile
from benchmarks.__main__ import _read_arguments, main
from benchmarks.peers import DEFAULT_PEERS
from benchmarks.processes import ROOT

BENCH = ROOT / "scripts" / "bench"


def test_peers_that_are_missing_are_named_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert main(["--peers"]) == 2
    assert "scripts/bench: missing for --peers: tor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs", "0"],
        ["--runs", "99999"],
        ["--only", "luck"],
        ["--peers", "i2p"],
        ["--json", "/dev/full"],
        ["--json", "/nowhere-at-all/x"],
        ["--json", "/"],
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)

    assert refusal.value.code == 2
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "peers"),
    [
        ([], []),
        (["--peers"], list(DEFAULT_PEERS)),
        (["--peer"], list(DEFAULT_PEERS)),
        (["--peers", "tor", "direct", "tor"], ["tor", "direct"]),
    ],
)
def test_each_peer_is_measured_once(arguments: list[str], peers: list[str]) -> None:
    assert _read_arguments(arguments).peers == peers


@pytest.mark.parametrize(
    "words", ["workers --workers 0", "workers --workers 65", "workers --seconds nan",
              "workers --seconds inf", "growth --json /dev/full", "growth --runs -1"],
)  # fmt: skip
def test_wrong_arguments_of_the_others_are_refused(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(words.split())

    assert refusal.value.code == 2
    assert words.split()[1] in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--seconds nan", "--seconds inf", "--output /proc/x"])
def test_wrong_arguments_of_a_profile_are_refused(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        profile.main(words.split())

    assert refusal.value.code == 2
    assert words.split(maxsplit=1)[0] in capsys.readouterr().err


def test_a_file_that_is_to_be_written_is_not_touched_before(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("kept")

    _read_arguments(["--json", str(kept)])
    _read_arguments(["--json", str(tmp_path / "new.json")])

    assert kept.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


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
