"""The roles as processes: what the command line has read becomes a running peer.

Each function runs until it is cancelled. It holds its state folder against a second process,
announces where it listens, and answers at its control socket. The roles themselves know no
configuration files, no folders of others and no command line; here they are put together, and
this is where to look for who owns what. What only a relay or an authority needs is imported by
it, because a proxy should answer as soon as it is started.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
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
    RelayConfig,
    RelayLimits,
    Role,
    state_directory,
)
from warren.directory.descriptor import Descriptor
from warren.directory.network_file import NetworkFile
from warren.errors import ConfigError, LinkError
from warren.identity import Hop, PeerId, Suite, SystemKeys
from warren.key_files import KeyFiles
from warren.network.byte_streams import Listener, SocketNetwork
from warren.network.directory_http import Handler, serve
from warren.network.fetch import fetch
from warren.network.link import LinkSettings, RelayKeys
from warren.network.links import Links
from warren.network.turn import Turn
from warren.protocol.ciphers import make_aead, nonce_maker
from warren.protocol.credit import CreditBudget
from warren.roles.archive import Archive
from warren.roles.client import Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.mirror import Directory, Mirror
from warren.roles.proxy import Proxy, ProxyLimits
from warren.roles.relay import Relay, ServeDirectory, refuse_streams
from warren.service import Announcer
from warren.status.control import serve_control
from warren.storage import DataFolder

if TYPE_CHECKING:
    from warren.roles.exit import Exit

Statistics = Callable[[], Mapping[str, Any]]

#: Cells that all windows of a node may grow by, 4 KiB each: 1 GiB for clients.
_CLIENT_CELLS = 256 * 1024
_CELLS_PER_MEGABYTE = 256


@dataclass
class _Peer:
    """Hold what every role stands on: a turn, links, and the consensus."""

    turn: Turn
    network: SocketNetwork
    settings: LinkSettings
    links: Links
    archive: Archive

    def answer_with(self, relay: Relay) -> None:
        """Let `relay` answer those who ask for circuits."""
        relay.links = self.links
        self.links.answer_with(relay.create)

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        """Ask the directory of a peer."""
        return await fetch(self.links, hop, method, path, body, limit=limit)


@contextlib.asynccontextmanager
async def _peer(
    folder: DataFolder,
    network: NetworkFile,
    *,
    keys: RelayKeys | None = None,
    cells: int = _CLIENT_CELLS,
) -> AsyncIterator[_Peer]:
    """Give a peer that runs while inside; with `keys` others can dial it."""
    archive = Archive(network, folder, time.time)

    def newest() -> tuple[int, bytes]:
        held = archive.newest
        return (held.valid_after, held.digest) if held is not None else (0, bytes(32))

    settings = LinkSettings(
        network.network_id,
        relay=keys,
        window=network.parameters.circuit_window,
        budget=CreditBudget(cells),
        consensus=newest,
        notice=archive.notice,
    )
    sockets = SocketNetwork()
    async with trio.open_nursery() as nursery:
        turn = Turn(nursery)
        links = Links(sockets, settings, turn)
        nursery.start_soon(links.watch)
        try:
            yield _Peer(turn, sockets, settings, links, archive)
        finally:
            links.close()
            nursery.cancel_scope.cancel()


async def run_proxy(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be a proxy; ``announcer.usable`` once the first circuit is there."""
    wanted = config.proxy
    with holding_state(config, "proxy") as folder:
        async with _peer(folder, network) as peer:
            directory = Directory(peer.archive, peer.fetch, now=time.time, rng=SystemRandom())
            guards = GuardKeeper(folder)
            client = Client(
                peer.links,
                directory,
                guards,
                hops=wanted.hops,
                allow_targets=wanted.allow_targets,
            )
            proxy = Proxy(
                client,
                allow_clients=wanted.allow_clients,
                allow_targets=wanted.allow_targets,
                limits=ProxyLimits(connections=wanted.connections),
            )

            def statistics() -> dict[str, Any]:
                return {
                    "role": "proxy",
                    "proxy": proxy.statistics(),
                    "links": peer.links.statistics(),
                    "directory": directory.statistics(),
                    "guards": guards.statistics(),
                    **client.statistics(),
                }

            listeners = [_listen(peer.network, address) for address in wanted.listen]
            nursery = peer.turn.nursery
            async with _answering(folder.path, statistics):
                nursery.start_soon(directory.run)
                nursery.start_soon(client.run)
                for listener in listeners:
                    nursery.start_soon(proxy.serve, listener, nursery)
                announcer.listening([listener.local for listener in listeners])
                await client.is_usable.wait()
                announcer.usable()
                try:
                    await trio.sleep_forever()
                finally:
                    client.close()


async def run_relay(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be a relay, and an exit where ``config.exit`` says so."""
    from warren.roles.publisher import Publisher

    wanted = config.relay
    assert wanted is not None
    with holding_state(config, "relay") as folder:
        files = KeyFiles(folder, SystemKeys())
        keys = _relay_keys(files, files)
        sockets = SocketNetwork()
        listener = _listen(sockets, wanted.listen)
        address = wanted.address or listener.local
        cells = (wanted.memory_megabytes or _default_megabytes()) * _CELLS_PER_MEGABYTE
        async with _peer(folder, network, keys=keys, cells=cells) as peer:
            leaving = _make_exit(config.exit, wanted.limits, address, peer.archive)
            relay = Relay(
                peer.turn,
                peer.settings,
                find_hops=partial(_find_hops, peer.archive),
                serve_directory=_directory(Mirror(peer.archive).handle),
                serve_exit=leaving.serve if leaving is not None else refuse_streams,
            )
            peer.answer_with(relay)
            directory = Directory(
                peer.archive,
                peer.fetch,
                now=time.time,
                rng=SystemRandom(),
                own_id=keys.identity.peer_id,
                is_mirror=True,
            )
            publisher = Publisher(
                keys,
                files,
                peer.archive,
                peer.fetch,
                partial(_describe, wanted, config.exit, address),
                now=time.time,
                rng=SystemRandom(),
            )

            def statistics() -> dict[str, Any]:
                return {
                    "role": "exit" if config.exit.exit_policy.is_exit else "relay",
                    "id": str(keys.identity.peer_id),
                    "address": str(address),
                    "links": peer.links.statistics(),
                    "directory": directory.statistics(),
                    "publisher": publisher.statistics(),
                    "exit": leaving.statistics() if leaving is not None else None,
                    **relay.statistics(),
                }

            nursery = peer.turn.nursery
            async with _answering(folder.path, statistics):
                nursery.start_soon(peer.links.serve, listener)
                nursery.start_soon(directory.run)
                nursery.start_soon(publisher.run)
                if leaving is not None:
                    nursery.start_soon(leaving.watch)
                announcer.listening([listener.local], keys.identity.peer_id)
                await directory.wait_for_consensus()
                announcer.usable()
                await trio.sleep_forever()


async def run_authority(config: Config, network: NetworkFile, announcer: Announcer) -> None:
    """Be the authority ``config.authority.name`` of `network`."""
    from warren.roles.authority import BODY_LIMITS, Authority

    wanted = config.authority
    assert wanted is not None
    entry = next((each for each in network.authorities if each.name == wanted.name), None)
    if entry is None:
        names = ", ".join(each.name for each in network.authorities)
        raise ConfigError(
            f"the network {network.name} has no authority {wanted.name!r}: expected one of {names}"
        )
    with holding_state(config, "authority") as folder:
        long_lived = KeyFiles(DataFolder(wanted.keys), SystemKeys()) if wanted.keys else None
        files = KeyFiles(folder, SystemKeys())
        keys = _relay_keys(long_lived or files, files)
        if keys.link_keys[0].public != entry.hop.link_key:
            raise ConfigError(
                f"the link key of {wanted.name} is not the one in the network file: say in keys "
                "where the keys are that warren network create made"
            )
        sockets = SocketNetwork()
        listener = _listen(sockets, wanted.listen or entry.hop.address)
        async with _peer(folder, network, keys=keys) as peer:

            async def check(hop: Hop) -> bool:
                await peer.links.probe(hop)
                return True

            authority = Authority(
                keys.identity, peer.archive, folder, peer.fetch, check, now=time.time
            )
            answer = _directory(authority.handle, BODY_LIMITS, authority.large_bodies)
            peer.answer_with(
                Relay(peer.turn, peer.settings, find_hops=lambda _: (), serve_directory=answer)
            )

            def statistics() -> dict[str, Any]:
                return {
                    "role": "authority",
                    "name": wanted.name,
                    "id": str(keys.identity.peer_id),
                    "address": str(listener.local),
                    "links": peer.links.statistics(),
                    **authority.statistics(),
                }

            async with _answering(folder.path, statistics):
                await peer.turn.nursery.start(authority.run)
                peer.turn.nursery.start_soon(peer.links.serve, listener)
                announcer.listening([listener.local], keys.identity.peer_id)
                await peer.archive.wait_for_consensus()
                announcer.usable()
                await trio.sleep_forever()


# ---- the parts of a relay


def _relay_keys(identity: KeyFiles, onion: KeyFiles) -> RelayKeys:
    """Load the keys of a relay, or of an authority whose onion key is elsewhere."""
    now = time.time()
    return RelayKeys(
        identity.identity(),
        list(identity.load("link", now).pairs),
        list(onion.load("onion", now).pairs),
        _preferred_suites(),
    )


def _preferred_suites() -> tuple[Suite, ...]:
    """Return both suites, the one that this processor does faster first."""
    data, out = bytes(4096), bytearray(4112)
    taken = {}
    for suite in Suite:
        aead, nonce = make_aead(suite, bytes(32)), nonce_maker(suite)
        best = float("inf")
        for count in range(16):
            start = time.perf_counter()
            aead.encrypt_into(nonce(count), data, None, out)
            best = min(best, time.perf_counter() - start)
        taken[suite] = best
    return tuple(sorted(Suite, key=taken.__getitem__))


def _default_megabytes() -> int:
    """Return a quarter of the memory, 1 GiB at most (DOS-5)."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(total // 4, 1 << 30)) >> 20


def _find_hops(archive: Archive, peer_id: PeerId) -> Iterator[Hop]:
    """Yield where usable consensuses say `peer_id` is, newest first (LNK-4)."""
    seen = set()
    for consensus in archive.usable:
        entry = consensus.get(peer_id)
        if entry is not None and entry.hop.address not in seen:
            seen.add(entry.hop.address)
            yield entry.hop


def _directory(
    handler: Handler,
    body_limits: Mapping[str, int] | None = None,
    large_bodies: trio.CapacityLimiter | None = None,
) -> ServeDirectory:
    async def answer(stream: Any) -> None:
        await serve(stream, handler, body_limits=body_limits, large_bodies=large_bodies)

    return answer


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
        family=wanted.family,
        contact=wanted.contact,
        version=f"warren {__version__}",
    )


def _make_exit(
    wanted: ExitConfig,
    bounds: RelayLimits,
    address: Address,
    archive: Archive,
) -> "Exit | None":
    """Return what opens targets, or None for a relay that is no exit."""
    policy = wanted.exit_policy
    if not policy.is_exit:
        return None
    from warren.network.names import Resolver, system_servers
    from warren.network.own_addresses import OwnAddresses
    from warren.roles.exit import Exit, ExitLimits

    own = OwnAddresses()
    if address.ip is not None:
        own.add(address.ip)
    places = _Places(archive)
    return Exit(
        SocketNetwork(),
        policy,
        Resolver(
            wanted.resolvers or system_servers(),
            most_lookups=bounds.lookups,
            most_lookups_each=bounds.lookups_per_circuit,
        ),
        own,
        is_relay=lambda peer_id: any(c.get(peer_id) is not None for c in archive.usable),
        network_places=places,
        allow_targets=wanted.allow_targets,
        limits=ExitLimits(
            streams_per_circuit=bounds.streams_per_circuit,
            begins_per_second=bounds.begins_per_second,
            begin_burst=bounds.begin_burst,
            pending_connects=bounds.pending_connects,
            pending_connects_per_circuit=bounds.pending_connects_per_circuit,
            streams_per_address=bounds.streams_per_address,
            connect_seconds=bounds.connect_seconds,
            idle_seconds=bounds.idle_seconds,
        ),
    )


class _Places:
    """Give the addresses of all relays and authorities, read once per consensus (EXT-9)."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._consensuses: tuple[Any, ...] | None = None
        self._places: frozenset[Address] = frozenset()

    def __call__(self) -> Collection[Address]:
        """Return the addresses as of now."""
        usable = self._archive.usable
        if usable != self._consensuses or self._consensuses is None:
            self._consensuses = usable
            relays = (entry.hop for consensus in usable for entry in consensus.relays)
            authorities = (each.hop for each in self._archive.network.authorities)
            self._places = frozenset(hop.address for hop in (*relays, *authorities))
        return self._places


# ---- the process


def _listen(sockets: SocketNetwork, address: Address) -> Listener:
    try:
        return sockets.listen(address)
    except LinkError as error:
        raise ConfigError(f"{error}: choose another address or port") from error


@contextlib.asynccontextmanager
async def _answering(path: Path, statistics: Statistics) -> AsyncIterator[None]:
    """Answer at the control socket while inside; memory and time are the process's own."""

    def all_statistics() -> dict[str, Any]:
        return {"pid": os.getpid(), "version": __version__, **statistics()}

    async with serve_control(path, all_statistics):
        yield


@contextlib.contextmanager
def holding_state(config: Config, role: Role) -> Iterator[DataFolder]:
    """Give the state folder of `role`, to this process alone, while inside.

    Raises ConfigError when another process has it.
    """
    folder = DataFolder(state_directory(config, role))
    descriptor = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process uses {folder.path}: stop it, or give this one a state folder "
                "of its own with --state"
            ) from error
        yield folder
