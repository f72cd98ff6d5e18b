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

    Without options it is the proxy, relay or authority that this user runs, wherever its state
    folder is; with several of them, name the state folder.
    """
    from warren.status.control import ask, find_socket

    if state is not None and path is not None:
        raise ConfigError("--state and --socket mean the same process: give one of them")
    if path is None:
        path = find_socket(state or _only_state())
    click.echo(json.dumps(ask(path), indent=2))


def _only_state() -> Path:
    from warren.config.file import ROLES, Config, state_directory
    from warren.status.control import answers, find_socket
    from warren.status.running import find_running

    found = {running.state: str(running) for running in find_running()}
    for role in ROLES:  # one that could not say that it runs
        folder = state_directory(Config(), role)
        if answers(find_socket(folder)) and folder.resolve() not in found:
            found[folder] = f"{folder} ({role})"
    if not found:
        raise ConfigError(
            "no process of this user runs, or none that could say so: start one, or name its "
            "state folder with --state"
        )
    if len(found) > 1:
        listed = "".join(f"\n    {line}" for line in found.values())
        raise ConfigError(f"which process? Name its folder with --state:{listed}")
    return next(iter(found))
