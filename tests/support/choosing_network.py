"""A real client in a small network in memory: its circuits, its pool, and exits that remember.

Exits say CONNECTED at once and note by which circuit a stream came, under the port it asked for;
so a test that gives each request a port of its own sees who shared a circuit with whom.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import cast

from tests.support.imagined import consensus
from tests.support.memory_network import Signal
from tests.support.small_network import (
    START,
    Origin,
    RelayPeer,
    SmallNetwork,
    connect,
    small_network,
)
from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.relays import Flag, RelayEntry
from warren.errors import EndReason, ExitError
from warren.network.streams import CircuitStream
from warren.protocol.messages import Begin
from warren.roles.client import Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.mirror import Directory
from warren.roles.passing_circuit import PassingCircuit
from warren.storage import DataFolder

HOST = "5.6.0.1"
#: Of a name with this suffix no exit knows the address.
UNKNOWN = "unknown.example"


@dataclass
class Exits:
    """Serve all exits, and own what they saw: circuit and stream for each port.

    Ports of ``silent`` get no answer the first time.
    """

    came_by: dict[int, PassingCircuit] = field(default_factory=dict)
    streams: dict[int, CircuitStream] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    _arrival: Signal = field(default_factory=Signal)

    async def wait_for(self, port: int) -> PassingCircuit:
        """Return the circuit of the stream to `port`, once it is there."""
        while port not in self.came_by:
            await self._arrival.wait()
        return self.came_by[port]

    def __call__(self, circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        if begin.address.host.endswith(UNKNOWN):
            raise ExitError(EndReason.RESOLVE_FAILED)
        port = begin.address.port
        self.came_by[port], self.streams[port] = circuit, stream
        self._arrival.fire()
        if port in self.silent:
            self.silent.remove(port)
            return
        connect(circuit, stream, Address(HOST, port))


@dataclass
class HeldDirectory:
    """Be the directory of a client that holds this consensus."""

    consensus: Consensus

    @property
    def current(self) -> Consensus:
        return self.consensus

    async def wait_for_consensus(self) -> Consensus:
        return self.consensus


@dataclass
class ClientNetwork:
    """Hold the client and what is around it; relay n is ``relays[n - 1]``."""

    client: Client
    origin: Origin
    network: SmallNetwork
    exits: Exits
    directory: HeldDirectory
    last_port: int = 0

    @property
    def built(self) -> int:
        """Return how many circuits the client has built."""
        return self.client._circuits._builder.built

    async def open(self, isolation: object, host: str = "a.example") -> RelayPeer:
        """Open a stream of `isolation`; return the relay that it left the network from."""
        self.last_port += 1
        await self.client.open_stream(Address(host, self.last_port), isolation)
        circuit = self.exits.came_by[self.last_port]
        return next(each for each in self.network.relays if circuit in each.circuits)

    def unlist(self, gone: RelayPeer) -> None:
        """Take a relay out of the consensus."""
        relays = [each for each in self.directory.consensus.relays if each.peer_id != gone.peer_id]
        self.directory.consensus = consensus(relays, subnet_v4_prefix=24)


@asynccontextmanager
async def client_network(
    folder: Path, relays: int, exits: Mapping[int, str]
) -> AsyncIterator[ClientNetwork]:
    """Run a client and `relays` relays while inside; `exits` has number and country of each exit.

    The others are guards.
    """
    serve = Exits()
    async with small_network(relays, serve_exit=serve) as network:
        entries = [_entry(number, each, exits) for number, each in enumerate(network.relays, 1)]
        directory = HeldDirectory(consensus(entries, subnet_v4_prefix=24))
        origin = await network.add_origin()
        guards = GuardKeeper(DataFolder(folder), rng=Random(1), wall_clock=lambda: START)
        client = Client(origin.links, cast(Directory, directory), guards, rng=Random(1))
        origin.nursery.start_soon(client.run)
        yield ClientNetwork(client, origin, network, serve, directory)
        client.close()


def _entry(number: int, peer: RelayPeer, exits: Mapping[int, str]) -> RelayEntry:
    kind = Flag.EXIT if number in exits else Flag.GUARD
    return RelayEntry(
        peer.hop,
        frozenset((Flag.RUNNING, kind)),
        weight=100,
        country=exits.get(number, "??"),
        policy=("accept *:*",) if number in exits else (),
    )
