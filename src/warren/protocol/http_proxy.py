"""HTTP at the front door: what a head asks for, and whether it may.

A target in authority form is a CONNECT, one in absolute form a plain request.
One in origin form was meant for a web server: a web page may be behind it, so it is refused, or
gets no answer at all (FE-6, conventions D4); the set-up of browsers and ``OPTIONS *`` are the
exceptions. How a head is read is told in ``http_head``, how a plain request then travels in
``http_relay``, what the proxy itself answers in ``http_answers``.

Messages of the ProtocolErrors raised here hold no text of the client's: they go into the answer.
"""

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass

from warren.addresses import Address, is_loopback, parse_ip
from warren.errors import ProtocolError, expect, refuse
from warren.protocol.exchange import Exchange
from warren.protocol.front import (
    UNSUPPORTED_HEADER,
    WRONG_LOGIN,
    Authentication,
    Command,
    Credentials,
    Failure,
    Login,
    read_wishes,
    target_address,
)
from warren.protocol.http_answers import answer
from warren.protocol.http_head import (
    ForeignRequest,
    Head,
    Headers,
    bad_request,
    read_head,
    tokens_of,
    values_of,
    wants_page,
)
from warren.protocol.messages import ANY_FAMILY, BeginFlags

_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{0,5}))?\Z")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?#]*)([^#]*)\Z")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_FAMILIES = {
    b"ipv4-preferred": ANY_FAMILY,
    b"ipv6-preferred": BeginFlags.PREFER_IPV6,
    b"ipv4-only": BeginFlags.NO_IPV6,
    b"ipv6-only": BeginFlags.NO_IPV4 | BeginFlags.PREFER_IPV6,
}
_ISOLATION_HEADERS = (b"tor-stream-isolation", b"x-tor-stream-isolation", b"proxy-authorization")


@dataclass(frozen=True, slots=True)
class PacRequest:
    """Ask for the proxy's automatic configuration, ``/proxy.pac``."""


@dataclass(frozen=True, slots=True)
class OptionsRequest:
    """Ask what the proxy itself can do (RFC 9110 §9.3.7)."""


OwnRequest = PacRequest | OptionsRequest


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Hold a request head that passed every check; header names are spelt as they came.

    ``target`` is in origin form, or empty for CONNECT; ``version`` is ``b"1.0"`` or ``b"1.1"``;
    ``flags`` say over which families a name may be reached.
    """

    method: bytes
    address: Address
    target: bytes
    version: bytes
    headers: Headers
    credentials: Credentials
    objection: Failure | None = None
    flags: BeginFlags = ANY_FAMILY

    @property
    def command(self) -> Command:
        """Return what is asked of the network: always a connection."""
        return Command.CONNECT

    @property
    def is_tunnel(self) -> bool:
        """Tell whether this is a CONNECT and not a plain request."""
        return self.method == b"CONNECT"

    @property
    def keeps_alive(self) -> bool:
        """Tell whether the connection may carry another request after a refusal (FE-3)."""
        tokens = tokens_of(self.headers, b"connection", b"proxy-connection")
        return self.is_tunnel and self.version == b"1.1" and b"close" not in tokens

    def granted(self) -> bytes:
        """Return the answer to a CONNECT that succeeded; the tunnel's bytes follow it."""
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refused(self, failure: Failure, *, is_last: bool = True) -> bytes:
        """Return the answer that says `failure`, as a page where the client is a browser.

        It also says whether it `is_last` on its connection.
        """
        return answer(
            failure,
            is_page=wants_page(self.headers),
            keeps_alive=not is_last,
            has_body=self.method != b"HEAD",
        )


def accept(login: Login | None = None) -> Exchange[HttpRequest | OwnRequest]:
    """Read the head of one request, as ``read_head`` does; read nothing behind it.

    Where there is a `login`, a request without it has an objection. Raises ForeignRequest when no
    answer may be given, ProtocolError (BadRequest once the first line is read) when ``malformed``
    is the answer; the connection is closed after both (FE-3).
    """
    head = yield from read_head()
    try:
        return _read_request(head, login)
    except ProtocolError as error:
        raise bad_request(error, head.method, head.target, head.headers) from None


def _read_request(head: Head, login: Login | None) -> HttpRequest | OwnRequest:
    method, target, version, headers = head.method, head.target, head.version, head.headers
    hosts = values_of(headers, b"host")
    if target.startswith(b"/") or target == b"*":
        return _read_own_request(method, target, hosts, headers)
    expect(len(hosts) <= 1, "more than one Host header")
    _check_framing(method, version, headers)
    if method == b"CONNECT":
        # No Host is asked for, or looked at: nothing of this head goes on to anybody, and programs
        # leave it out or name the proxy there (decision 32).
        address = read_authority(target, None)
        origin_form = b""
    else:
        expect(bool(hosts) or version == b"1.0", "no Host header, which HTTP/1.1 asks for")
        url = _ABSOLUTE.match(target)
        if url is None:
            refuse(
                "the target is no http:// URL, or has a fragment; other schemes go through CONNECT"
            )
        address = read_authority(url[1], 80)
        named = read_authority(hosts[0], 80) if hosts else address
        expect(named == address, "Host and the target name different servers; send the same")
        origin_form = _origin_form(method, url[2])
    if is_last_hop(method, headers):
        expect(method == b"OPTIONS", "a TRACE ends here, and this proxy tells nothing")
        return OptionsRequest()
    credentials, objection = _read_credentials(headers, login)
    flags = _read_families(headers)
    return HttpRequest(
        method, address, origin_form, version, headers, credentials, objection, flags
    )


def is_last_hop(method: bytes, headers: Headers) -> bool:
    """Tell whether a request may not be forwarded once more (RFC 9110 §7.6.2)."""
    if method not in (b"OPTIONS", b"TRACE"):
        return False
    limits = values_of(headers, b"max-forwards")
    expect(len(limits) <= 1, "Max-Forwards is given twice")
    expect(all(limit.isdigit() and len(limit) <= 9 for limit in limits), "a bad Max-Forwards")
    return bool(limits) and int(limits[0]) == 0


def _read_families(headers: Headers) -> BeginFlags:
    wanted = values_of(headers, b"tor-family-preference")
    expect(len(wanted) <= 1, "Tor-Family-Preference is given twice")
    expect(all(each in _FAMILIES for each in wanted), "an unknown Tor-Family-Preference")
    return _FAMILIES[wanted[0]] if wanted else ANY_FAMILY


def _origin_form(method: bytes, path_and_query: bytes) -> bytes:
    # A program that does not escape what was typed would write no HTTP; browsers escape it so.
    path_and_query = _BEYOND_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], path_and_query)
    if path_and_query.startswith(b"/"):
        return path_and_query
    if method == b"OPTIONS" and not path_and_query:
        return b"*"  # RFC 9112 §3.2.4
    return b"/" + path_and_query


def _check_framing(method: bytes, version: bytes, headers: Headers) -> None:
    """Refuse whatever two readers could take for two different bodies (FE-4)."""
    lengths = values_of(headers, b"content-length")
    codings = values_of(headers, b"transfer-encoding")
    expect(not (lengths and codings), "both Content-Length and Transfer-Encoding")
    expect(not codings or version == b"1.1", "Transfer-Encoding in HTTP/1.0")
    has_body = bool(codings) or any(length != b"0" for length in lengths)
    expect(method != b"CONNECT" or not has_body, "a CONNECT with a body")
    expect(len(lengths) <= 1 and len(codings) <= 1, "the body's length is given twice")
    expect(
        all(value.lower() == b"chunked" for value in codings),
        "a Transfer-Encoding other than chunked",
    )
    is_number = all(value.isdigit() and len(value) <= 18 for value in lengths)
    expect(is_number, "Content-Length is not a number of at most 18 digits")


def _read_own_request(
    method: bytes, target: bytes, hosts: list[bytes], headers: Headers
) -> OwnRequest:
    """Serve the two answers there are; tell a web page's request from a mistaken client's."""
    fetch_sites = values_of(headers, b"sec-fetch-site")
    if (
        not all(_is_loopback(host) for host in hosts)
        or values_of(headers, b"origin")
        or any(site not in (b"none", b"same-origin") for site in fetch_sites)
    ):
        raise ForeignRequest("a request meant for another server")
    if method == b"OPTIONS" and target == b"*":
        return OptionsRequest()
    is_pac = method == b"GET" and target == b"/proxy.pac" and len(hosts) == 1
    expect(is_pac, "this is a proxy: send it CONNECT or an http:// URL")
    return PacRequest()


def _is_loopback(host: bytes) -> bool:
    try:
        address = read_authority(host, 80)
    except ProtocolError:
        return False
    return address.host == "localhost" or is_loopback(address.ip)


def read_authority(text: bytes, default_port: int | None) -> Address:
    """Return ``host[:port]`` as an address; a None `default_port` makes the port required.

    A colon without a number stands for the default port as well (RFC 3986 §3.2.3). Raises
    ProtocolError for user names, percent signs, anything but ASCII, and bad hosts.
    """
    match = _AUTHORITY.match(text)
    if match is None:
        refuse(_fault_of(text))
    host, port = match[1].decode("ascii"), int(match[2]) if match[2] else default_port
    if port is None:
        refuse("the target has no port; send CONNECT HOST:PORT")
    expect(port <= 0xFFFF, "a port above 65535")
    if host.startswith("["):
        host = host[1:-1]
        expect(isinstance(parse_ip(host), ipaddress.IPv6Address), "no IPv6 address in brackets")
    return target_address(host, port)


def _fault_of(authority: bytes) -> str:
    """Return what is wrong with an `authority` that was not understood."""
    if b"@" in authority:
        return "a user stands before the server's name; send user and password in a header"
    if not authority.isascii():
        return "a server's name has letters beyond ASCII: write it as xn--"
    if b"%" in authority:
        return "a percent sign in the server's name; neither escapes nor IPv6 zones are taken"
    return "a server is not named as HOST:PORT, with an IPv6 address in brackets"


def _read_credentials(headers: Headers, login: Login | None) -> tuple[Credentials, Failure | None]:
    """Return the isolation token, the three headers of conventions D4, and why to refuse it."""
    values: list[bytes | None] = []
    for name in _ISOLATION_HEADERS:
        found = values_of(headers, name)
        expect(len(found) <= 1, "an isolation header is given twice")
        values.append(found[0] if found else None)
    user, password = _basic_login(values[-1] or b"")
    choice, objection = read_wishes(user)
    if values_of(headers, b"tor-rpc-target"):
        objection = UNSUPPORTED_HEADER
    if login is not None and not login.admits(user, password):
        objection = WRONG_LOGIN
    return Credentials(Authentication.HTTP, tuple(values), choice), objection


def _basic_login(authorization: bytes) -> tuple[bytes, bytes]:
    """Return user and password of Basic credentials (RFC 7617), empty ones for another scheme."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return b"", b""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        refuse("Proxy-Authorization is not Basic and base64")
    return user, password
