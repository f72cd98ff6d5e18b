"""A plain HTTP request on its way to the target, and the answer on its way back.

Nothing is passed through: each message is read by one h11 connection and written anew by another,
so both sides agree where it ends, whatever the sender meant (FE-5). Only what is in chunks is read
by ``http_chunks``. Bytes go in, bytes come out; one object carries one request, and the connections
on both sides are closed after it.

    client  --take_request-->  h11 server | h11 client  -->  target
    client  <--  h11 server | h11 client  <--take_response--  target
"""

import h11

from warren.addresses import Address
from warren.errors import ProtocolError, expect
from warren.protocol.http_chunks import ChunkedBody
from warren.protocol.http_head import HEAD_LIMIT, Headers, tokens_of, values_of
from warren.protocol.http_proxy import HttpRequest

#: Bytes an answer's head may have: sites send more than clients do.
RESPONSE_HEAD_LIMIT = 64 * 1024
#: Answers 1xx before the one that counts: a site could go on with them for ever, and each costs as
#: much as a whole head. The 102 of a slow one come every 20 s or so.
MOST_EARLY_ANSWERS = 256

_BEGINNING = b"HTTP/"
_HOP_BY_HOP = frozenset(
    b"connection keep-alive te trailer transfer-encoding upgrade http2-settings".split()
)
_HOP_PREFIXES = (b"proxy-", b"tor-", b"x-tor-")
_WRITTEN_ANEW = frozenset((b"host", b"content-length"))
_REQUEST_EVENTS = (h11.Request, h11.Data, h11.EndOfMessage)
_RESPONSE_EVENTS = (h11.InformationalResponse, h11.Response, h11.Data, h11.EndOfMessage)


class BadMessage(ProtocolError):
    """Tell that a message is not valid HTTP; ``hint`` is h11's, as an HTTP status."""

    def __init__(self, hint: int) -> None:
        super().__init__("a message is not valid HTTP, or was cut short")
        self.hint = hint


class HttpRelay:
    """Own the two readers and two writers of one plain request (RFC 9112).

    Every method that takes bytes returns those to send on, b"" for none yet, and raises
    ProtocolError when they break HTTP; the object is finished then.
    """

    def __init__(self, request: HttpRequest) -> None:
        """Take a request that is no CONNECT; its head is the first of ``take_request``."""
        assert not request.is_tunnel, "a CONNECT is a tunnel, not a relayed request"
        self._request = request
        self._client = h11.Connection(h11.SERVER, HEAD_LIMIT)
        self._target = h11.Connection(h11.CLIENT, RESPONSE_HEAD_LIMIT)
        lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.version)]
        lines += [b"%s: %s" % header for header in request.headers]
        self._client.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
        is_chunked = values_of(request.headers, b"transfer-encoding")
        self._upward = ChunkedBody() if is_chunked else None
        self._downward: ChunkedBody | None = None
        self._beginning = b""  # of the answer
        self._early_answers = 0
        self.has_answered = False
        self.is_finished = False

    @property
    def is_request_whole(self) -> bool:
        """Tell whether the client has sent all of its request."""
        if self._upward is not None:
            return self._upward.is_whole
        return self._client.their_state not in (h11.IDLE, h11.SEND_BODY, h11.ERROR)

    def take_request(self, data: bytes) -> bytes:
        """Take bytes from the client, return those for the target."""
        if self._upward is not None and self.is_request_whole:
            return b""  # what is behind it is nobody's
        if data and self._upward is None:
            self._client.receive_data(data)
        output = bytearray()
        while isinstance(event := _next_event(self._client), _REQUEST_EVENTS):
            if isinstance(event, h11.Request):
                event = self._request_to_send()
            elif isinstance(event, h11.EndOfMessage):
                event = h11.EndOfMessage()  # without trailers: they were meant for us
            output += _send(self._target, event)
        if self._upward is not None:
            output += _send_content(self._target, self._upward, data)
        return bytes(output)

    def take_response(self, data: bytes) -> bytes:
        """Take bytes from the target, return those for the client; b"" is the target's end.

        What follows a response that has ended is dropped: nobody asked for it. Raises
        ProtocolError as well when the end comes before the response has ended.
        """
        if self.is_finished:
            return b""
        if len(self._beginning) < len(_BEGINNING):
            # What speaks another protocol may wait for us to say more, and h11 for an empty line.
            self._beginning = (self._beginning + data)[: len(_BEGINNING)]
            expect(_BEGINNING.startswith(self._beginning), "an answer that is no HTTP")
        if self._downward is None:
            return self._take_events(data)
        expect(bool(data), "a chunked answer that was cut short")
        return self._take_chunks(self._downward, data)

    def _take_events(self, data: bytes) -> bytes:
        """Take bytes of an answer that has no chunks so far, return those for the client."""
        self._target.receive_data(data)
        output = bytearray()
        while not self.is_finished:
            event = _next_event(self._target)
            if not isinstance(event, _RESPONSE_EVENTS):
                break
            if isinstance(event, h11.InformationalResponse):
                self._early_answers += 1
                expect(self._early_answers <= MOST_EARLY_ANSWERS, "early answers without an end")
                if self._request.version == b"1.0":
                    continue  # HTTP/1.0 has none
                headers = _end_to_end(tuple(event.headers.raw_items()))
                event = h11.InformationalResponse(
                    status_code=event.status_code, reason=event.reason, headers=headers
                )
            elif isinstance(event, h11.Response):
                event = self._response_to_send(event)
                self.has_answered = True
            elif isinstance(event, h11.EndOfMessage):
                event = h11.EndOfMessage()
                self.is_finished = True
            output += _send(self._client, event)
            if self._downward is not None:
                output += self._take_chunks(self._downward, self._target.trailing_data[0])
                break
        return bytes(output)

    def _take_chunks(self, body: ChunkedBody, data: bytes) -> bytes:
        """Take bytes of the answer's chunks, return those for the client."""
        output = _send_content(self._client, body, data)
        self.is_finished = body.is_whole
        return output

    def _request_to_send(self) -> h11.Request:
        # No Via: it would tell every site that this is Warren (conventions D0).
        request = self._request
        headers = [(b"Host", _host_header(request.address)), *_end_to_end(request.headers)]
        if request.method in (b"OPTIONS", b"TRACE"):
            headers = [_one_hop_less(header) for header in headers]
        headers += _framing(request.headers)
        headers.append((b"Connection", b"close"))
        return h11.Request(method=request.method, target=request.target, headers=headers)

    def _response_to_send(self, response: h11.Response) -> h11.Response:
        # A site must not make the browser ask for the proxy's password.
        expect(response.status_code != 407, "an answer 407 from a target that is no proxy")
        received = tuple(response.headers.raw_items())
        if self._has_chunks(response, received):
            self._downward = ChunkedBody()
        headers = _end_to_end(received)
        if response.status_code != 204:  # it has no body, whatever it says
            headers += _framing(received)
        headers.append((b"Connection", b"close"))
        return h11.Response(
            status_code=response.status_code, reason=response.reason, headers=headers
        )

    def _has_chunks(self, response: h11.Response, headers: Headers) -> bool:
        has_body = self._request.method != b"HEAD" and response.status_code not in (204, 304)
        return has_body and bool(values_of(headers, b"transfer-encoding"))


def _next_event(reader: h11.Connection) -> object:
    try:
        return reader.next_event()
    except h11.RemoteProtocolError as error:  # its text repeats the peer's
        raise BadMessage(error.error_status_hint) from None


def _send(writer: h11.Connection, event: h11.Event) -> bytes:
    try:
        return writer.send(event) or b""
    except h11.LocalProtocolError:
        raise ProtocolError("a message does not fit the one it answers") from None


def _send_content(writer: h11.Connection, body: ChunkedBody, data: bytes) -> bytes:
    """Return what `writer` makes of the content that is in `data`, and of its end."""
    output = b""
    if content := body.take(data):
        output = _send(writer, h11.Data(content))
    if body.is_whole:
        output += _send(writer, h11.EndOfMessage())
    return output


def _end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return `headers` without those for the next hop only and those that frame the body."""
    dropped = _HOP_BY_HOP | _WRITTEN_ANEW | tokens_of(headers, b"connection")
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(_HOP_PREFIXES)
    ]


def _one_hop_less(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Count this proxy in Max-Forwards, whose value was checked (RFC 9110 §7.6.2)."""
    name, value = header
    return (name, b"%d" % (int(value) - 1)) if name.lower() == b"max-forwards" else header


def _framing(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the one header that says where the body ends, if any; h11 adds what is missing."""
    if values_of(headers, b"transfer-encoding"):
        return [(b"Transfer-Encoding", b"chunked")]
    return [(b"Content-Length", value) for value in values_of(headers, b"content-length")[:1]]


def _host_header(address: Address) -> bytes:
    text = str(address)
    return (text.removesuffix(":80") if address.port == 80 else text).encode("ascii")
