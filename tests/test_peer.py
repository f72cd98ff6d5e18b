from ipaddress import ip_address

import trio
from trio.testing import MockClock

from tests.support.directories import NETWORK, NOW
from tests.support.memory_network import MemoryNetwork
from warren.addresses import Address
from warren.network.interruptions import Clocks, Interruption
from warren.peer import World, running_peer

DAY = 86400


async def test_a_peer_learns_of_its_clock_from_links_and_forgets_it_in_a_sleep(
    autojump_clock: MockClock,
) -> None:  # LNK-7: the clock that never goes back has stood still meanwhile
    own = "198.51.100.1"
    world = World(
        network=MemoryNetwork().at(own),
        wall_clock=lambda: NOW + trio.current_time() + 2 * DAY,
        clocks=lambda: Clocks(0, 0, 0),
        towards=lambda _: ip_address(own),
        used_memory=None,
    )
    async with running_peer(NETWORK, None, world=world) as peer:
        for number in range(3):
            peer.settings.hear_time(Address(f"5.{number}.0.1", 9001), NOW)
        errors = [peer.clock_error()]

        for what in (Interruption.CLOCK_SET, Interruption.SLEPT):
            peer.interruptions._tell(what)
            errors.append(peer.clock_error())

    assert errors == [2 * DAY, 2 * DAY, None]
