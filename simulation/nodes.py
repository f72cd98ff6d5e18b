"""Peers of a simulation: authorities, relays and clients, as ``warren.node`` puts them together.

What differs is only where things come from: connections, time, chance, keys, disks and names are
the simulation's. A node can be killed, which closes its sockets without a word of its own, and
started again with the state folder that it left.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from random import Random

import trio

from simulation.chance import SeededKeys, dice, seeded_identity
from simulation.disks import MemoryFolder
from simulation.wire import LOOPBACK, WireNetwork
from warren.addresses import Address
from warren.config.relay import ExitConfig, RelayLimits
from warren.directory.descriptor import Descriptor
from warren.directory.network_file import NetworkFile
from warren.errors import EndReason, ExitError
from warren.identity import Hop, Identity, PeerId, Suite
from warren.key_files import KeyFiles
from warren.network.interruptions import Clocks
from warren.network.link import RelayKeys
from warren.network.link_door import LinkDoor
from warren.network.names import Answer, Resolver
from warren.network.own_addresses import OwnAddresses
from warren.peer import Peer, World, running_peer
from warren.protocol.cells import CELL_LENGTH
from warren.roles.authority import BODY_LIMITS, Authority
from warren.roles.client import Client
from warren.roles.directory_door import DirectoryDoor
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.known_places import KnownPlaces
from warren.roles.last_hop import LastHop
from warren.roles.mirror import Directory
from warren.roles.proxy import Proxy
from warren.roles.publisher import Publisher
from warren.roles.relay import Relay
from warren.serving import Serving, answer_directory

#: Unix seconds at which every simulation begins.
START = 1_800_000_000
#: How often a peer looks for interruptions; there is none but a clock that was set.
LOOK_SECONDS = 10.0
LINK_PORT, PROXY_PORT = 9001, 1080
SUITES = (Suite.AESGCM, Suite.CHACHAPOLY)
EXIT_POLICY = ("accept *:80", "reject *:*")
#: Cells that all windows of one node may grow by: little, so that the budget runs out.
CELLS = 4096


class Node(ABC):
    """Own one peer: whether it runs, its clock's error, and what it keeps on its disk."""

    def __init__(self, name: str, seed: int, network: WireNetwork, file: NetworkFile) -> None:
        self.name = name
        self.address = network.host.address
        self.folder = MemoryFolder(name)
        self.clock_error = 0.0
        self.starts = 0
        self.is_up = False
        self.is_running = trio.Event()  # for the first time
        self.peer: Peer | None = None
        self.file = file
        self._seed = seed
        self._network = network
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<{self.name} at {self.address}, {'up' if self.is_up else 'down'}>"

    def wall_clock(self) -> float:
        """Return the Unix seconds that this peer believes in."""
        return START + trio.current_time() + self.clock_error

    def clocks(self) -> Clocks:
        """Return what its clocks say: no simulated machine sleeps, but a clock may be set."""
        now = trio.current_time()
        return Clocks(now, now, self.wall_clock())

    def rng(self, *names: object) -> Random:
        """Return the generator for something of this run of this node."""
        return dice(self._seed, self.name, self.starts, *names)

    async def run(self) -> None:
        """Run until killed."""
        self.starts += 1
        self._scope = trio.CancelScope()
        world = World(
            self._network,
            self.wall_clock,
            self.rng("peer"),
            SeededKeys(self.rng("keys")),
            clocks=self.clocks,
            towards=lambda _: ip_address(self.address),
            look_seconds=LOOK_SECONDS,
            used_memory=None,  # all peers are in one process
            measure_lag=None,
        )
        with self._scope:
            async with self._running(world) as self.peer:
                self.is_up = True
                self.is_running.set()
                await trio.sleep_forever()
        self.is_up = False
        self.peer = None

    def kill(self) -> None:
        """End it now; its sockets must have been closed."""
        self.is_up = False
        self._scope.cancel()

    @abstractmethod
    def _running(self, world: World) -> contextlib.AbstractAsyncContextManager[Peer]:
        """Run the roles of this node while inside."""


class AuthorityNode(Node):
    """Own an authority."""

    def __init__(
        self, name: str, seed: int, network: WireNetwork, file: NetworkFile, keys: RelayKeys
    ) -> None:
        super().__init__(name, seed, network, file)
        self.keys = keys

    @contextlib.asynccontextmanager
    async def _running(self, world: World) -> AsyncIterator[Peer]:
        async with running_peer(
            self.file, self.folder, keys=self.keys, memory=CELLS * CELL_LENGTH, world=world
        ) as peer:

            async def check(hop: Hop) -> bool:
                await peer.links.probe(hop)
                return True

            authority = Authority(
                self.keys.identity,
                peer.archive,
                self.folder,
                peer.fetch,
                check,
                now=self.wall_clock,
            )
            answer = answer_directory(
                DirectoryDoor(self.file), authority.handle, BODY_LIMITS, authority.large_bodies
            )
            peer.answer_with(
                Relay(peer.turn, peer.settings, LastHop(answer), find_hops=lambda _: ())
            )
            listener = world.network.listen(Address(self.address, LINK_PORT))
            await peer.turn.nursery.start(authority.run)
            door = LinkDoor(is_known=KnownPlaces(peer.archive).knows)
            peer.turn.nursery.start_soon(peer.links.serve, listener, door)
            yield peer


class RelayNode(Node):
    """Own a relay, which is an exit if `is_exit`."""

    def __init__(
        self,
        name: str,
        seed: int,
        network: WireNetwork,
        file: NetworkFile,
        *,
        is_exit: bool,
        family: tuple[PeerId, ...],
        names: Mapping[str, Address],
    ) -> None:
        super().__init__(name, seed, network, file)
        self.is_exit = is_exit
        self.family = family
        self.serving: Serving | None = None
        self._names = names

    @contextlib.asynccontextmanager
    async def _running(self, world: World) -> AsyncIterator[Peer]:
        now = self.wall_clock()
        files = KeyFiles(self.folder, SeededKeys(self.rng("key files")))
        keys = RelayKeys(
            seeded_identity(self._seed, self.name),
            list(files.load("link", now).pairs),
            list(files.load("onion", now).pairs),
            SUITES,
        )
        address = Address(self.address, LINK_PORT)
        async with running_peer(
            self.file, self.folder, keys=keys, memory=CELLS * CELL_LENGTH, world=world
        ) as peer:
            directory = Directory(
                peer.archive,
                peer.fetch,
                now=self.wall_clock,
                rng=self.rng("directory"),
                own={keys.identity.peer_id},
                is_mirror=True,
                clock_error=peer.clock_error,
            )
            publisher = Publisher(
                keys,
                files,
                peer.archive,
                peer.fetch,
                partial(self._describe, address),
                now=self.wall_clock,
                rng=self.rng("publisher"),
            )
            self.serving = Serving(
                peer,
                ExitConfig(policy=EXIT_POLICY if self.is_exit else "none"),
                RelayLimits(),
                address,
                world.network.listen(address),
                resolver=SimulatedResolver(self._names, self.rng("names")),
                own=own_addresses(),
            )
            nursery = peer.turn.nursery
            nursery.start_soon(self.serving.run)
            nursery.start_soon(directory.run)
            nursery.start_soon(publisher.run)
            yield peer

    def _describe(self, address: Address, keys: RelayKeys, now: int, count: int) -> Descriptor:
        return Descriptor(
            peer_id=keys.identity.peer_id,
            address=address,
            link_key=keys.link_keys[0].public,
            onion_key=keys.onion_keys[0].public,
            suites=keys.suites,
            bandwidth=1_000_000,
            published=now,
            counter=count,
            policy=EXIT_POLICY if self.is_exit else (),
            family=self.family,
            version="simulated",
        )


class ClientNode(Node):
    """Own a proxy, which its applications reach at 127.0.0.1."""

    def __init__(self, name: str, seed: int, network: WireNetwork, file: NetworkFile) -> None:
        super().__init__(name, seed, network, file)
        self.client: Client | None = None
        self.proxy: Proxy | None = None
        self.on_guard: Callable[[ClientNode, PeerId], None] = _not_watched

    @property
    def network(self) -> WireNetwork:
        """Return the network as this machine sees it, for its applications."""
        return self._network

    @contextlib.asynccontextmanager
    async def _running(self, world: World) -> AsyncIterator[Peer]:
        async with running_peer(
            self.file, self.folder, memory=CELLS * CELL_LENGTH, world=world
        ) as peer:
            directory = Directory(
                peer.archive,
                peer.fetch,
                now=self.wall_clock,
                rng=self.rng("directory"),
                clock_error=peer.clock_error,
            )
            peer.interruptions.on_interruption.append(lambda _: directory.look_again())
            guards = _WatchedGuards(self)
            self.client = Client(peer.links, directory, guards, rng=self.rng("client"))
            self.proxy = Proxy(self.client)
            listener = world.network.listen(Address(LOOPBACK, PROXY_PORT))
            nursery = peer.turn.nursery
            nursery.start_soon(directory.run)
            nursery.start_soon(self.client.run)
            nursery.start_soon(self.proxy.serve, listener, nursery)
            yield peer


def _not_watched(node: ClientNode, peer_id: PeerId) -> None:
    return


class _WatchedGuards(GuardKeeper):
    """Tell whoever watches `node` of every guard that is dialled."""

    def __init__(self, node: ClientNode) -> None:
        super().__init__(node.folder, rng=node.rng("guards"), wall_clock=node.wall_clock)
        self._node = node

    def contacted(self, peer_id: PeerId) -> None:
        super().contacted(peer_id)
        self._node.on_guard(self._node, peer_id)


class SimulatedResolver(Resolver):
    """Be an exit's resolver that knows a few names, after a while."""

    def __init__(self, names: Mapping[str, Address], rng: Random) -> None:
        super().__init__([Address("198.51.100.53", 53)], rng=rng)
        self._known = names
        self._dice = rng

    async def resolve(self, host: str, key: Hashable = None) -> Answer:
        await trio.sleep(self._dice.uniform(0.01, 0.1))
        known = self._known.get(host)
        if known is None:
            raise ExitError(EndReason.RESOLVE_FAILED, "the name has no address")
        return Answer((ip_address(known.host),), 300)


def own_addresses() -> OwnAddresses:
    """Return what belongs to a machine of the simulation: nothing of the one it runs on."""
    return OwnAddresses(proc=_PROC, clock=trio.current_time)


def make_authority_keys(seed: int, name: str) -> RelayKeys:
    """Return the keys of an authority, which stand in the network file."""
    fresh = SeededKeys(dice(seed, name, "keys"))
    identity: Identity = seeded_identity(seed, name)
    return RelayKeys(identity, [fresh.key_pair()], [fresh.key_pair()], SUITES)


#: A machine with one address, that of its loopback.
_PROC = Path(__file__).parent / "proc"
