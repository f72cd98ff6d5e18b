"""``warren status``: what is a running process doing?"""

import json
import shutil
import time
from pathlib import Path

import click

from warren.cli.options import FOLDER
from warren.errors import ConfigError

#: A page of text is no wider than this, however wide the terminal; nor where there is none.
_MOST_COLUMNS = 100
_USUAL_SIZE = (80, 24)


@click.command()
@click.option("--state", type=FOLDER, help="State folder of the process.")
@click.option(
    "--socket",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its control socket, when that is known.",
)
@click.option("--json", "as_json", is_flag=True, help="All that it says, as JSON, for programs.")
def status(state: Path | None, path: Path | None, as_json: bool) -> None:
    """Tell whether a running process is of use, and what it does.

    Without options it is the proxy, relay or authority that this user runs, wherever its state
    folder is; with several of them, name the state folder.
    """
    from warren.status.control import ask, find_socket

    if state is not None and path is not None:
        raise ConfigError("--state and --socket mean the same process: give one of them")
    if path is None:
        path = find_socket(state or _only_state())
    told = ask(path)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    from warren.status.text.describe import describe

    columns = min(shutil.get_terminal_size(_USUAL_SIZE).columns, _MOST_COLUMNS)
    click.echo(describe(told, now=time.time(), width=columns), nl=False)


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
