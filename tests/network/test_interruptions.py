"""Sleep, clocks and networks, on paper; what a client makes of it is in roles/test_client.py."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog.testing
from trio.testing import MockClock

from warren.addresses import Address, IPAddress, parse_ip
from warren.network.interruptions import (
    LOOK_SECONDS,
    Clocks,
    ClockWatch,
    Interruption,
    Interruptions,
    NetworkWatch,
    read_clocks,
)
from warren.network.own_addresses import address_towards

DAY = 86400.0
NOW = Clocks(awake=100.0, since_boot=5000.0, wall=1.8e9)


def ip(text: str) -> IPAddress:
    found = parse_ip(text)
    assert found is not None
    return found


def later(clocks: Clocks, awake: float, *, asleep: float = 0, wall_set: float = 0) -> Clocks:
    return Clocks(
        clocks.awake + awake,
        clocks.since_boot + awake + asleep,
        clocks.wall + awake + asleep + wall_set,
    )


# ---- clocks


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (later(NOW, 1.0), None),
        (later(NOW, 10.0), None),  # a busy machine
        (later(NOW, 1.0, asleep=4), None),
        (later(NOW, 1.0, asleep=6), Interruption.SLEPT),
        (later(NOW, 1.0, asleep=3 * DAY), Interruption.SLEPT),
        (later(NOW, 600.0), Interruption.SLEPT),  # SIGSTOP
        (later(NOW, 1.0, wall_set=30), None),
        (later(NOW, 1.0, wall_set=2 * DAY), Interruption.CLOCK_SET),
        (later(NOW, 1.0, wall_set=-2 * DAY), Interruption.CLOCK_SET),
        (later(NOW, 1.0, asleep=600, wall_set=2 * DAY), Interruption.SLEPT),
    ],
)
def test_what_the_clocks_say(after: Clocks, expected: Interruption | None) -> None:  # T42
    watch = ClockWatch(NOW)

    assert watch.look(after) is expected
    assert watch.look(later(after, 1.0)) is None  # once


def test_the_clocks_of_this_machine_go_on_together() -> None:
    watch = ClockWatch(read_clocks())

    assert watch.look(read_clocks()) is None


# ---- networks


class Routes:
    """Be a routing table that gives one address for everything."""

    def __init__(self, own: str | None) -> None:
        self.own = own

    def __call__(self, _: IPAddress) -> IPAddress | None:
        return None if self.own is None else ip(self.own)


WIFI, CABLE = "192.168.1.7", "10.0.0.7"


@pytest.mark.parametrize(
    ("owns", "changes"),
    [
        ([WIFI, WIFI, WIFI], [None, None]),
        ([WIFI, CABLE, CABLE], [Interruption.NETWORK_CHANGED, None]),
        ([WIFI, None, None, WIFI], [None, None, Interruption.NETWORK_CHANGED]),
        ([None, CABLE], [Interruption.NETWORK_CHANGED]),
        # The last 64 bits of an IPv6 address change every day, and the old one goes on working.
        (["2001:db8::1:2", "2001:db8::3:4"], [None]),
        (["2001:db8::1", "2001:db8:0:1::1"], [Interruption.NETWORK_CHANGED]),
    ],
)
def test_what_the_routes_say(
    owns: list[str | None], changes: list[Interruption | None]
) -> None:  # T43
    routes = Routes(owns[0])
    watch = NetworkWatch([ip("198.51.100.1"), ip("203.0.113.1")], routes)
    seen = []

    for own in owns[1:]:
        routes.own = own
        seen.append(watch.look())

    assert seen == changes


def test_whether_there_is_a_network_is_known() -> None:
    routes = Routes(None)
    watch = NetworkWatch([ip("198.51.100.1")], routes)
    was_down = watch.is_down
    routes.own = WIFI
    watch.look()

    assert (was_down, watch.is_down) == (True, False)
    assert not NetworkWatch([], routes).is_down


def test_the_own_address_towards_loopback_is_loopback() -> None:
    assert address_towards(ip("127.0.0.1")) == ip("127.0.0.1")


# ---- telling


def ticking(*steps: Clocks) -> Iterator[Clocks]:
    yield from steps
    last = steps[-1]
    for seconds in itertools.count(1):
        yield later(last, seconds)


async def test_everybody_is_told_in_order_whatever_one_makes_of_it(
    autojump_clock: MockClock,
) -> None:
    slept = later(NOW, 1.0, asleep=60)
    clocks = ticking(NOW, slept)
    told = []
    watch = Interruptions(
        [Address("198.51.100.1", 9001)], clocks=lambda: next(clocks), towards=Routes(WIFI)
    )

    def broken(_: Interruption) -> None:
        raise RuntimeError("a bug")

    watch.on_interruption += [lambda what: told.append(("first", what)), broken]
    watch.on_interruption.append(lambda what: told.append(("last", what)))
    with structlog.testing.capture_logs() as logs:
        watch.look()
        watch.look()

    assert told == [("first", Interruption.SLEPT), ("last", Interruption.SLEPT)]
    assert watch.statistics()["slept"] == 1
    assert [entry["log_level"] for entry in logs] == ["info", "error"]
    assert LOOK_SECONDS <= 1.0
    assert replace(slept) == slept
