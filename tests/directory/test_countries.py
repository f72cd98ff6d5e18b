"""A table of ranges: which country an address is in."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import IPAddress
from warren.directory.countries import CountryTable, Range

CODES = st.sampled_from(["de", "fr", "se"])


def within(first: str, last: str, country: str) -> Range:
    return ip_address(first).packed, ip_address(last).packed, country


def test_both_ends_of_a_range_are_in_it() -> None:
    table = CountryTable([within("5.0.0.0", "5.0.0.9", "de"), within("5.0.0.10", "5.0.0.10", "fr")])

    found = [table.find(IPv4Address("5.0.0.0") + n) for n in (0, 9, 10, 11)]

    assert found == ["de", "de", "fr", "??"]
    assert table.find(IPv4Address("4.255.255.255")) == "??"


def test_families_are_apart() -> None:
    table = CountryTable([within("::", "::ff", "de"), within("0.0.0.0", "0.0.0.1", "fr")])

    assert table.find(IPv6Address("::1")) == "de"
    assert table.find(IPv4Address("0.0.0.1")) == "fr"
    assert table.find(IPv4Address("0.0.0.2")) == "??"


def test_an_empty_table_knows_nothing() -> None:
    assert CountryTable().find(IPv4Address("5.0.0.0")) == "??"
    assert len(CountryTable()) == 0


def test_ranges_that_overlap_are_refused_wherever_they_stand() -> None:
    ranges = [
        within("9.0.0.0", "9.0.0.9", "de"),
        within("5.0.0.0", "5.0.0.9", "de"),
        within("5.0.0.9", "5.0.0.20", "fr"),
    ]

    with pytest.raises(ValueError, match=r"5\.0\.0\.0 to 5\.0\.0\.9 and 5\.0\.0\.9 to 5\.0\.0\.20"):
        CountryTable(ranges)


@given(st.data(), st.sampled_from([IPv4Address, IPv6Address]))
def test_any_order_finds_what_a_search_through_all_finds(
    data: st.DataObject, kind: type[IPv4Address] | type[IPv6Address]
) -> None:
    bounds = sorted(data.draw(st.sets(st.integers(0, 300), max_size=20)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    ranges = [(kind(a), kind(b), data.draw(CODES)) for a, b in pairs]
    packed = [(a.packed, b.packed, country) for a, b, country in ranges]
    table = CountryTable(data.draw(st.permutations(packed)))

    def search(ip: IPAddress) -> str:
        return next((country for a, b, country in ranges if int(a) <= int(ip) <= int(b)), "??")

    assert len(table) == len(ranges)
    assert all(table.find(kind(n)) == search(kind(n)) for n in range(0, 302, 3))
