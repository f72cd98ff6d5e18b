"""Found a network: a network file for everybody, and the keys of its authorities.

The keys are as secret as the network is important: each folder under ``authorities/`` belongs
on the machine of that authority, and nowhere else.
"""

import ipaddress
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from warren.addresses import Address
from warren.directory.network_file import (
    FOUNDING_LENGTH,
    Authority,
    NetworkFile,
    create_network,
    render_network_file,
)
from warren.directory.parameters import read_parameters
from warren.directory.schedule import most_voting_seconds
from warren.errors import ConfigError, ProtocolError
from warren.identity import KEY_LENGTH, Hop, PeerId, Suite, SystemKeys
from warren.key_files import KeyFiles
from warren.storage import DataFolder, replace_public

NETWORK_FILE = "network.toml"

#: Loopback, private and link-local addresses, and those that mean none.
_INSIDE = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.168.0.0/16", "::/127", "fc00::/7", "fe80::/10"),
        ),
    )
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")


def authority_folder(directory: Path, name: str) -> Path:
    """Return where ``found_network`` puts the keys of the authority `name`."""
    return directory / "authorities" / name


def found_network(
    directory: Path,
    name: str,
    addresses: Mapping[str, Address],
    *,
    threshold: int | None = None,
    testing: bool = False,
    parameters: Mapping[str, int] | None = None,
) -> NetworkFile:
    """Write ``network.toml`` and the keys of the authorities at `addresses` below `directory`.

    That file is for everybody, and so is the folder if it is new; the keys are for nobody else.
    Without `threshold`, more than half of the authorities must agree. Raises ConfigError when
    something does not fit, or when there is a network in `directory` already.
    """
    if os.path.lexists(directory / NETWORK_FILE):
        raise ConfigError(f"there is a network in {directory} already: choose another folder")
    try:
        agreed = read_parameters(parameters or {})
    except ProtocolError as error:
        raise ConfigError(str(error)) from error
    unknown = (parameters or {}).keys() - agreed.to_mapping().keys()
    if unknown:
        known = ", ".join(agreed.to_mapping())
        raise ConfigError(f"unknown parameter {min(unknown)!r}: expected one of {known}")
    voting, interval = agreed.voting_seconds, agreed.consensus_interval_seconds
    # The default is cut to fit a short interval; what somebody asked for is not.
    if "voting_seconds" in (parameters or {}) and voting > most_voting_seconds(interval):
        raise ConfigError(
            f"voting_seconds is {voting} and consensus_interval_seconds {interval}: expected at "
            f"most {most_voting_seconds(interval):g} seconds of voting in such an interval"
        )
    for each, address in addresses.items():
        if not testing and _is_inside(address):
            raise ConfigError(
                f"the authority {each} is at {address}, which the Internet cannot reach: give its "
                "public address, or --testing for a network on one machine or at home"
            )
    for each in addresses:
        _check_folder_name(each)
    # Whatever does not fit is told before there are keys.
    drafts = [Authority(each, _nobody(n, at)) for n, (each, at) in enumerate(addresses.items())]
    create_network(name, bytes(FOUNDING_LENGTH), drafts, threshold=threshold, testing=testing)
    _make_public_folder(directory)
    DataFolder(directory / "authorities")
    network = create_network(
        name,
        os.urandom(FOUNDING_LENGTH),
        [_make_authority(directory, each, address) for each, address in addresses.items()],
        threshold=threshold,
        testing=testing,
        parameters=agreed,
    )
    replace_public(directory / NETWORK_FILE, render_network_file(network).encode())
    return network


def _make_public_folder(directory: Path) -> None:
    """Make `directory`, or find one of ours that nobody else can put keys into."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}") from error
    DataFolder(directory)


def _is_inside(address: Address) -> bool:
    return address.ip is not None and any(address.ip in each for each in _INSIDE)


def _check_folder_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:64]!r} is no name for an authority, whose keys are in a folder of that name: "
            "expected letters, digits, spaces and . _ -"
        )


def _nobody(number: int, address: Address) -> Hop:
    """Return somebody without keys who stands for an authority at `address`."""
    key = number.to_bytes(KEY_LENGTH, "big")
    return Hop(PeerId(key), address, key, None, (Suite.AESGCM,))


def _make_authority(directory: Path, name: str, address: Address) -> Authority:
    """Make, or find, the keys of an authority; return what the network file says of it."""
    keys = KeyFiles(DataFolder(authority_folder(directory, name)), SystemKeys())
    hop = Hop(
        peer_id=keys.identity().peer_id,
        address=address,
        link_key=keys.load("link", time.time(), is_known=True).current.public,
        onion_key=None,
        suites=(Suite.AESGCM, Suite.CHACHAPOLY),
    )
    return Authority(name, hop)
