import pytest

from tests.support.paper import Side
from warren.errors import ProtocolError
from warren.protocol.http_answers import BadRequest, malformed
from warren.protocol.http_head import HEAD_LIMIT, MOST_FIELDS, Head, read_head
from warren.protocol.reception import Asked, Malformed, last_words, receive_request

GET = b"GET http://a.example/ HTTP/1.1\r\n"
HOST = b"Host: a.example\r\n"
TOO_MUCH = b"a" * (HEAD_LIMIT + 1)


def read(words: bytes) -> Head:
    side = Side(read_head())
    side.receive(words)
    return side.result


def refused(words: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        read(words)
    return caught.value


def asked(words: bytes) -> Asked:
    side = Side(receive_request())
    side.receive(words)
    return side.result


def head_of(size: int) -> bytes:
    """Return a head of exactly `size` bytes."""
    padding = size - len(GET + HOST + b"X: \r\n\r\n")
    return GET + HOST + b"X: " + b"x" * padding + b"\r\n\r\n"


def test_a_head_of_16_kib_is_just_short_enough() -> None:
    words = head_of(HEAD_LIMIT)

    head = read(words)

    assert len(words) == HEAD_LIMIT
    assert [name for name, _ in head.headers] == [b"Host", b"X"]


@pytest.mark.parametrize(
    "words",
    [
        head_of(HEAD_LIMIT + 1),
        GET + HOST + b"Cookie: " + TOO_MUCH,
        GET + HOST + (b"X: " + b"x" * 500 + b"\r\n") * 40,
    ],
)
def test_a_head_that_is_too_long_is_a_431_that_names_the_limit(words: bytes) -> None:
    error = refused(words)

    assert isinstance(error, BadRequest)
    assert error.status == 431
    assert str(error) == (
        "the head is longer than 16384 bytes, the most that this proxy reads; "
        "send fewer or shorter header fields"
    )
    assert malformed(error).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_as_many_fields_as_a_server_takes_are_taken() -> None:
    head = read(GET + HOST + b"X: 1\r\n" * (MOST_FIELDS - 1) + b"\r\n")

    assert len(head.headers) == MOST_FIELDS


def test_more_fields_are_a_431_that_names_the_limit() -> None:
    error = refused(GET + HOST + b"X: 1\r\n" * MOST_FIELDS + b"\r\n")

    assert isinstance(error, BadRequest)
    assert error.status == 431
    assert str(error) == "the request has more than 100 header fields; send fewer"


def test_a_person_whose_head_is_too_long_reads_what_to_do() -> None:
    error = refused(GET + HOST + b"Accept: text/html\r\nCookie: " + TOO_MUCH)

    page = malformed(error)

    assert b"<h1>431 Request Header Fields Too Large</h1>" in page
    assert b"delete those of this site" in page


def test_a_first_line_that_is_too_long_is_a_414() -> None:  # RFC 9112 §3
    error = refused(b"GET http://a.example/" + TOO_MUCH)

    assert isinstance(error, BadRequest)
    assert error.status == 414
    assert str(error) == (
        "the first line is longer than 16384 bytes, the most that this proxy reads; shorten the URL"
    )
    assert malformed(error).startswith(b"HTTP/1.1 414 URI Too Long\r\n")


@pytest.mark.parametrize(
    "words",
    [
        b"GET /" + TOO_MUCH,
        b"POST /" + TOO_MUCH,
        b"\r\nGET /" + TOO_MUCH,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\nX: " + TOO_MUCH,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n" + b"X: 1\r\n" * MOST_FIELDS,
    ],
)
def test_a_web_page_does_not_find_the_proxy_by_what_is_too_long(words: bytes) -> None:  # D4
    assert asked(words) == Malformed(None)


@pytest.mark.parametrize("cut", range(4))
def test_an_empty_line_before_a_request_is_passed_over(cut: int) -> None:  # RFC 9112 §2.2
    words = b"\r\n" + GET + HOST + b"\r\n"
    side = Side(receive_request())

    side.receive(words[:cut])
    side.receive(words[cut:])

    assert side.result == asked(words[2:])


@pytest.mark.parametrize(
    "words",
    [b"\r\n\r\n" + GET, b"\r\n\x05\x01\x00\r\n", b"\rGET / HTTP/1.1\r\n", b"\r\nx\n", b"\r\r\n"],
)
def test_what_else_may_follow_an_empty_line_is_told_what_is_wrong(words: bytes) -> None:
    result = asked(words)

    assert isinstance(result, Malformed)
    assert result.answer is not None
    assert result.answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("words", [b"G", GET, GET + b"Host", b"\r", b"\r\n"])
def test_a_head_that_does_not_end_is_told_that_its_time_is_over(words: bytes) -> None:
    exchange = receive_request()
    Side(exchange).receive(words)

    told = last_words(exchange, 408, "too late")

    assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert told.endswith(b"408 Request Timeout: too late.\n")


@pytest.mark.parametrize("words", [b"", b"\x05", b"\x05\x01\x00\x05", b"\x04\x01"])
def test_who_speaks_no_http_is_not_told_that_its_time_is_over(words: bytes) -> None:  # FE-2
    exchange = receive_request()
    Side(exchange).receive(words)

    assert last_words(exchange, 408, "too late") == b""


@pytest.mark.parametrize("words", [GET + HOST + b"\r\n", b"GET\r\n"])
def test_who_was_answered_is_not_told_anything_else(words: bytes) -> None:
    exchange = receive_request()
    Side(exchange).receive(words)

    assert last_words(exchange, 408, "too late") == b""
