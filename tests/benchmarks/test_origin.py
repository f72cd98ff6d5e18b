"""The origin: the bytes it serves are known beforehand, and it knows those that it gets."""

import hashlib
import socket
from collections.abc import Iterator

import pytest

from benchmarks.origin import BLOCK_BYTES, PATTERN_BYTES, digest, pattern
from benchmarks.systems import Origin, running_origin


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with running_origin() as running:
        yield running


def ask(origin: Origin, request: bytes, count: int) -> bytes:
    """Send `request` and read `count` bytes of the answer."""
    with socket.create_connection(origin.place, timeout=10) as sock:
        sock.sendall(request)
        with sock.makefile("rb") as answer:
            return answer.read(count)


def test_the_pattern_is_the_same_in_every_process() -> None:
    assert digest(1_000_000) == "5e23fc6041ee291bbfccd0aa5b07d62ce3df17df82bb02d00377c0af9b377020"


def test_no_block_of_the_pattern_is_like_another() -> None:
    blocks = {pattern()[at : at + BLOCK_BYTES] for at in range(0, PATTERN_BYTES, BLOCK_BYTES)}

    assert len(blocks) == PATTERN_BYTES // BLOCK_BYTES


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES + 1, PATTERN_BYTES, PATTERN_BYTES + 7])
def test_what_it_sends_has_the_digest_that_was_announced(origin: Origin, size: int) -> None:
    found = ask(origin, b"send %d\n" % size, size)

    assert hashlib.sha256(found).hexdigest() == digest(size)


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_it_answers_with_the_digest_of_what_it_got(origin: Origin, size: int) -> None:
    sent = b"take %d check\n" % size + pattern()[:size]

    assert ask(origin, sent, 65).decode() == f"{digest(size)}\n"


def test_it_counts_what_it_got_and_takes_the_next_request(origin: Origin) -> None:
    assert ask(origin, b"take 5\n12345ping\n", 7) == b"5\npong\n"


def test_an_echo_gives_back_what_came_with_the_request_too(origin: Origin) -> None:
    assert ask(origin, b"echo\nhello", 5) == b"hello"


@pytest.mark.parametrize("request_line", [b"sing\n", b"send x\n", b"send -\n", b"x" * 100])
def test_nonsense_ends_its_own_connection_only(origin: Origin, request_line: bytes) -> None:
    assert ask(origin, request_line, 1) == b""
    assert ask(origin, b"ping\n", 5) == b"pong\n"
