"""Founding a network: a file for everybody, keys for each authority."""

import os
from pathlib import Path

import pytest

from warren.addresses import Address
from warren.directory.network_file import parse_network_file
from warren.errors import ConfigError
from warren.founding import authority_folder, found_network
from warren.identity import SystemKeys
from warren.key_files import KeyFiles
from warren.storage import DataFolder

THREE = {name: Address("192.0.2.1", 9000 + number) for number, name in enumerate("abc")}


def test_the_file_names_the_keys_that_were_made(tmp_path: Path) -> None:
    made = found_network(tmp_path, "home", THREE)
    network = parse_network_file((tmp_path / "network.toml").read_text())

    assert network == made
    assert network.threshold == 2
    for authority in network.authorities:
        keys = KeyFiles(DataFolder(authority_folder(tmp_path, authority.name)), SystemKeys())
        assert keys.identity().peer_id == authority.hop.peer_id
        assert keys.load("link", 0).current.public == authority.hop.link_key
        assert authority.hop.address == THREE[authority.name]


def test_two_networks_of_one_name_are_two_networks(tmp_path: Path) -> None:
    first = found_network(tmp_path / "1", "home", THREE)
    second = found_network(tmp_path / "2", "home", THREE)

    assert first.network_id != second.network_id


def test_parameters_are_checked_by_name_and_value(tmp_path: Path) -> None:
    network = found_network(tmp_path, "home", THREE, parameters={"consensus_interval_seconds": 600})

    assert network.parameters.consensus_interval_seconds == 600
    with pytest.raises(ConfigError, match="unknown parameter 'speed': expected one of"):
        found_network(tmp_path / "x", "home", THREE, parameters={"speed": 1})
    with pytest.raises(ConfigError, match="interval_seconds is 0, expected a whole number"):
        found_network(tmp_path / "y", "home", THREE, parameters={"consensus_interval_seconds": 0})


def test_a_network_is_never_founded_over_another(tmp_path: Path) -> None:
    found_network(tmp_path, "home", THREE)

    with pytest.raises(ConfigError, match="there is a network in"):
        found_network(tmp_path, "home", THREE)


def test_the_keys_of_an_authority_that_are_damaged_are_not_replaced(tmp_path: Path) -> None:
    found_network(tmp_path, "home", THREE)
    (tmp_path / "network.toml").unlink()
    path = authority_folder(tmp_path, "b") / "link.keys"
    path.write_bytes(damaged := path.read_bytes()[:-3])

    with pytest.raises(ConfigError, match=r"b/link\.keys is damaged"):
        found_network(tmp_path, "home", THREE)

    assert path.read_bytes() == damaged
    assert not (tmp_path / "network.toml").exists()


@pytest.mark.parametrize("name", ["../a", "a/b", "/a", "..", ""])
def test_an_authority_cannot_have_its_keys_elsewhere(name: str, tmp_path: Path) -> None:
    addresses = {name: Address("192.0.2.1", 9000)}

    with pytest.raises(ConfigError):
        found_network(tmp_path / "net", "home", addresses, testing=True)
    assert {path.name for path in tmp_path.rglob("*.key")} == set()


@pytest.mark.parametrize(("voting", "interval"), [(5000, 3600), (50, 10)])
def test_voting_must_fit_the_interval(voting: int, interval: int, tmp_path: Path) -> None:
    parameters = {"voting_seconds": voting, "consensus_interval_seconds": interval}

    with pytest.raises(ConfigError, match=f"voting_seconds is {voting} and .*seconds {interval}:"):
        found_network(tmp_path / "net", "home", THREE, parameters=parameters)

    assert not list(tmp_path.rglob("*.key*"))


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd00::1"])
def test_a_network_that_is_no_test_has_public_authorities(host: str, tmp_path: Path) -> None:
    addresses = {**THREE, "d": Address(host, 9000)}

    with pytest.raises(ConfigError, match=r"authority d is at .*--testing"):
        found_network(tmp_path / "net", "home", addresses)

    assert not list(tmp_path.rglob("*.key*"))
    assert found_network(tmp_path / "net", "home", addresses, testing=True).testing


def test_what_is_for_everybody_can_be_read_and_the_keys_cannot(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        found_network(tmp_path / "net", "home", THREE)
    finally:
        os.umask(before)

    modes = {
        path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
        for path in (tmp_path / "net", *(tmp_path / "net").rglob("*"))
    }
    assert modes.pop("net") == 0o755
    assert modes.pop("net/network.toml") == 0o644
    keys = {path: mode for path, mode in modes.items() if path.endswith((".key", ".keys"))}
    assert len(keys) == 6
    assert set(keys.values()) == {0o600}
    assert {mode for path, mode in modes.items() if path not in keys} == {0o700}


def test_a_public_file_stays_public_when_it_is_found_there(tmp_path: Path) -> None:
    found_network(tmp_path, "home", THREE)
    (tmp_path / "network.toml").chmod(0o644)

    with pytest.raises(ConfigError, match="there is a network in"):
        found_network(tmp_path, "home", THREE)

    assert (tmp_path / "network.toml").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("count", [1, 2])
def test_what_does_not_fit_leaves_nothing_behind(count: int, tmp_path: Path) -> None:
    few = dict(list(THREE.items())[:count])

    with pytest.raises(ConfigError, match=f"{count} authorities, expected 3"):
        found_network(tmp_path / "net", "home", few)

    assert not (tmp_path / "net").exists()
