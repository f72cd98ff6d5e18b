"""Imagined networks: relays and consensuses without keys that work, for tests that choose.

Relay number 7 has a peer id made of 7, and an address in a /16 of its own.
"""

import ipaddress
import random
from collections.abc import Iterable

from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag, RelayEntry
from warren.identity import Hop, PeerId, Suite

NOON = 1_700_000_000
WEB = ("accept *:80,443", "reject *:*")


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def relay(
    number: int,
    *flags: Flag,
    host: str | None = None,
    weight: int = 100,
    country: str = "??",
    family: Iterable[int] = (),
    policy: tuple[str, ...] | None = None,
    udp_policy: tuple[str, ...] = (),
    gateways: Iterable[int] = (),
    is_running: bool = True,
) -> RelayEntry:
    """Make a relay; one with the exit flag opens the web's ports unless `policy` is given."""
    address = Address(host or f"{20 + number // 250}.{number % 250}.0.1", 9000)
    if policy is None:
        policy = WEB if Flag.EXIT in flags else ()
    return RelayEntry(
        Hop(peer(number), address, bytes(32), bytes(32), (Suite.AESGCM,)),
        frozenset(flags) | ({Flag.RUNNING} if is_running else frozenset()),
        weight,
        country,
        tuple(map(peer, family)),
        policy,
        tuple(map(peer, gateways)),
        udp_policy,
    )


def consensus(relays: Iterable[RelayEntry], **parameters: int) -> Consensus:
    return Consensus(
        valid_after=NOON,
        fresh_until=NOON + 3600,
        valid_until=NOON + 3 * 3600,
        relays=tuple(relays),
        parameters=Parameters(**parameters),
        digest=bytes(32),
    )


def random_consensus(rng: random.Random, count: int) -> Consensus:
    """Make a crowded network: few subnets, families, volunteers behind gateways, any flags."""
    relays = []
    for number in range(1, count + 1):
        flags = {flag for flag in (Flag.GUARD, Flag.EXIT, Flag.STABLE) if rng.random() < 0.5}
        family = {rng.randint(1, count) for _ in range(rng.choice((0, 0, 2, 6)))} - {number}
        gateways = {rng.randint(1, count) for _ in range(rng.choice((0, 0, 0, 2)))} - {number}
        four = f"{rng.randint(20, 24)}.{rng.randint(0, 3)}.{number // 250}.{number % 250}"
        six = f"2a00:{rng.randint(1, 9):x}::{number:x}"
        relays.append(
            relay(
                number,
                *flags,
                host=rng.choice((four, four, six)),
                weight=rng.choice((0, 1, 20, 1000)),
                country=rng.choice(("de", "fr")),
                family=family,
                policy=rng.choice((WEB, ("accept *:22",), ("reject *4:80", "accept *:*"), ()))
                if Flag.EXIT in flags
                else (),
                gateways=gateways,
                is_running=rng.random() < 0.9,
            )
        )
    return consensus(relays)


def random_rule(rng: random.Random) -> str:
    """Make a rule of an exit policy about few addresses and few ports, so that rules overlap."""
    four = ipaddress.ip_network((rng.getrandbits(32), rng.randint(0, 4)), strict=False)
    six = ipaddress.ip_network((rng.getrandbits(128), rng.randint(1, 4)), strict=False)
    host = rng.choice(["*", "*", "*4", "*6", str(four), f"[{six.network_address}]/{six.prefixlen}"])
    low = rng.randint(1, 40)
    ports = rng.choice(["*", f"{low}", f"{low}-{low + rng.randint(0, 9)}", f"{low},{low + 2}"])
    return f"{rng.choice(['accept', 'reject', 'accept6', 'reject6'])} {host}:{ports}"
