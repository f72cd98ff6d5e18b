"""Configuration: a TOML file becomes frozen values, or an error that names file and key.

One file configures one process, which may have several sections; ``configs/`` has a commented
example of each role. Paths are relative to the file. What the network must agree on is not here
but in the network file (``directory.network_file``), and ``testing = true`` there is the only
thing that makes ``allow_targets`` acceptable (EXT-16).
"""

import ipaddress
from abc import ABC
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
import platformdirs

from warren import __version__
from warren.addresses import Address
from warren.config_errors import explain, read_toml, shown
from warren.directory.descriptor import (
    MOST_BANDWIDTH,
    MOST_STRING_BYTES,
    Descriptor,
    check_string,
    sign_descriptor,
)
from warren.directory.exit_policy import ExitPolicy, configured_policy, configured_udp_policy
from warren.directory.network_file import NetworkFile, parse_network_file
from warren.errors import ConfigError, ProtocolError, WarrenError
from warren.identity import KEY_LENGTH, Identity, PeerId, Suite
from warren.protocol.choice import FEWEST_HOPS, MOST_HOPS, Choice

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Role = Literal["proxy", "relay", "authority"]
ROLES: tuple[Role, ...] = get_args(Role)

if TYPE_CHECKING:
    AddressText = Address
    RangeText = IPNetwork
else:
    # msgspec reads a dataclass as a table and knows no union of foreign types. These stand for
    # our types in the annotations below, so that msgspec asks _read_text for them.
    class AddressText(ABC):  # noqa: B024
        """Stand for an ``Address`` written as HOST:PORT."""

    class RangeText(ABC):  # noqa: B024
        """Stand for an address range written as ADDRESS/BITS."""

    AddressText.register(Address)
    RangeText.register(ipaddress.IPv4Network)
    RangeText.register(ipaddress.IPv6Network)

MOST_WORKERS = 64
#: Of a file that somebody wrote by hand; a device that never ends is none.
MOST_FILE_BYTES = 4 * 1024 * 1024

Positive = Annotated[int, msgspec.Meta(ge=1)]
#: What a listener can keep apart; see ``roles.listener_rules``.
Apart = Literal["client_address", "protocol", "destination_host", "destination_port"]
Hops = Annotated[int, msgspec.Meta(ge=FEWEST_HOPS, le=MOST_HOPS)]

_LOGIN_BYTES = 255  # RFC 1929


def is_loopback(address: Address) -> bool:
    """Tell whether only this machine can reach `address`."""
    return address.ip is not None and address.ip.is_loopback


def _is_unspecified(address: Address) -> bool:
    return address.ip is not None and address.ip.is_unspecified


def _check_literal(key: str, address: Address) -> None:
    if address.ip is None:
        raise ValueError(f"{key} has {address}, expected an IP address and a port")


def _check_clients(key: str, address: Address, allow_clients: tuple[IPNetwork, ...]) -> None:
    """Refuse to be reached by other machines unless some are allowed (FE-1)."""
    if not allow_clients and not is_loopback(address):
        raise ValueError(
            f"{key} has {address}, which other machines can reach: say in allow_clients "
            'which of them may use it, for example ["192.168.1.0/24"]'
        )


def _check_targets(targets: tuple[Address, ...]) -> None:
    for target in targets:
        _check_literal("allow_targets", target)
        if target.port == 0:
            raise ValueError(f"allow_targets has {target}, expected one exact port")


def _check_described(key: str, text: str) -> None:
    """Refuse `text` if a descriptor cannot carry it (DIR-3)."""
    try:
        check_string(text)
    except ProtocolError as error:
        raise ValueError(
            f"{key} has {shown(text)}, {error}: expected one line of printable characters, at "
            f"most {MOST_STRING_BYTES} bytes"
        ) from error


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Be one table of a configuration file."""


class LogConfig(Section, frozen=True):
    """Say how much is logged to standard error, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


class ListenerConfig(Section, frozen=True, kw_only=True):
    """Configure what holds for the streams of one listener; see ``ListenerRules``."""

    user: str | None = None
    password: str | None = None
    country: str | None = None
    exit: PeerId | None = None
    session: bool = False
    isolate: tuple[Apart, ...] = ("client_address",)
    safe_socks: bool = False
    early_reply: bool = False

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together, expected both or none")
        if self.user is not None and self.password is not None:
            _check_login(self.user, self.password)
        if self.country is not None:
            try:
                Choice(country=self.country.lower())
            except WarrenError as error:
                raise ValueError(f"country is {self.country!r}: {error}") from error

    @property
    def choice(self) -> Choice:
        """Return what the streams of this listener ask for."""
        country = self.country.lower() if self.country is not None else None
        return Choice(country, self.exit, keeps_exit=self.session)


def _check_login(user: str, password: str) -> None:
    if not user or any(sign in user for sign in "+:") or len(user.encode()) > _LOGIN_BYTES:
        raise ValueError(
            f"user is {user[:32]!r}, expected a name of at most {_LOGIN_BYTES} bytes without + "
            "and :, because parameters and the password stand behind those"
        )
    if not password or len(password.encode()) > _LOGIN_BYTES:
        raise ValueError(f"password is empty or too long, expected 1 to {_LOGIN_BYTES} bytes")


def _check_reachable(address: Address, listener: ListenerConfig, clients: object) -> None:
    """Refuse a listener that others can reach and that lets anybody in (FE-1)."""
    if not (clients or listener.password is not None or is_loopback(address)):
        raise ValueError(
            f"listen has {address}, which other machines can reach: say in allow_clients which of "
            'them may use it, for example ["192.168.1.0/24"], or set user and password'
        )


class ExtraListener(ListenerConfig, frozen=True, kw_only=True):
    """Configure one more listener of the proxy, with rules of its own."""

    listen: AddressText
    hops: Hops | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_literal("listen", self.listen)

    @property
    def choice(self) -> Choice:
        return replace(super().choice, hops=self.hops)


class ProxyConfig(ListenerConfig, frozen=True, kw_only=True):
    """Configure the port that applications use (FE-1, FE-11), and further ones."""

    listen: tuple[AddressText, ...] = (Address("127.0.0.1", 1080),)
    dns_listen: tuple[AddressText, ...] = ()
    allow_clients: tuple[RangeText, ...] = ()
    hops: Hops = 3
    resume: bool = True
    connections: Positive = 8192
    allow_targets: tuple[AddressText, ...] = ()
    listener: tuple[ExtraListener, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.listen:
            raise ValueError("listen is empty: name at least one address, such as 127.0.0.1:1080")
        for address in self.listen:
            _check_literal("listen", address)
            _check_reachable(address, self, self.allow_clients)
        for address in self.dns_listen:
            _check_literal("dns_listen", address)
            _check_clients("dns_listen", address, self.allow_clients)
        for extra in self.listener:
            _check_reachable(extra.listen, extra, self.allow_clients)
        _check_targets(self.allow_targets)

    @property
    def listeners(self) -> tuple[tuple[Address, ListenerConfig], ...]:
        """Return all addresses to listen at, those of ``listen`` first, with what holds there."""
        usual = ((address, self) for address in self.listen)
        return (*usual, *((each.listen, each) for each in self.listener))


class RelayLimits(Section, frozen=True):
    """Bound what clients can ask of a relay (EXT-10, EXT-11, EXT-15)."""

    streams_per_circuit: Annotated[int, msgspec.Meta(ge=1, le=512)] = 512
    begins_per_second: Positive = 2000
    begin_burst: Positive = 4000
    pending_connects: Positive = 256
    pending_connects_per_circuit: Positive = 16
    lookups: Positive = 32
    lookups_per_circuit: Positive = 4
    streams_per_address: Positive = 4096
    associations: Positive = 1024
    associations_per_circuit: Annotated[int, msgspec.Meta(ge=1, le=512)] = 16
    connect_seconds: Positive = 8
    idle_seconds: Positive = 600


class RelayConfig(Section, frozen=True):
    """Configure a relay; whether it is an exit too stands in ``ExitConfig``."""

    listen: AddressText
    address: AddressText | None = None
    bandwidth: Annotated[int, msgspec.Meta(ge=1, le=MOST_BANDWIDTH)] = 2_500_000
    contact: str = ""
    family: Annotated[tuple[PeerId, ...], msgspec.Meta(max_length=64)] = ()
    memory_megabytes: Annotated[int, msgspec.Meta(ge=16)] | None = None
    workers: int = 1
    limits: RelayLimits = RelayLimits()

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ValueError(
                f"workers is {self.workers}, expected how many processes carry circuits: "
                f"1 to {MOST_WORKERS}"
            )
        _check_described("contact", self.contact)
        if len(set(self.family)) < len(self.family):
            raise ValueError("family names a relay twice, expected each once")
        _check_literal("listen", self.listen)
        if self.address is not None:
            _check_literal("address", self.address)
            if self.address.port == 0 or _is_unspecified(self.address):
                raise ValueError(
                    f"address is {self.address}, expected the address and port at which the "
                    "other relays reach this one"
                )
        elif _is_unspecified(self.listen):
            raise ValueError(
                f"listen is {self.listen}, which means every address of this machine: say in "
                "address at which one the other relays reach it"
            )


class ExitConfig(Section, frozen=True):
    """Configure what a relay opens for others; by default nothing (P2P-1)."""

    policy: str | tuple[str, ...] = "none"
    udp_policy: str | tuple[str, ...] | None = None
    resolvers: tuple[AddressText, ...] = ()
    allow_targets: tuple[AddressText, ...] = ()
    drain_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30

    def __post_init__(self) -> None:
        for address in self.resolvers:
            _check_literal("resolvers", address)
        _check_targets(self.allow_targets)
        for key, policy in (("policy", self.policy), ("udp_policy", self.udp_policy)):
            if policy == ():
                raise ValueError(f'{key} is empty: expected rules or a name, such as "none"')
        try:
            is_exit = configured_policy(self.policy).is_exit
            sends_datagrams = self.exit_udp_policy.is_exit
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if sends_datagrams and not is_exit:
            raise ValueError(
                "udp_policy opens something and policy nothing: datagrams are for exits, so give "
                "policy a value too, such as web"
            )

    @property
    def exit_policy(self) -> ExitPolicy:
        """Return the policy; that of a relay that is no exit has no rules."""
        return configured_policy(self.policy)

    @property
    def exit_udp_policy(self) -> ExitPolicy:
        """Return the policy for datagrams: as configured, or what goes with the profile."""
        return configured_udp_policy(self.udp_policy, self.policy)


class AuthorityConfig(Section, frozen=True):
    """Configure a directory authority; its address stands in the network file."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    listen: AddressText | None = None
    keys: Path | None = None
    countries: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.listen is not None:
            _check_literal("listen", self.listen)


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
            _check_size(self.relay, self.exit)

    @property
    def allow_targets(self) -> tuple[Address, ...]:
        """Return all exemptions from the rules for targets, of every section."""
        return self.proxy.allow_targets + self.exit.allow_targets


def draft_descriptor(relay: RelayConfig, exits: ExitConfig) -> Descriptor:
    """Return the descriptor of a relay as far as its configuration says what is in it.

    The rest, keys, address and times, is nobody's and as long as it can be.
    """
    address = relay.address or relay.listen
    return Descriptor(
        peer_id=Identity(bytes(KEY_LENGTH)).peer_id,
        address=replace(address, port=address.port or 1),  # 0 is still to be chosen
        link_key=bytes(KEY_LENGTH),
        onion_key=bytes(KEY_LENGTH),
        suites=tuple(Suite),
        bandwidth=relay.bandwidth,
        published=(1 << 40) - 1,
        counter=(1 << 63) - 1,
        policy=exits.exit_policy.rules,
        udp_policy=exits.exit_udp_policy.rules,
        family=relay.family,
        contact=relay.contact,
        version=f"warren {__version__}",
    )


def _check_size(relay: RelayConfig, exits: ExitConfig) -> None:
    """Refuse what is too much together, by making the descriptor with keys of nobody (DIR-3)."""
    nobody = Identity(bytes(KEY_LENGTH))
    try:
        sign_descriptor(draft_descriptor(relay, exits), nobody, bytes(KEY_LENGTH))
    except ProtocolError as error:
        raise ValueError(f"relay and exit come to {error}") from error


def parse_config(text: str, source: str, base: Path) -> Config:
    """Read the TOML `text` of the file `source`, whose paths are relative to `base`.

    Raises ConfigError, which names `source` and the key.
    """
    readers: dict[object, Callable[[str], Any]] = {
        AddressText: Address.parse,
        RangeText: _read_range,
        PeerId: PeerId.parse,
        Path: lambda value: _read_path(value, base),
    }

    def read_text(kind: type, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected text in quotes, found {value!r}")
        return readers[kind](value)

    try:
        data = read_toml(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    if "founding" in data:
        raise ConfigError(f"{source} is a network file, not a configuration: give it as --network")
    try:
        return msgspec.convert(data, Config, dec_hook=read_text)
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


def _read_range(text: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"found {shown(text)}, expected an address or a range such as 192.168.1.0/24"
        ) from None
    address = text.partition("/")[0]
    raise ValueError(f"found {shown(text)}, expected {wider} for the range, or {address} for one")


def _read_path(text: str, base: Path) -> Path:
    if not text:
        raise ValueError("found empty text '', expected a path")
    if "\0" in text:
        raise ValueError(f"found {shown(text)}, expected a path, which has no zero bytes")
    try:
        return base / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"found {shown(text)}, and this machine knows no such user") from None


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
