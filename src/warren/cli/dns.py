"""``warren dns``: answer the DNS queries of this machine through the network, and nothing else."""

import functools
from pathlib import Path

import click

from warren.addresses import Address
from warren.cli.options import (
    ADDRESS,
    config_options,
    override,
    process_options,
    read_options,
)
from warren.cli.roles import run_role

#: Unprivileged, and nobody's: 53 is the system's own, 5353 multicast DNS.
DEFAULT = Address("127.0.0.1", 1053)


@click.command()
@config_options
@click.option(
    "--listen",
    type=ADDRESS,
    multiple=True,
    help=f"Where programs ask, by UDP and TCP; {DEFAULT} unless given. May be repeated.",
)
@process_options
def dns(
    config: Path | None,
    network: Path | None,
    state: Path | None,
    listen: tuple[Address, ...],
    while_open: int | None,
    ready_fd: int | None,
) -> None:
    """Answer DNS queries through the network.

    Names are resolved at exits, so nobody near you learns which: A, AAAA and PTR records.

    \b
        dig -p 1053 @127.0.0.1 example.com

    It has circuits of its own, and the state folder of a proxy unless --state names another. Where
    a proxy runs already, let that one answer: set dns_listen in section [proxy] of its
    configuration, or give it --dns-listen.
    """  # noqa: D301  click keeps the layout of a paragraph that begins with a backspace
    from warren.node.proxy import run_proxy

    settings = read_options(config, network=network, state=state)
    wanted = listen or settings.proxy.dns_listen or (DEFAULT,)
    settings = override(settings, proxy=override(settings.proxy, dns_listen=wanted))
    run_role(functools.partial(run_proxy, is_for_names=True), settings, while_open, ready_fd)
