"""The variables that point programs at the proxy, and how each shell sets them.

Some programs read these variables in lower case only, some in upper case only. For the web they
name the proxy as an HTTP one, which every program knows and none looks names up for; for the rest
as ``socks5h``, where the ``h`` leaves names to the exit. A program that knows no SOCKS then stops
at ``ftp_proxy`` instead of going there directly. ``no_proxy`` is taken away, for the same reason.
"""

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from urllib.parse import quote

from warren.addresses import Address
from warren.errors import ConfigError

#: Variables that name targets for which a program would go around the proxy.
EXCEPTIONS = ("no_proxy", "NO_PROXY")
#: RFC 1929 §2: the length of a user name is one byte, and not 0.
MOST_USER_BYTES = 255

_POSIX_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "yash"})


class Shell(Enum):
    """Name a family of shells with one way to set a variable."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"


def proxy_variables(proxy: Address, user: str | None = None) -> dict[str, str]:
    """Return the variables, in lower and upper case, that point programs at `proxy`.

    Streams of a `user` share no circuit with those of others (FE-10). Raises ConfigError for one
    that does not fit into both SOCKS5 and HTTP.
    """
    login = "" if user is None else f"{_quoted_user(user)}:any@"
    web, rest = f"http://{login}{proxy}", f"socks5h://{login}{proxy}"
    lower = {"http_proxy": web, "https_proxy": web, "ftp_proxy": rest, "all_proxy": rest}
    return {**lower, **{name.upper(): value for name, value in lower.items()}}


def _quoted_user(user: str) -> str:
    """Return `user` for an URL, where nothing of it means anything to a shell any more."""
    length = len(user.encode("utf-8", "surrogateescape"))
    if not 1 <= length <= MOST_USER_BYTES or ":" in user:
        raise ConfigError(
            f"the user name has {length} bytes{' and a colon' if ':' in user else ''}, expected "
            f"1 to {MOST_USER_BYTES} and no colon"
        )
    return quote(user, safe="", errors="surrogateescape")


def setting_lines(shell: Shell, variables: Mapping[str, str]) -> list[str]:
    """Return the lines that set and export `variables` and take the exceptions away."""
    if shell is Shell.SH:
        lines = [f"export {name}={shlex.quote(value)};" for name, value in variables.items()]
    elif shell is Shell.FISH:
        lines = [f"set -gx {name} {_fish_quote(value)};" for name, value in variables.items()]
    else:
        lines = [f"$env:{name} = {_powershell_quote(value)};" for name, value in variables.items()]
    return [*lines, *unsetting_lines(shell, EXCEPTIONS)]


def unsetting_lines(shell: Shell, names: tuple[str, ...]) -> list[str]:
    """Return the lines that take the variables `names` away, whether they are set or not."""
    form = {
        Shell.SH: "unset {};",
        Shell.FISH: "set -eg {};",
        Shell.POWERSHELL: "$env:{} = $null;",
    }
    return [form[shell].format(name) for name in names]


def evaluation_hint(shell: Shell, command: str) -> str:
    """Return what one types into `shell` so that it does what `command` prints."""
    return {
        Shell.SH: f'eval "$({command})"',
        Shell.FISH: f"{command} | source",
        Shell.POWERSHELL: f"{command} | Out-String | Invoke-Expression",
    }[shell]


def shell_of(*programs: str) -> Shell:
    """Return the family of the first of `programs` (paths or names) that is a known shell.

    Without any it is ``sh``, whose lines most others understand as well.
    """
    for program in programs:
        name = PurePath(program.strip().removeprefix("-")).name.lower().removesuffix(".exe")
        if name == "fish":
            return Shell.FISH
        if name in ("pwsh", "powershell"):
            return Shell.POWERSHELL
        if name in _POSIX_SHELLS:
            return Shell.SH
    return Shell.SH


def _fish_quote(text: str) -> str:
    """Return `text` in single quotes, where only these and backslashes are special to fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _powershell_quote(text: str) -> str:
    """Return `text` in single quotes, where only a quote is special to PowerShell."""
    return "'" + text.replace("'", "''") + "'"
