"""A small network in memory with a whole client in it: guards, pool, circuits that are kept ready.

The first half of the relays are guards, the others exits, and all are middles. There are no
authorities: the client simply holds the consensus that lists the relays.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio

from tests.support.directories import NETWORK
from tests.support.small_network import Origin, RelayPeer, SmallNetwork, small_network, wall_clock
from warren.directory.consensus import Consensus
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag, RelayEntry
from warren.errors import LinkError
from warren.identity import PeerId
from warren.roles.archive import Archive
from warren.roles.client import Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.idleness import IdleLimits
from warren.roles.mirror import Directory
from warren.roles.own_relays import OwnRelays
from warren.storage import DataFolder

GUARD = frozenset((Flag.GUARD, Flag.RUNNING, Flag.MIRROR))
#: Of a client that waits for ever, as for a target that thinks for hours.
PATIENT = IdleLimits(math.inf, math.inf)
EXIT = frozenset((Flag.EXIT, Flag.RUNNING, Flag.MIRROR))


@dataclass
class ClientNetwork:
    """Hold the network, and a client whose circuits are built and kept by ``Client.run``."""

    net: SmallNetwork
    origin: Origin
    client: Client
    guards: GuardKeeper
    own: OwnRelays

    @property
    def built(self) -> int:
        """Return how many circuits the client has built."""
        return self.client._circuits._builder.built

    def relay(self, peer_id: PeerId) -> RelayPeer:
        return next(peer for peer in self.net.relays if peer.peer_id == peer_id)

    @property
    def guard(self) -> RelayPeer:
        """Return the first guard that the client has an open circuit through, in their order."""
        used = {
            slot.path[0].peer_id for slot in self.client._circuits._pool if slot.circuit.is_open
        }
        return self.relay(next(peer for peer in self.guards._guards.sample if peer in used))

    @property
    def contacted(self) -> set[PeerId]:
        """Return the guards that were dialled within an hour."""
        now = wall_clock()
        return {guard.peer_id for guard in self.guards._guards._sample if guard.was_contacted(now)}


async def _no_fetch(*_: object, **__: object) -> bytes:
    raise LinkError("nobody serves documents here")


def consensus_of_relays(net: SmallNetwork) -> Consensus:
    """Return a consensus that lists the relays of `net`."""
    guards = set(net.hops[: len(net.hops) // 2])
    return Consensus(
        valid_after=int(wall_clock()) - 60,
        fresh_until=int(wall_clock()) + 30 * 86400,
        valid_until=int(wall_clock()) + 90 * 86400,
        relays=tuple(
            RelayEntry(hop, GUARD, 100)
            if hop in guards
            else RelayEntry(hop, EXIT, 100, policy=("accept *:*",))
            for hop in sorted(net.hops, key=lambda hop: hop.peer_id)
        ),
        parameters=Parameters(subnet_v4_prefix=24),
        digest=bytes(32),
    )


@asynccontextmanager
async def client_network(
    folder: Path, relays: int = 8, *, seed: int = 1, idle: IdleLimits | None = None
) -> AsyncIterator[ClientNetwork]:
    """Run a network of `relays` relays and a client, whose first circuits are there, inside.

    The client ends streams by the limits `idle`; its exits end none by themselves.
    """
    async with small_network(relays, seed=seed) as net:
        origin = await net.add_origin()
        archive = Archive(NETWORK, None, wall_clock)
        archive._take(consensus_of_relays(net), b"")
        directory = Directory(archive, _no_fetch, now=wall_clock, rng=Random(seed))
        own = OwnRelays()
        guards = GuardKeeper(DataFolder(folder), own=own, rng=Random(seed), wall_clock=wall_clock)
        client = Client(
            origin.links,
            directory,
            guards,
            own=own,
            idle=idle,
            rng=Random(seed),
            is_offline=lambda: origin.host in net.memory.offline,
        )
        origin.nursery.start_soon(client.run)
        with trio.fail_after(30):
            await client.is_usable.wait()
        yield ClientNetwork(net, origin, client, guards, own)
        client.close()
