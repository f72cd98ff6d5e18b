from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import pytest
import structlog.testing
import trio
import trio.testing

from warren.addresses import Address
from warren.errors import (
    CircuitError,
    ConfigError,
    DirectoryError,
    EndReason,
    ExitError,
    NotFound,
)
from warren.network.byte_streams import Accept, ByteStream, Listener
from warren.network.dialling import SocketNetwork
from warren.network.listening import SocketListener, listening_socket
from warren.network.reserve import Reserve
from warren.network.streams import CircuitStream
from warren.protocol.choice import ANYTHING
from warren.protocol.front import BY_REASON, Authentication, Credentials, Isolation
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.resolution import Resolved
from warren.roles.client import Beginning
from warren.roles.listener_rules import PLAIN, ListenerRules
from warren.roles.proxy import Proxy
from warren.roles.requests import SPOKE_TLS, ProxyLimits

TARGET = Address("a.example", 443)
SOCKS5 = b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x01\xbb"
SOCKS5_GRANTED = b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0"
SOCKS4A = b"\x04\x01\x01\xbb\x00\x00\x00\x01me\x00a.example\x00"
CONNECT = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
GET = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n"


class FakeStream:
    """Be a stream to a target; the test plays the target at ``far``."""

    def __init__(self, address: Address, isolation: Hashable, early: bytes) -> None:
        self.address, self.isolation, self.early = address, isolation, early
        self.near, self.far = trio.testing.memory_stream_pair()
        self.reason: EndReason | None = None
        self.flags = ANY_FAMILY

    async def send_all(self, data: bytes) -> None:
        assert data, "DATA is never empty"
        await self.near.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.near.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self.near.aclose()

    def reset(self, reason: EndReason = EndReason.MISC) -> None:
        self.reason = reason
        for memory_stream in (self.near, self.far):
            memory_stream.send_stream.close()
            memory_stream.receive_stream.close()


class FakeClient:
    """Be the client: every stream it opens waits in a queue for the test."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.is_stuck = False
        self.names: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[Address, Hashable]] = []
        self._opened, self.streams = trio.open_memory_channel[FakeStream](100)

    @property
    def opened(self) -> int:
        return self.streams.statistics().current_buffer_used

    async def open_stream(
        self,
        address: Address,
        isolation: Hashable,
        early: bytes = b"",
        flags: BeginFlags = ANY_FAMILY,
        begun: Beginning | None = None,
    ) -> CircuitStream:
        await self._stumble()
        stream = FakeStream(address, isolation, early)
        stream.flags = flags
        self._opened.send_nowait(stream)
        return cast(CircuitStream, stream)

    def begin_stream(self, *_: object) -> Beginning | None:
        return None

    def connected(self, begun: Beginning) -> CircuitStream | None:
        raise AssertionError("nothing was begun")

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        self.asked.append((subject, isolation))
        await self._stumble()
        found = self.names.get(subject.host, ())
        if not found:
            raise NotFound
        return Resolved(tuple(Address(host, 0) for host in found), 300)

    async def _stumble(self) -> None:
        if self.is_stuck:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error


async def fake_splice(byte_stream: ByteStream, stream: CircuitStream) -> None:
    """Move bytes both ways, as ``network.streams.splice`` does."""

    async def upward() -> None:
        chunk = bytearray(4096)
        while True:
            count = byte_stream.receive_into(chunk)
            if count is None:
                await byte_stream.wait_readable()
            elif count == 0:
                await fake.near.send_eof()
                return
            else:
                await fake.near.send_all(bytes(chunk[:count]))

    fake = cast(FakeStream, stream)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upward)
            while data := await fake.receive_some():
                await byte_stream.send_all(data)
            byte_stream.send_eof()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        byte_stream.reset()
    byte_stream.close()


class RenamedListener(Listener):
    """Be a loopback listener that claims to be elsewhere, as do those who come to it."""

    def __init__(self, inner: SocketListener, local: str, remote: str = "127.0.0.1") -> None:
        self.inner, self.remote = inner, remote
        self.local = Address(local, inner.local.port)

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        async def renamed(stream: ByteStream) -> None:
            stream.remote = Address(self.remote, 1)
            await accept(stream)

        await self.inner.serve(renamed, nursery)

    def close(self) -> None:
        self.inner.close()


@dataclass
class Door:
    """Hold a proxy at work and the fake client below it."""

    proxy: Proxy
    client: FakeClient
    listener: Listener
    rules: ListenerRules = PLAIN
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    browsers: list[trio.SocketStream] = field(default_factory=list)

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            await self.proxy.serve(self.listener, nursery, "port", self.rules)

    async def dial(self) -> trio.SocketStream:
        browser = await trio.open_tcp_stream("127.0.0.1", self.listener.local.port)
        self.browsers.append(browser)
        return browser

    async def say(self, words: bytes) -> trio.SocketStream:
        browser = await self.dial()
        await browser.send_all(words)
        return browser

    async def ask(self, words: bytes) -> bytes:
        """Say `words` and return all that is answered until the connection is closed."""
        browser = await self.say(words)
        answer = await everything(browser)
        await browser.aclose()
        return answer

    async def next_stream(self) -> FakeStream:
        return await self.client.streams.receive()


def listen() -> SocketListener:
    return SocketNetwork().listen(Address("127.0.0.1", 0))


@asynccontextmanager
async def open_door(
    listener: Listener | None = None,
    *,
    splice: Callable[[ByteStream, CircuitStream], Awaitable[None]] = fake_splice,
    rules: ListenerRules = PLAIN,
    **options: Any,
) -> AsyncIterator[Door]:
    client = FakeClient()
    door = Door(Proxy(client, splice=splice, **options), client, listener or listen(), rules)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.serve)
            yield door
            door.scope.cancel()
    finally:
        door.listener.close()
        for browser in door.browsers:
            browser.socket.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as opened:
        yield opened


async def exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        assert part, f"the end after {data!r}"
        data += part
    return data


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


async def is_reset(stream: trio.SocketStream) -> bool:
    try:
        await everything(stream)
    except trio.BrokenResourceError:
        return True
    return False


async def is_turned_away(door: Door) -> bool:
    """Tell whether the next one who comes is reset, maybe before he knows that he is connected."""
    try:
        return await is_reset(await door.dial())
    except OSError:
        return True


# ---- tunnels


@pytest.mark.parametrize(
    ("words", "granted"),
    [
        (SOCKS5, SOCKS5_GRANTED),
        (SOCKS4A, b"\x00\x5a\0\0\0\0\0\0"),
        (CONNECT, CONNECTED),
        (b"CONNECT a.example:443 HTTP/1.0\r\n\r\n", CONNECTED),
    ],
)
async def test_every_protocol_opens_a_tunnel(door: Door, words: bytes, granted: bytes) -> None:
    browser = await door.say(words + b"early")

    target = await door.next_stream()
    assert (target.address, target.early) == (TARGET, b"early")
    assert await exactly(browser, len(granted)) == granted
    await browser.send_all(b"question")
    assert await exactly(target.far, 8) == b"question"
    await target.far.send_all(b"answer")
    assert await exactly(browser, 6) == b"answer"


async def test_an_end_passes_in_each_direction_by_itself(door: Door) -> None:  # SID-5
    browser = await door.say(SOCKS5)
    target = await door.next_stream()

    await browser.send_eof()
    assert await everything(target.far) == b""
    await target.far.send_all(b"late answer")
    await target.far.send_eof()

    assert await everything(browser) == SOCKS5_GRANTED + b"late answer"


async def test_the_login_and_the_listener_become_the_isolation(door: Door) -> None:
    login = b"\x05\x02\x00\x02\x01\x02me\x06secret" + SOCKS5[3:]

    await door.say(login)

    target = await door.next_stream()
    legacy = Credentials(Authentication.LEGACY, (b"me", b"secret"))
    assert target.isolation == Isolation("port", legacy, ("127.0.0.1",), ANYTHING)


async def test_a_failed_stream_resets_the_application(door: Door) -> None:  # SID-4
    browser = await door.say(SOCKS5)
    target = await door.next_stream()
    await exactly(browser, len(SOCKS5_GRANTED))

    target.reset(EndReason.DESTROY)

    assert await is_reset(browser)


async def test_the_end_of_the_proxy_resets_what_is_attached() -> None:  # SID-4
    async with open_door() as door:
        browser = await door.say(SOCKS5)
        await exactly(browser, len(SOCKS5_GRANTED))

        door.scope.cancel()

        assert await is_reset(browser)


# ---- refusals


@pytest.mark.parametrize("reason", list(EndReason))
async def test_every_reason_of_an_exit_reaches_the_application(
    door: Door, reason: EndReason
) -> None:
    door.client.error = ExitError(reason, "text from a peer")

    socks5, socks4, http = [await door.ask(w) for w in (SOCKS5, SOCKS4A, GET)]

    assert socks5 == b"\x05\x00\x05%c\x00\x01" % BY_REASON[reason].socks5 + bytes(6)
    assert socks4 == b"\x00\x5b" + bytes(6)
    assert http.startswith(b"HTTP/1.1 %d " % BY_REASON[reason].status)
    assert b"text from a peer" not in http


@pytest.mark.parametrize(
    ("error", "code", "status", "text"),
    [
        (DirectoryError("x"), 3, 503, b"no usable directory"),
        (CircuitError("x", hop=1), 1, 503, b"the circuit failed at hop 2"),
        (CircuitError("x"), 1, 503, b"no circuit could be built"),
        (RuntimeError("a bug that names a.example"), 1, 500, b"Warren failed inside"),
    ],
)
async def test_local_failures_have_codes_too(
    door: Door, error: Exception, code: int, status: int, text: bytes
) -> None:
    door.client.error = error

    assert (await door.ask(SOCKS5))[3] == code
    http = await door.ask(GET)
    assert http.startswith(b"HTTP/1.1 %d " % status)
    assert text in http


@pytest.mark.parametrize("command", [0x02, 0x03])
async def test_commands_that_are_not_served_are_refused(door: Door, command: int) -> None:
    reply = await door.ask(b"\x05\x01\x00\x05%c\x00\x01\x01\x02\x03\x04\x00\x50" % command)

    assert reply == b"\x05\x00\x05\x07\x00\x01" + bytes(6)
    assert door.client.opened == 0


async def test_bind_over_socks4_is_rejected(door: Door) -> None:
    assert await door.ask(b"\x04\x02\x00\x50\x01\x02\x03\x04me\0") == b"\x00\x5b" + bytes(6)


# ---- names


def ask_name(command: int, kind: bytes) -> bytes:
    """Return a SOCKS5 request of `command` for an encoded host at port 0."""
    return b"\x05\x01\x00\x05%c\x00" % command + kind + b"\0\0"


NAME = b"\x03\x09a.example"
NOBODY = Credentials(Authentication.NONE)
ME = Credentials(Authentication.SOCKS4, (b"me",))
HERE = ("127.0.0.1",)
PUBLIC = b"\x01\x05\x05\x05\x05"


async def test_a_name_is_resolved_and_the_connection_closed(door: Door) -> None:
    door.client.names["a.example"] = ("2a00::1", "5.5.5.5")

    five = await door.ask(ask_name(0xF0, NAME))
    four = await door.ask(b"\x04\xf0\0\0\0\0\0\x01me\0a.example\0")

    assert five == b"\x05\x00\x05\x00\x00\x01\x05\x05\x05\x05\0\0"
    assert four == b"\x00\x5a\0\0\x05\x05\x05\x05"
    assert door.client.asked == [
        (Address("a.example", 0), Isolation("port", NOBODY, HERE, ANYTHING)),
        (Address("a.example", 0), Isolation("port", ME, HERE, ANYTHING)),
    ]
    assert door.client.opened == 0
    assert door.proxy.statistics()["resolved"] == 2


async def test_the_name_of_an_address_is_told(door: Door) -> None:
    door.client.names["5.5.5.5"] = ("host.example",)

    reply = await door.ask(ask_name(0xF1, PUBLIC))

    assert reply == b"\x05\x00\x05\x00\x00\x03\x0chost.example\0\0"


@pytest.mark.parametrize("kind", [PUBLIC, b"\x01\x0a\0\0\x01", b"\x04" + bytes(15) + b"\x01"])
async def test_the_address_of_an_address_is_echoed(door: Door, kind: bytes) -> None:  # D0
    reply = await door.ask(ask_name(0xF0, kind))

    assert reply == b"\x05\x00\x05\x00\x00" + kind + b"\0\0"
    assert door.client.asked == []


@pytest.mark.parametrize(
    ("command", "kind", "code"),
    [
        (0xF0, NAME, 4),
        (0xF0, b"\x03\x0dprinter.local", 2),
        (0xF0, b"\x03\x07x.onion", 2),
        (0xF0, b"\x03\x06router", 2),
        (0xF1, PUBLIC, 4),
        (0xF1, b"\x01\x0a\0\0\x01", 2),
        (0xF1, NAME, 8),
    ],
)
async def test_a_question_that_has_no_answer_gets_a_code(
    door: Door, command: int, kind: bytes, code: int
) -> None:
    reply = await door.ask(ask_name(command, kind))

    assert reply[2:] == b"\x05%c\x00\x01" % code + bytes(6)
    assert len(door.client.asked) == (code == 4)


async def test_a_client_that_reads_no_more_than_it_needs_has_its_answer(door: Door) -> None:
    door.client.names["a.example"] = ("5.5.5.5",)
    browser = await door.say(ask_name(0xF0, NAME))

    assert await exactly(browser, 10) == b"\x05\x00\x05\x00\x00\x01\x05\x05\x05\x05"
    browser.socket.close()  # as torsocks does: two bytes were not read, so this is a reset
    await trio.testing.wait_all_tasks_blocked(0.05)

    numbers = door.proxy.statistics()
    assert (numbers["broken_off"], numbers["connections_open"]) == (0, 0)


async def test_socks4_cannot_be_told_an_ipv6_address(door: Door) -> None:
    door.client.names["a.example"] = ("2a00::1",)

    reply = await door.ask(b"\x04\xf0\0\0\0\0\0\x01me\0a.example\0")

    assert reply == b"\x00\x5b" + bytes(6)


async def test_the_host_of_an_exempt_target_may_be_asked_for() -> None:  # EXT-16
    async with open_door(allow_targets=[Address("127.0.0.1", 8000)]) as door:
        door.client.names["127.0.0.1"] = ("host.example",)

        assert (await door.ask(ask_name(0xF1, b"\x01\x7f\0\0\x01")))[3] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(ExitError(EndReason.TIMEOUT), 6), (DirectoryError("x"), 3), (RuntimeError("a bug"), 1)],
)
async def test_a_question_that_fails_says_why(door: Door, error: Exception, code: int) -> None:
    door.client.error = error

    assert (await door.ask(ask_name(0xF0, NAME)))[3] == code


async def test_a_question_waits_two_minutes_at_most(
    door: Door, autojump_clock: trio.testing.MockClock
) -> None:  # FE-11
    door.client.is_stuck = True

    reply = await door.ask(ask_name(0xF0, NAME))

    assert reply[2:4] == b"\x05\x06"
    assert 120 <= trio.current_time() < 125


# ---- families


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (SOCKS5, ANY_FAMILY),
        (SOCKS4A, BeginFlags.NO_IPV6),
        (CONNECT, ANY_FAMILY),
        (CONNECT[:-2] + b"Tor-Family-Preference: ipv4-only\r\n\r\n", BeginFlags.NO_IPV6),
    ],
)
async def test_the_families_that_fit_the_client_are_asked_for(
    door: Door, words: bytes, flags: BeginFlags
) -> None:  # D3, D4
    await door.say(words)

    assert (await door.next_stream()).flags == flags


# ---- refusals


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("127.0.0.1", b"destination_ip_prohibited"),
        ("10.1.2.3", b"destination_ip_prohibited"),
        ("169.254.169.254", b"destination_ip_prohibited"),
        ("[::1]", b"destination_ip_prohibited"),
        ("[::ffff:127.0.0.1]", b"destination_ip_prohibited"),
        ("[64:ff9b::7f00:1]", b"destination_ip_prohibited"),
        ("localhost", b"http_request_denied"),
        ("printer", b"http_request_denied"),
        ("printer.local", b"http_request_denied"),
        ("x.onion", b".onion services"),
    ],
)
async def test_internal_targets_use_no_circuit(door: Door, host: str, error: bytes) -> None:  # FE-8
    reply = await door.ask(f"CONNECT {host}:80 HTTP/1.0\r\n\r\n".encode())

    assert reply.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert error in reply
    assert door.client.opened == 0


async def test_port_zero_is_refused(door: Door) -> None:
    reply = await door.ask(SOCKS5[:-2] + b"\0\0")

    assert reply[3] == 2


async def test_an_allowed_target_is_exactly_one_address() -> None:
    async with open_door(allow_targets=[Address("127.0.0.1", 8000)]) as door:
        await door.say(b"CONNECT 127.0.0.1:8000 HTTP/1.0\r\n\r\n")
        target = await door.next_stream()
        other = await door.ask(b"CONNECT 127.0.0.1:8001 HTTP/1.0\r\n\r\n")

        assert target.address == Address("127.0.0.1", 8000)
        assert other.startswith(b"HTTP/1.1 403 ")


async def test_an_unknown_parameter_is_refused_and_not_ignored(door: Door) -> None:
    login = b"\x05\x01\x02\x01\x0dme+colour=red\x00" + SOCKS5[3:]

    reply = await door.ask(login)

    assert reply == b"\x05\x02\x01\x00\x05\x02\x00\x01" + bytes(6)
    assert door.client.opened == 0


async def test_a_refused_connect_keeps_the_connection(door: Door) -> None:  # FE-3
    browser = await door.say(b"CONNECT printer:80 HTTP/1.1\r\nHost: printer:80\r\n\r\n")
    refusal = b""
    while not refusal.endswith(b"public internet.\n"):
        refusal += bytes(await browser.receive_some())

    await browser.send_all(CONNECT)

    assert await exactly(browser, len(CONNECTED)) == CONNECTED


async def test_a_kept_connection_waits_for_a_request_like_a_new_one(
    door: Door, autojump_clock: trio.testing.MockClock
) -> None:
    reply = await door.ask(b"CONNECT printer:80 HTTP/1.1\r\nHost: printer:80\r\n\r\n")

    assert b"Connection: keep-alive\r\n" in reply
    assert 10 <= trio.current_time() < 15


async def test_what_follows_a_refused_connect_is_no_request(door: Door) -> None:
    refused = b"CONNECT printer:80 HTTP/1.1\r\nHost: printer:80\r\n\r\n"

    reply = await door.ask(refused + CONNECT)

    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in reply
    assert door.client.opened == 0


# ---- malformed input and web pages


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", b""),
        (b"\x05\x01\x01", b"\x05\xff"),
        (
            b"\x05\x01\x00\x05\x09\x00\x01\x01\x02\x03\x04\x00\x50",
            b"\x05\x00\x05\x07\x00\x01" + bytes(6),
        ),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n" + CONNECT, b""),
    ],
)
async def test_malformed_input_closes_the_connection(  # FE-3
    door: Door, words: bytes, reply: bytes
) -> None:
    assert await door.ask(words + SOCKS5) == reply
    assert door.client.opened == 0


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + CONNECT,
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n" + SOCKS5,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_malformed_http_gets_one_answer_and_the_end(door: Door, words: bytes) -> None:  # T45
    reply = await door.ask(words)

    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert door.client.opened == 0


async def test_tls_to_the_proxy_itself_is_told_in_the_log_once(door: Door) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

    with structlog.testing.capture_logs() as logs:
        answers = [await door.ask(hello + bytes(300)) for _ in range(2)]

    assert answers == [b"", b""]
    assert [entry["event"] for entry in logs if "TLS" in entry["event"]] == [SPOKE_TLS]
    assert door.proxy.statistics()["malformed"] == 2


async def test_an_answer_survives_the_unread_rest_of_a_request(door: Door) -> None:
    body = b"x" * 300_000

    reply = await door.ask(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + body)

    assert reply.startswith(b"HTTP/1.1 400 ")


async def test_a_head_that_is_too_long_is_answered_in_words(door: Door) -> None:
    reply = await door.ask(GET[:-2] + b"Cookie: " + b"x" * 100_000 + b"\r\n\r\n")

    assert reply.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"the head is longer than 16384 bytes" in reply
    assert reply.count(b"HTTP/1.1 ") == 1


async def test_a_head_without_its_empty_line_is_told_what_is_missing(door: Door) -> None:
    browser = await door.say(GET[:-2])

    await browser.send_eof()

    reply = await everything(browser)
    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"the request ended before the empty line behind its head" in reply


@pytest.mark.parametrize("words", [b"", SOCKS5[:-1], SOCKS4A[:-1]])
async def test_who_speaks_no_http_and_leaves_is_told_nothing(door: Door, words: bytes) -> None:
    browser = await door.say(words)

    await browser.send_eof()

    assert (await everything(browser))[2:] == b""


async def test_a_kept_connection_takes_an_empty_line_before_the_next_request(door: Door) -> None:
    browser = await door.say(b"CONNECT printer:80 HTTP/1.1\r\nHost: printer:80\r\n\r\n")
    refusal = b""
    while not refusal.endswith(b"public internet.\n"):
        refusal += bytes(await browser.receive_some())

    await browser.send_all(b"\r\n" + CONNECT)

    assert await exactly(browser, len(CONNECTED)) == CONNECTED


async def test_a_question_for_the_options_is_answered(door: Door) -> None:
    answer = await door.ask(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 OK\r\nAllow: CONNECT,")


async def test_the_browser_set_up_names_the_port_itself(door: Door) -> None:
    reply = await door.ask(b"GET /proxy.pac HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert f'"PROXY 127.0.0.1:{door.listener.local.port}"'.encode() in reply


# ---- plain HTTP


async def test_a_plain_request_is_carried_and_answered(door: Door) -> None:
    browser = await door.say(GET)
    target = await door.next_stream()

    await target.far.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    await target.far.send_all(b"hi")

    reply = await everything(browser)
    assert target.address == Address("a.example", 80)
    assert target.early.startswith(b"GET /x HTTP/1.1\r\nHost: a.example\r\n")
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"\r\n\r\nhi")


async def test_a_head_request_ends_with_the_head(door: Door) -> None:
    browser = await door.say(GET.replace(b"GET", b"HEAD"))
    target = await door.next_stream()

    await target.far.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")

    assert (await everything(browser)).endswith(b"Content-Length: 99\r\nConnection: close\r\n\r\n")


async def test_a_long_body_goes_up_while_the_answer_comes_down(door: Door) -> None:
    body = bytes(range(256)) * 2000
    browser = await door.say(
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    target = await door.next_stream()
    await target.far.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (await exactly(browser, 25)).startswith(b"HTTP/1.1 100 ")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(browser.send_all, body)
        assert await exactly(target.far, len(body)) == body
    await target.far.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert (await everything(browser)).startswith(b"HTTP/1.1 204 ")


async def test_a_chunked_body_goes_up_and_a_chunked_answer_down(door: Door) -> None:
    browser = await door.say(
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n"
    )
    target = await door.next_stream()
    assert target.early.endswith(b"\r\n\r\n3\r\nabc\r\n")

    await browser.send_all(b"0\r")
    await trio.testing.wait_all_tasks_blocked(0.01)
    await browser.send_all(b"\n\r\n")
    assert await exactly(target.far, 5) == b"0\r\n\r\n"
    await target.far.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await target.far.send_all(b"2\r\nhi\r\n0\r\n\r\n")

    assert (await everything(browser)).endswith(b"2\r\nhi\r\n0\r\n\r\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_an_answer_cut_short_never_looks_whole(door: Door, framing: bytes) -> None:  # T29
    browser = await door.say(GET)
    target = await door.next_stream()
    await target.far.send_all(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n1\r\na\r\n")

    await target.far.send_eof()

    assert await is_reset(browser)


async def test_a_stream_that_breaks_behind_its_first_byte_resets(door: Door) -> None:  # SID-4
    browser = await door.say(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
    target = await door.next_stream()
    await target.far.send_all(b"HTTP/1.0 200 OK\r\n\r\nhalf of")
    await exactly(browser, 17)

    target.reset(EndReason.DESTROY)

    assert await is_reset(browser)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-", b"http_response_incomplete"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"http_protocol_error"),
        (b"HTTP/1.1 407 x\r\n\r\n", b"http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, b"http_response_header_section_size"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"http_response_transfer_coding",
        ),
    ],
)
async def test_a_target_without_an_answer_becomes_a_502(
    door: Door, answer: bytes, error: bytes
) -> None:
    browser = await door.say(GET)
    target = await door.next_stream()

    await target.far.send_all(answer)
    await target.far.send_eof()

    reply = await everything(browser)
    assert reply.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"error=" + error in reply


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_get_that_nobody_answered_is_sent_once_more(door: Door, method: bytes) -> None:
    browser = await door.say(GET.replace(b"GET", method))
    lost = await door.next_stream()

    lost.reset(EndReason.DESTROY)
    target = await door.next_stream()
    await target.far.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert (await everything(browser)).startswith(b"HTTP/1.1 204 ")
    assert (target.early, target.address) == (lost.early, lost.address)
    assert door.client.opened == 0


async def test_a_get_whose_target_hangs_up_is_sent_once_more(door: Door) -> None:
    browser = await door.say(GET)
    for _ in range(2):
        target = await door.next_stream()
        await target.far.send_eof()

    reply = await everything(browser)

    assert reply.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"error=http_response_incomplete" in reply
    assert door.client.opened == 0


async def test_a_get_is_not_sent_again_once_a_byte_came_back(door: Door) -> None:
    browser = await door.say(GET)
    target = await door.next_stream()
    await target.far.send_all(b"H")
    await trio.testing.wait_all_tasks_blocked(0.01)

    target.reset(EndReason.DESTROY)

    assert (await everything(browser)).startswith(b"HTTP/1.1 502 ")
    assert door.client.opened == 0


async def test_what_may_change_something_is_never_sent_again(door: Door) -> None:
    browser = await door.say(GET.replace(b"GET", b"DELETE"))
    target = await door.next_stream()

    target.reset(EndReason.DESTROY)

    assert (await everything(browser)).startswith(b"HTTP/1.1 502 ")
    assert door.client.opened == 0


async def test_a_stream_that_breaks_twice_before_the_answer_says_why(door: Door) -> None:
    browser = await door.say(GET)
    (await door.next_stream()).reset(EndReason.DESTROY)

    (await door.next_stream()).reset(EndReason.TIMEOUT)

    assert (await everything(browser)).startswith(b"HTTP/1.1 504 ")


async def test_a_client_that_gives_up_its_body_ends_the_stream(door: Door) -> None:
    browser = await door.say(
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nab"
    )
    target = await door.next_stream()

    await browser.send_eof()

    assert (await everything(browser)).startswith(b"HTTP/1.1 400 ")
    assert target.reason is EndReason.MISC  # reset: half a request must not look whole


CHUNKED = GET.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("chunks", [b"5\nhello\n0\n\n", b"xyz", b"3\r\nhello\r\n0\r\n\r\n"])
async def test_bad_chunks_behind_the_head_are_sent_to_nobody(door: Door, chunks: bytes) -> None:
    with trio.fail_after(5):
        reply = await door.ask(CHUNKED + chunks)

    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"the request's body is not valid HTTP: a " in reply
    assert door.client.opened == 0


@pytest.mark.parametrize("chunks", [b"5\nhello\n0\n\n", b"xyz", b"3\r\nhello\r\n0\r\n\r\n"])
async def test_a_bad_chunk_on_the_way_resets_the_stream_at_once(door: Door, chunks: bytes) -> None:
    browser = await door.say(CHUNKED + b"3\r\nabc\r\n")
    target = await door.next_stream()

    await browser.send_all(chunks)
    with trio.fail_after(5):
        reply = await everything(browser)

    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert target.reason is EndReason.MISC
    assert target.early.endswith(b"\r\n\r\n3\r\nabc\r\n")


async def test_a_bad_chunk_behind_the_beginning_of_an_answer_resets_both(door: Door) -> None:
    browser = await door.say(CHUNKED)
    target = await door.next_stream()
    await target.far.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    await exactly(browser, 15)

    await browser.send_all(b"5\n")

    with trio.fail_after(5):
        assert await is_reset(browser)
    assert target.reason is EndReason.MISC


async def test_an_answer_that_is_wrong_behind_its_head_is_no_empty_one(door: Door) -> None:
    browser = await door.say(GET)
    target = await door.next_stream()

    await target.far.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    assert (await everything(browser)).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_a_target_that_waits_in_another_protocol_is_not_waited_for(door: Door) -> None:
    browser = await door.say(GET)
    target = await door.next_stream()

    await target.far.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")

    with trio.fail_after(5):
        assert (await everything(browser)).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_a_body_that_no_answer_may_have_costs_nothing(door: Door) -> None:
    browser = await door.say(GET.replace(b"GET", b"HEAD"))
    target = await door.next_stream()

    await target.far.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    reply = await everything(browser)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")


async def test_a_plain_exchange_may_not_stand_still_forever(
    door: Door, autojump_clock: trio.testing.MockClock
) -> None:
    browser = await door.say(GET)
    await door.next_stream()

    answer = await everything(browser)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"Proxy-Status: warren; error=http_response_timeout;" in answer
    assert 600 <= trio.current_time() < 610


# ---- slow and many clients


@pytest.mark.parametrize("words", [b"", b"\x05", SOCKS5[:-1], b"GET", CONNECT[:-2]])
async def test_a_slow_client_is_closed_after_ten_seconds(  # T47
    door: Door, autojump_clock: trio.testing.MockClock, words: bytes
) -> None:
    browser = await door.dial()
    for byte in words:
        await browser.send_all(bytes([byte]))
        await trio.sleep(0.1)

    reply = await everything(browser)

    assert 10 <= trio.current_time() < 15
    assert reply.startswith(b"HTTP/1.1 408 ") if words[:1].isalpha() else len(reply) <= 2
    assert door.client.opened == 0


@pytest.mark.parametrize(
    ("words", "reply"),
    [(SOCKS5, b"\x05\x00\x05\x06"), (SOCKS4A, b"\x00\x5b"), (GET, b"HTTP/1.1 504 ")],
)
async def test_an_application_waits_two_minutes_at_most(  # FE-11
    door: Door, autojump_clock: trio.testing.MockClock, words: bytes, reply: bytes
) -> None:
    door.client.is_stuck = True

    answer = await door.ask(words)

    assert answer.startswith(reply)
    assert 120 <= trio.current_time() < 125


async def test_the_oldest_without_a_request_makes_room() -> None:  # FE-2
    async with open_door(limits=ProxyLimits(half_done=2)) as door:
        oldest, _, _ = [await door.say(b"\x05") for _ in range(3)]

        assert await everything(oldest) == b""
        assert door.proxy.statistics()["half_done"] == 2


async def test_a_full_house_prefers_those_with_a_request() -> None:  # FE-11
    async with open_door(limits=ProxyLimits(connections=2)) as door:
        await exactly(await door.say(SOCKS5), len(SOCKS5_GRANTED))
        idle = await door.say(b"\x05")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await exactly(await door.say(SOCKS5), len(SOCKS5_GRANTED))

        assert await everything(idle) == b""
        assert await is_turned_away(door)
        assert door.proxy.statistics()["turned_away"] == 1


async def test_few_files_make_a_house_full_early() -> None:  # FE-11, DOS-8
    share = Reserve(40, soon=lambda _: None, now=trio.current_time).front
    listener = SocketListener(listening_socket(Address("127.0.0.1", 0)), share=share)
    async with open_door(listener, share=share) as door:
        idle = await door.say(b"\x05")
        for _ in range(share.most - 1):
            await exactly(await door.say(SOCKS5), len(SOCKS5_GRANTED))
        await exactly(await door.say(SOCKS5), len(SOCKS5_GRANTED))

        assert await everything(idle) == b""
        assert await is_turned_away(door)
        assert share.reserve.links.has_room  # what is the links' is never lent to programs
        assert share.reserve.statistics() == {
            "most": 8,
            "open": {"links": 0, "exit": 0, "front": 4},
            "refused": {"links": 0, "exit": 0, "front": 1},
            "closed": {"visits without a request": 1},
        }
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert share.open == 0


# ---- other machines


@pytest.mark.parametrize("local", ["0.0.0.0", "192.168.1.5", "::"])
async def test_other_machines_need_an_allow_list(  # T48
    local: str, nursery: trio.Nursery
) -> None:
    listener = RenamedListener(listen(), local)

    with pytest.raises(ConfigError):
        await Proxy(FakeClient(), splice=fake_splice).serve(listener, nursery)
    listener.close()


@pytest.mark.parametrize(
    ("remote", "is_allowed"),
    [("192.168.1.9", True), ("::ffff:192.168.1.9", True), ("192.168.2.9", False), ("::2", False)],
)
async def test_only_allowed_machines_come_in(remote: str, is_allowed: bool) -> None:  # FE-1
    listener = RenamedListener(listen(), "0.0.0.0", remote)

    async with open_door(listener, allow_clients=[ip_network("192.168.1.0/24")]) as door:
        browser = await door.dial()

        if is_allowed:
            await browser.send_all(SOCKS5)
            assert await exactly(browser, 2) == b"\x05\x00"
        else:
            assert await is_reset(browser)


async def test_another_machine_gets_few_handshakes() -> None:  # FE-2
    listener = RenamedListener(listen(), "0.0.0.0", "192.168.1.9")
    limits = ProxyLimits(half_done_per_peer=2)

    async with open_door(
        listener, limits=limits, allow_clients=[ip_network("192.168.1.0/24")]
    ) as door:
        first, _ = await door.say(b"\x05"), await door.say(b"\x05")
        assert await is_turned_away(door)
        await first.send_all(SOCKS5[1:])
        await exactly(first, len(SOCKS5_GRANTED))

        assert await exactly(await door.say(SOCKS5), 2) == b"\x05\x00"


# ---- leaks, bugs, numbers


@pytest.mark.parametrize("is_safe", [False, True])
@pytest.mark.parametrize(
    ("words", "is_literal"),
    [
        (b"\x04\x01\x00\x50\x01\x01\x01\x01\x00", True),
        (SOCKS4A, False),
        (b"\x05\x01\x00\x05\x01\x00\x01\x01\x01\x01\x01\x00\x50", True),
        (SOCKS5, False),
    ],
)
async def test_a_literal_is_a_leak_and_refused_where_that_is_wanted(  # T49
    words: bytes, is_literal: bool, is_safe: bool
) -> None:
    async with open_door(safe_socks=is_safe) as door:
        with structlog.testing.capture_logs() as logs:
            browsers = [await door.say(words) for _ in range(2)]
            for browser in browsers:
                await exactly(browser, 8)

        assert door.client.opened == (0 if is_safe and is_literal else 2)
        assert [log["program"] for log in logs] == [this_program()] * is_literal
        assert door.proxy.statistics()["literal_addresses"] == 2 * is_literal


def this_program() -> str:
    return Path("/proc/self/comm").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("is_safe", [False, True])
async def test_an_address_that_we_told_is_no_leak(is_safe: bool) -> None:  # T49
    async with open_door(safe_socks=is_safe) as door:
        door.client.names["a.example"] = ("5.5.5.5",)
        with structlog.testing.capture_logs() as logs:
            await door.ask(ask_name(0xF0, NAME))
            await exactly(await door.say(SOCKS5[:6] + PUBLIC + b"\x00\x50"), 12)

        assert not logs
        assert door.client.opened == 1
        assert door.proxy.statistics()["literal_addresses"] == 0


async def test_a_bug_in_one_visit_hurts_nothing_else() -> None:  # DOS-1
    async def broken_splice(byte_stream: ByteStream, stream: CircuitStream) -> None:
        raise RuntimeError("a bug that names a.example")

    async with open_door(splice=broken_splice) as door:
        with structlog.testing.capture_logs() as logs:
            assert [await is_reset(await door.say(SOCKS5)) for _ in range(3)] == [True] * 3

        (told,) = [log for log in logs if log["log_level"] != "debug"]
        assert "a.example" not in str(told)
        assert door.proxy.statistics()["bugs"] == 3


async def test_numbers_are_told_by_protocol(door: Door) -> None:
    for words in (SOCKS5, SOCKS4A, CONNECT):
        await exactly(await door.say(words), 8)
    await door.ask(b"\x00")
    await trio.testing.wait_all_tasks_blocked(0.01)

    numbers = door.proxy.statistics()

    assert numbers["socks5"] == numbers["socks4"] == numbers["http_connect"] == 1
    assert (numbers["malformed"], numbers["opened"]) == (1, 3)
    assert (numbers["connections"], numbers["connections_open"]) == (4, 3)


async def test_a_socket_that_breaks_early_is_forgotten(door: Door) -> None:
    browser = await SocketNetwork().dial(door.listener.local)
    browser.reset()
    await trio.testing.wait_all_tasks_blocked(0.01)

    assert door.proxy.statistics()["connections_open"] == 0
