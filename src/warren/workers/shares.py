"""Divide among workers what is the whole relay's, and add up what they count."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from warren.addresses import Address
from warren.config.file import Config
from warren.config.relay import RelayLimits
from warren.directory.network_file import NetworkFile, render_network_file
from warren.network.link import RelayKeys
from warren.workers.channel import Assignment, NewKeys


def make_assignment(
    config: Config,
    network: NetworkFile,
    address: Address,
    memory: int,
    keys: RelayKeys,
    consensus: bytes | None,
) -> Assignment:
    """Return what each worker of the relay begins with.

    The relay may keep `memory` bytes for others; `consensus` is the newest there is.
    """
    wanted = config.relay
    assert wanted is not None
    return Assignment(
        network=render_network_file(network),
        address=str(address),
        memory=divide(memory, wanted.workers),
        bandwidth=wanted.bandwidth and divide(wanted.bandwidth, wanted.workers),
        limits=divide_limits(wanted.limits, wanted.workers),
        policy=config.exit.policy,
        udp_policy=config.exit.udp_policy,
        resolvers=tuple(map(str, config.exit.resolvers)),
        allow_targets=tuple(map(str, config.exit.allow_targets)),
        seed=keys.identity.seed,
        suites=tuple(map(int, keys.suites)),
        keys=NewKeys.of(keys),
        consensus=consensus,
    )


def divide(whole: int, workers: int) -> int:
    """Return the part of each of so many workers: at least 1."""
    return max(1, whole // workers)


def divide_limits(limits: RelayLimits, workers: int) -> RelayLimits:
    """Return the limits of each of so many workers.

    What is for the whole relay is divided; a circuit has one worker, so what is for one circuit
    stays, except where it would be more than its worker has.
    """
    pending = divide(limits.pending_connects, workers)
    lookups = divide(limits.lookups, workers)
    associations = divide(limits.associations, workers)
    circuits = divide(limits.circuits, workers)
    return msgspec.structs.replace(
        limits,
        circuits=circuits,
        circuits_per_address=min(limits.circuits_per_address, circuits),
        pending_connects=pending,
        pending_connects_per_circuit=min(limits.pending_connects_per_circuit, pending),
        lookups=lookups,
        lookups_per_circuit=min(limits.lookups_per_circuit, lookups),
        streams_per_address=divide(limits.streams_per_address, workers),
        associations=associations,
        associations_per_circuit=min(limits.associations_per_circuit, associations),
    )


def add_up(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add counters with equal names, whatever they are nested in; None counts as not there."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            before = total.get(name)
            if isinstance(value, Mapping):
                total[name] = add_up([before or {}, value])
            elif value is None or before is None:
                total[name] = before if value is None else value
            else:
                total[name] = before + value
    return total
