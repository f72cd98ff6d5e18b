from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.errors import ProtocolError
from warren.protocol.http_chunks import ChunkedBody
from warren.protocol.http_head import HEAD_LIMIT

BODY = b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"
#: What is wrong, up to and with the first byte that cannot be right.
WRONG = {
    "no digits": b"z",
    "a sign": b"-",
    "a prefix": b"0x",
    "17 digits": b"1" * 17,
    "an empty line": b"\r",
    "a bare line feed behind the size": b"5\n",
    "a bare line feed behind an extension": b"5;x\n",
    "a bare carriage return in an extension": b"5;a\rb",
    "a zero byte in an extension": b"5;\0",
    "text behind the size": b"5 x",
    "a chunk longer than said": b"3\r\nhell",
    "a chunk shorter than said": b"5\r\nhel\r\n0",
    "a bare line feed behind a chunk": b"5\r\nhello\n",
    "a bare line feed instead of trailers": b"0\r\n\n",
    "a bare line feed behind a trailer": b"0\r\nX: y\n",
    "a trailer without a colon": b"0\r\nX\r\n",
    "a folded trailer": b"0\r\nX: y\r\n z\r\n",
    "a control character in a trailer": b"0\r\nX: \0",
}


def read(*parts: bytes) -> tuple[ChunkedBody, bytes]:
    body = ChunkedBody()
    return body, b"".join(body.take(part) for part in parts)


def split(words: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(words), *(cut for cut in cuts if cut < len(words))})
    return [words[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.integers(0, 60)), st.binary())
def test_a_body_is_whole_at_its_last_byte_however_it_is_cut(cuts: list[int], behind: bytes) -> None:
    body, content = read(*split(BODY + behind, cuts))

    assert body.is_whole
    assert content == b"hello world"
    assert not read(*split(BODY[:-1], cuts))[0].is_whole


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=20), st.lists(st.integers(0, 400)))
def test_chunks_of_any_number_and_size_are_read_however_they_are_cut(
    chunks: list[bytes], cuts: list[int]
) -> None:
    words = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"

    body, content = read(*split(words, cuts))

    assert body.is_whole
    assert content == b"".join(chunks)
    assert not read(*split(words[:-1], cuts))[0].is_whole


def test_what_is_there_of_a_chunk_is_not_waited_with() -> None:
    body = ChunkedBody()

    assert [body.take(part) for part in (b"5\r\nhe", b"ll", b"o", b"\r\n")] == [
        b"he", b"ll", b"o", b"",
    ]  # fmt: skip


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG.keys())
@given(before=st.sampled_from([b"", b"3\r\nabc\r\n"]), cuts=st.lists(st.integers(0, 20)))
def test_the_first_wrong_byte_is_refused_however_it_is_cut(
    words: bytes, before: bytes, cuts: list[int]
) -> None:
    words = before + words
    body, _ = read(*split(words[:-1], cuts))

    with pytest.raises(ProtocolError):
        body.take(words[-1:])
    with pytest.raises(ProtocolError):
        read(*split(words + b"\r\n0\r\n\r\n", cuts))


@pytest.mark.parametrize("start", [b"5;", b"0\r\nX: ", b"0\r\nX: y\r\nZ: "])
def test_neither_extensions_nor_trailers_may_go_on_forever(start: bytes) -> None:
    endless = [b"y" * 64] * (HEAD_LIMIT // 64)

    with pytest.raises(ProtocolError, match="longer than 16384 bytes"):
        read(start, *endless)


def test_what_is_wrong_is_said_without_the_words_of_the_program() -> None:
    with pytest.raises(ProtocolError) as caught:
        read(b"5;secret\n")

    assert str(caught.value) == (
        "a line of the chunked body ends in a bare line feed; it must end in CR LF"
    )


@given(st.lists(st.binary(max_size=40)))
def test_garbage_raises_protocol_error_and_nothing_else(parts: list[bytes]) -> None:
    try:
        body, _ = read(*parts)
    except ProtocolError:
        return
    assert not body.is_whole or b"0\r\n" in b"".join(parts)
