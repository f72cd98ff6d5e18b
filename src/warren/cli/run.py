"""``warren run``: one command in a network of its own, out of which only the proxy leads."""

import sys

import click

from warren.addresses import Address
from warren.cli.options import ADDRESS
from warren.errors import ConfigError


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--proxy",
    type=ADDRESS,
    default="127.0.0.1:1080",
    show_default=True,
    help="Where warren proxy listens.",
)
@click.option(
    "--env",
    "with_variables_only",
    is_flag=True,
    help="Where this system forbids namespaces, set proxy variables only. A program that ignores "
    "them then goes around the proxy.",
)
@click.option("--verbose", is_flag=True, help="Say on standard error what the proxy refused.")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND...", type=click.UNPROCESSED)
def run(proxy: Address, with_variables_only: bool, verbose: bool, words: tuple[str, ...]) -> None:
    """Run a command whose every connection goes through the proxy.

    \b
        warren run -- git clone https://example.com/project.git

    The command gets a network of its own, out of which only the proxy leads: whether it knows of
    proxies or not, TCP goes through it, names are resolved at the exit, and the rest goes nowhere.
    Needs Linux, but neither root nor a TUN device.
    """  # noqa: D301  click keeps the layout of a paragraph that begins with a backspace
    if sys.platform != "linux":
        raise ConfigError(
            "warren run needs namespaces, which only Linux has; see warren run --help"
        )
    from warren.run.launch import run as run_command

    sys.exit(
        run_command(list(words), proxy, with_variables_only=with_variables_only, is_verbose=verbose)
    )
