"""The network file: which network this is and whom it trusts, as text people can pass around.

Everything else follows from it: the authorities are asked for the first consensus, `threshold`
of them must have signed every one, and the network id (a hash of name and founding bytes) keeps
networks from ever mixing. Authorities, threshold and parameters may change under one id. A
checksum over the content tells a damaged or carelessly edited copy from a good one; it is no
signature, so a network file must come from somebody one trusts.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import msgspec

from warren.addresses import Address
from warren.config_errors import explain, read_toml, shown
from warren.directory.parameters import Parameters, read_parameters
from warren.errors import ConfigError, ProtocolError
from warren.identity import KEY_LENGTH, Hop, PeerId, Suite

FILE_LIMIT = 256 * 1024
FOUNDING_LENGTH = 32
MOST_AUTHORITIES = 32
#: DIR-4: two of three is the least that survives one bad or absent authority.
LEAST_AUTHORITIES = 3

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}\Z")
_CHECKSUM_LINE = re.compile(r"^checksum\s*=.*$", re.MULTILINE)

_HEADER = """\
# A Warren network. Give this file to everybody who is to use or serve it; it holds no secret.
# After a change by hand: warren network checksum FILE
"""


@dataclass(frozen=True)
class Authority:
    """Hold one authority: a name for people, and how to reach and recognise it."""

    name: str
    hop: Hop


@dataclass(frozen=True)
class NetworkFile:
    """Hold a network: its name, its 32 founding bytes, its authorities and parameters.

    Raises ConfigError when made with values that do not fit together (DIR-4).
    """

    name: str
    founding: bytes
    authorities: tuple[Authority, ...]
    threshold: int
    testing: bool = False
    parameters: Parameters = field(default_factory=Parameters)

    def __post_init__(self) -> None:
        count = len(self.authorities)
        least = 1 if self.testing else LEAST_AUTHORITIES
        _check_name(self.name, "network")
        _check(len(self.founding) == FOUNDING_LENGTH, "founding must be 32 bytes in hex")
        _check(
            least <= count <= MOST_AUTHORITIES,
            f"{count} authorities, expected {least} to {MOST_AUTHORITIES}"
            + ("" if self.testing else " (fewer only for tests: testing = true, --testing)"),
        )
        _check(
            count // 2 < self.threshold <= count,
            f"threshold = {self.threshold}, expected more than half of the {count} authorities",
        )
        for authority in self.authorities:
            _check_name(authority.name, "authority")
            _check(
                authority.hop.address.ip is not None and authority.hop.address.port > 0,
                f"authority {authority.name!r} is at {authority.hop.address}, expected IP:PORT, "
                "not a host name, and a port of 1 to 65535",
            )
        for what, values in (
            ("names", {authority.name for authority in self.authorities}),
            ("peer ids", set(self.authority_ids)),
            ("addresses", {authority.hop.address for authority in self.authorities}),
        ):
            _check(len(values) == count, f"two authorities have equal {what}")

    @cached_property
    def network_id(self) -> bytes:
        """Return the 32 bytes that tell this network from all others (protocol §1)."""
        name = self.name.encode("ascii")
        return hashlib.sha256(b"warren network 1" + name + self.founding).digest()

    @cached_property
    def authority_ids(self) -> tuple[PeerId, ...]:
        """Return the peer ids of the authorities, in the order of the file."""
        return tuple(authority.hop.peer_id for authority in self.authorities)


def create_network(
    name: str,
    founding: bytes,
    authorities: Sequence[Authority],
    *,
    threshold: int | None = None,
    testing: bool = False,
    parameters: Parameters | None = None,
) -> NetworkFile:
    """Found a network on 32 fresh random bytes; more than half must agree unless told otherwise.

    Raises ConfigError when the values do not fit together.
    """
    return NetworkFile(
        name=name,
        founding=founding,
        authorities=tuple(authorities),
        threshold=len(authorities) // 2 + 1 if threshold is None else threshold,
        testing=testing,
        parameters=Parameters() if parameters is None else parameters,
    )


def render_network_file(network: NetworkFile) -> str:
    """Return the text of the network file, its checksum included."""
    lines = [
        f'name = "{network.name}"',
        f'founding = "{network.founding.hex()}"',
        f"testing = {'true' if network.testing else 'false'}",
        f"threshold = {network.threshold}",
        'checksum = ""',
        "",
        "[parameters]",
        *(f"{name} = {value}" for name, value in network.parameters.to_mapping().items()),
    ]
    for authority in network.authorities:
        hop = authority.hop
        suites = ", ".join(f'"{suite.name.lower()}"' for suite in hop.suites)
        lines += [
            "",
            "[[authorities]]",
            f'name = "{authority.name}"',
            f'address = "{hop.address}"',
            f'peer_id = "{hop.peer_id}"',
            f'link_key = "{_key_text(hop.link_key)}"',
            f"suites = [{suites}]",
        ]
    return renew_checksum(_HEADER + "\n" + "\n".join(lines) + "\n")


def parse_network_file(text: str) -> NetworkFile:
    """Read the text of a network file.

    Parameters of a later version are left out. Raises ConfigError, saying what to do, for text
    that is damaged, or edited without a new checksum, or does not make sense.
    """
    values = _parse_toml(text)
    if not values.keys() & {"checksum", "founding", "authorities"}:
        raise ConfigError("it has nothing of a network file in it: is it another file?")
    found = values.pop("checksum", None)
    if found != _checksum(values):
        raise ConfigError(
            "it is damaged or was edited by hand: its checksum does not fit. "
            "Get a fresh copy, or run `warren network checksum FILE` if the change was meant"
        )
    try:
        return _network_of(msgspec.convert(values, _File))
    except msgspec.ValidationError as error:
        raise ConfigError(explain(str(error), values, _File)) from None
    except (ValueError, ProtocolError) as error:
        raise ConfigError(str(error)) from None


def renew_checksum(text: str) -> str:
    """Return `text` with the checksum that fits it; raise ConfigError when it has no content."""
    values = _parse_toml(text)
    values.pop("checksum", None)
    line = f'checksum = "{_checksum(values)}"'
    renewed, count = _CHECKSUM_LINE.subn(line, text, count=1)
    return renewed if count else f"{line}\n{text}"


class _AuthorityTable(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    address: str
    peer_id: str
    link_key: str
    suites: Annotated[list[str], msgspec.Meta(min_length=1, max_length=len(Suite))]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    founding: str
    threshold: int
    authorities: list[_AuthorityTable]
    testing: bool = False
    parameters: dict[str, Any] = {}


def _network_of(file: _File) -> NetworkFile:
    return NetworkFile(
        name=file.name,
        founding=_read_founding(file.founding),
        authorities=tuple(_authority_of(table) for table in file.authorities),
        threshold=file.threshold,
        testing=file.testing,
        parameters=read_parameters(file.parameters),
    )


def _read_founding(text: str) -> bytes:
    try:
        founding = bytes.fromhex(text)
    except ValueError:
        founding = b""
    if len(founding) != FOUNDING_LENGTH:
        raise ValueError(
            f"founding is {shown(text)}, expected {FOUNDING_LENGTH} bytes as "
            f"{2 * FOUNDING_LENGTH} hex digits"
        )
    return founding


def _authority_of(table: _AuthorityTable) -> Authority:
    try:
        hop = Hop(
            peer_id=PeerId.parse(table.peer_id),
            address=Address.parse(table.address),
            link_key=bytes(PeerId.parse(table.link_key)),
            onion_key=None,
            suites=tuple(_suite_of(name) for name in table.suites),
        )
    except ValueError as error:
        raise ValueError(f"authority {table.name[:64]!r}: {error}") from None
    return Authority(table.name, hop)


def _suite_of(name: str) -> Suite:
    known = {suite.name.lower(): suite for suite in Suite}
    if name not in known:
        raise ValueError(f"suite {name[:32]!r}, expected one of {', '.join(known)}")
    return known[name]


def _key_text(key: bytes) -> str:
    assert len(key) == KEY_LENGTH
    return str(PeerId(key))  # all keys have one text form


def _parse_toml(text: str) -> dict[str, Any]:
    if len(text) > FILE_LIMIT:
        raise ConfigError(f"{len(text)} characters, expected at most {FILE_LIMIT}")
    return read_toml(text)


def _checksum(values: dict[str, Any]) -> str:
    """Return 32 hex digits over the content; layout and comments may change freely."""
    try:
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    except TypeError:
        raise ConfigError("it has a date or time, expected text and whole numbers only") from None
    except RecursionError:
        raise ConfigError("it has too many brackets within brackets") from None
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_name(name: str, what: str) -> None:
    _check(
        _NAME.match(name) is not None,
        f"{name[:64]!r} is no name for a {what}: 1 to 64 letters, digits, spaces and . _ -",
    )
