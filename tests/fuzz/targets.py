"""What is fuzzed: every codec that strangers or local programs speak to, as one function each.

A target takes any bytes. It raises nothing for what the codec refuses as it should (ProtocolError,
and ``Unusable`` of the DNS client); whatever else comes out is a finding. ``SEEDS`` are inputs to
begin with: a conversation of each kind, so that the interesting places are not far.

The ordinary tests run every target on seeds and on what hypothesis makes of them, ``scripts/fuzz``
with atheris, which looks for inputs that reach new code.
"""

import time
from collections.abc import Callable

import dns.message

from tests.support.paper import Side
from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.network.dns_client import Unusable, read_answer
from warren.protocol import http_proxy, socks
from warren.protocol.dns_queries import DnsQuery, read_query
from warren.protocol.front import BY_REASON
from warren.protocol.http_answers import malformed
from warren.protocol.http_head import ForeignRequest
from warren.protocol.http_proxy import HttpRequest
from warren.protocol.http_relay import HttpRelay
from warren.protocol.messages import Begin, Connected, Message, encode_message
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.resolution import Question, Resolved, encode_resolve

Target = Callable[[bytes], None]

#: What one input may take, in seconds of processor time (T90).
MOST_SECONDS = 0.1
_PAYLOAD = 4040
_FOUR, _SIX, _NAME = Address("5.5.5.5", 0), Address("2a00::1", 0), Address("a.example", 0)
_FAILURE = BY_REASON[EndReason.TIMEOUT]


class TooSlow(Exception):
    """Tell that an input takes longer than any may."""


def timed(target: Target, data: bytes) -> None:
    """Run `target` on `data`; raise TooSlow when it takes too long three times in a row."""
    for _ in range(3):
        begun = time.thread_time()
        target(data)
        if time.thread_time() - begun <= MOST_SECONDS:
            return
    raise TooSlow(f"an input of {len(data)} bytes takes longer than {MOST_SECONDS} s")


# ---- applications


def socks_request(data: bytes) -> None:
    """Talk SOCKS; make every reply to what is understood."""
    try:
        side = Side(socks.accept())
        side.receive(data)
    except ProtocolError:
        return
    if side.is_done:
        request = side.result
        assert request.granted()[0] in (0, 5)
        assert request.refused(_FAILURE)
        request.resolved([_SIX, _FOUR])
        assert data.endswith(bytes(side.buffer)), "early data must stay as it came"


def http_request(data: bytes) -> None:
    """Read a head; begin to forward a plain request, with what is behind the head as its body."""
    side = Side(http_proxy.accept())
    try:
        side.receive(data)
    except ForeignRequest:
        return
    except ProtocolError as error:
        malformed(error)
        return
    if not side.is_done or not isinstance(side.result, HttpRequest):
        return
    request = side.result
    assert b"Proxy-Status: " in request.refused(_FAILURE)
    if request.is_tunnel:
        return
    relay = HttpRelay(request)
    try:
        sent = relay.take_request(b"") + relay.take_request(bytes(side.buffer))
    except ProtocolError:
        return
    head = sent.partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"\r\nhost: ") == 1, "one server is named"
    assert head.count(b"\r\ncontent-length: ") + head.count(b"\r\ntransfer-encoding: ") <= 1
    assert b"\r\nproxy-" not in head, "nothing that was for us goes on"


def http_answer(data: bytes) -> None:
    """Relay an answer to a GET, in two pieces, the first as long as its first byte says."""
    side = Side(http_proxy.accept())
    side.receive(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert isinstance(side.result, HttpRequest)
    relay = HttpRelay(side.result)
    relay.take_request(b"")
    cut = 1 + (data[0] if data else 0)
    try:
        for part in (data[1:cut], data[cut:], b""):
            if part or relay.has_answered:
                relay.take_response(part)
    except ProtocolError:
        return


# ---- DNS


def dns_query(data: bytes) -> None:
    """Read a query at the local port; make every answer to what is understood."""
    for is_datagram in (True, False):
        try:
            query = read_query(data, is_datagram=is_datagram)
        except ProtocolError:
            return
        if isinstance(query, bytes):
            assert len(query) == 12
            continue
        _check_answers(query, data, 1232 if is_datagram else 0xFFFF)


def _check_answers(query: DnsQuery, data: bytes, most: int) -> None:
    answers = [query.refuse(query.refusal)] if query.refusal is not None else []
    if query.subject is not None:
        found = [_NAME] if query.subject.ip is not None else [_FOUR, _SIX] * 8
        answers.append(query.answer(found, 300))
    for answer in answers:
        assert len(answer) <= most
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        dns.message.from_wire(answer)


def dns_answer(data: bytes) -> None:
    """Read what a DNS server says to an exit."""
    try:
        read_answer(data)
    except Unusable:
        return


# ---- relay messages


def messages_forward(data: bytes) -> None:
    """Let the messages of a payload arrive at the last hop of a circuit."""
    far = Multiplexer(is_origin=False, on_send=lambda: None, clock=lambda: 0.0)
    asked: list[Question] = []
    far.on_question = asked.append
    try:
        far.receive(_payload_of(data))
    except ProtocolError:
        return
    for question in asked:
        far.questions.answer(question, EndReason.TIMEOUT)
    _drain(far)


def messages_backward(data: bytes) -> None:
    """Let the messages of a payload arrive at an origin with two streams and two questions."""
    near = Multiplexer(is_origin=True, on_send=lambda: None, clock=lambda: 0.0)
    for _ in range(2):
        near.begin(Address("a.example", 80))
    questions = [near.resolve(subject, lambda: None) for subject in (_NAME, _FOUR)]
    _drain(near)
    try:
        near.receive(_payload_of(data))
    except ProtocolError:
        return
    _drain(near)
    for question in questions:
        assert question.outcome is None or len(near.questions.open) < len(questions)


def _payload_of(data: bytes) -> memoryview:
    return memoryview(data[:_PAYLOAD].ljust(_PAYLOAD, b"\0"))


def _drain(end: Multiplexer) -> None:
    payload = memoryview(bytearray(_PAYLOAD))
    while end.outbox.write_payload(payload):
        pass


TARGETS: dict[str, Target] = {
    "socks": socks_request,
    "http": http_request,
    "http-answer": http_answer,
    "dns-query": dns_query,
    "dns-answer": dns_answer,
    "messages-forward": messages_forward,
    "messages-backward": messages_backward,
}


def _dns(name: str, rdtype: str, *records: str, **options: object) -> bytes:
    query = dns.message.make_query(name, rdtype, id=7, **options)  # type: ignore[arg-type]
    if not records:
        return query.to_wire()
    response = dns.message.make_response(query)
    for record in records:
        owner, kind, value = record.split()
        response.answer.append(dns.rrset.from_text(owner, 300, "IN", kind, value))
    return response.to_wire()


SEEDS: dict[str, list[bytes]] = {
    "socks": [
        b"\x04\x01\x00\x50\x05\x05\x05\x05me\0early",
        b"\x04\x01\x00\x50\0\0\0\x07me\0a.example\0",
        b"\x04\xf0\0\0\0\0\0\x07me+session=7\0a.example\0",
        b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x00\x50early",
        b"\x05\x02\x00\x02\x01\x02me\x06secret\x05\x01\x00\x01\x05\x05\x05\x05\x00\x50",
        b"\x05\x01\x02\x01\x09<torS0X>0\x03tab\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50",
        b"\x05\x01\x00\x01\x02me\x00\x05\xf0\x00\x03\x09a.example\0\0",
        b"\x05\x01\x00\x05\xf1\x00\x01\x05\x05\x05\x05\0\0",
    ],
    "http": [
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\nearly",
        b"CONNECT [2a00::1]:443 HTTP/1.0\r\nProxy-Authorization: Basic bWU6eA==\r\n\r\n",
        b"GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\nAccept: text/html\r\n\r\n",
        b"POST http://a.example:81/ HTTP/1.1\r\nHost: a.example:81\r\nContent-Length: 3\r\n\r\nabc",
        (
            b"PUT http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n"
        ),
        (
            b"\r\nPOST http://a.example:/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked"
            b"\r\n\r\n1\r\na\r\n5;x\nhello\n0\n\n"
        ),
        b"OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 3\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost:1080\r\n\r\n",
        b"GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:1080\r\nSec-Fetch-Site: none\r\n\r\n",
        (
            b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: x\r\nX: 1\r\n"
            b"Tor-Stream-Isolation: a\r\nTor-Family-Preference: ipv4-only\r\n\r\n"
        ),
    ],
    "http-answer": [
        b"\x20HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"\x40HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"\x08HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"\x00HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"\x01HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nConnection: x\r\nX: 1\r\n\r\n",
    ],
    "dns-query": [
        _dns("a.example", "A"),
        _dns("a.example", "AAAA", use_edns=0, payload=1232),
        _dns("5.5.5.5.in-addr.arpa", "PTR"),
        _dns("1." + "0." * 27 + "0.0.a.2.ip6.arpa", "PTR", want_dnssec=True),
        _dns("a.example", "HTTPS"),
        _dns("a.example", "A", rdclass="CH"),
    ],
    "dns-answer": [
        _dns("a.example", "A", "a.example. A 5.5.5.5", "a.example. A 5.5.5.6"),
        _dns("a.example", "AAAA", "a.example. CNAME b.example.", "b.example. AAAA 2a00::1"),
        _dns("5.5.5.5.in-addr.arpa", "PTR", "5.5.5.5.in-addr.arpa. PTR a.example."),
    ],
    "messages-forward": [
        encode_message(Message.BEGIN, 1, Begin(Address("a.example", 80)).encode())
        + encode_message(Message.DATA, 1, b"early"),
        encode_message(Message.RESOLVE, 1, encode_resolve(_NAME))
        + encode_message(Message.RESOLVE, 2, encode_resolve(_FOUR)),
        encode_message(Message.BEGIN_DIR, 1) + encode_message(Message.EOF, 1),
        encode_message(Message.DROP, 0, b"x"),
    ],
    "messages-backward": [
        encode_message(Message.CONNECTED, 1, Connected(Address("5.5.5.5", 80), 300).encode())
        + encode_message(Message.DATA, 1, b"answer")
        + encode_message(Message.EOF, 1),
        encode_message(Message.RESOLVED, 3, Resolved((_FOUR, _SIX), 300).encode())
        + encode_message(Message.RESOLVED, 4, Resolved((_NAME,), 300).encode()),
        encode_message(Message.RESOLVED, 3, bytes((EndReason.TIMEOUT,))),
        encode_message(Message.END, 2, bytes((EndReason.RESOLVE_FAILED,))),
    ],
}
