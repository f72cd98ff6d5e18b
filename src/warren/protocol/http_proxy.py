"""HTTP at the front door: a strict reader of request heads.

h11 is lenient where a proxy must not be (FE-4), so a head is read line by line here and h11 sees
only what passed. A target in authority form is a CONNECT, one in absolute form a plain request.
One in origin form was meant for a web server: a web page may be behind it, so it is refused, or
gets no answer at all (FE-6, conventions D4); the set-up of browsers and ``OPTIONS *`` are the
exceptions. How a plain request then travels is told in
``http_relay``, what the proxy itself answers in ``http_answers``.

Messages of the ProtocolErrors raised here hold no text of the client's: they go into the answer.
"""

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass

from warren.addresses import Address, parse_ip
from warren.errors import ProtocolError, expect, refuse
from warren.protocol.exchange import Exchange, ReceiveUntil
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
from warren.protocol.http_answers import BadRequest, answer
from warren.protocol.messages import ANY_FAMILY, BeginFlags

HEAD_LIMIT = 16 * 1024
MOST_HEADERS = 64

Headers = tuple[tuple[bytes, bytes], ...]

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9_-]{0,31}) ([\x21-\x7e]+) HTTP/(1\.[01])\Z")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?\Z")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?#]*)([^#]*)\Z")
_FAMILIES = {
    b"ipv4-preferred": ANY_FAMILY,
    b"ipv6-preferred": BeginFlags.PREFER_IPV6,
    b"ipv4-only": BeginFlags.NO_IPV6,
    b"ipv6-only": BeginFlags.NO_IPV4 | BeginFlags.PREFER_IPV6,
}
_ISOLATION_HEADERS = (b"tor-stream-isolation", b"x-tor-stream-isolation", b"proxy-authorization")


class ForeignRequest(ProtocolError):
    """Tell that a web page seems to have sent the request: it gets no answer (D4)."""


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
            is_page=_wants_page(self.headers),
            keeps_alive=not is_last,
            has_body=self.method != b"HEAD",
        )


def accept(login: Login | None = None) -> Exchange[HttpRequest | OwnRequest]:
    """Read the head of one request, 64 headers and 16 KiB at most; read nothing behind it.

    Where there is a `login`, a request without it has an objection. Raises ForeignRequest when no
    answer may be given, ProtocolError (BadRequest once the headers are read) when ``malformed`` is
    the answer; the connection is closed after both (FE-3).
    """
    room = HEAD_LIMIT
    line = yield from _read_line(room)
    request_line = _REQUEST_LINE.match(line)
    if request_line is None:
        refuse("the first line is not METHOD TARGET HTTP/1.1")
    room -= len(line) + 2
    headers: list[tuple[bytes, bytes]] = []
    while line := (yield from _read_line(room)):
        room -= len(line) + 2
        expect(len(headers) < MOST_HEADERS, f"more than {MOST_HEADERS} headers")
        headers.append(_read_header(line))
    method, target, version = request_line.groups()
    try:
        return _read_request(method, target, version, tuple(headers), login)
    except ForeignRequest:
        raise
    except ProtocolError as error:
        raise BadRequest(str(error), is_page=_wants_page(tuple(headers))) from None


def _read_line(room: int) -> Exchange[bytes]:
    line = yield ReceiveUntil(b"\n", room)
    expect(line.endswith(b"\r\n"), "a line ends in a bare line feed")
    return line[:-2]


def _read_header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    # A folded line begins with a space, which no name may.
    expect(bool(colon and _HEADER_NAME.match(name)), "a header line is not NAME: VALUE")
    expect(bool(_HEADER_VALUE.match(value)), "a header has control characters")
    return name, value.strip(b" \t")


def _read_request(
    method: bytes, target: bytes, version: bytes, headers: Headers, login: Login | None
) -> HttpRequest | OwnRequest:
    hosts = values_of(headers, b"host")
    if target.startswith(b"/") or target == b"*":
        return _read_own_request(method, target, hosts, headers)
    expect(len(hosts) <= 1, "more than one Host")
    expect(bool(hosts) or version == b"1.0", "no Host")
    _check_framing(method, version, headers)
    if method == b"CONNECT":
        address = read_authority(target, None)
        named = read_authority(hosts[0], address.port) if hosts else address
        origin_form = b""
    else:
        url = _ABSOLUTE.match(target)
        if url is None:
            refuse("the target is not an http:// URL; other schemes go through CONNECT")
        address = read_authority(url[1], 80)
        named = read_authority(hosts[0], 80) if hosts else address
        origin_form = _origin_form(method, url[2])
    expect(named == address, "Host and the target name different servers")
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
    expect(all(value.lower() == b"chunked" for value in codings), "an unknown Transfer-Encoding")
    expect(all(value.isdigit() and len(value) <= 18 for value in lengths), "a bad Content-Length")


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
    return address.host == "localhost" or bool(address.ip and address.ip.is_loopback)


def read_authority(text: bytes, default_port: int | None) -> Address:
    """Return ``host[:port]`` as an address; a None `default_port` makes the port required.

    Raises ProtocolError for user names, percent signs, anything but ASCII, and bad hosts.
    """
    match = _AUTHORITY.match(text)
    if match is None:
        refuse("a server is not named as HOST:PORT")
    host, port = match[1].decode("ascii"), int(match[2]) if match[2] else default_port
    if port is None:
        refuse("the target has no port")
    expect(port <= 0xFFFF, "a port above 65535")
    if host.startswith("["):
        host = host[1:-1]
        expect(isinstance(parse_ip(host), ipaddress.IPv6Address), "no IPv6 address in brackets")
    return target_address(host, port)


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


def _wants_page(headers: Headers) -> bool:
    """Tell whether a person sits behind the client: browsers say that they take HTML."""
    return any(b"text/html" in value.lower() for value in values_of(headers, b"accept"))


def values_of(headers: Headers, name: bytes) -> list[bytes]:
    """Return every value of the header `name`, which is given in lower case."""
    return [value for key, value in headers if key.lower() == name]


def tokens_of(headers: Headers, *names: bytes) -> set[bytes]:
    """Return the comma-separated tokens of the headers `names`, all in lower case."""
    values = b",".join(value for key, value in headers if key.lower() in names).lower()
    return {token.strip(b" \t") for token in values.split(b",")} - {b""}
