"""The file of a process: its sections together, and how it and the network file are read.

Whatever is wrong with either is a ConfigError that names the file, and the key where it is one.
The sections of proxies and relays have modules of their own.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import platformdirs

from warren.addresses import Address
from warren.config.proxy import ProxyConfig
from warren.config.relay import ExitConfig, RelayConfig, check_size
from warren.config.values import AddressText, Section, check_literal, text_reader
from warren.config_errors import explain, read_toml
from warren.directory.network_file import NetworkFile, parse_network_file
from warren.errors import ConfigError, WarrenError

Role = Literal["proxy", "relay", "authority"]
ROLES: tuple[Role, ...] = get_args(Role)

#: Of a file that somebody wrote by hand; a device that never ends is none.
MOST_FILE_BYTES = 4 * 1024 * 1024


class LogConfig(Section, frozen=True):
    """Say how much is logged to standard error, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


class AuthorityConfig(Section, frozen=True):
    """Configure a directory authority; its address stands in the network file."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    listen: AddressText | None = None
    keys: Path | None = None
    countries: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.listen is not None:
            check_literal("listen", self.listen)


class Config(Section, frozen=True):
    """Hold everything a process is configured with; a section of another role is None."""

    network: Path | None = None
    state: Path | None = None
    log: LogConfig = LogConfig()
    proxy: ProxyConfig = ProxyConfig()
    relay: RelayConfig | None = None
    exit: ExitConfig = ExitConfig()
    authority: AuthorityConfig | None = None

    def __post_init__(self) -> None:
        if self.relay is not None:
            check_size(self.relay, self.exit)

    @property
    def allow_targets(self) -> tuple[Address, ...]:
        """Return all exemptions from the rules for targets, of every section."""
        return self.proxy.allow_targets + self.exit.allow_targets


def parse_config(text: str, source: str, base: Path) -> Config:
    """Read the TOML `text` of the file `source`, whose paths are relative to `base`.

    Raises ConfigError, which names `source` and the key.
    """
    try:
        data = read_toml(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    if "founding" in data:
        raise ConfigError(f"{source} is a network file, not a configuration: give it as --network")
    try:
        return msgspec.convert(data, Config, dec_hook=text_reader(base))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {explain(str(error), data, Config)}") from error


def load_config(path: Path | None) -> Config:
    """Read the file at `path`; without one, every key has its default."""
    if path is None:
        return Config()
    return parse_config(read_file(path, "configuration"), str(path), path.parent)


def load_network(config: Config) -> NetworkFile:
    """Read the network file that `config` names and check that both agree.

    Raises ConfigError.
    """
    if config.network is None:
        raise ConfigError(
            "no network file: give --network FILE, or network = FILE in the configuration. Whoever "
            "runs the network hands it out; warren network create makes one"
        )
    text = read_file(config.network, "network file")
    try:
        network = parse_network_file(text)
    except WarrenError as error:
        raise ConfigError(f"network file {config.network}: {error}") from error
    check_testing(config, network)
    return network


def check_testing(config: Config, network: NetworkFile) -> None:
    """Raise ConfigError if targets are exempted in a network that is not a test (EXT-16)."""
    if config.allow_targets and not network.testing:
        raise ConfigError(
            f"allow_targets has {config.allow_targets[0]}, but the network {network.name} is no "
            "test network: remove allow_targets. It needs testing = true in the network file"
        )


def state_directory(config: Config, role: Role) -> Path:
    """Return where a process of `role` keeps its state: as configured, or the XDG directory."""
    return config.state or platformdirs.user_state_path("warren") / role


def read_file(path: Path, kind: str) -> str:
    """Return the text of the file at `path`, the `kind` of it being what an error names."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise ConfigError(f"the {kind} {path} has more than {MOST_FILE_BYTES} bytes")
        return content.decode("utf-8-sig")  # some editors begin with a mark
    except OSError as error:
        raise ConfigError(f"cannot read the {kind} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {kind} {path} is not UTF-8 text") from error
