"""What circuits cost a relay that only passes them on, while nothing moves on them.

The relay is a process of its own between one that builds the circuits, this one, and relays at
which they end. A link carries 2048 circuits of each side, so there are as many links, and as many
relays behind, as that takes.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from benchmarks.accounting import cpu_seconds, memory
from benchmarks.growth_relays import RealRelay, RealRelays
from benchmarks.processes import ProcessError
from warren.identity import Hop
from warren.network.circuits import Circuit, build_circuit
from warren.network.dialling import SocketNetwork
from warren.network.link import LinkSettings
from warren.network.links import Links
from warren.network.turn import Turn
from warren.service import LogStyle, set_up_logging

_PER_LINK = 2000
#: What a relay makes once, for its first circuits, is not counted.
_WARM_UP = 64
_REST_SECONDS = 1.0
_GONE_SECONDS = 60.0
_POLL_SECONDS = 0.05


def measure(count: int, folder: Path) -> Mapping[str, float]:
    """Build `count` circuits through a fresh relay, let them rest, and destroy them, twice."""
    del folder
    set_up_logging(LogStyle("warning"))  # the links here are the product's, and would tell of each
    links = math.ceil(count / _PER_LINK)
    with RealRelays([frozenset()] * (1 + links)) as network:
        return trio.run(_measure, network, count, links)


async def _measure(network: RealRelays, count: int, links: int) -> dict[str, float]:
    relay, *ends = network.relays
    pid = network.pid_of(relay)
    async with trio.open_nursery() as nursery:
        turn = Turn(nursery)
        origins = [
            Links(SocketNetwork(), LinkSettings(network.network_id), turn) for _ in range(links)
        ]
        for origin in origins:
            nursery.start_soon(origin.watch)
        paths = [(relay.hop, end.hop) for end in ends]
        await _destroy(relay, await _build(origins, paths, _WARM_UP))
        await trio.sleep(_REST_SECONDS)
        empty, begun = memory(pid).current, cpu_seconds(pid)
        circuits = await _build(origins, paths, count)
        await trio.sleep(_REST_SECONDS)
        full, built = memory(pid).current, cpu_seconds(pid)
        await _destroy(relay, circuits)
        ended = cpu_seconds(pid)
        circuits = await _build(origins, paths, count)
        await trio.sleep(_REST_SECONDS)
        again = memory(pid).current
        await _destroy(relay, circuits)
        await trio.sleep(_REST_SECONDS)
        left = memory(pid).current
        for origin in origins:
            origin.close()
        nursery.cancel_scope.cancel()
    return {
        "memory": full - empty,
        "memory.each": (full - empty) * 1024 / count,
        "memory.again": again - empty,
        "memory.left": left - empty,
        "create": (built - begun) * 1000 / count,
        "destroy": (ended - built) * 1000 / count,
    }


async def _build(
    origins: Sequence[Links], paths: Sequence[tuple[Hop, ...]], count: int
) -> list[Circuit]:
    """Build `count` circuits, over all links at once and one after the other on each."""
    circuits: list[Circuit] = []

    async def build(origin: Links, path: tuple[Hop, ...], share: int) -> None:
        for _ in range(share):
            link = await origin.get(path[0], is_anonymous=True)
            circuits.append(await build_circuit(link, path))

    async with trio.open_nursery() as nursery:
        for number, (origin, path) in enumerate(zip(origins, paths, strict=True)):
            share = (count + number) // len(origins)
            nursery.start_soon(build, origin, path, share)
    return circuits


async def _destroy(relay: RealRelay, circuits: Sequence[Circuit]) -> None:
    """Close all `circuits` and wait until the relay has forgotten them."""
    for number, circuit in enumerate(circuits):
        circuit.close()
        if number % _WARM_UP == 0:
            await trio.lowlevel.checkpoint()
    deadline = time.monotonic() + _GONE_SECONDS
    while (left := relay.statistics()["circuits"]) > 0:
        if time.monotonic() > deadline:
            raise ProcessError(f"the relay still has {left} circuits")
        await trio.sleep(_POLL_SECONDS)
