"""Unusual HTTP at a real proxy's port: it is answered at once, and the next request works.

What each shape means is tested in ``protocol``; here are the sockets, the circuit and the target.
"""

import socket
import time

import pytest

from tests.support.journeys import statistics
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME, PAGE, Origin
from warren.addresses import Address

pytestmark = pytest.mark.processes

#: "At once", and what a machine may take that does other things.
SECONDS = 5


def say(lab: RunningLab, *parts: bytes) -> socket.socket:
    """Say `parts` one after the other, each by itself."""
    proxy = Address.parse(lab.proxy)
    sock = socket.create_connection((proxy.host, proxy.port))
    sock.settimeout(SECONDS)
    for part in parts:
        sock.sendall(part)
        time.sleep(0.2)
    return sock


def answer(lab: RunningLab, *parts: bytes) -> bytes:
    """Return all that is answered to `parts` until the proxy closes."""
    reply = b""
    with say(lab, *parts) as sock:
        while data := sock.recv(65536):
            reply += data
    return reply


def head(origin: Origin, line: str, *headers: str) -> bytes:
    """Return a head in which URL and HOST stand for the origin's."""
    server = f"{NAME}:{origin.http.port}"
    words = "\r\n".join([line, "Host: HOST", *headers, "", ""])
    return words.replace("URL", f"http://{server}").replace("HOST", server).encode()


def works(lab: RunningLab, origin: Origin) -> bool:
    return answer(lab, head(origin, "GET URL/ HTTP/1.1")).endswith(PAGE)


@pytest.mark.parametrize(
    ("line", "headers", "status", "words"),
    [
        ("GET URL/ HTTP/1.1", [f"Cookie: {'x' * 40_000}"], 431, "longer than 16384 bytes"),
        ("GET URL/ HTTP/1.1", ["X: 1"] * 200, 431, "more than 100 header fields"),
        (f"GET URL/{'x' * 40_000} HTTP/1.1", [], 414, "shorten the URL"),
        ("GET URL/ HTTP/1.1", ["Host: other.example"], 400, "more than one Host"),
        ("GET http://other.example/ HTTP/1.1", [], 400, "name different servers"),
        (f"CONNECT {NAME}: HTTP/1.1", [], 400, "send CONNECT HOST:PORT"),
        ("get URL/ HTTP/1.1", [], 400, "METHOD TARGET HTTP/1.1"),
        ("PUT URL/ HTTP/1.1", ["Content-Length: 1", "Transfer-Encoding: chunked"], 400, "both"),
    ],
)
def test_an_unusual_head_is_answered_in_words_and_goes_nowhere(
    lab: RunningLab, origin: Origin, line: str, headers: list[str], status: int, words: str
) -> None:
    asked = len(origin.requests)

    reply = answer(lab, head(origin, line, *headers))

    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert words in reply.partition(b"\r\n\r\n")[2].decode()
    assert len(origin.requests) == asked
    assert works(lab, origin)


@pytest.mark.parametrize("chunks", [b"5\nhello\n0\n\n", b"xyz", b"3\r\nhello\r\n0\r\n\r\n"])
@pytest.mark.parametrize("before", [b"", b"3\r\nabc\r\n"])
def test_broken_chunks_end_their_request_and_nothing_else(
    lab: RunningLab, origin: Origin, before: bytes, chunks: bytes
) -> None:
    begin = head(origin, "PUT URL/sink HTTP/1.1", "Transfer-Encoding: chunked") + before
    begun = time.monotonic()
    with say(lab, head(origin, "GET URL/unending HTTP/1.1")) as other:
        reply = answer(lab, begin, chunks)
        seconds = time.monotonic() - begun

        assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"the request's body is not valid HTTP: a " in reply
        assert seconds < SECONDS
        assert other.recv(65536)
    assert works(lab, origin)


def test_an_empty_line_before_a_request_costs_nothing(lab: RunningLab, origin: Origin) -> None:
    reply = answer(lab, b"\r\n" + head(origin, "GET URL/ HTTP/1.1"))

    assert reply.endswith(PAGE)


def test_whatever_was_said_is_no_bug(lab: RunningLab, origin: Origin) -> None:
    for words in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET /\r\n",
        b"\r\n\r\n",
    ):
        answer(lab, words)

    assert works(lab, origin)
    assert statistics(lab, "proxy")["proxy"]["bugs"] == 0
