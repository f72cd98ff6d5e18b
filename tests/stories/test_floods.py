"""Floods of handshakes at a relay, real ones, and an honest client meanwhile (T57).

The crowd knows the relay's keys, so the relay has to work for each that it lets in. Sixty-four
sockets are always on their way, first from one address, then from two hundred and fifty.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import trio

from tests.support.dialling_from import From, connected
from tests.support.journeys import statistics
from tests.support.labs import RunningLab
from tests.support.paper import Side
from warren.errors import LinkError
from warren.identity import Hop, SystemKeys
from warren.network.circuits import build_circuit
from warren.network.link import LinkSettings
from warren.network.link_door import LinkLimits
from warren.network.links import Links
from warren.network.turn import Turn
from warren.protocol.handshake import initiate_link

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

SOCKETS, ADDRESSES, FLOOD_SECONDS = 64, 250, 3
#: What is promised, and what a machine may take that does other things: five times as long.
LINK_SECONDS, SLACK = 2, 5
HONEST = "127.96.0.1"
RELAY = "relay1"


@dataclass
class Flood:
    """Own the sockets of a crowd at `hosts`, who all say a good first message again and again."""

    hop: Hop
    first_message: bytes
    hosts: Iterator[str]
    answered: int = 0
    refused: int = 0
    waited: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Loop until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(SOCKETS):
                nursery.start_soon(self._loop)

    async def _loop(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                if await self._shake_hands(next(self.hosts)):
                    self.answered += 1
                    continue
            self.refused += 1
            await trio.sleep(0.01)

    async def _shake_hands(self, host: str) -> bool:
        with trio.socket.from_stdlib_socket(await connected(host, self.hop.address)) as sock:
            await sock.send(self.first_message)
            return bool(await sock.recv(4096))


@dataclass
class Town:
    """Hold a relay of the lab as its clients see it."""

    lab: RunningLab

    def __post_init__(self) -> None:
        self.network = self.lab.network
        self.hop = self.lab.entry_of(RELAY).hop

    @property
    def turned_away(self) -> int:
        return int(statistics(self.lab, RELAY)["links"]["turned_away"])

    async def flood(self, *hosts: str) -> Flood:
        """Let a crowd at `hosts` flood the relay, and note how long honest clients waited."""
        exchange = initiate_link(self.network.network_id, self.hop, SystemKeys(), None)
        flood = Flood(self.hop, Side(exchange).sent, itertools.cycle(hosts))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood.run)
            end = trio.current_time() + FLOOD_SECONDS
            while trio.current_time() < end:
                flood.waited.append(await self.be_served())
                await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        return flood

    async def be_served(self) -> float:
        """Make a link and a circuit, as somebody honest; return the seconds that took."""
        begun = time.monotonic()
        async with trio.open_nursery() as nursery:
            settings = LinkSettings(self.network.network_id)
            links = Links(From(HONEST), settings, Turn(nursery))
            link = await links.get(self.hop, is_anonymous=True)
            circuit = await build_circuit(link, [self.hop])
            circuit.close()
            links.close()
            nursery.cancel_scope.cancel()
        return time.monotonic() - begun


@pytest.fixture
def town(lab: RunningLab) -> Town:
    return Town(lab)


async def test_a_flood_from_one_address_keeps_nobody_waiting_and_is_soon_refused(
    town: Town,
) -> None:  # T57, DOS-2
    limits, before = LinkLimits(), town.turned_away

    flood = await town.flood("127.95.0.1")

    assert max(flood.waited) < LINK_SECONDS * SLACK
    admitted = limits.connect_burst + limits.connects_per_second * FLOOD_SECONDS * SLACK
    assert 0 < flood.answered <= admitted
    assert town.turned_away - before > flood.answered / 2
    assert await is_refused(town, "127.95.0.1")


async def is_refused(town: Town, host: str) -> bool:
    """Tell whether somebody honest at `host` gets no link, who shares it with the crowd."""
    async with trio.open_nursery() as nursery:
        links = Links(From(host), LinkSettings(town.network.network_id), Turn(nursery))
        try:
            for _ in range(2 * LinkLimits().connects_per_second):
                (await links.get(town.hop, is_anonymous=True)).close()
        except LinkError:
            return True
        finally:
            links.close()
            nursery.cancel_scope.cancel()
    return False


async def test_a_flood_from_many_addresses_keeps_nobody_waiting(town: Town) -> None:  # T57
    flood = await town.flood(*(f"127.94.0.{number}" for number in range(1, ADDRESSES + 1)))

    assert max(flood.waited) < LINK_SECONDS * SLACK
    assert flood.answered > ADDRESSES


async def test_the_lab_serves_its_own_as_before(town: Town) -> None:
    """What comes from 127.0.0.1 are all peers of a lab, and none of them was ever refused."""
    flood = await town.flood("127.0.0.1")

    assert flood.answered > LinkLimits().connect_burst
    assert max(flood.waited) < LINK_SECONDS * SLACK
