"""A relay as a process, with workers where they are configured, and an exit."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import SystemRandom
from typing import Any

import structlog
import trio

from warren.addresses import Address
from warren.config.file import Config
from warren.config.relay import ExitConfig, RelayConfig, draft_descriptor
from warren.config.values import LEAST_MEGABYTES
from warren.directory.address_tables import denied_reason
from warren.directory.consensus import Consensus
from warren.directory.descriptor import Descriptor
from warren.directory.network_file import NetworkFile
from warren.errors import ConfigError
from warren.identity import SystemKeys
from warren.key_files import KeyFiles
from warren.network.link import RelayKeys
from warren.network.listening import SocketListener
from warren.network.quota import MEBIBYTE
from warren.network.throttle import Throttle, throttled_network
from warren.node.process import answering, holding_state, listen, quota_of
from warren.peer import World, running_peer
from warren.roles.archive import Archive
from warren.roles.listing_watch import ListingWatch
from warren.roles.mirror import Directory
from warren.roles.publisher import Publisher
from warren.service import Announcer, LogStyle
from warren.serving import Serving, relay_keys
from warren.workers.channel import Assignment, NewConsensus, NewKeys
from warren.workers.foreman import Foreman
from warren.workers.shares import make_assignment

logger = structlog.get_logger()

_DRAIN_LOOK_SECONDS = 0.2


async def run_relay(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be a relay, and an exit where ``config.exit`` says so."""
    wanted = config.relay
    assert wanted is not None
    _check_address(wanted.address or wanted.listen, network)
    _warn_of_idle_rules(config.exit)
    with holding_state(config, "relay") as folder:
        files = KeyFiles(folder, SystemKeys())
        keys = relay_keys(files, files)
        listening = listen(wanted.listen)
        throttle = Throttle(wanted.bandwidth) if wanted.bandwidth is not None else None
        sockets = throttled_network(throttle)
        listener = SocketListener(listening, sockets.make)
        address = wanted.address or listener.local
        memory = quota_of(wanted.memory_megabytes, "relay")
        # Workers have all of it, and what the main process fetches needs little.
        own = memory if wanted.workers == 1 else LEAST_MEGABYTES * MEBIBYTE
        world = World(network=sockets)
        async with running_peer(network, folder, keys=keys, memory=own, world=world) as peer:
            directory = Directory(
                peer.archive,
                peer.fetch,
                now=time.time,
                rng=SystemRandom(),
                own={keys.identity.peer_id},
                is_mirror=True,
                clock_error=peer.clock_error,
            )
            peer.interruptions.on_interruption.append(lambda _: directory.look_again())
            publisher = Publisher(
                keys,
                files,
                peer.archive,
                peer.fetch,
                partial(_describe, wanted, config.exit, address),
                now=time.time,
                rng=SystemRandom(),
            )
            serving: Serving | Foreman
            if wanted.workers == 1:
                serving = Serving(
                    peer, config.exit, wanted.limits, address, listener, throttle=throttle
                )
            else:
                assign = partial(make_assignment, config, network, address, memory, keys)
                serving = _make_foreman(config, listening, assign, peer.archive, publisher)

            async def count_links() -> int:
                links = (await serving.statistics()).get("links") or {}  # no worker has begun yet
                return int(links.get("accepted", 0))

            watch = ListingWatch(
                peer.archive,
                keys.identity.peer_id,
                address,
                publisher,
                count_links,
                directory.tell_clock_trouble,
            )

            async def statistics() -> dict[str, Any]:
                return {
                    "role": "exit" if config.exit.exit_policy.is_exit else "relay",
                    "network": network.name,
                    "id": str(keys.identity.peer_id),
                    "address": str(address),
                    "directory": directory.statistics(),
                    "publisher": publisher.statistics(),
                    "listing": watch.statistics(),
                    **await serving.statistics(),
                }

            nursery = peer.turn.nursery
            async with answering("relay", folder.path, statistics):
                nursery.start_soon(serving.run)
                nursery.start_soon(directory.run)
                nursery.start_soon(publisher.run)
                nursery.start_soon(watch.run)
                announcer.listening([listener.local], keys.identity.peer_id)
                announcer.before_end = partial(_drain, serving, config.exit.drain_seconds)
                await serving.wait_until_usable()
                announcer.usable()
                await trio.sleep_forever()


def _check_address(address: Address, network: NetworkFile) -> None:
    """Raise ConfigError where no authority would list a relay: nobody outside can come there."""
    assert address.ip is not None
    reason = None if network.testing else denied_reason(address.ip)
    if reason is not None:
        raise ConfigError(
            f"relay: others cannot reach this relay at {address}, which is {reason}: say in "
            "address the public address and port, and let a router pass that port on to this "
            "machine"
        )


def _warn_of_idle_rules(exits: ExitConfig) -> None:
    """Name the rules that were written for nothing (conventions D9)."""
    for policy in (exits.exit_policy, exits.exit_udp_policy):
        for rule in policy.warnings:
            logger.warning(
                "a rule of the exit policy matches nothing: accept6 and reject6 are for IPv6 only",
                rule=rule,
            )


async def _drain(serving: Serving | Foreman, seconds: float) -> None:
    """Open nothing more, and wait until what is open at this exit has ended; `seconds` at most.

    A relay that is no exit has nothing to wait for: streams go on over other ones.
    """
    serving.take_no_more()
    end = trio.current_time() + seconds
    while trio.current_time() < end and await _is_in_use(serving):  # noqa: ASYNC110  workers are asked
        await trio.sleep(min(_DRAIN_LOOK_SECONDS, end - trio.current_time()))


async def _is_in_use(serving: Serving | Foreman) -> bool:
    """Tell whether streams or associations are open at this exit, if it is one."""
    told = await serving.statistics()
    counts = [told.get(what) or {} for what in ("exit", "udp")]  # no worker may have begun yet
    return any(int(each.get("open", 0)) for each in counts)


def _make_foreman(
    config: Config,
    listening: socket.socket,
    assign: Callable[[bytes | None], Assignment],
    archive: Archive,
    publisher: Publisher,
) -> Foreman:
    """Return what runs the workers, and let them know of every new key and consensus."""
    assert config.relay is not None
    foreman = Foreman(
        listening,
        config.relay.workers,
        lambda: assign(archive.document),
        style=LogStyle(config.log.level, config.log.json),
        rng=SystemRandom(),
    )

    def tell_consensus(_: Consensus) -> None:
        assert archive.document is not None
        foreman.tell(NewConsensus(archive.document))

    archive.on_change.append(tell_consensus)
    publisher.on_new_keys.append(lambda keys: foreman.tell(NewKeys.of(keys)))
    return foreman


def _describe(
    wanted: RelayConfig, exits: ExitConfig, address: Address, keys: RelayKeys, now: int, count: int
) -> Descriptor:
    return replace(
        draft_descriptor(wanted, exits),
        peer_id=keys.identity.peer_id,
        address=address,
        link_key=keys.link_keys[0].public,
        onion_key=keys.onion_keys[0].public,
        suites=keys.suites,
        published=now,
        counter=count,
    )
