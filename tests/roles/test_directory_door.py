"""How often a directory may be asked: each circuit, each address, and what it is brought (DIR-17).

All of it goes over circuits and links in memory, as a relay or client makes them.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.directories import (
    NETWORK,
    authority_hop,
    descriptor_of,
    identity,
    network_of,
)
from tests.support.small_network import Origin, RelayPeer, SmallNetwork, small_network, wall_clock
from warren.directory.descriptor import DESCRIPTOR_LIMIT, Descriptor, read_descriptor
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import Parameters
from warren.errors import TooSoon
from warren.identity import Hop, KeyPair, PeerId, Suite, SystemKeys
from warren.key_files import KeyFiles
from warren.network.bucket import REPORT_SECONDS
from warren.network.circuits import build_circuit
from warren.network.directory_http import Response, request
from warren.network.fetch import fetch
from warren.network.link import RelayKeys
from warren.roles.archive import Archive
from warren.roles.directory_door import (
    REQUEST_BURST,
    REQUESTS_PER_CIRCUIT,
    UPLOADS,
    DirectoryDoor,
)
from warren.roles.mirror import Fetch
from warren.roles.publisher import Publisher
from warren.serving import answer_directory
from warren.storage import DataFolder

HOUSE, NEIGHBOUR = "5.5.80.1", "5.5.81.1"


@dataclass
class Desk:
    """Hold a directory in memory, and who asks it; ``taken`` are descriptors by their relays."""

    net: SmallNetwork
    network: NetworkFile = NETWORK
    answered: int = 0
    taken: dict[PeerId, float] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.door = DirectoryDoor(self.network)
        serve = answer_directory(self.door, self.handle, {"/descriptor": DESCRIPTOR_LIMIT})
        self.relay.relay._last_hop._serve_directory = serve

    @property
    def relay(self) -> RelayPeer:
        return self.net.relays[0]

    async def handle(self, method: str, path: str, body: bytes) -> Response:
        self.answered += 1
        if path == "/descriptor" and body != b"a descriptor":
            peer_id = read_descriptor(body, self.network.network_id).peer_id
            self.taken[peer_id] = trio.current_time()
        return Response()

    async def origin(self, host: str) -> Origin:
        if host not in self.origins:
            self.origins[host] = await self.net.add_origin(host)
        return self.origins[host]

    async def bring(self, host: str, times: int) -> int:
        """Bring so many descriptors from `host`; return how many were not taken."""
        return await self.ask(host, times, b"a descriptor")

    async def ask(self, host: str, times: int, body: bytes = b"") -> int:
        """Ask so often from `host`, each time on a circuit of its own; return how often in vain."""
        origin, refused = await self.origin(host), 0
        method, path = ("POST", "/descriptor") if body else ("GET", "/consensus")
        for _ in range(times):
            try:
                await fetch(origin.links, self.relay.hop, method, path, body, limit=0)
            except TooSoon:
                refused += 1
        return refused


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with small_network(relays=1) as net:
        yield Desk(net)


async def test_a_circuit_is_answered_ten_times_over_however_many_streams(
    desk: Desk, autojump_clock: MockClock
) -> None:
    origin = await desk.origin(HOUSE)
    link = await origin.links.get(desk.relay.hop, is_anonymous=True)
    circuit = await build_circuit(link, [desk.relay.hop])

    async def ask_three_times() -> None:
        stream = circuit.open_directory()
        for _ in range(3):
            await request(stream, "GET", "/consensus", limit=0)
        await stream.aclose()

    for _ in range(3):
        await ask_three_times()
    with pytest.raises(TooSoon, match="too many requests on one circuit"):
        await ask_three_times()

    assert desk.answered == REQUESTS_PER_CIRCUIT
    assert await desk.ask(HOUSE, 1) == 0  # another circuit


async def test_an_address_may_ask_so_often_at_once_and_once_a_second(
    desk: Desk, autojump_clock: MockClock
) -> None:
    assert await desk.ask(HOUSE, REQUEST_BURST + 5) == 5
    await trio.sleep(3)
    assert await desk.ask(HOUSE, 5) == 2

    assert await desk.ask(NEIGHBOUR, REQUEST_BURST) == 0
    assert desk.door.requests_turned_away == 7


async def test_who_waits_as_he_is_told_is_answered(desk: Desk, autojump_clock: MockClock) -> None:
    await desk.ask(HOUSE, REQUEST_BURST)
    origin = await desk.origin(HOUSE)

    with pytest.raises(TooSoon) as told:
        await fetch(origin.links, desk.relay.hop, "GET", "/consensus", limit=0)
    await trio.sleep(told.value.seconds)

    assert await desk.ask(HOUSE, 1) == 0


@pytest.mark.parametrize("host", [authority_hop(1).address.host, "127.0.0.1"])
async def test_authorities_and_forwarders_here_may_ask_as_often_as_they_like(
    host: str, desk: Desk, autojump_clock: MockClock
) -> None:
    assert await desk.ask(host, 3 * REQUEST_BURST) == 0
    assert await desk.bring(host, 60) == 0  # as many relays as a large lab has


async def test_an_address_may_bring_ten_descriptors_in_the_time_between_two_of_one_relay(
    desk: Desk, autojump_clock: MockClock
) -> None:
    seconds = NETWORK.parameters.descriptor_upload_seconds

    assert await desk.bring(HOUSE, UPLOADS + 4) == 4
    assert await desk.ask(HOUSE, 2) == 0  # it may still ask
    await trio.sleep(seconds / UPLOADS)
    assert await desk.bring(HOUSE, 2) == 1
    await trio.sleep(seconds)
    assert await desk.bring(HOUSE, UPLOADS) == 0

    assert await desk.bring(NEIGHBOUR, UPLOADS) == 0
    assert desk.door.uploads_turned_away == 5


async def test_where_relays_may_publish_at_any_time_they_may_be_many_at_an_address(
    autojump_clock: MockClock,
) -> None:
    quick = network_of(parameters=Parameters(founding_relays=1, descriptor_upload_seconds=0))
    async with small_network(relays=1) as net:
        desk = Desk(net, quick)

        for _ in range(4):
            assert await desk.bring(HOUSE, REQUEST_BURST - 4) == 0
            await trio.sleep(REQUEST_BURST)


async def test_thirty_relays_at_one_address_all_get_their_descriptors_taken(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing is lost: the first ten at once, and the others one after the other, as told."""
    period, count = 60, 30
    network = network_of(parameters=Parameters(descriptor_upload_seconds=period))
    async with small_network(relays=1) as net, trio.open_nursery() as nursery:
        desk = Desk(net, network)
        origin = await desk.origin(HOUSE)

        async def bring(hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
            """Bring it to the one directory there is, in the place of the first authority."""
            if hop != authority_hop(0):
                return b""
            return await fetch(origin.links, desk.relay.hop, method, path, body, limit=limit)

        for number in range(count):
            nursery.start_soon(publisher_of(number, tmp_path, network, bring).run)
        await trio.sleep(10)
        first = len(desk.taken)
        await trio.sleep(period * count / UPLOADS + 30)
        nursery.cancel_scope.cancel()

    assert UPLOADS <= first <= UPLOADS + 3
    assert len(desk.taken) == count


def publisher_of(number: int, folder: Path, network: NetworkFile, fetch_it: Fetch) -> Publisher:
    """Return what publishes relay `number`."""
    here = folder / str(number)
    here.mkdir(mode=0o700)
    pair = KeyPair.from_private(bytes([number + 1]) * 32)
    keys = RelayKeys(identity(number), [pair], [pair], (Suite.AESGCM,))

    def describe(_: RelayKeys, now: int, counter: int) -> Descriptor:
        return descriptor_of(number, published=now, counter=counter)

    return Publisher(
        keys,
        KeyFiles(DataFolder(here), SystemKeys()),
        Archive(network, None, wall_clock),
        fetch_it,
        describe,
        now=wall_clock,
        rng=Random(number),
    )


async def test_the_log_says_once_a_minute_that_somebody_asks_too_often_and_never_who(
    desk: Desk, autojump_clock: MockClock
) -> None:
    with capture_logs() as logs:
        for _ in range(4):
            await desk.ask(HOUSE, 3 * REQUEST_BURST)
            await trio.sleep(REPORT_SECONDS / 2)

    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 2
    assert warnings[0]["so_far"] == 1
    assert HOUSE not in str(logs)
