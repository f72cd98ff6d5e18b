"""``warren network``: found a network, sign off a change to its file, or list its relays."""

import time
from pathlib import Path

import click

from warren.addresses import Address
from warren.cli.options import (
    EXISTING_FILE,
    FOLDER,
    config_options,
    log_to_standard_error,
    read_options,
)
from warren.errors import ConfigError


@click.group()
def network() -> None:
    """Found a network, change its network file, or list its relays."""


@network.command()
@click.option("--name", required=True, help="Name of the network.")
@click.option(
    "--authority",
    "authorities",
    multiple=True,
    required=True,
    metavar="NAME=HOST:PORT",
    help="An authority and its address; three or more, each run by somebody else.",
)
@click.option("--threshold", type=int, help="How many must agree; more than half unless given.")
@click.option("--testing", is_flag=True, help="A network for tests, never for people.")
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="KEY=NUMBER",
    help="Something all peers agree on, such as consensus_interval_seconds=600.",
)
@click.option("--dir", "directory", type=FOLDER, required=True, help="Where to write it all.")
def create(
    name: str,
    authorities: tuple[str, ...],
    threshold: int | None,
    testing: bool,
    parameters: tuple[str, ...],
    directory: Path,
) -> None:
    """Found a network.

    Writes DIR/network.toml, which everybody in the network needs and which holds no secret,
    and DIR/authorities/NAME/ with the keys of each authority. Move each of these folders to
    the machine of that authority and leave no copy behind.
    """
    from warren.founding import NETWORK_FILE, authority_folder, found_network

    log_to_standard_error()
    addresses: dict[str, Address] = {}
    for text in authorities:
        who, where = _split(text, "--authority", "NAME=HOST:PORT")
        if who in addresses:
            raise ConfigError(f"--authority {who} is there twice")
        try:
            addresses[who] = Address.parse(where)
        except ValueError as error:
            raise ConfigError(f"--authority {who}: {error}") from error
        if addresses[who].ip is None:
            raise ConfigError(f"--authority {who}: {where!r} names a host, expected an IP address")
    numbers: dict[str, int] = {}
    for text in parameters:
        key, number = _split(text, "--parameter", "KEY=NUMBER")
        if not number.isascii() or not number.isdigit() or len(number) > 15:
            raise ConfigError(f"--parameter {key} is {number[:32]!r}, expected a whole number")
        if key in numbers:
            raise ConfigError(f"--parameter {key} is there twice")
        numbers[key] = int(number)
    found_network(
        directory, name, addresses, threshold=threshold, testing=testing, parameters=numbers
    )
    click.echo(f"{directory / NETWORK_FILE}: give it to everybody in the network")
    for who in addresses:
        click.echo(f"{authority_folder(directory, who)}: the keys of {who}, for nobody else")


@network.command()
@click.argument("file", type=EXISTING_FILE)
def checksum(file: Path) -> None:
    """Renew the checksum of a network file after a change by hand.

    The file is checked first and stays as it was if something in it is wrong.
    """
    from warren.config.file import read_file
    from warren.directory.network_file import parse_network_file, renew_checksum
    from warren.storage import replace_public

    before = read_file(file, "network file")
    try:
        text = renew_checksum(before)
        parse_network_file(text)
    except ConfigError as error:
        raise ConfigError(f"network file {file}: {error}") from error
    replace_public(file, text.encode())
    click.echo(f"{file} has a new checksum")


@network.command()
@config_options
@click.option("--country", help="Only those in this country: two letters, or ?? for unknown.")
@click.option("--exits", is_flag=True, help="Only exits.")
def relays(
    config: Path | None,
    network: Path | None,
    state: Path | None,
    country: str | None,
    exits: bool,
) -> None:
    """List the relays of a network.

    A line for each: its id, country, address, weight, and what the authorities found it to be.
    The id is what exit=ID in a user name means, the country what country=CC does.

    They are those of the newest consensus in the state folder that --state names. Without it
    that of this user's proxy is read, and if there is none to use, the authorities are asked.
    """
    from warren.config.file import load_network, state_directory
    from warren.directory.relays import Flag, is_country
    from warren.listing import fetch_consensus, read_held, usable_consensus

    wanted = country.lower() if country is not None else None
    if wanted is not None and not is_country(wanted):
        raise ConfigError(
            f"--country {country!r}: expected two letters of ISO 3166, such as de for Germany"
        )
    settings = read_options(config, network=network, state=state)
    folder, known = state_directory(settings, "proxy"), load_network(settings)
    if state is not None:
        consensus = read_held(folder, known)
        _warn_of_age(folder, consensus.valid_until)
    else:
        held = usable_consensus(folder, known)
        consensus = held if held is not None else fetch_consensus(known)
    listed = [each for each in consensus.relays if not exits or Flag.EXIT in each.flags]
    chosen = [each for each in listed if wanted in (None, each.country)]
    for entry in chosen:
        flags = " ".join(sorted(entry.flags))
        click.echo(
            f"{entry.peer_id} {entry.country} {entry.hop.address!s:21} {entry.weight:>10} {flags}"
        )
    if not chosen:
        what, where = "exit" if exits else "relay", f" in {wanted}" if wanted else ""
        there = ", ".join(sorted({each.country for each in listed})) or "no country"
        click.echo(f"warren: no {what}{where}; there are some in {there}", err=True)


def _warn_of_age(folder: Path, valid_until: int) -> None:
    """Say on standard error that a consensus is of the past."""
    hours = (time.time() - valid_until) / 3600
    if hours > 0:
        click.echo(
            f"warren: the consensus in {folder} ended {hours:.1f} hours ago: nothing that runs "
            "there renews it",
            err=True,
        )


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{option} {text!r}: expected {form}")
    return key, value
