"""What a lab consists of: its peers, their addresses and their configuration files.

Every lab draws loopback addresses of its own, so several run side by side, and gives every relay
a /24 of its own, because two relays of one /24 never share a path (PATH-1). Ports are chosen by
the system when a process binds; only the authorities' must be known before, as they stand in
the network file.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warren.addresses import Address, IPAddress, is_loopback
from warren.config.relay import LEAST_BANDWIDTH, MOST_WORKERS
from warren.config.values import LEAST_MEGABYTES
from warren.directory.descriptor import MOST_BANDWIDTH
from warren.directory.relays import UNKNOWN_COUNTRY, is_country
from warren.errors import ConfigError
from warren.lab.line import Impairment

EVERY_RELAY = "all"
ORIGIN_NAME = "origin.warren-lab.net"
MOST_RELAYS = 200

#: A network that is founded within seconds and notices changes as fast.
PARAMETERS = {
    "consensus_interval_seconds": 10,
    "initial_interval_seconds": 1,
    "voting_seconds": 2,
    "descriptor_interval_seconds": 60,
    "descriptor_upload_seconds": 0,
    "subnet_v4_prefix": 24,
    "subnet_v6_prefix": 48,
    "unmeasured_bandwidth": 1_000_000_000,
}


_HOSTS_PER_NETWORK = 254
_FIRST_NET, _LAST_NET = 16, 254  # of 127.x.0.0; the lower ones are in use on some machines


@dataclass(frozen=True)
class LabOptions:
    """Hold what the command line asks for; raise ConfigError when it does not fit together."""

    relays: int = 9
    exits: int = 3
    authorities: int = 3
    proxy: Address = Address("127.0.0.1", 0)
    allow_targets: tuple[Address, ...] = ()
    hosts: Mapping[str, Sequence[IPAddress]] = field(default_factory=dict)
    directory: Path | None = None
    workers: int = 1
    bandwidth: int | None = None
    memory: int | None = None
    impairments: Mapping[str, Impairment] = field(default_factory=dict)
    countries: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(3 <= self.relays <= MOST_RELAYS, f"--relays is {self.relays}", f"3 to {MOST_RELAYS}")
        _check(1 <= self.exits <= self.relays, f"--exits is {self.exits}", f"1 to {self.relays}")
        _check(1 <= self.authorities <= 9, f"--authorities is {self.authorities}", "1 to 9")
        _check(
            1 <= self.workers <= MOST_WORKERS,
            f"--workers is {self.workers}",
            f"1 to {MOST_WORKERS}",
        )
        if self.bandwidth is not None:
            _check(
                LEAST_BANDWIDTH * self.workers <= self.bandwidth <= MOST_BANDWIDTH,
                f"--bandwidth is {self.bandwidth}",
                f"bytes per second, at least {LEAST_BANDWIDTH} for each of {self.workers} workers",
            )
        if self.memory is not None:
            _check(
                self.memory >= LEAST_MEGABYTES * self.workers,
                f"--memory is {self.memory}",
                f"MiB, at least {LEAST_MEGABYTES} for each of {self.workers} workers",
            )
        is_local = is_loopback(self.proxy.ip)
        _check(is_local, f"--proxy is {self.proxy}", "a loopback address: a lab serves nobody else")
        for target in self.allow_targets:
            _check(target.port > 0, f"--allow-target is {target}", "one exact port")
        for name in self.hosts:
            if not _is_full_name(name):
                raise ConfigError(
                    f"--host {name[:64]!r} is no name that an exit would look up: expected two "
                    "labels or more, such as site.example.net"
                )
        if ORIGIN_NAME in self.hosts:
            raise ConfigError(f"--host {ORIGIN_NAME} is the name of the lab's own origin")
        names = self.relay_names
        known = f"{names[0]} to {names[-1]}, as this lab has them, or {EVERY_RELAY}"
        for name in self.impairments:
            _check(name in {*names, EVERY_RELAY}, f"--impair names {name[:64]!r}", known)
        for name, country in self.countries.items():
            _check(name in {*names, EVERY_RELAY}, f"--country names {name[:64]!r}", known)
            is_known = is_country(country) and country != UNKNOWN_COUNTRY
            _check(is_known, f"--country {name}={country[:64]}", "two letters, such as de")

    @property
    def relay_names(self) -> tuple[str, ...]:
        """Return the names of all relays; the last ones are the exits."""
        middles = self.relays - self.exits
        relays = [f"relay{n}" for n in range(1, middles + 1)]
        return (*relays, *(f"exit{n}" for n in range(1, self.exits + 1)))


@dataclass(frozen=True)
class Peer:
    """Hold one process to be: its role (an exit is a relay), its name and where it listens.

    What others dial is ``published`` where there is an impairment on the way to it.
    """

    role: str
    name: str
    address: Address
    impairment: Impairment | None = None
    published: Address | None = None

    @property
    def command(self) -> str:
        """Return the subcommand of ``warren`` that it runs."""
        return "relay" if self.role == "exit" else self.role


class AddressPlan:
    """Own the loopback addresses of a lab, drawn with `rng`."""

    def __init__(self, rng: random.Random) -> None:
        count = (_LAST_NET - _FIRST_NET + 1) * 256
        self._first = rng.randrange(count)
        self._count = count

    def host(self, network: int, number: int) -> str:
        """Return address `number` (1 to 254) of the lab's /24 number `network`."""
        assert 1 <= number <= _HOSTS_PER_NETWORK
        index = (self._first + network) % self._count
        return f"127.{_FIRST_NET + index // 256}.{index % 256}.{number}"


@dataclass(frozen=True)
class LabPlan:
    """Hold everything a lab starts, and the hosts of what it runs itself."""

    peers: tuple[Peer, ...]
    dns_host: str
    origin_host: str


def make_plan(options: LabOptions, rng: random.Random) -> LabPlan:
    """Choose names and addresses; the last relays are the exits, the last peer is the proxy."""
    addresses = AddressPlan(rng)
    # Each in a network of its own, as where they are run by different people (LNK-7).
    authorities = [
        Peer("authority", f"authority{n}", Address(addresses.host(options.relays + n, 1), 0))
        for n in range(1, options.authorities + 1)
    ]
    everywhere = options.impairments.get(EVERY_RELAY)
    relays = [
        Peer(
            name.rstrip("0123456789"),
            name,
            Address(addresses.host(number, 1), 0),
            options.impairments.get(name, everywhere),
        )
        for number, name in enumerate(options.relay_names, start=1)
    ]
    proxy = Peer("proxy", "proxy", options.proxy)
    return LabPlan(
        peers=(*authorities, *relays, proxy),
        dns_host=addresses.host(0, 53),
        origin_host=addresses.host(0, 80),
    )


def write_countries(peers: Sequence[Peer], countries: Mapping[str, str], directory: Path) -> Path:
    """Write the table by which the lab's authorities know the `countries` of relays, by name.

    It is in Tor's text format.
    """
    everywhere = countries.get(EVERY_RELAY)
    lines = ["# first, last, country: the relays of this lab"]
    for peer in peers:
        country = countries.get(peer.name, everywhere)
        if peer.command == "relay" and country is not None:
            assert peer.address.ip is not None
            lines.append(f"{int(peer.address.ip)},{int(peer.address.ip)},{country.upper()}")
    path = directory / "countries"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_config(
    peer: Peer,
    directory: Path,
    resolver: Address,
    targets: tuple[Address, ...],
    workers: int = 1,
    bandwidth: int | None = None,
    countries: Path | None = None,
    memory: int | None = None,
) -> Path:
    """Write the configuration of `peer` below `directory` and return the file.

    A relay has so many `workers` and sends `bandwidth` at most; an authority reads the table
    `countries`. Relays and proxies keep `memory` MiB for others at most.
    """
    exempt = [str(target) for target in targets]
    sections: dict[str, dict[str, object]] = {
        "": {"network": str(directory / "network.toml"), "state": str(directory / peer.name)}
    }
    if peer.role == "proxy":
        sections["proxy"] = {"listen": [str(peer.address)], "allow_targets": exempt}
    elif peer.role == "authority":
        keys = str(directory / "authorities" / peer.name)
        sections["authority"] = {"name": peer.name, "keys": keys}
        if countries is not None:
            sections["authority"]["countries"] = [str(countries)]
    else:
        sections["relay"] = {"listen": str(peer.address), "workers": workers}
        if bandwidth is not None:
            sections["relay"]["bandwidth"] = bandwidth
        if peer.published is not None:
            sections["relay"]["address"] = str(peer.published)
    if memory is not None and peer.role != "authority":
        sections[peer.command]["memory_megabytes"] = memory
    if peer.role == "exit":
        sections["exit"] = {
            "policy": "open",
            "resolvers": [str(resolver)],
            "allow_targets": exempt,
            "drain_seconds": 0,  # whoever ends a lab does not want to wait
        }
    path = directory / f"{peer.name}.toml"
    path.write_text(_render_toml(sections), encoding="utf-8")
    return path


def _render_toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Return TOML; strings and lists of them are written alike in JSON."""
    lines: list[str] = []
    for section, values in sections.items():
        lines += [f"[{section}]"] if section else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _is_full_name(name: str) -> bool:
    try:
        address = Address(name, 0)
    except ValueError:
        return False
    return address.ip is None and "." in name


def _check(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{found}, expected {expected}")
