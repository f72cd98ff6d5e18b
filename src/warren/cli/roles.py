"""``warren proxy``, ``relay`` and ``authority``: be a peer of a network."""

import functools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from warren.addresses import Address
from warren.cli.options import (
    ADDRESS,
    config_options,
    make_section,
    override,
    process_options,
    read_options,
)
from warren.errors import ConfigError

if TYPE_CHECKING:
    from warren.config.file import Config
    from warren.directory.network_file import NetworkFile
    from warren.service import Announcer

    Run = Callable[[Config, NetworkFile, Announcer], Awaitable[None]]


@click.command()
@config_options
@click.option(
    "--listen",
    type=ADDRESS,
    multiple=True,
    help="Where applications connect; 127.0.0.1:1080 unless given. May be repeated.",
)
@click.option(
    "--dns-listen",
    type=ADDRESS,
    multiple=True,
    help="Where DNS queries are answered as well; nowhere unless given. May be repeated.",
)
@process_options
def proxy(
    config: Path | None,
    network: Path | None,
    state: Path | None,
    listen: tuple[Address, ...],
    dns_listen: tuple[Address, ...],
    while_open: int | None,
    ready_fd: int | None,
) -> None:
    """Let applications on this machine use the network.

    One port speaks SOCKS4, SOCKS4a, SOCKS5, HTTP CONNECT and plain HTTP:

    \b
        curl -x socks5h://127.0.0.1:1080 https://example.com/

    Use socks5h (not socks5) in programs that know both: they then leave the name to the exit.
    """  # noqa: D301  click keeps the layout of a paragraph that begins with a backspace
    from warren.node.proxy import run_proxy

    settings = read_options(config, network=network, state=state)
    if listen:
        settings = override(settings, proxy=override(settings.proxy, listen=listen))
    if dns_listen:
        settings = override(settings, proxy=override(settings.proxy, dns_listen=dns_listen))
    run_role(run_proxy, settings, while_open, ready_fd)


@click.command()
@config_options
@click.option("--listen", type=ADDRESS, help="Where other peers connect.")
@click.option("--address", type=ADDRESS, help="How they reach it, if that differs.")
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Processes that carry circuits, one for each core it may use; 1 unless given.",
)
@process_options
def relay(
    config: Path | None,
    network: Path | None,
    state: Path | None,
    listen: Address | None,
    address: Address | None,
    workers: int | None,
    while_open: int | None,
    ready_fd: int | None,
) -> None:
    """Carry other people's circuits.

    A relay passes on cells it cannot read. It opens connections to targets only when section
    [exit] of its configuration names a policy; see configs/relay.toml and configs/exit.toml.
    """
    from warren.config.relay import RelayConfig
    from warren.node.relay import run_relay

    settings = read_options(config, network=network, state=state)
    section = settings.relay
    given = {"listen": listen, "address": address, "workers": workers}
    wanted = {key: value for key, value in given.items() if value is not None}
    if section is None:
        if listen is None:
            raise ConfigError(
                "a relay needs an address to listen at: give --listen HOST:PORT, or listen in "
                "section [relay] of the configuration"
            )
        section = make_section(RelayConfig, **wanted)
    else:
        section = override(section, **wanted)
    run_role(run_relay, override(settings, relay=section), while_open, ready_fd)


@click.command()
@config_options
@process_options
def authority(
    config: Path | None,
    network: Path | None,
    state: Path | None,
    while_open: int | None,
    ready_fd: int | None,
) -> None:
    """Vote on which relays are in the network.

    The keys come from warren network create; see configs/authority.toml.
    """
    from warren.node.authority import run_authority

    settings = read_options(config, network=network, state=state)
    if settings.authority is None:
        raise ConfigError(
            "an authority must know which one it is: set name in section [authority] of the "
            "configuration, see configs/authority.toml"
        )
    run_role(run_authority, settings, while_open, ready_fd)


def run_role(run: "Run", settings: "Config", while_open: int | None, ready_fd: int | None) -> None:
    """Run the role until it is told to end, then exit."""
    from warren.config.file import load_network
    from warren.service import LogStyle, run_process

    network = load_network(settings)
    style = LogStyle(settings.log.level, settings.log.json)
    main = functools.partial(run, settings, network)
    sys.exit(run_process(main, style=style, while_open=while_open, ready_fd=ready_fd))
