"""The proxy as seen by its clients: is there one, and open this target, please (RFC 1928).

The login that is offered isolates: what one run opens shares no circuit with anything else
(FE-10). A proxy that wants none is content as well.
"""

import socket
from dataclasses import dataclass

from warren.addresses import Address
from warren.errors import ConfigError, ProtocolError, expect
from warren.protocol.exchange import Exchange, Receive, Send

_CHECK_SECONDS = 5.0
_VERSION, _CONNECT = 5, 1
_NO_AUTHENTICATION, _USER_PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_OFFER = bytes((_VERSION, 2, _NO_AUTHENTICATION, _USER_PASSWORD))
_ADDRESS_BYTES = {_IPV4: 4, _IPV6: 16}
_REASONS = {
    2: "not allowed",
    3: "no exit opens that port",
    4: "host unreachable or no such name",
    5: "refused",
    6: "timed out",
}


@dataclass(frozen=True, slots=True)
class Login:
    """Hold a user name and a password, of 1 to 255 bytes each."""

    user: bytes
    password: bytes


class Refused(ProtocolError):
    """Tell that the proxy opened no connection, and why."""


def open_target(target: Address, login: Login) -> Exchange[None]:
    """Ask a SOCKS5 proxy for a connection to `target`, whose bytes follow.

    Raises Refused when it says no, ProtocolError when it is no SOCKS5 proxy.
    """
    yield Send(_OFFER)
    version, method = yield Receive(2)
    expect(version == _VERSION, f"the proxy answered with version {version}, expected 5")
    if method == _USER_PASSWORD:
        user, password = login.user, login.password
        yield Send(b"\1%c%b%c%b" % (len(user), user, len(password), password))
        _, status = yield Receive(2)
        expect(status == 0, "the proxy did not take the login")
    else:
        expect(method == _NO_AUTHENTICATION, "the proxy wants a login of another kind")
    yield Send(bytes((_VERSION, _CONNECT, 0)) + _host(target) + target.port.to_bytes(2, "big"))
    version, code, _, kind = yield Receive(4)
    if code:
        raise Refused(_REASONS.get(code, f"the proxy failed with code {code}"))
    length = _ADDRESS_BYTES.get(kind)
    if length is None:
        (length,) = yield Receive(1)
    yield Receive(length + 2)


def _host(target: Address) -> bytes:
    if target.ip is None:
        name = target.host.encode("ascii")
        return bytes((_NAME, len(name))) + name
    return bytes((_IPV4 if target.ip.version == 4 else _IPV6,)) + target.ip.packed


def check_proxy(proxy: Address) -> None:
    """Raise ConfigError unless a SOCKS5 proxy answers at `proxy`; wait at most 5 seconds."""
    try:
        with socket.create_connection((proxy.host, proxy.port), _CHECK_SECONDS) as sock:
            sock.sendall(_OFFER)
            answer = sock.recv(2)
    except OSError as error:
        raise ConfigError(
            f"there is no proxy at {proxy} ({error.strerror or error}): start it with warren "
            "proxy, or name another with --proxy HOST:PORT"
        ) from error
    if answer[:1] != bytes((_VERSION,)):
        raise ConfigError(
            f"what listens at {proxy} answered {answer!r}, expected a SOCKS5 proxy: name the port "
            "of warren proxy with --proxy HOST:PORT"
        )
