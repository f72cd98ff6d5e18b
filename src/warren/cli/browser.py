"""``warren browser``: a browser that can reach nothing but the proxy."""

import os
import sys

import click

from warren.addresses import Address
from warren.cli.options import proxy_option
from warren.errors import ConfigError


@click.command(short_help="Browse through the proxy, in a passing profile.")
@proxy_option
@click.option(
    "--browser",
    "program",
    metavar="PATH",
    help="Which browser: a name or a path. Else the first one found of Chromium and its kin, "
    "then Firefox.",
)
@click.argument("page", default="about:blank")
def browser(proxy: Address, program: str | None, page: str) -> None:
    """Browse through the proxy, in a profile that is removed at the end.

    Starts an installed browser with the proxy as its only way out: names go to the exit, WebRTC
    and QUIC do not go around it, and this machine's own addresses are no exception. PAGE is
    what it shows first.

    It hides where you are, not who: pages still see fonts, window and time zone, and know you
    once you log in.
    """
    from warren.programs.browser import browse

    if page.startswith("-"):
        raise ConfigError(f"the page is {page[:80]!r}, expected an URL")
    code = browse(proxy, page, program)
    if code:
        raise ConfigError(
            f"the browser ended with code {code}; what it said stands above{_without_screen()}"
        )
    sys.exit(0)


def _without_screen() -> str:
    """Return what to add where no browser can show anything."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    return " (neither DISPLAY nor WAYLAND_DISPLAY is set: it needs a screen)"
