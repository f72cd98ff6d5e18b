"""The unit for systemd: it starts what there is, with what the rest of it promises."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from warren.cli.main import warren
from warren.config.relay import ExitConfig

UNIT = Path(__file__).parent.parent / "configs" / "warren-relay.service"
PROGRAM = "/opt/warren/.venv/bin/warren"


def settings() -> Iterator[tuple[str, str]]:
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value


SETTINGS = dict(settings())


def test_the_unit_starts_a_relay_with_its_state_where_systemd_makes_the_folder() -> None:
    program, command, *words = shlex.split(SETTINGS["ExecStart"])

    found = warren.get_command(click.Context(warren), command)
    assert found is not None
    options = dict(zip(words[::2], words[1::2], strict=True))
    known = {name for option in found.params for name in option.opts}
    assert (program, command) == (PROGRAM, "relay")
    assert options.keys() <= known
    assert options["--state"] == f"/var/lib/{SETTINGS['StateDirectory']}"
    assert SETTINGS["StateDirectoryMode"] == "0700"  # FE-15


def test_the_unit_leaves_an_exit_the_time_to_drain_and_a_misuse_alone() -> None:
    assert float(SETTINGS["TimeoutStopSec"]) > ExitConfig().drain_seconds + 10
    assert SETTINGS["RestartPreventExitStatus"] == "2"
    assert SETTINGS["Type"] == "exec"  # there is no word to systemd that it is ready


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(f"={PROGRAM}", f"={sys.executable}"))

    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )

    # Also of a setting that it does not know it says only that it is ignored.
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
