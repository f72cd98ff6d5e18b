"""The plan of a lab: who there is, at which addresses, configured how."""

import random
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.config import load_config
from warren.errors import ConfigError
from warren.lab.plan import MOST_RELAYS, ORIGIN_NAME, LabOptions, make_plan, write_config

RESOLVER = Address("127.99.0.53", 5353)
TARGET = Address("127.99.0.80", 8080)


@given(seed=st.integers(), relays=st.integers(3, MOST_RELAYS), exits=st.integers(1, 3))
def test_every_relay_has_a_loopback_network_of_its_own(seed: int, relays: int, exits: int) -> None:
    plan = make_plan(LabOptions(relays=relays, exits=exits), random.Random(seed))

    relay_hosts = [peer.address.host for peer in plan.peers if peer.role in {"relay", "exit"}]
    other_hosts = [peer.address.host for peer in plan.peers if peer.role == "authority"]
    networks = {ip_network(f"{host}/24", strict=False) for host in relay_hosts}
    hosts = [*relay_hosts, *other_hosts, plan.dns_host, plan.origin_host]

    assert len(networks) == relays
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
        {"proxy": Address("192.0.2.1", 0)},
        {"hosts": {"localhost": ()}},
        {"hosts": {"127.0.0.1": ()}},
        {"hosts": {ORIGIN_NAME: ()}},
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
