"""How many relays of one address, and of one network, may be listed (DIR-11)."""

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import IPAddress
from warren.directory.crowds import crowd_around, without_crowds


def ips(*texts: str) -> list[IPAddress]:
    return [ipaddress.ip_address(text) for text in texts]


def test_two_relays_of_an_address_stay_the_first_ones() -> None:
    crowd = ips("5.5.5.1", "5.5.5.1", "5.5.6.1", "5.5.5.1")

    assert without_crowds(crowd) == [True, True, True, False]


def test_eight_relays_of_a_network_stay() -> None:
    crowd = ips(*(f"5.5.5.{number}" for number in range(20)), "5.5.6.1")

    assert without_crowds(crowd) == [True] * 8 + [False] * 12 + [True]


def test_of_ipv6_a_64_is_an_address_and_a_48_a_network() -> None:
    house = ips(*(f"2001:db8:1:1::{number:x}" for number in range(3)))
    street = ips(*(f"2001:db8:1:{number:x}::1" for number in range(2, 20)))

    stay = without_crowds([*house, *street, *ips("2001:db8:2::1")])

    assert stay == [True, True, False] + [True] * 6 + [False] * 12 + [True]


def test_who_is_left_out_at_his_address_takes_no_place_in_his_network() -> None:
    crowd = ips(*["5.5.5.1"] * 50, *(f"5.5.5.{number}" for number in range(2, 9)))

    assert without_crowds(crowd) == [True] * 2 + [False] * 48 + [True] * 6 + [False]


near = st.builds(
    lambda c, d: ipaddress.ip_address(f"5.5.{c}.{d}"), st.integers(0, 2), st.integers(0, 5)
) | st.builds(
    lambda a, b, c: ipaddress.ip_address(f"2001:db8:{a}:{b}::{c:x}"),
    st.integers(0, 1),
    st.integers(0, 5),
    st.integers(0, 3),
)


@given(st.lists(near, max_size=60))
def test_those_who_stay_keep_the_limits_and_nobody_is_left_out_for_nothing(
    crowd: list[IPAddress],
) -> None:
    stay = without_crowds(crowd)

    staying = [ip for ip, stays in zip(crowd, stay, strict=True) if stays]
    for v4, v6, most in ((32, 64, 2), (24, 48, 8)):
        blocks = Counter(
            ipaddress.ip_network((ip, v4 if ip.version == 4 else v6), strict=False)
            for ip in staying
        )
        assert max(blocks.values(), default=0) <= most
    for ip, stays in zip(crowd, stay, strict=True):
        assert stays or crowd_around(ip, staying) is not None


@pytest.mark.parametrize(
    ("ip", "others", "said"),
    [
        ("5.5.5.1", ["5.5.5.1"], None),
        ("5.5.5.1", ["5.5.5.1"] * 2, "2 relays at 5.5.5.1"),
        ("5.5.5.1", [f"5.5.5.{n}" for n in range(2, 9)], None),
        ("5.5.5.1", [f"5.5.5.{n}" for n in range(2, 10)], "8 relays in 5.5.5.0/24"),
        ("2001:db8::1", ["2001:db8::2", "2001:db8::3"], "2 relays in 2001:db8::/64"),
    ],
)
def test_who_finds_no_room_is_told_which_crowd(
    ip: str, others: list[str], said: str | None
) -> None:
    assert crowd_around(ipaddress.ip_address(ip), ips(*others)) == said
