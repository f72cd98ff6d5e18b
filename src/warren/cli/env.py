"""``warren env``: the variables that point a shell's programs at the proxy."""

import contextlib
import os
import shlex
import sys
from pathlib import Path

import click

from warren.addresses import Address
from warren.cli.options import proxy_option


@click.command()
@proxy_option
@click.option(
    "--shell",
    type=click.Choice(["auto", "sh", "fish", "powershell"]),
    default="auto",
    show_default=True,
    help="Whose language to print: sh is also that of bash, zsh and dash.",
)
@click.option(
    "--user",
    metavar="NAME",
    help="Keep this shell's streams apart from those of others: any word will do.",
)
@click.option("--unset", is_flag=True, help="Print how to take the variables away again.")
def env(proxy: Address, shell: str, user: str | None, unset: bool) -> None:
    """Print the variables that point programs at the proxy.

    Let the shell do what is printed, and what it starts from then on uses the proxy if it knows
    these variables (most programs for the web do, ssh does not):

    \b
        eval "$(warren env)"                                 sh, bash, zsh
        warren env | source                                  fish
        warren env | Out-String | Invoke-Expression          PowerShell

    no_proxy is taken away, so that no target is an exception, not even this machine.
    """  # noqa: D301  click keeps the layout of a paragraph that begins with a backspace
    from warren.programs import variables

    family = variables.Shell(shell) if shell != "auto" else variables.shell_of(*_shells())
    wanted = variables.proxy_variables(proxy, user)
    if unset:
        lines = variables.unsetting_lines(family, tuple(wanted))
    else:
        lines = variables.setting_lines(family, wanted)
    click.echo("\n".join(lines))
    if sys.stdout.isatty():
        command = shlex.join(["warren", *sys.argv[1:]])
        click.echo(f"# To do it: {variables.evaluation_hint(family, command)}", err=True)


def _shells() -> list[str]:
    """Return what may be the shell that asks: who started us, and this user's usual one."""
    found = [os.environ.get("SHELL", "powershell" if os.name == "nt" else "")]
    with contextlib.suppress(OSError, UnicodeDecodeError):  # no such file on other systems
        found.insert(0, Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8"))
    return found
