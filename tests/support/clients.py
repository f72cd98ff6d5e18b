"""A client in a small network: real circuits, guards and pool, over a consensus made by hand."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import trio

from tests.support.memory_network import Line, MemoryStream
from tests.support.small_network import (
    START,
    Origin,
    RelayPeer,
    SmallNetwork,
    small_network,
    wall_clock,
)
from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag, RelayEntry
from warren.roles.client import Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.idleness import IdleLimits
from warren.roles.mirror import Directory
from warren.roles.pool import Slot
from warren.storage import DataFolder


class _KnownDirectory:
    """Know one consensus from the beginning."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus = consensus

    @property
    def current(self) -> Consensus:
        return self._consensus

    async def wait_for_consensus(self) -> Consensus:
        await trio.lowlevel.checkpoint()
        return self._consensus


@dataclass
class ClientScene:
    """Hold a network of guards, middles and exits, and a client in it.

    ``used`` names the relays of all circuits that carried a stream, in their order.
    """

    net: SmallNetwork
    origin: Origin
    client: Client
    guards: list[RelayPeer]
    middles: list[RelayPeer]
    exits: list[RelayPeer]
    used: list[tuple[int, ...]] = field(default_factory=list)

    def numbers(self, slot: Slot) -> tuple[int, ...]:
        ids = [peer.peer_id for peer in self.net.relays]
        return tuple(ids.index(entry.peer_id) for entry in slot.path)

    @property
    def slot(self) -> Slot:
        """Return the one circuit that carries streams."""
        (slot,) = [slot for slot in self.client._circuits._pool if slot.circuit.stream_count]
        return slot

    @property
    def path(self) -> list[RelayPeer]:
        """Return the relays of the circuit that carries streams."""
        return [self.net.relays[number] for number in self.numbers(self.slot)]

    @property
    def resuming(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.client.statistics()["resuming"])

    async def browse(self, address: Address, isolation: str = "a") -> MemoryStream:
        """Return an application that talks to `address` through the client."""
        stream = await self.client.open_stream(address, isolation)
        return await self.origin.attach(stream)

    async def wait_path(self) -> list[RelayPeer]:
        """Wait until one circuit carries streams; return its relays."""
        while True:
            slots = [slot for slot in self.client._circuits._pool if slot.circuit.stream_count]
            if len(slots) == 1:
                return self.path
            await trio.sleep(0.01)

    def cut(self, peer: RelayPeer) -> None:
        """Break all links of a relay at once, as its restart does."""
        self.net.memory.cut(peer.host)


@asynccontextmanager
async def client_scene(
    folder: Path,
    *,
    guards: int = 2,
    middles: int = 4,
    exits: int = 2,
    line: Line | None = None,
    seed: int = 1,
    policy: Collection[str] = ("accept *:*",),
    guards_are_exits: bool = False,
    resumes: bool = True,
    idle: IdleLimits | None = None,
) -> AsyncIterator[ClientScene]:
    """Run a client with circuits ready in a network of so many relays while inside."""
    async with small_network(relays=guards + middles + exits, line=line, seed=seed) as net:
        peers = net.relays
        first = {Flag.GUARD, Flag.EXIT} if guards_are_exits else {Flag.GUARD}
        kinds = [first] * guards + [set()] * middles + [{Flag.EXIT}] * exits
        entries = [
            RelayEntry(
                peer.hop,
                frozenset({Flag.RUNNING, *kind}),
                100,
                policy=tuple(policy) if Flag.EXIT in kind else (),
            )
            for peer, kind in zip(peers, kinds, strict=True)
        ]
        consensus = Consensus(
            valid_after=START,
            fresh_until=START + 3600,
            valid_until=START + 3 * 3600,
            relays=tuple(entries),
            parameters=Parameters(subnet_v4_prefix=24),
            digest=bytes(32),
        )
        origin = await net.add_origin()
        keeper = GuardKeeper(DataFolder(folder / "state"), rng=Random(seed), wall_clock=wall_clock)
        directory = cast(Directory, _KnownDirectory(consensus))
        client = Client(
            origin.links, directory, keeper, rng=Random(seed), resumes=resumes, idle=idle
        )
        net.nursery.start_soon(client.run)
        await client.is_usable.wait()
        yield ClientScene(
            net,
            origin,
            client,
            peers[:guards],
            peers[guards : guards + middles],
            peers[guards + middles :],
        )
        client.close()
