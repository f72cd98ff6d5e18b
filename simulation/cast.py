"""Who is in a simulation, and where: machines on the wire, the network they found, its nodes.

Homes have slow uplinks, and so have some relays; every third relay is a neighbour of the one
before it, and some are families, so that there are paths that must not be taken.
"""

from collections.abc import Mapping

from simulation.chance import dice, seeded_identity
from simulation.nodes import (
    LINK_PORT,
    SUITES,
    AuthorityNode,
    ClientNode,
    Node,
    RelayNode,
    make_authority_keys,
)
from simulation.scenario import Scenario
from simulation.targets import target_names
from simulation.wire import Wire
from warren.addresses import Address
from warren.directory.network_file import Authority as AuthorityEntry
from warren.directory.network_file import NetworkFile, create_network
from warren.directory.parameters import Parameters
from warren.identity import Hop, PeerId

_TARGETS = 4


def place_hosts(scenario: Scenario, wire: Wire) -> dict[str, str]:
    """Put every machine on the wire; return their addresses by name, authorities first.

    Every third relay is a neighbour of the one before it, in one /16.
    """
    names = {f"authority{n}": f"50.{n}.0.1" for n in range(1, scenario.authorities + 1)}
    for number in range(1, scenario.relays + 1):
        place = number - 1 if number % 3 == 0 else number
        names[f"relay{number}"] = f"{20 + place // 250}.{place % 250}.0.{number % 250 + 1}"
    for number in range(1, scenario.clients + 1):
        names[f"client{number}"] = f"{60 + number // 250}.{number % 250}.0.1"
    names |= {f"target{n}": f"93.184.{n}.1" for n in range(1, _TARGETS + 1)}
    rng = dice(scenario.seed, "places")
    for name, address in names.items():
        is_home = name.startswith("client") or rng.random() < 0.3
        rate = rng.uniform(0.25e6, 2.5e6) if is_home else rng.uniform(2.5e6, 25e6)
        wire.add(address, latency=rng.uniform(0.005, 0.12), rate=rate)
    return names


def make_nodes(scenario: Scenario, names: Mapping[str, str], wire: Wire) -> list[Node]:
    """Return all nodes of `scenario`, none of which runs yet."""
    seed = scenario.seed
    authorities = [name for name in names if name.startswith("authority")]
    relays = [name for name in names if name.startswith("relay")]
    keys = {name: make_authority_keys(seed, name) for name in authorities}
    entries = [
        AuthorityEntry(
            name,
            Hop(
                keys[name].identity.peer_id,
                Address(names[name], LINK_PORT),
                keys[name].link_keys[0].public,
                None,
                SUITES,
            ),
        )
        for name in authorities
    ]
    file = _found(scenario, entries)
    targets = target_names([names[name] for name in names if name.startswith("target")])
    nodes: list[Node] = [
        AuthorityNode(name, seed, wire.network_of(names[name]), file, keys[name])
        for name in authorities
    ]
    for number, name in enumerate(relays, start=1):
        nodes.append(
            RelayNode(
                name,
                seed,
                wire.network_of(names[name]),
                file,
                is_exit=is_exit(number),
                family=family_of(seed, number, len(relays)),
                names=targets,
            )
        )
    nodes += [
        ClientNode(name, seed, wire.network_of(names[name]), file)
        for name in names
        if name.startswith("client")
    ]
    return nodes


def _found(scenario: Scenario, authorities: list[AuthorityEntry]) -> NetworkFile:
    return create_network(
        "simulated",
        dice(scenario.seed, "founding").randbytes(32),
        authorities,
        testing=True,
        parameters=Parameters(
            consensus_interval_seconds=scenario.interval,
            initial_interval_seconds=10,
            voting_seconds=min(300, scenario.interval // 2),
            founding_relays=scenario.relays,
            descriptor_upload_seconds=10,
            descriptor_interval_seconds=max(600, scenario.interval),
        ),
    )


def is_exit(number: int) -> bool:
    """Tell whether relay `number` is an exit: every third is."""
    return number % 3 == 1


def family_of(seed: int, number: int, relays: int) -> tuple[PeerId, ...]:
    """Return the family of relay `number`: relays 5, 6 and 7, 12, 13 and 14, and so on are one."""
    if number % 7 not in (5, 6, 0):
        return ()
    last = -(-number // 7) * 7
    members = (n for n in range(last - 2, last + 1) if n != number and n <= relays)
    return tuple(seeded_identity(seed, f"relay{n}").peer_id for n in members)
