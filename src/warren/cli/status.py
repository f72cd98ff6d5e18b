"""``warren status``: what is a running process doing?"""

import json
from pathlib import Path

import click

from warren.cli.options import FOLDER
from warren.errors import ConfigError


@click.command()
@click.option("--state", type=FOLDER, help="State folder of the process.")
@click.option(
    "--socket",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its control socket, when that is known.",
)
def status(state: Path | None, path: Path | None) -> None:
    """Print the numbers of a running process as JSON.

    Without options it is the proxy, relay or authority that this user runs; with several of
    them, name the state folder.
    """
    from warren.status.control import ask, find_socket

    if state is not None and path is not None:
        raise ConfigError("--state and --socket mean the same process: give one of them")
    if path is None:
        path = find_socket(state or _only_state())
    click.echo(json.dumps(ask(path), indent=2))


def _only_state() -> Path:
    from warren.config import Config, state_directory
    from warren.status.control import find_socket

    folders = [state_directory(Config(), role) for role in ("proxy", "relay", "authority")]
    alive = [folder for folder in folders if find_socket(folder).exists()]
    if len(alive) == 1:
        return alive[0]
    found = ", ".join(map(str, alive)) or "none"
    raise ConfigError(f"which process? Name its folder with --state. Found: {found}")
