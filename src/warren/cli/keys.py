"""``warren keys``: who is the peer in this state folder?"""

from pathlib import Path

import click

from warren.cli.options import FOLDER


@click.command(short_help="Show the peer id in a state folder.")
@click.option("--state", type=FOLDER, help="State folder; that of this user's relay unless given.")
def keys(state: Path | None) -> None:
    """Show the peer id in a state folder; make one where there is none.

    The peer id is what a relay is known by. Others name it in their family. It does not change
    as long as the file identity.key is kept, so keep a copy of it in a safe place.
    """
    from warren.config import Config, state_directory
    from warren.identity import SystemKeys
    from warren.key_files import KeyFiles
    from warren.storage import DataFolder

    folder = state or state_directory(Config(), "relay")
    click.echo(str(KeyFiles(DataFolder(folder), SystemKeys()).identity().peer_id))
