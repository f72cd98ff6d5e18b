"""``warren network``: found a network, sign off a change to its file, or list its relays."""

from pathlib import Path

import click

from warren.addresses import Address
from warren.cli.options import ADDRESS, EXISTING_FILE, FOLDER, config_options, read_options
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

    addresses: dict[str, Address] = {}
    for text in authorities:
        who, where = _split(text, "--authority", "NAME=HOST:PORT")
        if who in addresses:
            raise ConfigError(f"--authority {who} is there twice")
        addresses[who] = ADDRESS.convert(where, None, None)
    numbers: dict[str, int] = {}
    for text in parameters:
        key, number = _split(text, "--parameter", "KEY=NUMBER")
        if not number.isascii() or not number.isdigit() or len(number) > 15:
            raise ConfigError(f"--parameter {key} is {number[:32]!r}, expected a whole number")
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
    from warren.directory.network_file import parse_network_file, renew_checksum

    try:
        text = renew_checksum(file.read_text(encoding="utf-8-sig"))
        parse_network_file(text)
        file.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    click.echo(f"{file} has a new checksum")


@network.command()
@config_options
@click.option("--country", help="Only those in this country, two letters.")
@click.option("--exits", is_flag=True, help="Only exits.")
def relays(
    config: Path | None,
    network: Path | None,
    state: Path | None,
    country: str | None,
    exits: bool,
) -> None:
    """List the relays of the newest consensus in a state folder.

    A line for each: its id, country, address, weight, and what the authorities found it to be.
    The folder is that of this user's proxy unless given. The id is what exit=ID in a user name
    means, the country what country=CC does.
    """
    from warren.config import load_network, state_directory
    from warren.directory.consensus import read_consensus
    from warren.directory.relays import Flag
    from warren.roles.archive import CONSENSUS_FILE

    settings = read_options(config, network=network, state=state)
    path = state_directory(settings, "proxy") / CONSENSUS_FILE
    try:
        document = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}. Name the state folder of a peer that has "
            "fetched a consensus, with --state"
        ) from error
    wanted = country.lower() if country is not None else None
    for entry in read_consensus(document, load_network(settings)).relays:
        if wanted not in (None, entry.country) or (exits and Flag.EXIT not in entry.flags):
            continue
        flags = " ".join(sorted(entry.flags))
        click.echo(
            f"{entry.peer_id} {entry.country} {entry.hop.address!s:21} {entry.weight:>10} {flags}"
        )


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{option} {text!r}: expected {form}")
    return key, value
