"""A network as its people run it: files from ``configs/``, edited, and a process for each peer.

Nothing of the lab is used. Every peer has a loopback address of its own, with the ports that the
example files name, and a folder with its configuration and its state.
"""

import contextlib
import queue
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from tests.support.journeys import wait_until
from tests.support.pages import status_of
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address, IPAddress, parse_ip
from warren.errors import ConfigError
from warren.network.dns_server import DnsServer
from warren.status.control import ask, find_socket

CONFIGS = Path(__file__).parents[2] / "configs"
AUTHORITIES = ("alice", "bob", "carol")
#: A new consensus every five seconds; the rest follows from that.
PARAMETERS = {
    "consensus_interval_seconds": 5,
    "initial_interval_seconds": 1,
    "voting_seconds": 2,
    "descriptor_interval_seconds": 60,
    "descriptor_upload_seconds": 0,
    "subnet_v4_prefix": 24,
}
USABLE_SECONDS = 60
WARREN = (sys.executable, "-m", "warren")


def edited(example: str, values: Mapping[str, str], *, more: str = "") -> str:
    """Return the file `example` of ``configs/`` with other `values`, as TOML, for some keys.

    A key that is commented out is brought to life. `more` is written at the end.
    """
    text = (CONFIGS / f"{example}.toml").read_text(encoding="utf-8")
    for key, value in values.items():
        text, count = re.subn(rf"(?m)^(# )?{key} = .*$", f"{key} = {value}", text)
        assert count == 1, f"{example}.toml has {key} {count} times, expected once"
    return text + more


def quoted(addresses: Iterable[Address]) -> str:
    """Return `addresses` as a TOML list."""
    return "[" + ", ".join(f'"{address}"' for address in addresses) + "]"


class HandmadeNetwork:
    """Own the folder and the processes of a network; its exit reaches `origin`, by name.

    ``addresses`` has every peer by its name; exits know each as ``NAME.peer.example``.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder = folder
        self.origin = origin
        self.addresses: dict[str, Address] = {}
        self.dns_names: dict[str, list[IPAddress]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Sequence[str | Path]] = {}
        self._net = random.SystemRandom().randrange(16, 250)
        self._first = random.SystemRandom().randrange(200)
        for name in AUTHORITIES:
            self._place(name, 9441)

    def _place(self, name: str, port: int) -> Address:
        """Give the peer `name` an address in a /24 of its own."""
        number = self._first + len(self.addresses)
        self.addresses[name] = Address(f"127.{self._net}.{number}.1", port)
        ip = self.addresses[name].ip
        assert ip is not None
        self.dns_names[f"{name}.peer.example"] = [ip]
        return self.addresses[name]

    def page(self, name: str) -> str:
        """Return what ``warren status`` tells people about the peer `name`."""
        return status_of(self.folder / "state" / name)

    @property
    def targets(self) -> list[Address]:
        """Return what may be reached all the same: the origin, and every peer there is now."""
        return [*self.origin.addresses, *self.addresses.values()]

    def create(self, programs: Mapping[str, Sequence[str]] | None = None) -> None:
        """Found the network and start its authorities, some of them as another program."""
        options = [f"--authority={name}={self.addresses[name]}" for name in AUTHORITIES]
        options += [f"--parameter={key}={value}" for key, value in PARAMETERS.items()]
        create = [*WARREN, "network", "create", "--name", "handmade", "--testing", *options]
        subprocess.run([*create, "--dir", self.folder], check=True, stdout=subprocess.DEVNULL)
        for name in AUTHORITIES:
            values = {"name": f'"{name}"', "keys": f'"authorities/{name}"'}
            config = edited("authority", values | state_of(name))
            self._start(name, "authority", config, (programs or {}).get(name, WARREN))

    def add_relay(self, name: str, program: Sequence[str] = WARREN) -> None:
        """Start a relay."""
        self._start(name, "relay", edited("relay", self._relay_values(name)), program)

    def add_exit(
        self, name: str, resolver: Address, program: Sequence[str] = WARREN, **more: str
    ) -> None:
        """Start an exit that asks `resolver`, with `more` values, as TOML."""
        values = self._relay_values(name) | {
            "policy": '"open"',
            "resolvers": quoted([resolver]),
            "allow_targets": quoted(self.targets),
            **more,
        }
        self._start(name, "relay", edited("exit", values), program)

    def _relay_values(self, name: str) -> dict[str, str]:
        address = self._place(name, 9440)
        return {"listen": f'"{address}"', "address": f'"{address}"', **state_of(name)}

    def add_proxy(self, name: str, program: Sequence[str] = WARREN) -> None:
        """Start a proxy that lets its applications ask for every peer of the network, too."""
        place = self._place(name, 1080)
        dns = Address(place.host, 1053)
        values = {"listen": quoted([place]), "dns_listen": quoted([dns]), **state_of(name)}
        targets = f"allow_targets = {quoted(self.targets)}\n"
        self._start(name, "proxy", edited("proxy", values, more=targets), program)

    def add_dns(self, name: str) -> Address:
        """Start a DNS port without a proxy; return where it is."""
        place = self._place(name, 1053)
        values = {"dns_listen": quoted([place]), **state_of(name)}
        targets = f"allow_targets = {quoted(self.targets)}\n"
        self._start(name, "dns", edited("proxy", values, more=targets))
        return place

    def _start(self, name: str, command: str, config: str, program: Sequence[str] = WARREN) -> None:
        path = self.folder / f"{name}.toml"
        path.write_text(config, encoding="utf-8")
        self._commands[name] = [*program, command, "--config", path]
        self.start_again(name)

    def start_again(self, name: str) -> None:
        """Start the peer `name`, which has ended, with the state that it left."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(self._commands[name], stdout=log, stderr=log)

    def tell(self, name: str, number: int) -> None:
        """Send the peer `name` a signal."""
        self._processes[name].send_signal(number)

    def wait_for_end(self, name: str, seconds: float) -> tuple[int, float]:
        """Wait until the peer `name` has ended; return its exit code and how long that took."""
        begun = time.monotonic()
        code = self._processes[name].wait(seconds)
        return code, time.monotonic() - begun

    def statistics(self, name: str) -> dict[str, Any]:
        """Return what the peer `name` counts."""
        return ask(find_socket(self.folder / "state" / name))

    def peer_id(self, name: str) -> str:
        """Return the peer id of the relay `name`."""
        return str(self.statistics(name)["id"])

    def lists(self, name: str, relays: int) -> bool:
        """Tell whether the peer `name` has a consensus that lists so many relays, or more."""
        assert self._processes[name].poll() is None, (self.folder / f"{name}.log").read_text()
        with contextlib.suppress(ConfigError):  # it is not up yet
            return int(self.statistics(name)["directory"]["relays_listed"]) >= relays
        return False

    def wait_until_known(self, relays: int) -> None:
        """Wait until every peer but the authorities has a consensus with so many relays."""
        others = self._processes.keys() - set(AUTHORITIES)
        wait_until(
            lambda: all(self.lists(name, relays) for name in others),
            USABLE_SECONDS,
            f"a consensus with {relays} relays at each of {sorted(others)}",
        )

    def close(self) -> None:
        """End every process."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(8)
            process.kill()
            process.wait()


def state_of(name: str) -> dict[str, str]:
    """Return the setting of the state folder of the peer `name`."""
    return {"state": f'"state/{name}"'}


@contextlib.contextmanager
def running_handmade_network(folder: Path, origin: Origin) -> Iterator[HandmadeNetwork]:
    """Run three authorities, three relays, an exit and a proxy while inside, all of them ready."""
    network = HandmadeNetwork(folder, origin)
    network.dns_names[NAME] = network.dns_names["origin.example"] = [_loopback()]
    with running_dns(network.dns_names) as resolver:
        try:
            network.create()
            for name in ("relay1", "relay2", "relay3"):
                network.add_relay(name)
            network.add_exit("exit", resolver)
            network.add_proxy("proxy")
            network.wait_until_known(relays=4)
            yield network
        finally:
            network.close()


def _loopback() -> IPAddress:
    ip = parse_ip("127.0.0.1")
    assert ip is not None
    return ip


@contextlib.contextmanager
def running_dns(names: Mapping[str, list[IPAddress]]) -> Iterator[Address]:
    """Answer for `names`, which may grow, while inside; gives the server's address."""
    told: queue.SimpleQueue[tuple[Address, trio.lowlevel.TrioToken, trio.CancelScope]] = (
        queue.SimpleQueue()
    )

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(DnsServer(names).serve)
            told.put((address, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    address, token, scope = told.get(timeout=10)
    try:
        yield address
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(10)
