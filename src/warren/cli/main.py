"""The ``warren`` command: finds the module of a subcommand when it is asked for.

What a command runs is imported inside it, so that help and completion are there at once.
"""

import importlib
import sys

import click

from warren import __version__, outset
from warren.errors import ConfigError, WarrenError

#: Each command and the module that has it, in the order of the help text.
COMMANDS = {
    "proxy": "warren.cli.roles",
    "dns": "warren.cli.dns",
    "relay": "warren.cli.roles",
    "authority": "warren.cli.roles",
    "browser": "warren.cli.browser",
    "env": "warren.cli.env",
    "status": "warren.cli.status",
    "keys": "warren.cli.keys",
    "network": "warren.cli.network",
    "lab": "warren.cli.lab",
    "run": "warren.cli.run",
}


class LazyGroup(click.Group):
    """Be a group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96}
)
@click.version_option(__version__, prog_name="warren")
def warren() -> None:
    """Browse through relays of volunteers, or be one of them.

    An application points at the port of the local proxy. Its streams cross three relays run by
    different people, each of which takes off one layer of encryption, and the last one, an
    exit, opens the target. No relay learns both who asks and what for.

    To see it all on this machine: warren lab --demo
    """


def main() -> None:
    """Run the command line; a ConfigError is one line and exit code 2, no traceback.

    Output that nobody reads any more ends it as it ends others, by SIGPIPE.
    """
    # Where rich is installed, structlog imports it for tracebacks that we do not print: 4 MiB.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    try:
        warren()
    except ConfigError as error:
        _fail(error, 2)
    except outset.OutputError as error:
        outset.fail_to_print("warren", error)
    except WarrenError as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    click.echo(f"warren: {error}", err=True)
    sys.exit(code)
