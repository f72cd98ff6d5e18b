"""Who may come to a listener: each address so often, and with so many links (DOS-2)."""

import pytest
from structlog.testing import capture_logs

from warren.addresses import Address
from warren.network.bucket import REPORT_SECONDS
from warren.network.link_door import LinkDoor, LinkLimits

CLIENT, NEIGHBOUR = Address("192.0.2.1", 5000), Address("192.0.2.2", 5000)
RELAY = Address("198.51.100.1", 5000)
LIMITS = LinkLimits(links_per_address=8, connects_per_second=2, connect_burst=5)


@pytest.fixture
def door() -> LinkDoor:
    return LinkDoor(LIMITS, lambda host: host == RELAY.host)


def come(door: LinkDoor, times: int, now: float, remote: Address = CLIENT) -> int:
    """Connect so often, and leave at once; return how often that was admitted."""
    admitted = 0
    for _ in range(times):
        host = door.admit(remote, now)
        if host is not None:
            admitted += 1
            door.leave(host)
    return admitted


def test_an_address_may_connect_so_often_at_once_and_a_second(door: LinkDoor) -> None:
    assert come(door, 100, 0.0) == 5
    assert come(door, 100, 0.4) == 0
    assert [come(door, 1, 1 + second / 2) for second in range(6)] == [1] * 6
    assert come(door, 100, 1000.0) == 5
    assert door.turned_away == 95 + 100 + 95


def test_an_address_has_so_many_links_and_one_more_when_one_is_gone(door: LinkDoor) -> None:
    hosts = [door.admit(CLIENT, 10.0 * number) for number in range(8)]
    one_too_many = door.admit(CLIENT, 1000.0)
    assert hosts[0]
    door.leave(hosts[0])

    one_more = door.admit(CLIENT, 1001.0)

    assert one_too_many is None
    assert one_more is not None


def test_what_one_address_asks_for_costs_no_other(door: LinkDoor) -> None:
    come(door, 100, 0.0)

    assert come(door, 5, 0.0, NEIGHBOUR) == 5


def test_all_of_a_house_with_ipv6_are_one(door: LinkDoor) -> None:
    admitted = [come(door, 1, 0.0, Address(f"2001:db8:1:2::{number:x}", 1)) for number in range(20)]

    assert sum(admitted) == 5
    assert come(door, 1, 0.0, Address("2001:db8:1:3::1", 1)) == 1


@pytest.mark.parametrize("remote", [RELAY, Address("127.0.0.1", 1), Address("::1", 1)])
def test_relays_of_the_network_and_forwarders_here_are_not_counted(
    door: LinkDoor, remote: Address
) -> None:
    hosts = [door.admit(remote, 0.0) for _ in range(1000)]

    assert None not in hosts
    assert door.turned_away == 0


def test_who_has_left_is_forgotten(door: LinkDoor) -> None:
    for number in range(1000):
        come(door, 2, 0.0, Address(f"10.1.{number // 250}.{number % 250}", 1))

    assert not door._open


def test_the_log_says_once_a_minute_that_some_are_refused_and_never_who(door: LinkDoor) -> None:
    with capture_logs() as logs:
        for tenth in range(1250):
            come(door, 3, tenth / 10)

    assert [entry["log_level"] for entry in logs] == ["warning"] * 3
    assert logs[0]["so_far"] == 1
    assert logs[-1]["so_far"] > REPORT_SECONDS
    assert CLIENT.host not in str(logs)
