"""SOCKS 4, 4a and 5: the proxy's side, up to the request and the reply to it.

Every length is bounded by its one length byte or a limit (FE-2), and nothing past the request
is read: what a client sent early belongs to its stream. Commands that are known but not served
are read to their end all the same, so that the caller can refuse them with the right code::

    4:  04 | command | port u16 | IPv4 | user 00 [ | name 00 ]    name: only for 0.0.0.x, x > 0
    5:  05 | n | methods     01 | n | user | n | password     05 | command | 00 | kind | host | port
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from warren.addresses import Address
from warren.errors import ProtocolError, expect, refuse
from warren.protocol.exchange import Exchange, Receive, ReceiveUntil, Send
from warren.protocol.front import (
    UNKNOWN_FORMAT,
    UNSUPPORTED_ADDRESS,
    UNSUPPORTED_COMMAND,
    Authentication,
    Command,
    Credentials,
    Failure,
    Login,
    WrongLogin,
    read_wishes,
    target_address,
)
from warren.protocol.messages import ANY_FAMILY, BeginFlags

_COMMANDS_4 = {0x01: Command.CONNECT, 0x02: Command.BIND, 0xF0: Command.RESOLVE}
_COMMANDS_5 = {
    0x01: Command.CONNECT,
    0x02: Command.BIND,
    0x03: Command.ASSOCIATE,
    0xF0: Command.RESOLVE,
    0xF1: Command.RESOLVE_PTR,
}
_NO_AUTHENTICATION, _USER_PASSWORD, _NONE_ACCEPTABLE = 0x00, 0x02, 0xFF
_LOGIN_VERSION = 0x01
_IPV4, _NAME, _IPV6 = 0x01, 0x03, 0x04
_GRANTED_4, _REJECTED_4 = 0x5A, 0x5B
_GRANTED_5, _GENERAL_FAILURE_5 = 0x00, 0x01
_TEXT_LIMIT = 256  # bytes of a SOCKS4 user or name, with the zero that ends it
_MAGIC = b"<torS0X>"
_NOWHERE = Address("0.0.0.0", 0)  # the bound address, which nobody is told


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """Hold what a SOCKS client asked for; ``version`` is 4 or 5.

    ``objection`` is set when the credentials cannot be served: the request then gets a reply
    code, which a refused login would not have given (conventions D0).
    """

    version: int
    command: Command
    address: Address
    credentials: Credentials
    objection: Failure | None = None

    @property
    def flags(self) -> BeginFlags:
        """Return which families a name may be reached over: SOCKS4 knows IPv4 only (D3)."""
        return BeginFlags.NO_IPV6 if self.version == 4 else ANY_FAMILY

    def granted(self, bound: Address = _NOWHERE) -> bytes:
        """Return the reply of success; `bound` is also where the answer to RESOLVE goes."""
        return _reply4(_GRANTED_4, bound) if self.version == 4 else _reply5(_GRANTED_5, bound)

    def resolved(self, addresses: Sequence[Address]) -> bytes | None:
        """Return the reply with the first of `addresses`, IPv4 before IPv6; None: none fits."""
        fitting = [each for each in addresses if self.version == 5 or _is_ipv4(each)]
        if not fitting:
            return None
        return self.granted(min(fitting, key=lambda each: not _is_ipv4(each)))

    @property
    def keeps_alive(self) -> bool:
        """Tell whether the connection may carry another request after a refusal: it never may."""
        return False

    def refused(self, failure: Failure, *, is_last: bool = True) -> bytes:
        """Return the reply that says `failure`; it is always the last one."""
        assert is_last, "SOCKS has no second request"
        return _reply4(_REJECTED_4) if self.version == 4 else _reply5(failure.socks5)


def accept(login: Login | None = None) -> Exchange[SocksRequest]:
    """Talk to a SOCKS client until it has named its target, and shown `login` where there is one.

    Replies itself where the protocol has a code for what is wrong, then raises ProtocolError,
    WrongLogin for a login; the connection is closed then (FE-3). Follows RFC 1928, RFC 1929,
    conventions D1 to D3.
    """
    (version,) = yield Receive(1)
    if version == 4:
        return (yield from _accept4(login))
    expect(version == 5, f"SOCKS version {version}, expected 4 or 5")
    return (yield from _accept5(login))


def _accept4(login: Login | None) -> Exchange[SocksRequest]:
    head = yield Receive(7)
    address4 = ipaddress.IPv4Address(head[3:])
    user = (yield ReceiveUntil(b"\0", _TEXT_LIMIT))[:-1]
    host = str(address4)
    if 0 < int(address4) < 256:  # SOCKS4a
        host = _ascii((yield ReceiveUntil(b"\0", _TEXT_LIMIT))[:-1])
    command = _COMMANDS_4.get(head[0])
    try:
        if login is not None:
            raise WrongLogin("SOCKS4 has no password, and this listener asks for one")
        expect(command is not None, f"SOCKS4 command {head[0]}, expected 1, 2 or 240")
        address = target_address(host, int.from_bytes(head[1:3], "big"))
    except ProtocolError:
        yield Send(_reply4(_REJECTED_4))
        raise
    assert command is not None
    choice, objection = read_wishes(user)
    credentials = Credentials(Authentication.SOCKS4, (user,), choice)
    return SocksRequest(4, command, address, credentials, objection)


def _accept5(login: Login | None) -> Exchange[SocksRequest]:
    credentials, objection, version = yield from _authenticate(login)
    command_byte, reserved, kind = yield Receive(3)
    expect(version == 5 and reserved == 0, "a SOCKS5 request does not begin with 05, command, 00")
    if kind == _NAME:
        (length,) = yield Receive(1)
    elif kind in (_IPV4, _IPV6):
        length = 4 if kind == _IPV4 else 16
    else:
        yield Send(_reply5(UNSUPPORTED_ADDRESS.socks5))
        refuse(f"SOCKS5 address type {kind}, expected 1, 3 or 4")
    place = yield Receive(length + 2)
    port, raw = int.from_bytes(place[length:], "big"), place[:length]
    host = _ascii(raw) if kind == _NAME else str(ipaddress.ip_address(raw))
    command = _COMMANDS_5.get(command_byte)
    if command is None:
        yield Send(_reply5(UNSUPPORTED_COMMAND.socks5))
        refuse(f"SOCKS5 command {command_byte}, expected 1, 2, 3, 240 or 241")
    try:
        address = target_address(host, port)
    except ProtocolError:
        if command is not Command.ASSOCIATE:
            yield Send(_reply5(_GENERAL_FAILURE_5))
            raise
        address = _NOWHERE  # only a hint, and PySocks writes the name "0" there
    if command is Command.RESOLVE_PTR and address.ip is None:
        objection = objection or UNSUPPORTED_ADDRESS
    return SocksRequest(5, command, address, credentials, objection)


def _authenticate(
    login: Login | None,
) -> Exchange[tuple[Credentials, Failure | None, int]]:
    """Choose user and password whenever they are offered: they isolate (FE-10).

    Returns the first byte of the request as well, which tells it from a login.
    """
    (method_count,) = yield Receive(1)
    methods = yield Receive(method_count)
    if _USER_PASSWORD not in methods:
        if _NO_AUTHENTICATION not in methods or login is not None:
            yield Send(bytes((5, _NONE_ACCEPTABLE)))
            if login is not None:
                raise WrongLogin("no password offered, and this listener asks for one")
            refuse("no acceptable SOCKS5 method offered, expected 0 or 2")
        yield Send(bytes((5, _NO_AUTHENTICATION)))
        (version,) = yield Receive(1)
        if version != _LOGIN_VERSION:
            return Credentials(Authentication.NONE), None, version
        # Some programs show a login though none was asked for (conventions D2).
    else:
        yield Send(bytes((5, _USER_PASSWORD)))
        (version,) = yield Receive(1)
        expect(version == _LOGIN_VERSION, f"user and password of version {version}, expected 1")
    credentials, objection = yield from _read_login(login)
    (version,) = yield Receive(1)
    return credentials, objection, version


def _read_login(login: Login | None) -> Exchange[tuple[Credentials, Failure | None]]:
    """Read user and password behind their version; any of them may be empty."""
    (user_length,) = yield Receive(1)
    user = yield Receive(user_length)
    (password_length,) = yield Receive(1)
    password = yield Receive(password_length)
    if login is not None and not login.admits(user, password):
        yield Send(b"\x01\x01")
        raise WrongLogin("another user or password than this listener asks for")
    yield Send(b"\x01\x00")
    return _read_credentials(user, password)


def _read_credentials(user: bytes, password: bytes) -> tuple[Credentials, Failure | None]:
    """Tell Tor's extended format from plain user and password (conventions D3).

    Format 0 isolates by its password alone; format 1 names an RPC object, and there are none
    here, so it is refused like the unknown ones.
    """
    if not user.startswith(_MAGIC):
        choice, objection = read_wishes(user)
        return Credentials(Authentication.LEGACY, (user, password), choice), objection
    objection = None if user == _MAGIC + b"0" else UNKNOWN_FORMAT
    return Credentials(Authentication.EXTENDED, (password,)), objection


def _is_ipv4(address: Address) -> bool:
    return isinstance(address.ip, ipaddress.IPv4Address)


def _ascii(raw: bytes) -> str:
    """Return `raw` as text; what is not ASCII becomes characters that no name may have."""
    return raw.decode("ascii", "replace")


def _reply4(code: int, bound: Address = _NOWHERE) -> bytes:
    host = bound.ip.packed if _is_ipv4(bound) and bound.ip else bytes(4)
    return bytes((0, code)) + bound.port.to_bytes(2, "big") + host


def _reply5(code: int, bound: Address = _NOWHERE) -> bytes:
    if bound is _NOWHERE:
        host = bytes((_IPV4, 0, 0, 0, 0))
    elif bound.ip is None:
        name = bound.host.encode("ascii")
        host = bytes((_NAME, len(name))) + name
    else:
        host = bytes((_IPV4 if bound.ip.version == 4 else _IPV6,)) + bound.ip.packed
    return bytes((5, code, 0)) + host + bound.port.to_bytes(2, "big")
