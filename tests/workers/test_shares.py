"""What is the whole relay's is divided, and what its workers count is added up."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import NETWORK, identity
from warren.addresses import Address
from warren.config.file import parse_config
from warren.config.relay import MOST_WORKERS, RelayLimits
from warren.directory.network_file import parse_network_file
from warren.identity import Suite, SystemKeys
from warren.network.link import RelayKeys
from warren.workers.channel import NewKeys
from warren.workers.shares import add_up, divide, divide_limits, make_assignment

WORKERS = st.integers(1, MOST_WORKERS)
COUNTS = st.recursive(
    st.integers(0, 10**12),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
ADDRESS = Address("192.0.2.1", 9440)
CONFIG = """
[relay]
listen = "192.0.2.1:9440"
workers = 4
bandwidth = 2_500_000
[exit]
policy = ["accept *:443"]
udp_policy = "web"
resolvers = ["192.0.2.53:53"]
"""


@given(whole=st.integers(1, 10**6), workers=WORKERS)
def test_the_parts_are_no_more_than_the_whole_but_for_the_one_that_each_needs(
    whole: int, workers: int
) -> None:
    part = divide(whole, workers)

    assert part >= 1
    assert part == 1 or part * workers <= whole


def test_one_worker_has_the_limits_of_the_relay() -> None:
    assert divide_limits(RelayLimits(), 1) == RelayLimits()


def test_what_is_for_the_relay_is_divided_and_what_is_for_a_circuit_stays() -> None:
    divided = divide_limits(RelayLimits(), 4)

    assert divided == RelayLimits(
        circuits=5000,
        pending_connects=64,
        lookups=8,
        streams_per_address=1024,
        associations=256,
    )


@given(workers=WORKERS, pending=st.integers(1, 1000), each=st.integers(1, 1000))
def test_no_circuit_may_have_more_than_its_worker(workers: int, pending: int, each: int) -> None:
    whole = RelayLimits(pending_connects=pending, pending_connects_per_circuit=each)

    divided = divide_limits(whole, workers)

    assert divided.pending_connects_per_circuit <= max(divided.pending_connects, 1)
    assert divided.lookups_per_circuit <= divided.lookups


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([], {}),
        ([{"created": 1}, {"created": 2}], {"created": 3}),
        ([{"cells": {"forward": 1}}, {"cells": {"forward": 5}}], {"cells": {"forward": 6}}),
        ([{"refused": {"policy": 1}}, {"refused": {}}], {"refused": {"policy": 1}}),
        ([{"refused": {}}, {"refused": {"policy": 1}}], {"refused": {"policy": 1}}),
        ([{"exit": None}, {"exit": None}], {"exit": None}),
        ([{"exit": None}, {"exit": {"open": 2}}, {"exit": None}], {"exit": {"open": 2}}),
        ([{}, {"created": 1}], {"created": 1}),
    ],
)
def test_counters_are_added_by_name(parts: list[dict[str, Any]], total: dict[str, Any]) -> None:
    assert add_up(parts) == total


@given(count=st.dictionaries(st.sampled_from("xyz"), COUNTS), times=st.integers(1, 5))
def test_so_many_times_the_same_is_so_many_times_as_much(count: dict[str, Any], times: int) -> None:
    assert add_up([count] * times) == multiplied(count, times)


def multiplied(count: Any, times: int) -> Any:
    if isinstance(count, dict):
        return {name: multiplied(value, times) for name, value in count.items()}
    return count * times


def test_an_assignment_says_all_that_a_worker_needs() -> None:
    config = parse_config(CONFIG, "relay.toml", Path())
    pair = SystemKeys().key_pair()
    keys = RelayKeys(identity(1), [pair], [pair], (Suite.CHACHAPOLY, Suite.AESGCM))

    assigned = make_assignment(config, NETWORK, ADDRESS, 4096, keys, b"a consensus")

    assert parse_network_file(assigned.network) == NETWORK
    assert Address.parse(assigned.address) == ADDRESS
    assert assigned.memory == 1024
    assert assigned.bandwidth == 625_000
    assert assigned.limits == divide_limits(RelayLimits(), 4)
    assert assigned.policy == ("accept *:443",)
    assert assigned.udp_policy == "web"
    assert assigned.resolvers == ("192.0.2.53:53",)
    assert assigned.seed == identity(1).seed
    assert assigned.suites == (Suite.CHACHAPOLY, Suite.AESGCM)
    assert assigned.keys == NewKeys((pair.private,), (pair.private,))
    assert assigned.consensus == b"a consensus"
