"""The roles as processes: what the command line has read becomes a running peer.

Each function runs until it is cancelled. It holds its state folder against a second process,
announces where it listens, and answers at its control socket. The roles themselves know no
configuration files, no folders of others and no command line; here they are put together, and
this is where to look for who owns what. What only one role needs is imported by those who are
one: a proxy should answer as soon as it is started, and a relay keeps no proxy in its memory.
"""

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import trio

from warren import __version__
from warren.addresses import Address
from warren.config import (
    Config,
    ExitConfig,
    ListenerConfig,
    RelayConfig,
    Role,
    state_directory,
)
from warren.directory.consensus import Consensus
from warren.directory.descriptor import Descriptor
from warren.directory.network_file import Authority as NetworkAuthority
from warren.directory.network_file import NetworkFile
from warren.errors import ConfigError, LinkError
from warren.identity import Hop, SystemKeys
from warren.key_files import KeyFiles, check_keys_exist
from warren.network.interruptions import Interruption
from warren.network.link import RelayKeys
from warren.network.sockets import SocketListener, listening_socket
from warren.peer import World, running_peer
from warren.roles.archive import Archive
from warren.roles.last_hop import LastHop
from warren.roles.mirror import Directory
from warren.roles.relay import Relay
from warren.service import Announcer, LogStyle
from warren.serving import Serving, answer_directory, relay_keys
from warren.status.control import serve_control
from warren.status.running import known_as_running
from warren.storage import DataFolder
from warren.workers.channel import Assignment, NewConsensus, NewKeys
from warren.workers.foreman import Foreman
from warren.workers.shares import make_assignment

if TYPE_CHECKING:
    from warren.network.dns_port import DnsPort
    from warren.roles.client import Client
    from warren.roles.dns_door import DnsDoor
    from warren.roles.listener_rules import ListenerRules
    from warren.roles.proxy import Proxy
    from warren.roles.publisher import Publisher

Statistics = Callable[[], Awaitable[Mapping[str, Any]]]

_CELLS_PER_MEGABYTE = 256
_DRAIN_LOOK_SECONDS = 0.2


async def run_proxy(
    config: Config, network: NetworkFile, announcer: Announcer, *, is_for_names: bool = False
) -> None:
    """Be a proxy, with the DNS ports that are configured, or these alone if `is_for_names`.

    ``announcer.usable`` once the first circuit is there.
    """
    from warren.network.keys_ahead import KeysAhead
    from warren.roles.client import Client
    from warren.roles.guard_keeper import GuardKeeper
    from warren.roles.proxy import Proxy
    from warren.roles.requests import ProxyLimits

    wanted = config.proxy
    keys = KeysAhead(SystemKeys())
    with holding_state(config, "proxy") as folder:
        async with running_peer(network, folder, world=World(keys=keys)) as peer:
            directory = Directory(peer.archive, peer.fetch, now=time.time, rng=SystemRandom())
            guards = GuardKeeper(folder)
            client = Client(
                peer.links,
                directory,
                guards,
                hops=wanted.hops,
                allow_targets=wanted.allow_targets,
                is_offline=lambda: peer.interruptions.is_down,
            )
            peer.interruptions.on_interruption.append(
                partial(_begin_anew, directory=directory, client=client)
            )
            proxy = Proxy(
                client,
                datagrams=client,
                allow_clients=wanted.allow_clients,
                allow_targets=wanted.allow_targets,
                safe_socks=wanted.safe_socks,
                limits=ProxyLimits(connections=wanted.connections),
            )

            door, ports = _open_dns_door(config, client, proxy)

            async def statistics() -> dict[str, Any]:
                return {
                    "role": "proxy",
                    "proxy": proxy.statistics(),
                    "dns": door.statistics() if door is not None else None,
                    "links": peer.links.statistics(),
                    "directory": directory.statistics(),
                    "guards": guards.statistics(),
                    "interruptions": peer.interruptions.statistics(),
                    **client.statistics(),
                }

            listeners = [
                (SocketListener(_listen(address)), _rules_of(listener))
                for address, listener in (() if is_for_names else wanted.listeners)
            ]
            nursery = peer.turn.nursery
            async with _answering("proxy", folder.path, statistics):
                nursery.start_soon(directory.run)
                nursery.start_soon(client.run)
                nursery.start_soon(keys.run)
                for listener, rules in listeners:
                    nursery.start_soon(proxy.serve, listener, nursery, "", rules)
                for port in ports:
                    nursery.start_soon(port.serve)
                places = [listener.local for listener, _ in listeners]
                announcer.listening(places + [port.local for port in ports])
                await client.is_usable.wait()
                announcer.usable()
                try:
                    await trio.sleep_forever()
                finally:
                    client.close()


def _open_dns_door(
    config: Config, client: "Client", proxy: "Proxy"
) -> tuple["DnsDoor | None", list["DnsPort"]]:
    """Bind the DNS ports that are configured; they serve once they are told to."""
    wanted = config.proxy
    if not wanted.dns_listen:
        return None, []
    from warren.roles.dns_door import DnsDoor

    door = DnsDoor(
        client,
        tell=proxy.leaks.tell,
        allow_clients=wanted.allow_clients,
        allow_targets=wanted.allow_targets,
    )
    return door, [door.listen(address) for address in wanted.dns_listen]


async def run_relay(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be a relay, and an exit where ``config.exit`` says so."""
    from warren.roles.publisher import Publisher

    wanted = config.relay
    assert wanted is not None
    with holding_state(config, "relay") as folder:
        files = KeyFiles(folder, SystemKeys())
        keys = relay_keys(files, files)
        listening = _listen(wanted.listen)
        listener = SocketListener(listening)
        address = wanted.address or listener.local
        cells = (wanted.memory_megabytes or _default_megabytes()) * _CELLS_PER_MEGABYTE
        own_cells = cells if wanted.workers == 1 else 0  # workers have them, and fetching needs few
        async with running_peer(network, folder, keys=keys, cells=own_cells) as peer:
            directory = Directory(
                peer.archive,
                peer.fetch,
                now=time.time,
                rng=SystemRandom(),
                own_id=keys.identity.peer_id,
                is_mirror=True,
            )
            peer.interruptions.on_interruption.append(partial(_begin_anew, directory=directory))
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
                serving = Serving(peer, config.exit, wanted.limits, address, listener)
            else:
                assign = partial(make_assignment, config, network, address, cells, keys)
                serving = _make_foreman(config, listening, assign, peer.archive, publisher)

            async def statistics() -> dict[str, Any]:
                return {
                    "role": "exit" if config.exit.exit_policy.is_exit else "relay",
                    "id": str(keys.identity.peer_id),
                    "address": str(address),
                    "directory": directory.statistics(),
                    "publisher": publisher.statistics(),
                    **await serving.statistics(),
                }

            nursery = peer.turn.nursery
            async with _answering("relay", folder.path, statistics):
                nursery.start_soon(serving.run)
                nursery.start_soon(directory.run)
                nursery.start_soon(publisher.run)
                announcer.listening([listener.local], keys.identity.peer_id)
                announcer.before_end = partial(_drain, serving, config.exit.drain_seconds)
                await serving.wait_until_usable()
                announcer.usable()
                await trio.sleep_forever()


async def run_authority(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be the authority ``config.authority.name`` of `network`."""
    from warren.country_files import load_countries
    from warren.roles.authority import BODY_LIMITS, Authority

    wanted = config.authority
    assert wanted is not None
    entry = next((each for each in network.authorities if each.name == wanted.name), None)
    if entry is None:
        names = ", ".join(each.name for each in network.authorities)
        raise ConfigError(
            f"the network {network.name} has no authority {wanted.name!r}: expected one of {names}"
        )
    check_keys_exist(wanted.keys or state_directory(config, "authority"))
    countries = load_countries(wanted.countries)
    with holding_state(config, "authority") as folder:
        long_lived = KeyFiles(DataFolder(wanted.keys), SystemKeys()) if wanted.keys else None
        files = KeyFiles(folder, SystemKeys())
        keys = relay_keys(long_lived or files, files, is_known=True)
        _check_keys_of(entry, keys)
        listener = SocketListener(_listen(wanted.listen or entry.hop.address))
        async with running_peer(network, folder, keys=keys) as peer:

            async def check(hop: Hop) -> bool:
                await peer.links.probe(hop)
                return True

            authority = Authority(
                keys.identity,
                peer.archive,
                folder,
                peer.fetch,
                check,
                now=time.time,
                country_of=countries.find,
            )
            answer = answer_directory(authority.handle, BODY_LIMITS, authority.large_bodies)
            peer.answer_with(
                Relay(peer.turn, peer.settings, LastHop(answer), find_hops=lambda _: ())
            )

            async def statistics() -> dict[str, Any]:
                return {
                    "role": "authority",
                    "name": wanted.name,
                    "id": str(keys.identity.peer_id),
                    "address": str(listener.local),
                    "links": peer.links.statistics(),
                    **authority.statistics(),
                }

            async with _answering("authority", folder.path, statistics):
                await peer.turn.nursery.start(authority.run)
                peer.turn.nursery.start_soon(peer.links.serve, listener)
                announcer.listening([listener.local], keys.identity.peer_id)
                await peer.archive.wait_for_consensus()
                announcer.usable()
                await trio.sleep_forever()


def _check_keys_of(authority: NetworkAuthority, keys: RelayKeys) -> None:
    """Raise ConfigError unless these are the keys that the network file names."""
    for what, found, expected in (
        ("peer id", keys.identity.peer_id, authority.hop.peer_id),
        ("link key", keys.link_keys[0].public, authority.hop.link_key),
    ):
        if found != expected:
            raise ConfigError(
                f"the {what} of {authority.name} is not the one in the network file: say in keys "
                "where the keys are that warren network create made"
            )


def _begin_anew(
    what: Interruption, *, directory: Directory, client: "Client | None" = None
) -> None:
    """Let nothing go on waiting for what an interruption has made worthless."""
    directory.look_again()
    if client is not None and what.breaks_links:
        client.interrupted()


def _rules_of(listener: ListenerConfig) -> "ListenerRules":
    from warren.protocol.front import Login
    from warren.roles.listener_rules import ListenerRules

    login = None
    if listener.user is not None and listener.password is not None:
        login = Login.of(listener.user, listener.password)
    return ListenerRules(login, listener.choice, listener.isolate, listener.safe_socks)


# ---- the parts of a relay


def _default_megabytes() -> int:
    """Return a quarter of the memory, 1 GiB at most (DOS-5)."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(total // 4, 1 << 30)) >> 20


async def _drain(serving: Serving | Foreman, seconds: float) -> None:
    """Open nothing more, and wait until what is open at this exit has ended; `seconds` at most.

    A relay that is no exit has nothing to wait for: streams go on over other ones.
    """
    serving.take_no_more()
    end = trio.current_time() + seconds
    while trio.current_time() < end and await _open_streams(serving):  # noqa: ASYNC110  workers are asked
        await trio.sleep(min(_DRAIN_LOOK_SECONDS, end - trio.current_time()))


async def _open_streams(serving: Serving | Foreman) -> int:
    """Return how many streams are open at this exit, none where it is no exit."""
    counts = (await serving.statistics())["exit"]
    return int(counts["open"]) if counts else 0


def _make_foreman(
    config: Config,
    listening: socket.socket,
    assign: Callable[[bytes | None], Assignment],
    archive: Archive,
    publisher: "Publisher",
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
    return Descriptor(
        peer_id=keys.identity.peer_id,
        address=address,
        link_key=keys.link_keys[0].public,
        onion_key=keys.onion_keys[0].public,
        suites=keys.suites,
        bandwidth=wanted.bandwidth,
        published=now,
        counter=count,
        policy=exits.exit_policy.rules,
        udp_policy=exits.exit_udp_policy.rules,
        family=wanted.family,
        contact=wanted.contact,
        version=f"warren {__version__}",
    )


# ---- the process


def _listen(address: Address) -> socket.socket:
    try:
        return listening_socket(address)
    except LinkError as error:
        raise ConfigError(f"{error}: choose another address or port") from error


@contextlib.asynccontextmanager
async def _answering(role: Role, path: Path, statistics: Statistics) -> AsyncIterator[None]:
    """Answer at the control socket in the state folder `path` while inside, and be found by it."""

    async def all_statistics() -> dict[str, Any]:
        return {"pid": os.getpid(), "version": __version__, **await statistics()}

    async with serve_control(path, all_statistics):
        with known_as_running(role, path):
            yield


@contextlib.contextmanager
def holding_state(config: Config, role: Role) -> Iterator[DataFolder]:
    """Give the state folder of `role`, to this process alone, while inside.

    Raises ConfigError when another process has it.
    """
    folder = DataFolder(state_directory(config, role))
    with folder.held():
        yield folder
