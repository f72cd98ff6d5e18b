"""HTTP/1.1 for the directory: a few fixed paths, spoken through a circuit's stream.

h11 reads and writes the messages; what this adds is strictness (DIR-17). A request has a path
out of a small alphabet and no query; a body has a content-length, known before it is read and
held against the limit of its path; at most ten requests follow each other on a stream. Answers
are bytes that somebody has ready in memory. Which paths there are is decided by the roles.
"""

import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import h11
import structlog
import trio

from warren.errors import DirectoryError, ProtocolError, TooSoon, WarrenError, expect

logger = structlog.get_logger()

MOST_REQUESTS = 10
#: For one request to arrive whole, and for one answer to be taken.
REQUEST_SECONDS = 60.0
RESPONSE_SECONDS = 600.0
TOO_MANY = 429
#: No directory can make anybody wait longer, in seconds.
MOST_RETRY = 3600
_HEAD_LIMIT = 4096
_REASON_LIMIT = 1024
_CHUNK = 64 * 1024
_PATH = re.compile(r"/[a-z0-9_/-]{0,200}\Z")
_HOST = "directory"


class DirectoryStream(Protocol):
    """Be what a circuit's stream and trio's streams have in common."""

    async def send_all(self, data: bytes, /) -> None:
        """Send `data` whole."""

    async def receive_some(self, max_bytes: int, /) -> bytes | bytearray:
        """Return what is there, b"" at the end."""

    async def aclose(self) -> None:
        """Close the stream."""


@dataclass(frozen=True)
class Response:
    """Answer a request: an HTTP status and a body, and when to ask again, in seconds."""

    status: int = 200
    body: bytes = b""
    retry_after: int | None = None


#: Called with method, path and body. It may raise ProtocolError (400), TooSoon (429) or
#: DirectoryError (409).
Handler = Callable[[str, str, bytes], Awaitable[Response]]


async def request(
    stream: DirectoryStream, method: str, path: str, body: bytes = b"", *, limit: int
) -> bytes:
    """Send a request and return the body of its answer; further requests may follow.

    Waits as long as the other side does: the caller sets a deadline, and closes `stream`.
    Raises DirectoryError when the answer is not 200 or the stream breaks, TooSoon where it says
    when to ask again, and ProtocolError for
    something else than HTTP or a body of more than `limit` bytes; the stream is of no use then.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
    headers = [("host", _HOST), ("content-length", str(len(body)))]
    message = h11.Request(method=method, target=path, headers=headers)
    reader = _Reader(stream, connection)
    try:
        await _send(stream, connection, message, body)
        answer = await reader.next_event()
        if not isinstance(answer, h11.Response):
            raise ProtocolError("an answer that is none")
        most = limit if answer.status_code == 200 else _REASON_LIMIT
        content = await reader.read_body(_content_length(answer.headers, most))
    except h11.RemoteProtocolError as error:
        raise ProtocolError(f"not HTTP as expected: {error}") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise DirectoryError(f"the directory stream broke: {error}") from error
    if answer.status_code != 200:
        reason = content[:64].decode("ascii", "replace")
        told = f"{method} {path} was answered {answer.status_code}: {reason!r}"
        if answer.status_code == TOO_MANY:
            raise TooSoon(told, _retry_seconds(answer.headers))
        raise DirectoryError(told)
    return content


async def serve(
    stream: DirectoryStream,
    handler: Handler,
    *,
    body_limits: Mapping[str, int] | None = None,
    large_bodies: trio.CapacityLimiter | None = None,
) -> None:
    """Answer the requests of `stream` with `handler`, then close it.

    `body_limits` maps the paths that take a body to its most bytes; others take none. No more
    bodies of over 64 KiB than `large_bodies` allows are received at a time. Returns when the
    other side has ended, has asked often enough, was too slow or broke the rules: nothing it
    sends raises out of here (DOS-1).
    """
    conversation = _Conversation(stream, handler, body_limits or {}, large_bodies)
    try:
        for number in range(1, MOST_REQUESTS + 1):
            if not await conversation.answer_one(is_last=number == MOST_REQUESTS):
                break
    except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError, WarrenError):
        pass  # the stream has gone, or does not speak HTTP: there is nobody to tell
    finally:
        with trio.move_on_after(1, shield=True):
            await _close(stream)


class _Conversation:
    """Own the server's side of one stream."""

    def __init__(
        self,
        stream: DirectoryStream,
        handler: Handler,
        body_limits: Mapping[str, int],
        large_bodies: trio.CapacityLimiter | None,
    ) -> None:
        self._stream = stream
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        self._reader = _Reader(stream, self._connection)
        self._handler = handler
        self._body_limits = body_limits
        self._large_bodies = large_bodies

    async def answer_one(self, *, is_last: bool) -> bool:
        """Answer one request; tell whether another may follow."""
        response = Response(408, b"too slow")
        with trio.move_on_after(REQUEST_SECONDS) as deadline:
            try:
                asked = await self._read_request()
            except (h11.RemoteProtocolError, ProtocolError) as error:
                response, is_last = Response(400, _reason(error)), True
            else:
                if asked is None:
                    return False
                response = await _answer(self._handler, *asked)
        is_last |= deadline.cancelled_caught
        headers = [("content-length", str(len(response.body)))]
        if response.retry_after is not None:
            headers.append(("retry-after", str(response.retry_after)))
        if is_last:
            headers.append(("connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers)
        with trio.move_on_after(RESPONSE_SECONDS) as deadline:
            await _send(self._stream, self._connection, head, response.body)
        if deadline.cancelled_caught or self._connection.our_state is not h11.DONE:
            return False
        self._connection.start_next_cycle()
        return True

    async def _read_request(self) -> tuple[str, str, bytes] | None:
        """Return method, path and body of the next request, or None at the end of the stream."""
        head = await self._reader.next_event()
        if not isinstance(head, h11.Request):
            return None
        method, path = head.method.decode("ascii"), head.target.decode("ascii")
        expect(method in ("GET", "POST"), "a method other than GET and POST")
        expect(_PATH.match(path) is not None, "a path with characters that no path here has")
        limit = self._body_limits.get(path, 0) if method == "POST" else 0
        length = _content_length(head.headers, limit)
        if length <= _CHUNK or self._large_bodies is None:
            return method, path, await self._reader.read_body(length)
        async with self._large_bodies:
            return method, path, await self._reader.read_body(length)


async def _answer(handler: Handler, method: str, path: str, body: bytes) -> Response:
    try:
        return await handler(method, path, body)
    except ProtocolError as error:
        return Response(400, _reason(error))
    except TooSoon as error:
        return Response(TOO_MANY, _reason(error), retry_after=max(1, math.ceil(error.seconds)))
    except WarrenError as error:
        return Response(409, _reason(error))
    except Exception:  # DOS-1: a bug in one answer must not end the node
        logger.exception("a bug in an answer of the directory", path=path)
        return Response(500)


def _reason(error: Exception) -> bytes:
    return str(error).encode("ascii", "replace")[:_REASON_LIMIT]


class _Reader:
    """Own the receiving side: feed h11 from the stream, one event at a time."""

    def __init__(self, stream: DirectoryStream, connection: h11.Connection) -> None:
        self.connection = connection
        self._stream = stream

    async def next_event(self) -> h11.Event:
        while True:
            event = self.connection.next_event()
            if event is h11.NEED_DATA:
                self.connection.receive_data(bytes(await self._stream.receive_some(_CHUNK)))
            elif event is h11.PAUSED:
                raise ProtocolError("a message in front of the last one's end")
            else:
                assert isinstance(event, h11.Event)
                return event

    async def read_body(self, length: int) -> bytes:
        """Return the body of the announced `length`; h11 raises when the stream ends early."""
        body = bytearray()
        while not isinstance(event := await self.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            body += event.data
            expect(len(body) <= length, "a body longer than announced")
        return bytes(body)


def _content_length(headers: Iterable[tuple[bytes, bytes]], limit: int) -> int:
    """Return the announced length, 0 for none; raise ProtocolError when it is over `limit`."""
    values = dict(headers)
    expect(b"transfer-encoding" not in values, "a transfer-encoding, expected a content-length")
    digits = values.get(b"content-length", b"0")
    expect(len(digits) <= 10, "a content-length of more than ten digits")
    length = int(digits)
    expect(length <= limit, f"a body of {length} bytes, expected at most {limit}")
    return length


def _retry_seconds(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return how long the other side asks to wait, at least a second; a date is not understood."""
    digits = dict(headers).get(b"retry-after", b"")
    if not digits.isdigit():
        return 1
    return min(max(1, int(digits[:10])), MOST_RETRY)


async def _send(
    stream: DirectoryStream, connection: h11.Connection, head: h11.Event, body: bytes
) -> None:
    """Send a whole message: a small one in one piece, a large body without copying it."""
    data = connection.send(head) or b""
    content = (connection.send(h11.Data(body)) or b"") if body else b""
    connection.send(h11.EndOfMessage())  # with a content-length it has no bytes of its own
    if len(content) <= _CHUNK:
        await stream.send_all(data + content)
    else:
        await stream.send_all(data)
        await stream.send_all(content)


async def _close(stream: DirectoryStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, WarrenError):
        await stream.aclose()
