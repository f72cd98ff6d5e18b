"""What every command does first, watched from outside: full disks, gone readers, early signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WARREN = [sys.executable, "-m", "warren"]

#: Run the command line, and send ourselves a signal when a module is looked for.
INTERRUPTED = """
import os, runpy, sys

class Moment:
    def find_spec(self, name, *_):
        if name == {moment!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Moment())
sys.argv = ["warren", *{arguments!r}]
runpy.run_module("warren", run_name="__main__", alter_sys=True)
"""


def interrupted(arguments: list[str], moment: str) -> subprocess.CompletedProcess[str]:
    program = INTERRUPTED.format(moment=moment, number=int(signal.SIGINT), arguments=arguments)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["env"], ["status", "--help"], ["--version"], ["keys"]], ids=" ".join
)
def test_output_that_does_not_fit_is_one_line_and_code_1(
    arguments: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}

    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*WARREN, *arguments],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )

    assert ended.returncode == 1
    assert ended.stderr == "warren: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("arguments", [["--help"], ["env"]], ids=" ".join)
def test_a_reader_that_is_gone_ends_a_command_as_it_ends_others(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [*WARREN, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False
    )
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("arguments", "moment"),
    [
        (["--help"], "click"),
        (["env"], "warren.cli.env"),
        (["status"], "msgspec"),
        (["network", "relays"], "warren.config"),
        (["run", "--", "true"], "warren.run.launch"),
        (["browser"], "warren.programs.browser"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_an_interrupt_ends_a_short_command_as_it_ends_others(
    arguments: list[str], moment: str
) -> None:
    ended = interrupted(arguments, moment)

    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("moment", ["click", "warren.cli.dns", "warren.config"])
def test_an_interrupt_ends_dns_like_the_other_services(moment: str) -> None:
    ended = interrupted(["dns"], moment)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_command_that_ignores_interrupts_goes_on() -> None:
    script = f'trap "" INT; exec {sys.executable} -c "$0"'
    program = INTERRUPTED.format(moment="click", number=int(signal.SIGINT), arguments=["--version"])

    ended = subprocess.run(
        ["/bin/sh", "-c", script, program], capture_output=True, timeout=30, check=False
    )

    assert ended.returncode == 0
    assert ended.stdout.startswith(b"warren, version")


def test_a_service_takes_interrupts_that_were_ignored_when_it_was_started() -> None:
    """As by a shell without job control, for what is started with ``&``."""
    script = f'trap "" INT; exec {sys.executable} -c "$0"'
    program = INTERRUPTED.format(
        moment="warren.config", number=int(signal.SIGINT), arguments=["proxy"]
    )

    ended = subprocess.run(
        ["/bin/sh", "-c", script, program], capture_output=True, timeout=30, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_warnings_do_not_get_into_the_output(tmp_path: Path) -> None:
    command = [*WARREN, "keys", "--state", str(tmp_path / "state")]
    first = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    (tmp_path / "state" / "identity.key").chmod(0o644)

    again = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)

    assert again.stdout == first.stdout
    assert "others could read a file until now" in again.stderr


def test_a_path_is_printed_as_it_is(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    authorities = [f"--authority={name}=192.0.2.{name}:1" for name in "123"]

    ended = subprocess.run(
        [*WARREN, "network", "create", "--name", "n", *authorities, "--dir", folder],
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert ended.stdout.startswith(folder + b"/network.toml: ")
