"""What every role stands on: a nursery with its turn, the links to others, and the consensus.

A role adds what it does for somebody. One that answers circuits is put together in ``serving``;
which process does what, and with which files, is in ``node``.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random, SystemRandom

import trio

from warren.addresses import Address, IPAddress
from warren.directory.clock_hints import ClockHints
from warren.directory.network_file import NetworkFile
from warren.identity import Hop, KeySource, SystemKeys
from warren.network import reserve
from warren.network.byte_streams import Network
from warren.network.dialling import SocketNetwork
from warren.network.fetch import fetch
from warren.network.interruptions import (
    LOOK_SECONDS,
    Clocks,
    Interruption,
    Interruptions,
    read_clocks,
)
from warren.network.link import LinkSettings, RelayKeys
from warren.network.links import Links
from warren.network.loop_lag import LoopWatch, MeasureLag, measure_lag
from warren.network.machine_memory import used_memory, whole_memory
from warren.network.own_addresses import address_towards
from warren.network.quota import Quota, default_quota
from warren.network.turn import Turn
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.credit import CreditBudget
from warren.roles.archive import Archive
from warren.roles.relay import Relay
from warren.storage import RETRY_SECONDS, DataFolder


@dataclass(frozen=True)
class World:
    """Hold what a peer takes from outside: connections, the time, chance, fresh keys (REL-6)."""

    network: Network = field(default_factory=SocketNetwork)
    wall_clock: Callable[[], float] = time.time
    rng: Random = field(default_factory=SystemRandom)
    keys: KeySource = field(default_factory=SystemKeys)
    clocks: Callable[[], Clocks] = read_clocks
    towards: Callable[[IPAddress], IPAddress | None] = address_towards
    look_seconds: float = LOOK_SECONDS
    used_memory: Callable[[], int] | None = used_memory  # None: nobody looks after the quota
    measure_lag: MeasureLag | None = measure_lag  # None: this peer is never overloaded


@dataclass
class Peer:
    """Hold what every role stands on: a turn, links, the consensus, and word of interruptions.

    Whoever keeps memory for others tells ``quota`` of it. Whoever carries something for them asks
    ``load`` whether the loop keeps up, and has it watched.
    """

    turn: Turn
    network: Network
    settings: LinkSettings
    links: Links
    archive: Archive
    interruptions: Interruptions
    quota: Quota
    load: LoopWatch
    clock_hints: ClockHints

    def clock_error(self) -> float | None:
        """Return by how many seconds this machine's clock is fast, below 0 by how many slow.

        None while too few relays agree, or where it is right enough (LNK-7, DIR-9).
        """
        return self.clock_hints.error(self.settings.wall_clock(), trio.current_time())

    def answer_with(self, relay: Relay) -> None:
        """Let `relay` answer those who ask for circuits."""
        relay.links = self.links
        self.quota.sources.append(relay.backlogs)
        self.links.answer_with(relay.create)

    async def fetch(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        """Ask the directory of a peer."""
        return await fetch(self.links, hop, method, path, body, limit=limit)


@contextlib.asynccontextmanager
async def running_peer(
    network: NetworkFile,
    folder: DataFolder | None,
    *,
    keys: RelayKeys | None = None,
    memory: int | None = None,
    world: World | None = None,
) -> AsyncIterator[Peer]:
    """Give a peer that runs while inside; with `keys` others can dial it.

    It keeps its consensus in `folder`; without one, in memory alone. What it keeps for others is
    at most `memory` bytes, a part of this machine's where not given, and the windows of its
    circuits together grow by no more than that. Without `world` it is the real one.
    """
    world = world or World()
    memory = memory or default_quota(whole_memory())
    archive = Archive(network, folder, world.wall_clock)

    def newest() -> tuple[int, bytes]:
        held = archive.newest
        return (held.valid_after, held.digest) if held is not None else (0, bytes(32))

    clock_hints = ClockHints(network.parameters)

    def hear_time(remote: Address, time: int) -> None:
        if remote.ip is not None:
            clock_hints.hear(remote.ip, time, trio.current_time())

    settings = LinkSettings(
        network.network_id,
        keys=world.keys,
        relay=keys,
        window=network.parameters.circuit_window,
        budget=CreditBudget(memory // CELL_LENGTH),
        wall_clock=world.wall_clock,
        rng=world.rng,
        consensus=newest,
        notice=archive.notice,
        hear_time=hear_time,
        is_relay=archive.knows,
    )
    async with trio.open_nursery() as nursery:
        turn = Turn(nursery)
        links = Links(world.network, settings, turn)
        reserve.here().links.make_room = links.make_room
        interruptions = Interruptions(
            (entry.hop.address for entry in network.authorities),
            clocks=world.clocks,
            towards=world.towards,
            look_seconds=world.look_seconds,
        )

        def interrupted(what: Interruption) -> None:
            if what.breaks_links:
                links.interrupted()
                clock_hints.forget()
            archive.look_again()

        interruptions.on_interruption.append(interrupted)
        quota = Quota(memory, settings.budget, turn, used=world.used_memory or used_memory)
        quota.sources.append(links.backlogs)
        if world.used_memory is not None:
            nursery.start_soon(quota.watch)
        nursery.start_soon(links.watch)
        nursery.start_soon(interruptions.run)
        if folder is not None:
            nursery.start_soon(_write_again, folder)
        try:
            load = LoopWatch(world.measure_lag)
            yield Peer(
                turn,
                world.network,
                settings,
                links,
                archive,
                interruptions,
                quota,
                load,
                clock_hints,
            )
        finally:
            links.close()
            nursery.cancel_scope.cancel()


async def _write_again(folder: DataFolder) -> None:
    """Bring to the disk what it did not take when it was full."""
    while True:
        await trio.sleep(RETRY_SECONDS)
        folder.write_again()
