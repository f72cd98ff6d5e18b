from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paper import Side
from warren.errors import ProtocolError
from warren.protocol.http_proxy import HttpRequest, accept
from warren.protocol.http_relay import MOST_EARLY_ANSWERS, HttpRelay


def relay_for(
    method: str = "GET", *headers: str, version: str = "1.1", url: str = "http://a.example/x"
) -> HttpRelay:
    line = f"{method} {url} HTTP/{version}"
    words = "\r\n".join([line, f"Host: {url.split('/')[2]}", *headers, "", ""]).encode()
    side = Side(accept())
    side.receive(words)
    assert isinstance(side.result, HttpRequest)
    return HttpRelay(side.result)


def answered(relay: HttpRelay, *parts: bytes) -> bytes:
    relay.take_request(b"")
    return b"".join(relay.take_response(part) for part in parts)


def test_a_request_is_written_anew_in_origin_form() -> None:
    relay = relay_for("GET", "User-Agent: x", "Cookie: a=b")

    assert relay.take_request(b"") == (
        b"GET /x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nCookie: a=b\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert relay.is_request_whole


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.example:80/", b"Host: a.example\r\n"),
        ("http://A.example.:8080/", b"Host: a.example:8080\r\n"),
        ("http://[2001:db8::1]/", b"Host: [2001:db8::1]\r\n"),
    ],
)
def test_host_is_made_from_the_target(url: str, host: bytes) -> None:
    assert host in relay_for(url=url).take_request(b"")


@pytest.mark.parametrize(
    "header",
    [
        "Proxy-Authorization: Basic bWU6c2VjcmV0",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: 5",
        "TE: trailers",
        "Trailer: x",
        "Upgrade: websocket",
        "Tor-Stream-Isolation: secret",
        "X-Tor-Stream-Isolation: secret",
        "X-Named: secret",
    ],
)
def test_what_is_for_the_next_hop_only_ends_here(header: str) -> None:  # FE-5
    relay = relay_for("GET", "Connection: keep-alive, X-Named", header)

    sent = relay.take_request(b"")

    assert header.partition(":")[0].encode() not in sent
    assert sent.count(b"Connection:") == 1


@pytest.mark.parametrize(("method", "sent"), [("OPTIONS", b"4"), ("TRACE", b"4"), ("GET", b"5")])
def test_this_proxy_counts_as_one_hop(method: str, sent: bytes) -> None:  # RFC 9110 §7.6.2
    relay = relay_for(method, "Max-Forwards: 5")

    assert b"Max-Forwards: " + sent + b"\r\n" in relay.take_request(b"")


def test_a_connection_header_cannot_remove_the_framing() -> None:
    relay = relay_for("POST", "Content-Length: 3", "Connection: content-length, host")

    sent = relay.take_request(b"abc")

    assert b"Content-Length: 3\r\n" in sent
    assert b"Host: a.example\r\n" in sent
    assert sent.endswith(b"\r\n\r\nabc")


def test_a_body_of_known_length_is_passed_on() -> None:
    relay = relay_for("POST", "Content-Length: 5")

    relay.take_request(b"")

    assert not relay.is_request_whole
    assert relay.take_request(b"ab") + relay.take_request(b"cde") == b"abcde"
    assert relay.is_request_whole


def test_a_chunked_body_is_chunked_anew_without_extensions_and_trailers() -> None:
    relay = relay_for("POST", "Transfer-Encoding: chunked")

    sent = relay.take_request(b"3;x=y\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n")

    assert b"Transfer-Encoding: chunked\r\n" in sent
    assert sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert relay.is_request_whole


def test_what_follows_a_request_is_not_sent_with_it() -> None:
    relay = relay_for("POST", "Content-Length: 2")

    sent = relay.take_request(b"abGET http://b.example/ HTTP/1.1\r\n\r\n")

    assert sent.endswith(b"\r\n\r\nab")
    assert relay.take_request(b"GET / HTTP/1.1\r\n\r\n") == b""


def test_a_bad_chunk_ends_the_request() -> None:
    relay = relay_for("POST", "Transfer-Encoding: chunked")

    with pytest.raises(ProtocolError):
        relay.take_request(b"xyz\r\n")


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        (b"", b"5\nhello\n0\n\n"),
        (b"3\r\nabc\r\n", b"5\n"),
        (b"", b"z"),
        (b"", b"1" * 17),
        (b"0\r\n", b"\n"),
        (b"5;" + b"x" * 10_000, b"x" * 10_000),
    ],
)
def test_a_chunk_that_can_no_longer_be_right_ends_the_request_at_once(
    sent: bytes, wrong: bytes
) -> None:
    relay = relay_for("POST", "Transfer-Encoding: chunked")
    relay.take_request(sent)

    with pytest.raises(ProtocolError):
        relay.take_request(wrong)
    assert not relay.is_request_whole


def test_an_answer_of_known_length_is_whole_when_it_is_complete() -> None:
    relay = relay_for()

    sent = answered(relay, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Y: z\r\n\r\nab", b"c")

    assert sent == (
        b"HTTP/1.1 200 OK\r\nX-Y: z\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    )
    assert relay.is_finished


def test_an_answer_that_ends_with_the_connection_becomes_chunked() -> None:
    relay = relay_for()

    sent = answered(relay, b"HTTP/1.0 200 OK\r\n\r\nab", b"c", b"")

    assert b"transfer-encoding: chunked\r\n" in sent.lower()
    assert sent.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")


def test_a_chunked_answer_is_unwrapped_for_an_old_client() -> None:
    relay = relay_for(version="1.0")

    sent = answered(
        relay, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )

    assert b"chunked" not in sent
    assert sent.endswith(b"\r\n\r\nab")
    assert relay.is_finished


def test_both_lengths_in_an_answer_become_one() -> None:
    sent = answered(
        relay_for(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2\r\nab\r\n0\r\n\r\n",
    )

    assert b"Content-Length" not in sent
    assert sent.endswith(b"2\r\nab\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
def test_answers_without_a_body_end_with_their_head(method: str, answer: bytes) -> None:
    relay = relay_for(method)

    sent = answered(relay, answer)

    assert relay.is_finished
    assert sent.endswith(b"\r\n\r\n")
    assert (b"Content-Length: 1000" in sent) == (b"1000" in answer)
    assert b" 204 " not in sent or b"Transfer-Encoding" not in sent


@pytest.mark.parametrize(
    "parts",
    [
        [b"2\nok\n0\n\n"],
        [b"2\r\nok\r\n", b"2\n"],
        [b"", b"z"],
        [b"2\r\nok\r\n0\r\n\n"],
    ],
)
def test_a_chunk_of_an_answer_that_can_no_longer_be_right_ends_it_at_once(
    parts: list[bytes],
) -> None:
    relay = relay_for()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    with pytest.raises(ProtocolError):
        answered(relay, head + parts[0], *parts[1:])
    assert not relay.is_finished


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_what_follows_a_whole_answer_is_dropped(method: str, head: bytes) -> None:
    at_once, apart = relay_for(method), relay_for(method)

    sent = answered(at_once, head + b"hello")

    assert at_once.is_finished
    assert sent == answered(apart, head)
    assert sent.endswith(b"\r\n\r\n")


def test_early_answers_come_through_before_the_last_one() -> None:
    relay = relay_for("POST", "Content-Length: 1", "Expect: 100-continue")

    assert b"Expect: 100-continue" in relay.take_request(b"")
    assert relay.take_response(b"HTTP/1.1 100 Continue\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not relay.has_answered
    assert relay.take_request(b"a") == b"a"
    assert relay.take_response(b"HTTP/1.1 204 Done\r\n\r\n").startswith(b"HTTP/1.1 204 Done\r\n")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_early_answers_come_to_an_end(version: str) -> None:  # T84
    relay = relay_for(version=version)
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    answered(relay, early * MOST_EARLY_ANSWERS)

    with pytest.raises(ProtocolError, match="without an end"):
        relay.take_response(early)


def test_chunks_of_a_byte_each_take_no_step_each() -> None:  # T84
    relay = relay_for()
    answered(relay, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    pieces = 65536 // 6

    assert relay.take_response(b"1\r\nx\r\n" * pieces) == b"%x\r\n%b\r\n" % (pieces, b"x" * pieces)


def test_an_old_client_gets_no_early_answers() -> None:
    sent = answered(relay_for(version="1.0"), b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")

    assert sent == b""


def test_an_answer_may_come_before_the_request_is_whole() -> None:
    relay = relay_for("POST", "Content-Length: 1000")

    answered(relay, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    assert relay.is_finished
    assert not relay.is_request_whole


@pytest.mark.parametrize(
    "header", ["Proxy-Authenticate: Basic", "Proxy-Status: x", "Keep-Alive: 5"]
)
def test_a_target_cannot_speak_for_the_proxy(header: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()

    assert header.encode() not in answered(relay_for(), answer)


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", b""],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b""],
        [b"HTTP/1.1 200 OK\r\nX: ", b""],
        [b""],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"],
        [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000],
        [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"HT", b"ML"],
    ],
)
def test_an_answer_that_is_cut_short_or_wrong_is_never_whole(parts: list[bytes]) -> None:  # T29
    relay = relay_for()

    with pytest.raises(ProtocolError):
        answered(relay, *parts)
    assert not relay.is_finished


ANSWERS: list[Callable[[bytes], bytes]] = [
    lambda body: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
    lambda body: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n"
        % (b"%x\r\n%s\r\n" % (len(body), body) if body else b"")
    ),
    lambda body: b"HTTP/1.0 200 OK\r\n\r\n" + body,
]


@given(st.sampled_from(ANSWERS), st.binary(), st.lists(st.integers(0, 400)))
def test_a_body_arrives_unchanged_however_it_is_cut(
    framed: Callable[[bytes], bytes], body: bytes, cuts: list[int]
) -> None:
    words = framed(body)
    edges = sorted({0, len(words), *(cut for cut in cuts if cut < len(words))})
    parts = [words[a:b] for a, b in pairwise(edges)]
    relay = relay_for(version="1.0")  # which unwraps the body

    sent = answered(relay, *parts, b"")

    assert relay.is_finished
    assert sent.partition(b"\r\n\r\n")[2] == body


@given(st.binary(), st.binary())
def test_garbage_raises_protocol_error_and_nothing_else(upward: bytes, downward: bytes) -> None:
    relay = relay_for("POST", "Transfer-Encoding: chunked")
    try:
        relay.take_request(upward)
        relay.take_response(downward)
        relay.take_response(b"")
    except ProtocolError:
        return
    assert relay.is_finished
