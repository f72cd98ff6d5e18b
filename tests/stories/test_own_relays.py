"""P2P-2: whoever relays and browses on one machine never goes through the own relay.

The relay is ten times as heavy as any other of the lab, so that who may use it does.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.journeys import through, wait_until
from tests.support.labs import RunningLab, running_lab
from warren.addresses import Address
from warren.errors import ConfigError
from warren.status.control import ask, find_socket

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

RELAYS, LOGINS = 5, 12


@dataclass
class Proxy:
    """Hold a proxy of the lab's network that this test runs: its folder, its address."""

    folder: Path
    place: str = ""

    def paths_of(self, target: Address, logins: int) -> list[list[str]]:
        """Connect to `target` with so many logins; return the paths of all circuits seen."""
        seen: dict[int, list[str]] = {}
        for number in range(logins):
            through(self.place, target, user=f"login{number}").close()
            seen |= {each["id"]: each["path"] for each in self.statistics["circuits"]}
        return list(seen.values())

    @property
    def statistics(self) -> dict[str, Any]:
        return ask(find_socket(self.folder))

    def lists(self, relays: int) -> bool:
        with contextlib.suppress(ConfigError):
            return bool(self.statistics["directory"]["relays_listed"] == relays)
        return False


class Household:
    """Own the processes that one user runs, who are found in a place of their own."""

    def __init__(self, lab: RunningLab, folder: Path) -> None:
        self.folder = folder
        self._network = Path(lab.ready["dir"]) / "network.toml"
        usual = tomllib.loads((self._network.parent / "proxy.toml").read_text())["proxy"]
        self._targets = json.dumps(usual["allow_targets"])
        (folder / "runtime").mkdir(mode=0o700)
        self._environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder / "runtime")}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_proxy(self, name: str, **keys: object) -> Proxy:
        values = {"listen": ["127.0.0.1:0"], **keys}
        section = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        said = self._start(name, "proxy", f"[proxy]\nallow_targets = {self._targets}\n{section}")
        return Proxy(self.folder / name, said["addresses"][0])

    def start_relay(self, name: str) -> str:
        """Start a relay that everybody wants; return its id."""
        host = f"127.{random.randrange(8, 16)}.{random.randrange(256)}.1"
        section = f'[relay]\nlisten = "{host}:0"\nbandwidth = 1_000_000_000\n'
        return str(self._start(name, "relay", section)["id"])

    def _start(self, name: str, role: str, section: str) -> dict[str, list[str]]:
        config = self.folder / f"{name}.toml"
        state = self.folder / name
        config.write_text(f'network = "{self._network}"\nstate = "{state}"\n{section}')
        reader, writer = os.pipe()
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", "warren", role, "--config", str(config)]
            self._processes.append(
                subprocess.Popen(
                    [*command, "--ready-fd", str(writer)],
                    stderr=log,
                    pass_fds=[writer],
                    env=self._environment,
                )
            )
        os.close(writer)
        with os.fdopen(reader) as lines:
            said: dict[str, list[str]] = json.loads(lines.readline())
        return said

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(10)


@pytest.fixture
def lab() -> Iterator[RunningLab]:
    with running_lab("--relays", str(RELAYS), "--exits", "2", "--authorities", "1") as lab:
        yield lab


@pytest.fixture
def household(lab: RunningLab, tmp_path: Path) -> Iterator[Household]:
    household = Household(lab, tmp_path)
    yield household
    household.close()


def test_a_relay_is_never_used_by_the_proxy_of_the_same_user(
    lab: RunningLab, household: Household
) -> None:
    early = household.start_proxy("early", find_own_relays=True)
    mine = household.start_relay("relay")
    late = household.start_proxy("late", find_own_relays=True)
    told = household.start_proxy("told", own_relays=[mine])
    stranger = household.start_proxy("stranger")  # in a network for tests nobody looks
    proxies = [early, late, told, stranger]
    wait_until(lambda: all(each.lists(RELAYS + 1) for each in proxies), 60, "the relay is listed")
    target = Address.parse(lab.ready["origin"].removeprefix("http://").rstrip("/"))

    paths = {each.folder.name: each.paths_of(target, LOGINS) for each in proxies}

    with_mine = {name for name, each in paths.items() if any(mine in path for path in each)}
    assert with_mine == {"stranger"}
    assert all(len(each) >= LOGINS for each in paths.values())
    for proxy in (early, late, told):
        assert proxy.statistics["own_relays"] == [mine]
