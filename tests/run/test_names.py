from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import IPAddress
from warren.run.names import OWN_4, OWN_6, SyntheticNames, is_synthetic


def both(names: SyntheticNames, name: str) -> tuple[IPAddress, ...]:
    found = names.addresses_of(name)
    assert found is not None
    return found


def test_a_name_has_an_address_of_each_family_that_leads_back() -> None:
    names = SyntheticNames()

    four, six = both(names, "www.example")

    assert (str(four), str(six)) == ("198.18.1.0", "2001:2::100")
    assert names.name_of(four) == names.name_of(six) == "www.example"
    assert is_synthetic(four)
    assert is_synthetic(six)


def test_without_ipv6_a_name_has_one_address() -> None:
    names = SyntheticNames(has_ipv6=False)

    assert both(names, "www.example") == (ip_address("198.18.1.0"),)
    assert both(names, "localhost") == (ip_address("127.0.0.1"),)


@given(st.lists(st.integers(0, 30)))
def test_names_in_use_keep_different_addresses(asked: list[int]) -> None:
    names = SyntheticNames(8)
    recent: dict[str, None] = {}

    for number in asked:
        name = f"host{number}.example"
        recent.pop(name, None)
        recent[name] = None
        both(names, name)

    last = list(recent)[-8:]
    addresses = [ip for name in last for ip in both(names, name)]
    assert len(set(addresses)) == len(addresses)
    assert [names.name_of(both(names, name)[0]) for name in last] == last


def test_the_name_that_was_used_longest_ago_gives_its_address_away() -> None:
    names = SyntheticNames(2)
    first, second = both(names, "one.example"), both(names, "two.example")

    names.name_of(first[0])
    third = both(names, "three.example")

    assert third == second
    assert names.name_of(second[0]) == "three.example"
    assert names.name_of(first[1]) == "one.example"


@pytest.mark.parametrize(
    "text", ["198.18.1.0", "198.18.0.255", "198.19.255.255", "2001:2::ff", "8.8.8.8", "::1"]
)
def test_other_addresses_are_no_names(text: str) -> None:
    names = SyntheticNames()

    assert names.name_of(ip_address(text)) is None


@pytest.mark.parametrize("ip", [OWN_4, OWN_6])
def test_the_own_addresses_are_never_a_names(ip: IPAddress) -> None:
    names = SyntheticNames(4)

    given = {address for i in range(9) for address in both(names, f"{i}.example")}

    assert ip not in given
    assert names.name_of(ip) is None


@pytest.mark.parametrize("name", ["localhost", "app.localhost"])
def test_localhost_is_the_machine_itself(name: str) -> None:
    assert both(SyntheticNames(), name) == (ip_address("127.0.0.1"), ip_address("::1"))


@pytest.mark.parametrize(
    "name",
    ["", "router", "printer.local", "a.onion", "1.1.18.198.in-addr.arpa", "1.2.3.4", "a b.example"],
)
def test_names_that_no_exit_would_look_up_do_not_exist(name: str) -> None:
    assert SyntheticNames().addresses_of(name) is None
