"""What the protocols of the front door share: what was asked, by whom, and why it failed.

SOCKS and HTTP say the same few things in different bytes. A request names a command and a
target; its credentials are not a login but the isolation token of its streams (FE-10); and a
failure is one entry of one table, with its SOCKS code, its HTTP status and its Proxy-Status
error side by side (conventions D2, RFC 9209). Texts of failures are ours, never a peer's (FE-7).
"""

import hashlib
import hmac
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from warren.addresses import Address
from warren.errors import (
    CircuitError,
    DirectoryError,
    EndReason,
    ExitError,
    NoConsensus,
    NoPathError,
    ProtocolError,
    WarrenError,
    refuse,
)
from warren.protocol.choice import ANYTHING, Choice, read_choice


class Command(Enum):
    """Name what a client asks the proxy to do."""

    CONNECT = "connect"
    BIND = "bind"
    ASSOCIATE = "associate"
    RESOLVE = "resolve"
    RESOLVE_PTR = "resolve_ptr"


class Authentication(Enum):
    """Name the way a client showed its credentials; different ways never share (D3)."""

    SOCKS4 = "socks4"
    NONE = "none"
    LEGACY = "legacy"
    EXTENDED = "extended"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Hold what a client showed, as an isolation token; the values stay out of every log.

    ``choice`` is what they ask for, and follows from them.
    """

    authentication: Authentication
    values: tuple[bytes | None, ...] = field(default=(), repr=False)
    choice: Choice = field(default=ANYTHING, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Isolation:
    """Say which streams may share a circuit: those whose isolation is equal (FE-10).

    ``apart`` is what the listener keeps apart besides, such as the target's port. The ``choice``
    is that of listener and credentials together, so one isolation never has two of them.
    """

    listener: str
    credentials: Credentials
    apart: tuple[Hashable, ...] = field(repr=False)
    choice: Choice


class WrongLogin(ProtocolError):
    """Tell that a client did not show the user and password that its listener asks for."""


@dataclass(frozen=True, slots=True)
class Login:
    """Hold the user and password that a listener asks for, as a digest.

    What a client shows is compared in constant time, whatever it is and however long.
    """

    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, user: str, password: str) -> "Login":
        """Return the login of `user`, a name without ``+`` and ``:``, and `password`."""
        return cls(_login_digest(user.encode(), password.encode()))

    def admits(self, user: bytes, password: bytes) -> bool:
        """Tell whether they are right; behind a ``+`` the user name may say what it likes."""
        shown = _login_digest(user.partition(b"+")[0], password)
        return hmac.compare_digest(shown, self.digest)


def _login_digest(user: bytes, password: bytes) -> bytes:
    return hashlib.sha256(len(user).to_bytes(8, "big") + user + password).digest()


@dataclass(frozen=True, slots=True)
class Failure:
    """Say why a request failed, in the words of each protocol.

    ``socks5`` is a reply code of RFC 1928 §6, ``status`` an HTTP status, ``error`` a proxy error
    type of RFC 9209 §2.3, ``details`` a sentence of ours for people.
    """

    socks5: int
    status: int
    error: str
    details: str


_REASONS = {
    EndReason.MISC: (1, 500, "proxy_internal_error", "the exit gave no reason"),
    EndReason.RESOLVE_FAILED: (4, 503, "dns_error", "the exit could not resolve the name"),
    EndReason.CONNECT_REFUSED: (5, 403, "connection_refused", "the target refused the connection"),
    EndReason.EXIT_POLICY: (2, 503, "destination_ip_prohibited", "no exit may reach the target"),
    EndReason.DESTROY: (1, 502, "connection_terminated", "the circuit was destroyed"),
    EndReason.DONE: (5, 502, "connection_terminated", "the target closed too early"),
    EndReason.TIMEOUT: (6, 504, "connection_timeout", "the target did not answer in time"),
    EndReason.NO_ROUTE: (4, 503, "destination_ip_unroutable", "the exit has no route there"),
    EndReason.HIBERNATING: (1, 502, "destination_unavailable", "the exit takes no streams now"),
    EndReason.INTERNAL: (1, 502, "proxy_internal_error", "the exit failed inside"),
    EndReason.RESOURCE_LIMIT: (1, 502, "connection_limit_reached", "the exit is at its limits"),
    EndReason.CONNECTION_RESET: (5, 503, "connection_terminated", "the target reset it"),
    EndReason.PROTOCOL: (1, 502, "proxy_internal_error", "the exit broke the protocol"),
    EndReason.NOT_DIRECTORY: (1, 500, "proxy_internal_error", "the relay is no directory mirror"),
}

#: The failure for each reason an exit may give (conventions D2).
BY_REASON: Mapping[EndReason, Failure] = MappingProxyType(
    {reason: Failure(*entry) for reason, entry in _REASONS.items()}
)


def _denied(details: str) -> Failure:
    """Return the failure of a request that our own rules forbid (conventions D2, last row)."""
    return Failure(2, 403, "http_request_denied", details)


NO_DIRECTORY = Failure(3, 503, "destination_unavailable", "no usable directory, or no path fits")
NO_CIRCUIT = Failure(1, 503, "destination_unavailable", "no circuit could be built")
TOO_SLOW = Failure(6, 504, "connection_timeout", "no answer from circuits or target in time")
BUG = Failure(1, 500, "proxy_internal_error", "Warren failed inside; see its log")

INTERNAL_ADDRESS = Failure(2, 403, "destination_ip_prohibited", "not a public address")
INTERNAL_NAME = _denied("not a name of the public internet")
ONION_SERVICE = _denied("Warren does not reach .onion services; use Tor for them")
PORT_ZERO = _denied("nothing listens at port 0")
LITERAL_ADDRESS = _denied("the program resolved the name itself; use socks5h or SOCKS4a")
WRONG_LOGIN = Failure(2, 407, "http_request_denied", "this proxy asks for a user and a password")
UNKNOWN_FORMAT = _denied("the user name starts with <torS0X> but is not of format 0")

MANY_TARGETS = _denied("this listener keeps targets apart, which an association cannot")
FOREIGN_DATAGRAMS = _denied("datagrams are taken from programs on this machine only")

UNSUPPORTED_COMMAND = Failure(7, 501, "http_request_denied", "this command is not supported")
UNSUPPORTED_ADDRESS = Failure(8, 400, "http_request_error", "this kind of address does not fit")
UNSUPPORTED_HEADER = Failure(1, 501, "http_request_denied", "Tor-RPC-Target is not supported")

NO_RESPONSE = Failure(6, 504, "http_response_timeout", "the target did not answer the request")
BAD_BODY = Failure(1, 400, "http_request_error", "the request's body is not valid HTTP")
BAD_RESPONSE = Failure(1, 502, "http_protocol_error", "the target's answer is not valid HTTP")
LONG_HEAD = Failure(
    1, 502, "http_response_header_section_size", "the target's answer has too long a head"
)
UNKNOWN_CODING = Failure(
    1, 502, "http_response_transfer_coding", "the target's answer has an unknown transfer coding"
)
CUT_RESPONSE = Failure(1, 502, "http_response_incomplete", "the target closed before its answer")


def failure_of(error: WarrenError) -> Failure:
    """Return the table's entry for what ``open_stream`` or a stream raised."""
    if isinstance(error, ExitError):
        return BY_REASON[error.reason]
    if isinstance(error, NoConsensus | NoPathError):
        return replace(NO_DIRECTORY, details=str(error))
    if isinstance(error, DirectoryError):
        return NO_DIRECTORY
    if isinstance(error, CircuitError) and error.hop is not None:
        return replace(NO_CIRCUIT, details=f"the circuit failed at hop {error.hop + 1}")
    return NO_CIRCUIT


def read_wishes(user: bytes) -> tuple[Choice, Failure | None]:
    """Return what the ``+key=value`` parameters in `user` ask for, or why they cannot be served.

    What is not understood is refused, never ignored: who asks for a country must not get another.
    """
    try:
        return read_choice(user), None
    except ProtocolError as error:
        return ANYTHING, _denied(str(error))


def choice_of(isolation: Hashable) -> Choice:
    """Return what the streams of `isolation` ask for."""
    return isolation.choice if isinstance(isolation, Isolation) else ANYTHING


def target_address(host: str, port: int) -> Address:
    """Return the address a client named, without the trailing dot of a fully-qualified name.

    Raises ProtocolError when `host` is neither a literal nor a name; its text is not repeated.
    """
    try:
        return Address(host.removesuffix("."), port)
    except ValueError:
        refuse("the target is neither an IP address nor a host name")
