import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paper import Side
from warren.addresses import Address
from warren.errors import EndReason, NoConsensus, ProtocolError
from warren.protocol import front, http_answers
from warren.protocol.choice import Choice
from warren.protocol.front import BY_REASON, Authentication, Credentials, Failure, Login
from warren.protocol.http_answers import answer, malformed, options_answer, pac_answer
from warren.protocol.http_head import ForeignRequest
from warren.protocol.http_proxy import (
    HttpRequest,
    OptionsRequest,
    OwnRequest,
    PacRequest,
    accept,
    read_authority,
)
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.reception import Malformed, receive_request

NAMES = st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,20}){1,3}", fullmatch=True)
PORTS = st.integers(1, 0xFFFF)


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1")


def read(words: bytes) -> HttpRequest | OwnRequest:
    side = Side(accept())
    side.receive(words)
    return side.result


def asked(words: bytes) -> HttpRequest:
    request = read(words)
    assert isinstance(request, HttpRequest)
    return request


def tunnel(*headers: str) -> HttpRequest:
    return asked(head("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443", *headers))


def plain(*headers: str, method: str = "GET") -> HttpRequest:
    return asked(head(f"{method} http://a.example/x HTTP/1.1", "Host: a.example", *headers))


HEADS = st.one_of(
    st.builds(lambda n, p: head(f"CONNECT {n}:{p} HTTP/1.1", f"Host: {n}:{p}"), NAMES, PORTS),
    st.builds(lambda n, p: head(f"CONNECT {n}:{p} HTTP/1.0"), NAMES, PORTS),
    st.builds(lambda n: head(f"GET http://{n}/?q HTTP/1.1", f"Host: {n}", "Accept: */*"), NAMES),
)


def test_connect_names_its_target_in_authority_form() -> None:
    request = asked(head("CONNECT Example.COM.:443 HTTP/1.1", "Host: example.com:443"))

    assert request.is_tunnel
    assert request.address == Address("example.com", 443)
    assert request.granted() == b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        ["Host: a.example:443"],
        ["Host: a.example"],
        ["Host: 127.0.0.1:1080"],  # ffmpeg, proxytunnel: the proxy
        ["Host: b.example:80"],
        ["Host: "],
        [],  # links, lftp
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_host_of_a_tunnel_says_nothing(version: str, headers: list[str]) -> None:
    request = asked(head(f"CONNECT a.example:443 HTTP/{version}", *headers))

    assert request.address == Address("a.example", 443)


def test_an_ipv6_target_stands_in_brackets() -> None:
    request = asked(head("CONNECT [2001:db8::1]:443 HTTP/1.0"))

    assert request.address == Address("2001:db8::1", 443)


@pytest.mark.parametrize(
    ("method", "url", "port", "target"),
    [
        ("GET", "http://a.example/x/y?z=%20", 80, b"/x/y?z=%20"),
        ("GET", "HTTP://a.example:8080", 8080, b"/"),
        ("GET", "http://a.example?q", 80, b"/?q"),
        ("OPTIONS", "http://a.example", 80, b"*"),
        ("OPTIONS", "http://a.example/", 80, b"/"),
        # curl sends what was typed; header values here are text of Latin-1, a byte each.
        ("GET", "http://a.example/stra\xc3\x9fe?q=\xc3\xbc", 80, b"/stra%C3%9Fe?q=%C3%BC"),
        ("GET", "http://a.example/caf\xe9%20", 80, b"/caf%E9%20"),
    ],
)
def test_a_plain_request_gets_its_target_in_origin_form(
    method: str, url: str, port: int, target: bytes
) -> None:
    request = asked(head(f"{method} {url} HTTP/1.1", f"Host: a.example:{port}"))

    assert not request.is_tunnel
    assert request.address == Address("a.example", port)
    assert request.target == target


GET = "GET http://a.example/ HTTP/1.1"
POST = "POST http://a.example/ HTTP/1.1"
CONNECT = "CONNECT a.example:443 HTTP/1.1"
HOST = "Host: a.example"
HOSTILE = {  # FE-4
    "both lengths": head(POST, HOST, "Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunked in 1.0": head("POST http://a.example/ HTTP/1.0", "Transfer-Encoding: chunked"),
    "length on CONNECT": head(CONNECT, HOST, "Content-Length: 1"),
    "chunked CONNECT": head(CONNECT, HOST, "Transfer-Encoding: chunked"),
    "two lengths": head(POST, HOST, "Content-Length: 5", "Content-Length: 5"),
    "list of lengths": head(POST, HOST, "Content-Length: 5, 5"),
    "signed length": head(POST, HOST, "Content-Length: +5"),
    "endless length": head(POST, HOST, "Content-Length: " + "9" * 19),
    "other coding": head(POST, HOST, "Transfer-Encoding: gzip, chunked"),
    "coding twice": head(POST, HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "folded header": head(GET, HOST, "A: 1", " folded"),
    "folded by tab": head(GET, HOST, "A: 1", "\tfolded"),
    "bare line feeds": b"GET http://a.example/ HTTP/1.1\nHost: a.example\n\n",
    "one bare line feed": b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\nA: 1\r\n\r\n",
    "bare carriage return": head(GET, HOST, "A: 1\rB: 2"),
    "zero byte": head(GET, HOST, "A: \0"),
    "space before colon": head(GET, HOST, "A : 1"),
    "no colon": head(GET, HOST, "A"),
    "no name": head(GET, HOST, ": 1"),
    "other host": head(GET, "Host: b.example"),
    "other port": head(GET, "Host: a.example:8080"),
    "no host": head(GET),
    "two hosts": head(GET, HOST, HOST),
    "two hosts on CONNECT": head(CONNECT, HOST, HOST),
    "empty host": head(GET, "Host: "),
    "user in target": head("GET http://me:secret@a.example/ HTTP/1.1", HOST),
    "user on CONNECT": head("CONNECT me@a.example:443 HTTP/1.1", HOST),
    "percent in target": head("GET http://a%2eexample/ HTTP/1.1", HOST),
    "percent on CONNECT": head("CONNECT a%2eexample:443 HTTP/1.1", HOST),
    "letters beyond ASCII": head("GET http://\xe4.example/ HTTP/1.1", HOST),
    "beyond ASCII on CONNECT": head("CONNECT \xe4.example:443 HTTP/1.1", HOST),
    "no port on CONNECT": head("CONNECT a.example HTTP/1.1", HOST),
    "empty port": head("CONNECT a.example: HTTP/1.1", HOST),
    "port too large": head("CONNECT a.example:65536 HTTP/1.1", HOST),
    "short address": head("CONNECT 127.1:80 HTTP/1.1", "Host: 127.1:80"),
    "octal address": head("CONNECT 0177.0.0.1:80 HTTP/1.1", "Host: 0177.0.0.1:80"),
    "IPv4 in brackets": head("CONNECT [1.2.3.4]:80 HTTP/1.1", "Host: [1.2.3.4]:80"),
    "bare IPv6": head("CONNECT 2001:db8::1:80 HTTP/1.1", "Host: [2001:db8::1]:80"),
    "fragment": head("GET http://a.example/#x HTTP/1.1", HOST),
    "no target": head("GET http:/// HTTP/1.1", HOST),
    "other scheme": head("GET ftp://a.example/ HTTP/1.1", HOST),
    "https": head("GET https://a.example/ HTTP/1.1", HOST),
    "authority form of GET": head("GET a.example:80 HTTP/1.1", HOST),
    "absolute form of CONNECT": head("CONNECT http://a.example:80/ HTTP/1.1", HOST),
    "space in target": head("GET http://a.example/a b HTTP/1.1", HOST),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "lower-case method": head("get http://a.example/ HTTP/1.1", HOST),
    "isolation twice": head(GET, HOST, "Tor-Stream-Isolation: a", "Tor-Stream-Isolation: b"),
    "bad base64": head(GET, HOST, "Proxy-Authorization: Basic ?"),
    "101 headers": head(GET, HOST, *["A: 1"] * 100),
    "17 KiB": head(GET, HOST, *["A: " + "x" * 600] * 30),
    "one long line": b"GET http://a.example/" + b"x" * 20_000,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_head_is_refused(words: bytes) -> None:  # FE-4
    with pytest.raises(ProtocolError):
        read(words)


def test_a_connect_may_say_that_it_has_no_body() -> None:
    assert tunnel("Content-Length: 0").is_tunnel


def refusal(words: bytes) -> tuple[int, bytes, bytes]:
    """Return status, details and the whole of the answer to `words`, which are refused."""
    side = Side(receive_request())
    side.receive(words)
    assert isinstance(side.result, Malformed)
    reply = side.result.answer or b""
    details = reply.partition(b'details="')[2].partition(b'"')[0]
    return int(reply[9:12]), details, reply


@pytest.mark.parametrize(
    "words",
    [
        head("GET http://a.example:/x HTTP/1.1", HOST),
        head("GET http://a.example/x HTTP/1.1", "Host: a.example:"),
        head("GET http://a.example:80/x HTTP/1.1", "Host: a.example:"),
    ],
)
def test_an_empty_port_is_the_default_port(words: bytes) -> None:  # RFC 3986 §3.2.3
    assert asked(words).address == Address("a.example", 80)


@pytest.mark.parametrize("target", ["a.example:", "a.example", "[2001:db8::1]:", "[2001:db8::1]"])
def test_a_tunnel_has_no_default_port(target: str) -> None:
    status, details, _ = refusal(head(f"CONNECT {target} HTTP/1.1", HOST))

    assert (status, details) == (400, b"the target has no port; send CONNECT HOST:PORT")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("GET http://me:secret@a.example/ HTTP/1.1", b"a user stands before the server's name"),
        ("CONNECT me@a.example:443 HTTP/1.1", b"a user stands before the server's name"),
        ("GET http://[fe80::1%25eth0]/ HTTP/1.1", b"a percent sign in the server's name"),
        ("GET http://a%2eexample/ HTTP/1.1", b"a percent sign in the server's name"),
        ("GET http://b\xc3\xbccher.example/ HTTP/1.1", b"letters beyond ASCII: write it as xn--"),
        ("CONNECT b\xc3\xbccher.example:443 HTTP/1.1", b"letters beyond ASCII: write it as xn--"),
        ("GET http://2001:db8::1/ HTTP/1.1", b"with an IPv6 address in brackets"),
        ("GET http://a.example/#x HTTP/1.1", b"no http:// URL, or has a fragment"),
        ("get http://a.example/ HTTP/1.1", b"the first line is not METHOD TARGET HTTP/1.1"),
    ],
)
def test_what_is_wrong_with_a_target_is_said(line: str, found: bytes) -> None:
    status, details, _ = refusal(head(line, HOST))

    assert status == 400
    assert found in details
    assert b"secret" not in details


def test_a_refused_head_request_gets_a_head() -> None:  # RFC 9110 §9.3.2
    for words in (
        head("HEAD http://a.example/ HTTP/1.1", HOST, HOST),
        head("HEAD http://a.example/ HTTP/1.1", HOST, "A : 1"),
        b"HEAD http://a.example/" + b"a" * 17_000,
    ):
        assert refusal(words)[2].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "words",
    [
        head("OPTIONS * HTTP/1.1", "Host: 127.0.0.1:1080"),
        head("OPTIONS * HTTP/1.0"),
        head("OPTIONS http://a.example/ HTTP/1.1", "Host: a.example", "Max-Forwards: 0"),
    ],
)
def test_options_that_end_here_ask_the_proxy_itself(words: bytes) -> None:  # D4, RFC 9110 §7.6.2
    assert read(words) == OptionsRequest()


def test_the_methods_that_are_forwarded_are_named() -> None:
    reply = options_answer()

    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Allow: CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n" in reply


@pytest.mark.parametrize("headers", [["Origin: http://a.example"], ["Sec-Fetch-Site: cross-site"]])
def test_options_of_a_web_page_get_no_answer(headers: list[str]) -> None:  # D4
    with pytest.raises(ForeignRequest):
        read(head("OPTIONS * HTTP/1.1", "Host: 127.0.0.1:1080", *headers))


@pytest.mark.parametrize("limit", ["x", "-1", "1234567890", "", "1\r\nMax-Forwards: 1"])
def test_a_bad_limit_of_hops_is_malformed(limit: str) -> None:
    with pytest.raises(ProtocolError):
        read(head("OPTIONS http://a.example/ HTTP/1.1", HOST, f"Max-Forwards: {limit}"))


def test_a_trace_that_ends_here_tells_nothing() -> None:
    with pytest.raises(ProtocolError, match="tells nothing"):
        read(head("TRACE http://a.example/ HTTP/1.1", HOST, "Max-Forwards: 0"))


@pytest.mark.parametrize(
    ("preference", "flags"),
    [
        ([], ANY_FAMILY),
        (["Tor-Family-Preference: ipv4-preferred"], ANY_FAMILY),
        (["Tor-Family-Preference: ipv6-preferred"], BeginFlags.PREFER_IPV6),
        (["tor-family-preference: ipv4-only"], BeginFlags.NO_IPV6),
        (["Tor-Family-Preference: ipv6-only"], BeginFlags.NO_IPV4 | BeginFlags.PREFER_IPV6),
    ],
)
def test_a_client_may_prefer_a_family(preference: list[str], flags: BeginFlags) -> None:  # D4
    assert tunnel(*preference).flags == flags


@pytest.mark.parametrize(
    "headers", [["Tor-Family-Preference: ipv5"], ["Tor-Family-Preference: ipv4-only"] * 2]
)
def test_an_unknown_preference_is_not_ignored(headers: list[str]) -> None:
    with pytest.raises(ProtocolError):
        tunnel(*headers)


@pytest.mark.parametrize("host", ["127.0.0.1:1080", "localhost:1080", "[::1]:1080", "127.1.2.3"])
def test_the_one_page_is_served_to_this_machine(host: str) -> None:  # FE-6
    assert read(head("GET /proxy.pac HTTP/1.1", f"Host: {host}")) == PacRequest()


@pytest.mark.parametrize(
    "words",
    [
        head("GET / HTTP/1.1", "Host: 127.0.0.1:1080"),
        head("GET / HTTP/1.0"),
        head("GET /proxy.pac HTTP/1.0"),
        head("POST /proxy.pac HTTP/1.1", "Host: 127.0.0.1:1080"),
        head("OPTIONS / HTTP/1.1", "Host: 127.0.0.1:1080"),
        head("PATCH * HTTP/1.1", "Host: 127.0.0.1:1080"),
    ],
)
def test_other_requests_to_the_port_itself_are_malformed(words: bytes) -> None:  # FE-6
    with pytest.raises(ProtocolError) as raised:
        read(words)

    assert not isinstance(raised.value, ForeignRequest)


@pytest.mark.parametrize(
    "headers",
    [
        ["Host: rebound.example:1080"],
        ["Host: 0.0.0.0:1080"],
        ["Host: 192.168.1.1"],
        ["Host: localhost.evil.example"],
        ["Host: ?"],
        ["Host: 127.0.0.1", "Host: evil.example"],
        ["Host: 127.0.0.1:1080", "Origin: http://evil.example"],
        ["Host: 127.0.0.1:1080", "Sec-Fetch-Site: cross-site"],
    ],
)
def test_a_web_page_gets_no_answer(headers: list[str]) -> None:  # D4, anti-probing
    with pytest.raises(ForeignRequest):
        read(head("GET /proxy.pac HTTP/1.1", *headers))


SMUGGLED = st.one_of(
    st.sampled_from(
        [
            b"\x05\x01\x00\x05\x01\x00\x01\x01\x01\x01\x01\x00\x50",
            b"\x04\x01\x00\x50\x01\x01\x01\x01\x00",
            b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
            b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ]
    ),
    st.binary(max_size=64),
)
PAGES = st.builds(
    lambda method, path, host, lines, body: (
        head(f"{method} {path} HTTP/1.1", f"Host: {host}", *lines) + body * 3
    ),
    st.sampled_from(["POST", "GET", "PUT", "OPTIONS"]),
    st.sampled_from(["/", "/proxy.pac?", "/http://a.example/", "//a.example:443"]),
    st.sampled_from(["127.0.0.1:1080", "localhost:1080", "rebound.example:1080"]),
    st.lists(st.sampled_from(["Content-Type: text/plain", "Origin: null", "Content-Length: 90"])),
    SMUGGLED,
)
STRANGERS = st.one_of(
    st.builds(lambda body: b"\x16\x03\x01\x02\x00\x01" + body, SMUGGLED),
    st.builds(lambda body: b"SSH-2.0-x\r\n" + body, SMUGGLED),
    st.builds(lambda body: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + body, SMUGGLED),
    st.builds(lambda body: b"HELO a.example\r\n" + body, SMUGGLED),
)


@settings(max_examples=1000)
@given(st.one_of(PAGES, STRANGERS))
def test_no_other_protocol_ever_opens_a_stream(words: bytes) -> None:  # T45
    side = Side(receive_request())

    side.receive(words)

    assert isinstance(side.result, Malformed)


@given(HEADS)
def test_byte_by_byte_is_the_same_as_all_at_once(words: bytes) -> None:
    slow = Side(accept())

    for index in range(len(words)):
        slow.receive(words[index : index + 1])

    assert slow.result == read(words)


@given(HEADS, st.binary())
def test_early_bytes_are_left_for_the_stream(words: bytes, early: bytes) -> None:  # FE-7
    side = Side(accept())

    side.receive(words + early)

    assert side.is_done
    assert side.buffer == early


@given(
    st.one_of(
        st.binary(),
        st.builds(lambda h, i, b: h[:i] + b + h[i:], HEADS, st.integers(0, 60), st.binary()),
    )
)
def test_garbage_raises_protocol_error_and_nothing_else(words: bytes) -> None:
    side = Side(accept())
    reply = b""
    try:
        side.receive(words)
    except ProtocolError as error:
        reply = malformed(error)

    assert reply == b"" or reply.startswith(b"HTTP/1.1 4")


def basic(user: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(user.encode()).decode()


def test_the_three_isolation_headers_are_the_credentials() -> None:
    request = tunnel("Tor-Stream-Isolation: a", "X-Tor-Stream-Isolation: b", basic("me:c"))

    authorization = basic("me:c").partition(": ")[2].encode()
    assert request.credentials == Credentials(Authentication.HTTP, (b"a", b"b", authorization))


VALUES = st.tuples(*[st.sampled_from([None, "", "a", "b"])] * 2)


@given(VALUES, VALUES)
def test_isolation_is_equal_if_and_only_if_the_headers_are(  # T50
    one: tuple[str | None, ...], other: tuple[str | None, ...]
) -> None:
    def credentials(values: tuple[str | None, ...]) -> Credentials:
        names = ("Tor-Stream-Isolation", "Proxy-Authorization")
        lines = [f"{n}: {v}" for n, v in zip(names, values, strict=True) if v is not None]
        return tunnel(*lines).credentials

    assert (credentials(one) == credentials(other)) == (one == other)


@pytest.mark.parametrize(
    ("header", "details"),
    [
        (basic("me+session=1:x"), ""),
        (basic("me+country=de:x"), ""),
        (basic("me+country=germany:x"), "a country is two letters of ISO 3166, as in country=de"),
        (basic("me+colour=blue:x"), "unknown parameter"),
        ("Tor-RPC-Target: object", "Tor-RPC-Target is not supported"),
    ],
)
def test_what_the_headers_ask_for_is_served_or_refused(header: str, details: str) -> None:
    objection = tunnel(header).objection

    assert (objection is None) == (not details)
    assert objection is None or details in objection.details


def test_what_the_user_asks_for_comes_with_the_credentials() -> None:
    request = tunnel(basic("me+country=de+hops=4:x"))

    assert request.credentials.choice == Choice("de", hops=4)


# ---- passwords


def with_login(*headers: str, method: str = "CONNECT") -> HttpRequest:
    """Return a request to a listener that asks for a password."""
    target = "example.com:443" if method == "CONNECT" else "http://example.com/"
    host = "example.com:443" if method == "CONNECT" else "example.com"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    side = Side(accept(Login.of("me", "secret")))
    side.receive(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(side.result, HttpRequest)
    return side.result


@pytest.mark.parametrize("user", ["me", "me+work", "me+country=de"])
def test_the_right_password_lets_in_whatever_stands_behind_the_user(user: str) -> None:
    assert with_login(basic(f"{user}:secret")).objection is None


@pytest.mark.parametrize("method", ["CONNECT", "GET", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        (basic("me:wrong"),),
        (basic("you:secret"),),
        (basic("me"),),
        (basic("me+country=germany:wrong"),),
        ("Proxy-Authorization: Bearer secret",),
        ("Authorization: Basic bWU6c2VjcmV0",),
        ("Tor-RPC-Target: object",),
    ],
)
def test_without_the_right_password_it_is_asked_for(method: str, headers: tuple[str]) -> None:
    request = with_login(*headers, method=method)

    assert request.objection is front.WRONG_LOGIN
    reply = request.refused(front.WRONG_LOGIN)
    assert reply.startswith(b"HTTP/1.1 407 Proxy Authentication Required\r\n")
    assert b'\r\nProxy-Authenticate: Basic realm="Warren", charset="UTF-8"\r\n' in reply
    assert b"Proxy-Status: warren; error=http_request_denied; details=" in reply


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_reason_has_a_status_and_a_proxy_status(reason: EndReason) -> None:
    failure = BY_REASON[reason]

    reply = tunnel().refused(failure)

    assert reply.startswith(b"HTTP/1.1 %d " % failure.status)
    assert f"Proxy-Status: warren; error={failure.error}; details=".encode() in reply
    assert b"407" not in reply


def test_a_browser_gets_a_page_and_a_program_a_line() -> None:
    page = plain("Accept: text/html,*/*").refused(front.NO_CIRCUIT)
    line = plain("Accept: */*").refused(front.NO_CIRCUIT)

    assert b"Content-Type: text/html; charset=utf-8\r\n" in page
    assert b"Content-Security-Policy: default-src 'none'; style-src" in page
    assert b"<h1>503 Service Unavailable</h1>" in page
    assert b"no circuit could be built." in page
    assert b"Content-Type: text/plain; charset=us-ascii\r\n" in line
    assert line.endswith(b"no circuit could be built.\n")


def test_a_person_is_told_how_to_use_the_port_and_a_program_in_a_line() -> None:
    visited = head("GET / HTTP/1.1", "Host: 127.0.0.1:1080", "Accept: text/html;q=0.9")
    replies = []
    for words in (visited, head("GET / HTTP/1.1", "Host: 127.0.0.1:1080"), b"GET\r\n"):
        with pytest.raises(ProtocolError) as caught:
            read(words)
        replies.append(malformed(caught.value))

    assert all(reply.startswith(b"HTTP/1.1 400 Bad Request\r\n") for reply in replies)
    assert all(b"Proxy-Status: warren; error=http_request_error; det" in reply for reply in replies)
    assert [b"/proxy.pac" in reply for reply in replies] == [True, False, False]
    assert replies[1].endswith(b"this is a proxy: send it CONNECT or an http:// URL.\n")


def test_every_error_that_is_told_has_advice() -> None:
    told = {failure.error for failure in BY_REASON.values()}
    told |= {each.error for each in vars(front).values() if isinstance(each, Failure)}

    without = {error for error in told if not error.startswith("http_response")}

    assert without - {"http_protocol_error"} <= set(http_answers._ADVICE)


def test_who_finds_no_consensus_is_told_what_may_be_wrong() -> None:  # T35
    failure = front.failure_of(NoConsensus())

    assert (failure.socks5, failure.status) == (3, 503)
    assert "authorities are out of reach, or the clock" in failure.details


def test_the_answer_to_head_has_no_body() -> None:
    reply = plain(method="HEAD").refused(front.NO_CIRCUIT)

    assert reply.endswith(b"\r\n\r\n")
    assert b"Content-Length: 52\r\n" in reply


def test_details_are_quoted_as_a_structured_field() -> None:
    reply = answer(Failure(1, 502, "dns_error", 'a "b" \\ <ü>\n'), is_page=True)

    assert b'details="a \\"b\\" \\\\ <?>?"\r\n' in reply
    assert b"&lt;" in reply


@pytest.mark.parametrize(
    ("request_", "keeps_alive"),
    [
        (tunnel(), True),
        (tunnel("Connection: close"), False),
        (tunnel("Proxy-Connection: Close"), False),
        (asked(head("CONNECT a.example:443 HTTP/1.0")), False),
        (plain(), False),
    ],
)
def test_only_a_refused_connect_keeps_the_connection(
    request_: HttpRequest, keeps_alive: bool
) -> None:  # FE-3
    reply = request_.refused(front.NO_CIRCUIT, is_last=not request_.keeps_alive)

    assert request_.keeps_alive is keeps_alive
    assert (b"Connection: keep-alive" in reply) is keeps_alive


def test_the_set_up_of_a_browser_fails_closed() -> None:
    reply = pac_answer(Address("::1", 1080))

    assert b"Content-Type: application/x-ns-proxy-autoconfig\r\n" in reply
    assert b'return "PROXY [::1]:1080";' in reply
    assert b"DIRECT" not in reply


def test_an_authority_has_a_port_or_gets_one() -> None:
    assert read_authority(b"a.example", 80) == Address("a.example", 80)
    assert read_authority(b"a.example:81", 80) == Address("a.example", 81)
