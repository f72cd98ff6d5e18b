"""``warren keys``: who is the peer in this state folder?"""

from pathlib import Path

import click

from warren.cli.options import FOLDER, log_to_standard_error


@click.command(short_help="Show the peer id in a state folder.")
@click.option("--state", type=FOLDER, help="State folder; that of this user's relay unless given.")
def keys(state: Path | None) -> None:
    """Show the peer id in a state folder; make one where there is none.

    The peer id is what a relay is known by. Others name it in their family. It does not change
    as long as the file identity.key is kept, so keep a copy of it in a safe place.
    """
    from warren.config.file import Config, state_directory
    from warren.identity import SystemKeys
    from warren.key_files import IDENTITY_FILE, KeyFiles
    from warren.storage import DataFolder

    log_to_standard_error()
    folder = DataFolder(state or state_directory(Config(), "relay"))
    is_new = not folder.names(IDENTITY_FILE)
    click.echo(str(KeyFiles(folder, SystemKeys()).identity().peer_id))
    if is_new:
        click.echo(f"warren: made a new one, {folder.path / IDENTITY_FILE}", err=True)
