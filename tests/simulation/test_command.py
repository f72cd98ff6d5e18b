"""``scripts/simulate`` as people type it: what it refuses, how it ends, and what it leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulation.__main__ import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-P", "-m", "warren.outset", "simulation"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SHORT = ["--peers=10", "--seconds=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hours=1", "--seconds=5"], "say --hours or --seconds, not both"),
        (["--script=at 1 cut relay1", "--faults=cut"], "say --script or --faults, not both"),
        (["--script=at 1 cut relay1", "--every=5"], "say --script or --every, not both"),
        (["--sweep=2", "--trace"], "--trace belongs to one seed"),
        (["--sweep=2", "--no-shrink"], "--no-shrink belongs to one seed"),
        (["--jobs=2"], "--jobs takes a --sweep N"),
        (["--results=x"], "--results takes a --sweep N"),
        (["--scheduler=tcp://127.0.0.1:1"], "--scheduler takes a --sweep N"),
        (["--sweep=2", "--jobs=2", "--scheduler=x"], "say --jobs or --scheduler, not both"),
        (["--seconds=0"], "0 seconds: expected 1"),
        (["--hours=0"], "0 seconds: expected 1"),
        (["--peers=9"], "9 peers: expected 10 at least"),
        (["--faults="], "unknown fault ''"),
        (["--script=@"], "expected a text file of faults"),
    ],
)
def test_what_cannot_be_meant_is_refused_as_misuse(words: list[str], message: str) -> None:
    refused = CliRunner().invoke(main, words)

    assert refused.exit_code == 2
    assert message in refused.output


def test_it_goes_by_the_name_of_the_script() -> None:
    done = subprocess.run(
        [*COMMAND, "--nonsense"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr.startswith("Usage: scripts/simulate ")


def test_output_that_nobody_can_take_is_one_line_or_none() -> None:
    with Path("/dev/full").open("w") as full:
        on_full = subprocess.run(
            [*COMMAND, *SHORT], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    reader, writer = os.pipe()
    os.close(reader)
    unread = subprocess.run(
        [*COMMAND, *SHORT], env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)

    assert on_full.returncode == 1
    assert on_full.stderr.splitlines() == [
        b"scripts/simulate: cannot write to standard output: No space left on device"
    ]
    assert (unread.returncode, unread.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 3.0])
def test_the_key_that_interrupts_ends_it_at_once_and_without_a_word(seconds: float) -> None:
    with subprocess.Popen(
        [*COMMAND, "--hours=24"], env=ENVIRONMENT, stderr=subprocess.PIPE
    ) as process:
        while not Path(f"/proc/{process.pid}/maps").read_text().count("libc"):
            time.sleep(0.01)
        time.sleep(0.1 + seconds)

        process.send_signal(signal.SIGINT)

        assert process.communicate(timeout=10)[1] == b""
        assert process.returncode == -signal.SIGINT
