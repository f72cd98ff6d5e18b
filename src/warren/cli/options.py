"""What the commands have in common: addresses, options, and a file that options override."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from warren.addresses import Address
from warren.errors import ConfigError

if TYPE_CHECKING:
    from warren.config.file import Config

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


class FileType(click.Path):
    """Read a path of a file that is there; click calls one that is out of reach missing."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            Path(os.fsdecode(value)).stat()
        except FileNotFoundError:
            pass
        except OSError as error:
            self.fail(f"cannot reach {os.fsdecode(value)!r}: {error.strerror}", param, ctx)
        return super().convert(value, param, ctx)


class FolderType(click.Path):
    """Read a path of a folder, which need not be there, but must be named.

    ``--state "$STATE"`` would else mean the folder one happens to be in, where STATE is not set.
    """

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("found empty text '', expected a path", param, ctx)
        return super().convert(value, param, ctx)


EXISTING_FILE = FileType()
FOLDER = FolderType()


class AddressType(click.ParamType[Address]):
    """Read HOST:PORT, where the host must be an IP address."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        if isinstance(value, Address):
            return value
        try:
            address = Address.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if address.ip is None:
            self.fail(
                f"{value!r} names a host, expected an IP address and a port; this machine is "
                "127.0.0.1",
                param,
                ctx,
            )
        return address


ADDRESS = AddressType()

#: For commands that point a program at a proxy that runs already.
proxy_option = click.option(
    "--proxy",
    type=ADDRESS,
    default="127.0.0.1:1080",
    show_default=True,
    help="Where the proxy listens.",
)


def config_options(function: F) -> F:
    """Add ``--config``, ``--network`` and ``--state``."""
    for option in (
        click.option(
            "--state",
            type=FOLDER,
            help="State folder; ~/.local/state/warren/ROLE unless given (proxy, relay, authority).",
        ),
        click.option("--network", type=EXISTING_FILE, help="Network file: which network this is."),
        click.option(
            "--config",
            type=EXISTING_FILE,
            help="Configuration, a TOML file; see configs/. Options override it.",
        ),
    ):
        function = option(function)
    return function


def process_options(function: F) -> F:
    """Add the options for whoever starts processes: ``--while-open`` and ``--ready-fd``."""
    for option in (
        click.option(
            "--ready-fd",
            type=int,
            metavar="FD",
            help="Write a line of JSON to this file descriptor when listening, and when usable.",
        ),
        click.option(
            "--while-open",
            type=int,
            metavar="FD",
            help="End when this inherited file descriptor (a pipe) reaches its end.",
        ),
    ):
        function = option(function)
    return function


def read_options(config: Path | None, *, network: Path | None, state: Path | None) -> "Config":
    """Load the configuration file, if any, and let the options override it."""
    from warren.config.file import load_config

    given = {"network": network, "state": state}
    return override(load_config(config), **{k: v for k, v in given.items() if v is not None})


def log_to_standard_error() -> None:
    """Let what is to be warned of not get into the output of a command; services do it anyway."""
    from warren.service import LogStyle, set_up_logging

    set_up_logging(LogStyle(level="warning"))


def make_section(kind: Callable[..., S], **values: Any) -> S:
    """Make the section `kind` of `values`; raise ConfigError when they do not fit."""
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def override(section: S, **values: Any) -> S:
    """Return `section` with other `values`; raise ConfigError when they do not fit."""
    import msgspec

    assert isinstance(section, msgspec.Struct)
    return make_section(functools.partial(msgspec.structs.replace, section), **values)
