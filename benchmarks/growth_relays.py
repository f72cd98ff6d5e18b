"""A few real relays in a consensus made by hand, beside any number that are only on paper.

No authority runs: the consensus lies in every state folder before its process starts. Relays on
paper weigh nothing, so no path is ever drawn through one, but whoever reads the consensus reads
all of them.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any

from benchmarks.growth_network import PaperRelays, paper_network, signed_consensus
from benchmarks.processes import ProcessError, Processes, free_port
from benchmarks.route import Place
from warren.addresses import Address
from warren.directory.network_file import render_network_file
from warren.directory.relays import Flag, RelayEntry
from warren.errors import ConfigError
from warren.identity import Hop, Suite, SystemKeys
from warren.key_files import KeyFiles
from warren.lab.plan import AddressPlan
from warren.status.control import ask, find_socket
from warren.storage import DataFolder

_WARREN = str(Path(sys.executable).with_name("warren"))
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_WEIGHT = 1_000_000
#: A relay that one process measures must let it have what a thousand clients would.
_LIMITS = dict.fromkeys(
    (
        "circuits",
        "relay_create_burst",
        "streams_per_address",
        "begins_per_second",
        "begin_burst",
    ),
    1 << 20,
)


@dataclass(frozen=True)
class RealRelay:
    """Hold one relay that runs: its name, how it is listed, and its state folder."""

    name: str
    entry: RelayEntry
    state: Path

    @property
    def hop(self) -> Hop:
        """Return what is needed to reach it."""
        return self.entry.hop

    def statistics(self) -> dict[str, Any]:
        """Return what the process says of itself; raise ConfigError when it is silent."""
        return ask(find_socket(self.state))


class RealRelays:
    """Own relay processes, one of each kind in `flags`, and the consensus that lists them.

    Exits open the one `target`. `paper` relays are listed besides.
    """

    def __init__(
        self, flags: Sequence[frozenset[Flag]], *, paper: int = 0, target: Place | None = None
    ) -> None:
        network = paper_network(is_testing=True)
        self.network_id = network.network_id
        self._target = [] if target is None else [f"{target[0]}:{target[1]}"]
        self.processes = Processes("growth")
        folder = self.processes.folder
        (folder / "network.toml").write_text(render_network_file(network), encoding="utf-8")
        plan = AddressPlan(SystemRandom())
        self.relays = [
            _make_relay(f"relay{number}", kind, plan.host(number, 1), folder)
            for number, kind in enumerate(flags, 1)
        ]
        listed = [replace(entry, weight=0) for entry in PaperRelays(paper).entries]
        listed += [relay.entry for relay in self.relays]
        self._consensus = signed_consensus(listed, network, int(time.time()) - 60)
        try:
            for relay in self.relays:
                self._start(relay)
            for relay in self.relays:
                self._wait_for(relay)
        except BaseException:
            self.close()
            raise

    def pid_of(self, relay: RealRelay) -> int:
        """Return the process id of `relay`."""
        return self.processes.pid_of(relay.name)

    def start_proxy(self, name: str = "proxy") -> Place:
        """Start a proxy that knows the consensus and has no guards yet; return its place.

        Does not wait: it may not listen yet.
        """
        port = free_port()
        proxy = {"listen": [f"127.0.0.1:{port}"], "allow_targets": self._target}
        self._start_process(name, "proxy", {"proxy": proxy})
        return "127.0.0.1", port

    def close(self) -> None:
        """End all processes and remove their files."""
        self.processes.stop()

    def __enter__(self) -> "RealRelays":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, relay: RealRelay) -> None:
        sections: dict[str, Mapping[str, object]] = {
            "relay": {"listen": str(relay.hop.address)},
            "relay.limits": _LIMITS,
        }
        if Flag.EXIT in relay.entry.flags:
            sections["exit"] = {
                "policy": "open",
                "allow_targets": self._target,
                "drain_seconds": 0,  # or it waits for the streams of a proxy that is gone
            }
        self._start_process(relay.name, "relay", sections)

    def _start_process(
        self, name: str, command: str, sections: Mapping[str, Mapping[str, object]]
    ) -> None:
        folder = self.processes.folder
        DataFolder(folder / name).write("consensus", self._consensus)
        config = folder / f"{name}.toml"
        top = {"network": str(folder / "network.toml"), "state": str(folder / name)}
        config.write_text(_render_toml({"": top, **sections}), encoding="utf-8")
        self.processes.start(name, [_WARREN, command, "--config", str(config)])

    def _wait_for(self, relay: RealRelay) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            self.processes.check()
            try:
                relay.statistics()
                return
            except ConfigError as error:
                if time.monotonic() > deadline:
                    raise ProcessError(f"{relay.name} was not ready in time") from error
            time.sleep(_POLL_SECONDS)


def _make_relay(name: str, flags: frozenset[Flag], host: str, folder: Path) -> RealRelay:
    """Make the keys of a relay, where its process will find them."""
    state = folder / name
    files = KeyFiles(DataFolder(state), SystemKeys())
    now = time.time()
    hop = Hop(
        files.identity().peer_id,
        Address(host, free_port(host)),
        files.load("link", now).current.public,
        files.load("onion", now).current.public,
        tuple(Suite),
    )
    policy = ("accept *:*",) if Flag.EXIT in flags else ()
    return RealRelay(name, RelayEntry(hop, flags | {Flag.RUNNING}, _WEIGHT, policy=policy), state)


def _render_toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Return TOML, in which strings, numbers and lists are written as in JSON."""
    lines: list[str] = []
    for section, values in sections.items():
        lines += [f"[{section}]"] if section else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
