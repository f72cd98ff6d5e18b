"""Whether the network lists a relay: what its operator is told, when, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.directories import (
    NETWORK,
    NOW,
    consensus_document,
    descriptor_of,
    entry_of,
    identity,
    network_of,
    signed,
)
from warren.addresses import Address
from warren.directory.consensus import NO_DIGEST, write_content
from warren.directory.network_file import NetworkFile
from warren.directory.relays import RelayEntry
from warren.roles.archive import Archive
from warren.roles.listing_watch import (
    CROWDED,
    ELSEWHERE,
    LOOK_SECONDS,
    NOT_LISTED,
    NOT_REACHED,
    NOT_TAKEN,
    PATIENCE_SECONDS,
    REMINDER_SECONDS,
    ListingWatch,
    Signs,
)

INTERVAL = NETWORK.parameters.consensus_interval_seconds
ADDRESS = descriptor_of(1).hop.address
LISTED = "the network lists this relay"


@dataclass
class Outside:
    """Stand for what others do: ``uploads`` is what they took, ``links`` who came."""

    uploads: int = 0
    links: int = 0
    last_error: str = ""

    async def count_links(self) -> int:
        return self.links


class Relay:
    """Own a watch for relay 1 and the archive it looks at."""

    def __init__(
        self, outside: Outside, address: Address = ADDRESS, network: NetworkFile = NETWORK
    ) -> None:
        self.network = network
        self.archive = Archive(network, None, lambda: NOW + self.consensuses * INTERVAL)
        self.consensuses = 0
        self.clock_trouble: str | None = None
        self.watch = ListingWatch(
            self.archive,
            identity(1).peer_id,
            address,
            outside,
            outside.count_links,
            lambda: self.clock_trouble,
        )

    def hear(self, *relays: int) -> None:
        """Take the next consensus, which lists `relays`."""
        self.consensuses += 1
        valid_after = NOW + self.consensuses * INTERVAL
        self.archive.offer(consensus_document(relays, valid_after=valid_after))

    def hear_of(self, relays: Sequence[RelayEntry]) -> None:
        """Take the next consensus, with just these entries."""
        self.consensuses += 1
        valid_after = NOW + self.consensuses * INTERVAL
        content = write_content(
            valid_after=valid_after,
            fresh_until=valid_after + INTERVAL,
            valid_until=valid_after + 3 * INTERVAL,
            previous_digest=NO_DIGEST,
            parameters=self.network.parameters.to_mapping(),
            relays=relays,
        )
        self.archive.offer(signed(content, network=self.network))

    async def watch_for(self, seconds: float) -> list[str]:
        """Let it watch for so long; return what it said."""
        with capture_logs() as logs, trio.move_on_after(seconds):
            await self.watch.run()
        return [entry["event"] for entry in logs]


async def test_a_relay_that_nobody_can_reach_is_told_what_to_do(autojump_clock: MockClock) -> None:
    relay = Relay(Outside(uploads=3))
    relay.hear(2, 3)

    assert await relay.watch_for(PATIENCE_SECONDS - 1) == []
    assert await relay.watch_for(LOOK_SECONDS + 1) == [NOT_REACHED]
    assert relay.watch.statistics() == {"listed": False, "trouble": NOT_REACHED}


async def test_a_wrong_clock_is_the_reason_and_is_not_told_of_twice(
    autojump_clock: MockClock,
) -> None:  # DIR-9: who knows of it has logged it
    relay = Relay(Outside())
    relay.clock_trouble = "the clock is slow"

    assert await relay.watch_for(PATIENCE_SECONDS + LOOK_SECONDS) == []
    assert relay.watch.statistics()["trouble"] == "the clock is slow"
    relay.clock_trouble = None
    assert await relay.watch_for(LOOK_SECONDS) == [NOT_TAKEN]


async def test_what_is_wrong_is_said_once_an_hour(autojump_clock: MockClock) -> None:
    relay = Relay(Outside(uploads=3))

    said = await relay.watch_for(PATIENCE_SECONDS + 2.5 * REMINDER_SECONDS)

    assert said == [NOT_REACHED] * 3


async def test_a_refused_descriptor_is_told_with_the_authorities_words(
    autojump_clock: MockClock,
) -> None:
    relay = Relay(Outside(last_error="409: published 24 hours from now"))

    with capture_logs() as logs, trio.move_on_after(PATIENCE_SECONDS + 1):
        await relay.watch.run()

    assert [(entry["event"], entry["error"]) for entry in logs] == [
        (NOT_TAKEN, "409: published 24 hours from now")
    ]


async def test_a_relay_that_is_listed_is_told_so_once(autojump_clock: MockClock) -> None:
    relay = Relay(Outside(uploads=3, links=5))
    relay.hear(2, 3)
    await relay.watch_for(PATIENCE_SECONDS + 1)

    relay.hear(1, 2, 3)

    assert await relay.watch_for(REMINDER_SECONDS) == [LISTED]
    assert relay.watch.statistics() == {"listed": True, "trouble": None}


async def test_a_relay_that_is_left_out_again_is_told_so(autojump_clock: MockClock) -> None:
    relay = Relay(Outside(uploads=3, links=5))
    relay.hear(1, 2, 3)
    assert await relay.watch_for(1) == [LISTED]

    relay.hear(2, 3)

    assert await relay.watch_for(1) == [NOT_LISTED]


async def test_a_relay_for_which_its_network_has_no_place_is_told_so(
    autojump_clock: MockClock,
) -> None:  # DIR-11
    crowded = network_of(testing=False)
    neighbour = descriptor_of(2).hop.address
    relay = Relay(Outside(uploads=3, links=5), Address(neighbour.host, 9440), crowded)
    others = [replace(entry_of(n), hop=replace(entry_of(n).hop, address=neighbour)) for n in (2, 3)]
    relay.hear_of(others)
    relay.hear_of(others)

    said = await relay.watch_for(PATIENCE_SECONDS + LOOK_SECONDS)

    assert said == [CROWDED.format(f"2 relays at {neighbour.host}")]
    assert relay.watch.statistics() == {"listed": False, "trouble": said[0]}


async def test_a_copy_of_a_relay_is_told_that_there_is_another(autojump_clock: MockClock) -> None:
    relay = Relay(Outside(uploads=3, links=5), Address("203.0.113.99", 9440))
    relay.hear(1, 2, 3)
    relay.hear(1, 2, 3)

    assert await relay.watch_for(PATIENCE_SECONDS + LOOK_SECONDS) == [ELSEWHERE]
    assert relay.watch.statistics() == {"listed": False, "trouble": ELSEWHERE}


async def test_what_an_old_consensus_says_of_a_relay_that_starts_is_no_loss(
    autojump_clock: MockClock,
) -> None:
    relay = Relay(Outside(uploads=3, links=5))
    relay.hear(1, 2, 3)
    relay.hear(2, 3)

    assert await relay.watch_for(PATIENCE_SECONDS / 2) == []


@pytest.mark.parametrize(
    ("signs", "trouble"),
    [
        # The first consensus may have been made before anybody looked.
        (Signs(PATIENCE_SECONDS, True, True, False, False, False, 1), None),
        (Signs(0, True, False, False, False, False, 9), None),
        (Signs(PATIENCE_SECONDS, True, True, False, False, False, 2), NOT_LISTED),
        (Signs(PATIENCE_SECONDS, True, False, False, False, False, 0), NOT_REACHED),
        (Signs(PATIENCE_SECONDS, False, False, False, False, False, 0), NOT_TAKEN),
        (Signs(0, True, True, False, False, True, 2), NOT_LISTED),
        (Signs(PATIENCE_SECONDS, True, True, False, True, False, 1), None),
        (Signs(PATIENCE_SECONDS, True, True, False, True, False, 2), ELSEWHERE),
        (Signs(PATIENCE_SECONDS, False, False, True, False, True, 0), None),
        (Signs(0, False, False, False, False, False, 0, clock="it is late"), "it is late"),
        (Signs(0, False, False, False, False, True, 0, clock="it is late"), "it is late"),
        (Signs(0, False, False, True, False, True, 0, clock="it is late"), None),
    ],
)
def test_what_keeps_a_relay_out_follows_from_what_it_sees(
    signs: Signs, trouble: str | None
) -> None:
    assert signs.trouble() == trouble
