"""The plan of a lab: who there is, at which addresses, configured how."""

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.config.file import load_config
from warren.country_files import load_countries
from warren.errors import ConfigError
from warren.lab.line import Impairment
from warren.lab.plan import (
    MOST_RELAYS,
    ORIGIN_NAME,
    LabOptions,
    make_plan,
    write_config,
    write_countries,
)

RESOLVER = Address("127.99.0.53", 5353)
TARGET = Address("127.99.0.80", 8080)


@given(seed=st.integers(), relays=st.integers(3, MOST_RELAYS), exits=st.integers(1, 3))
def test_every_relay_and_authority_has_a_loopback_network_of_its_own(
    seed: int, relays: int, exits: int
) -> None:
    plan = make_plan(LabOptions(relays=relays, exits=exits), random.Random(seed))

    relay_hosts = [peer.address.host for peer in plan.peers if peer.role in {"relay", "exit"}]
    other_hosts = [peer.address.host for peer in plan.peers if peer.role == "authority"]
    networks = {ip_network(f"{host}/24", strict=False) for host in relay_hosts + other_hosts}
    hosts = [*relay_hosts, *other_hosts, plan.dns_host, plan.origin_host]

    assert len(networks) == relays + len(other_hosts)
    assert all(ip_address(host).is_loopback for host in hosts)
    assert len(set(hosts)) == len(hosts)


def test_names_tell_the_roles_and_the_proxy_comes_last() -> None:
    plan = make_plan(LabOptions(relays=4, exits=2, authorities=1), random.Random(1))

    assert [(peer.role, peer.name) for peer in plan.peers] == [
        ("authority", "authority1"),
        ("relay", "relay1"),
        ("relay", "relay2"),
        ("exit", "exit1"),
        ("exit", "exit2"),
        ("proxy", "proxy"),
    ]


def test_the_configuration_of_every_peer_is_one_that_its_process_accepts(tmp_path: Path) -> None:
    plan = make_plan(LabOptions(), random.Random(1))

    for peer in plan.peers:
        config = load_config(write_config(peer, tmp_path, RESOLVER, (TARGET,)))

        assert config.state == tmp_path / peer.name
        assert config.network == tmp_path / "network.toml"
        assert config.exit.exit_policy.is_exit == (peer.role == "exit")
        if peer.role == "exit":
            assert config.exit.resolvers == (RESOLVER,)
            assert config.exit.allow_targets == (TARGET,)
        if peer.role == "proxy":
            assert config.proxy.allow_targets == (TARGET,)
        if peer.role == "authority":
            assert config.authority is not None
            assert config.authority.keys == tmp_path / "authorities" / peer.name


def test_an_impairment_is_in_front_of_its_relay_and_that_of_all_in_front_of_the_others() -> None:
    one, all_others = Impairment(0.15), Impairment(0.01)

    options = LabOptions(relays=3, exits=1, impairments={"all": all_others, "exit1": one})
    plan = make_plan(options, random.Random(1))

    assert {peer.name: peer.impairment for peer in plan.peers if peer.impairment} == {
        "relay1": all_others,
        "relay2": all_others,
        "exit1": one,
    }


def test_a_relay_behind_an_impairment_publishes_its_address(tmp_path: Path) -> None:
    plan = make_plan(LabOptions(impairments={"exit1": Impairment(0.15)}), random.Random(1))
    peer = next(peer for peer in plan.peers if peer.name == "exit1")
    listen, published = Address(peer.address.host, 1001), Address(peer.address.host, 1002)

    peer = replace(peer, address=listen, published=published)
    config = load_config(write_config(peer, tmp_path, RESOLVER, (TARGET,)))

    assert config.relay is not None
    assert (config.relay.listen, config.relay.address) == (listen, published)


@pytest.mark.parametrize(
    "options",
    [
        {"relays": 2},
        {"relays": MOST_RELAYS + 1},
        {"exits": 0},
        {"exits": 10},
        {"authorities": 0},
        {"workers": 0},
        {"workers": 65},
        {"bandwidth": 99_999},
        {"bandwidth": 1 << 50},
        {"workers": 2, "bandwidth": 199_999},
        {"memory": 15},
        {"workers": 2, "memory": 31},
        {"proxy": Address("192.0.2.1", 0)},
        {"allow_targets": (Address("127.0.0.1", 0),)},
        {"hosts": {"localhost": ()}},
        {"hosts": {"127.0.0.1": ()}},
        {"hosts": {ORIGIN_NAME: ()}},
        {"impairments": {"relay9": Impairment()}},
        {"impairments": {"proxy": Impairment()}},
        {"countries": {"exit9": "de"}},
        {"countries": {"exit1": "deu"}},
        {"countries": {"exit1": "??"}},
    ],
)
def test_a_lab_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LabOptions(**options)  # type: ignore[arg-type]  # one table for all options


def test_relays_and_exits_have_the_workers_that_were_asked_for(tmp_path: Path) -> None:
    plan = make_plan(LabOptions(workers=3), random.Random(1))

    configs = {
        peer.role: load_config(write_config(peer, tmp_path, RESOLVER, (), workers=3))
        for peer in plan.peers
    }

    assert {role for role, config in configs.items() if config.relay is not None} == {
        "relay",
        "exit",
    }
    assert all(c.relay.workers == 3 for c in configs.values() if c.relay is not None)


def test_all_but_authorities_keep_as_much_for_others_as_was_asked_for(tmp_path: Path) -> None:
    plan = make_plan(LabOptions(memory=64), random.Random(1))

    configs = [
        load_config(write_config(peer, tmp_path, RESOLVER, (), memory=64)) for peer in plan.peers
    ]

    assert [c.relay.memory_megabytes for c in configs if c.relay is not None] == [64] * 9
    assert configs[-1].proxy.memory_megabytes == 64


def test_the_authorities_read_where_the_relays_are(tmp_path: Path) -> None:
    countries = {"exit1": "de", "relay1": "fr", "all": "se"}
    plan = make_plan(LabOptions(countries=countries), random.Random(1))

    table = write_countries(plan.peers, countries, tmp_path)
    config = load_config(write_config(plan.peers[0], tmp_path, RESOLVER, (), countries=table))

    assert config.authority is not None
    assert config.authority.countries == (table,)
    found = load_countries(config.authority.countries)
    for peer in plan.peers:
        assert peer.address.ip is not None
        is_relay = peer.role in {"relay", "exit"}
        expected = countries.get(peer.name, "se") if is_relay else "??"
        assert found.find(peer.address.ip) == expected
