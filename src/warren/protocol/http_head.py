"""The head of an HTTP request, read line by line, and strictly.

h11 is lenient where a proxy must not be (FE-4), so it sees only what passed here. A head ends at
its empty line; nothing behind it is read. What the head asks for is told in ``http_proxy``.

Messages of the ProtocolErrors raised here hold no text of the client's: they go into the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from warren.errors import ProtocolError, expect, refuse
from warren.protocol.exchange import Exchange, Peek, ReceiveUntil, TooLong
from warren.protocol.http_answers import BadRequest

HEAD_LIMIT = 16 * 1024
#: As many as Apache takes: what a server would have read shall not fail on the way to it.
MOST_FIELDS = 100

Headers = tuple[tuple[bytes, bytes], ...]

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9_-]{0,31}) ([\x21-\x7e\x80-\xff]+) HTTP/(1\.[01])\Z")
_TO_THE_PORT_ITSELF = re.compile(rb"[A-Z]+ /")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_MOST = f"{HEAD_LIMIT} bytes, the most that this proxy reads"


class ForeignRequest(ProtocolError):
    """Tell that a web page seems to have sent the request: it gets no answer (D4)."""


@dataclass(frozen=True, slots=True)
class Head:
    """Hold what a head says; header names are spelt as they came, ``version`` is 1.0 or 1.1."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers


def read_head() -> Exchange[Head]:
    """Read one head, 100 fields and 16 KiB at most; an empty line before it is passed over.

    Raises BadRequest, and ForeignRequest when no answer may be given.
    """
    line = yield from _read_first_line()
    request_line = _REQUEST_LINE.match(line)
    if request_line is None:
        refuse("the first line is not METHOD TARGET HTTP/1.1")
    method, target, version = request_line.groups()
    fields: list[tuple[bytes, bytes]] = []
    try:
        yield from _read_fields(HEAD_LIMIT - len(line) - 2, fields)
    except ProtocolError as error:
        raise bad_request(error, method, target, fields) from None
    return Head(method, target, version, tuple(fields))


def bad_request(
    error: ProtocolError, method: bytes, target: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> ProtocolError:
    """Return `error` with what its answer depends on besides: who asks, and for what."""
    status = error.status if isinstance(error, BadRequest) else 400
    # A web page can make its requests long, and would see by an answer that a proxy is here.
    if isinstance(error, ForeignRequest) or (status == 431 and target.startswith(b"/")):
        return ForeignRequest(str(error))
    has_body = method != b"HEAD"
    return BadRequest(str(error), status=status, is_page=wants_page(fields), has_body=has_body)


def _read_first_line() -> Exchange[bytes]:
    """Read the request line, or the one behind an empty line (RFC 9112 §2.2)."""
    try:
        line = yield from _read_line(HEAD_LIMIT)
        return line or (yield from _read_line(HEAD_LIMIT))
    except TooLong:
        start = yield Peek(HEAD_LIMIT)  # that much is there
        if _TO_THE_PORT_ITSELF.match(start):
            raise ForeignRequest("a long request meant for another server") from None
        words = f"the first line is longer than {_MOST}; shorten the URL"
        has_body = not start.startswith(b"HEAD ")
        raise BadRequest(words, status=414, has_body=has_body) from None


def _read_line(room: int) -> Exchange[bytes]:
    """Read a line of at most `room` bytes, return it without CR LF; raise TooLong, or what else."""
    line = yield ReceiveUntil(b"\n", room)
    expect(line.endswith(b"\r\n"), "a line ends in a bare line feed; it must end in CR LF")
    return line[:-2]


def _read_fields(room: int, fields: list[tuple[bytes, bytes]]) -> Exchange[None]:
    """Read header fields into `fields`, up to the empty line."""
    try:
        while line := (yield from _read_line(room)):
            room -= len(line) + 2
            if len(fields) == MOST_FIELDS:
                words = f"the request has more than {MOST_FIELDS} header fields; send fewer"
                raise BadRequest(words, status=431)
            fields.append(read_field(line))
    except TooLong:
        words = f"the head is longer than {_MOST}; send fewer or shorter header fields"
        raise BadRequest(words, status=431) from None


def read_field(line: bytes) -> tuple[bytes, bytes]:
    """Return name and value of a field; raise ProtocolError if it is none."""
    name, colon, value = line.partition(b":")
    # A folded line begins with a space, which no name may.
    expect(bool(colon and _FIELD_NAME.match(name)), "a header line is not NAME: VALUE")
    expect(bool(_FIELD_VALUE.match(value)), "a header has control characters")
    return name, value.strip(b" \t")


def wants_page(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Tell whether a person sits behind the client: browsers say that they take HTML."""
    return any(b"text/html" in value.lower() for value in values_of(headers, b"accept"))


def values_of(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return every value of the header `name`, which is given in lower case."""
    return [value for key, value in headers if key.lower() == name]


def tokens_of(headers: Headers, *names: bytes) -> set[bytes]:
    """Return the comma-separated tokens of the headers `names`, all in lower case."""
    values = b",".join(value for key, value in headers if key.lower() in names).lower()
    return {token.strip(b" \t") for token in values.split(b",")} - {b""}
