"""Bytes that were meant for something else, at the proxy's port, over real sockets (T45).

A web page can make a browser send nearly any bytes to a port of this machine, as the body of a
POST; scanners send greetings of other protocols. None of it may open a stream.
"""

import random
from collections.abc import Hashable

import pytest
import trio
import trio.testing

from warren.addresses import Address
from warren.errors import CircuitError
from warren.network.dialling import SocketNetwork
from warren.network.streams import CircuitStream
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.resolution import Resolved
from warren.roles.client import Beginning
from warren.roles.proxy import Proxy

TRIES = 1000
SHAPES = {
    "SOCKS4": b"\x04\x01\x01\xbb\x05\x05\x05\x05me\0",
    "SOCKS4a": b"\x04\x01\x01\xbb\0\0\0\x01me\0a.example\0",
    "SOCKS5": b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x01\xbb",
    "RESOLVE": b"\x05\x01\x00\x05\xf0\x00\x03\x09a.example\0\0",
    "CONNECT": b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
    "plain": b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
}
#: How a page's request begins, whatever is in its body.
HEADS = (
    "POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://evil.example\r\n{length}\r\n",
    "POST /x HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: text/plain\r\n{length}\r\n",
    "POST / HTTP/1.1\r\nHost: evil.example\r\nSec-Fetch-Site: cross-site\r\n{length}\r\n",
    "PUT /a HTTP/1.1\r\nHost: [::1]:{port}\r\nOrigin: null\r\n{length}\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{length}\r\n",
    "POST / HTTP/1.0\r\n{length}\r\n",
    "POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n",
)
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
GREETINGS = (
    TLS_HELLO,
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"EHLO a.example\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n",
    b"\x13BitTorrent protocol",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x00\x00\x00\x2f\xfeSMB",
    b"\x03\x00\x00\x13\x0e\xe0",
    b"HELP\r\n",
    b"\n\n",
    b"\x01\x02me\x06secret",
)


class NoClient:
    """Be the client that should never be asked for anything."""

    def __init__(self) -> None:
        self.asked: list[Address] = []

    async def open_stream(
        self,
        address: Address,
        isolation: Hashable,
        early: bytes = b"",
        flags: BeginFlags = ANY_FAMILY,
        begun: Beginning | None = None,
    ) -> CircuitStream:
        self.asked.append(address)
        raise CircuitError("a stream was opened")

    def begin_stream(self, address: Address, *_: object) -> Beginning | None:
        self.asked.append(address)
        return None

    def connected(self, begun: Beginning) -> CircuitStream | None:
        raise AssertionError("nothing was begun")

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        self.asked.append(subject)
        raise CircuitError("a name was asked for")


def hostile_words(rng: random.Random, port: int) -> bytes:
    """Return what a page, or something that is no client at all, might send."""
    body = b"".join(rng.choices(list(SHAPES.values()), k=rng.randint(1, 3)))
    if rng.random() < 0.3:
        return rng.choice(GREETINGS) + (body if rng.random() < 0.5 else rng.randbytes(64))
    head = rng.choice(HEADS).format(
        port=port, length=f"Content-Length: {len(body)}\r\n", chunk=f"{len(body):x}"
    )
    return head.encode() + body


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_shapes_alone_would_open_a_stream(shape: str, nursery: trio.Nursery) -> None:
    client = NoClient()

    await send(client, [SHAPES[shape]], nursery)

    assert client.asked[0].host in ("a.example", "5.5.5.5")


async def test_bytes_in_disguise_open_no_stream(nursery: trio.Nursery) -> None:  # T45
    client, rng = NoClient(), random.Random(45)
    words = [hostile_words(rng, 1080) for _ in range(TRIES)]

    proxy = await send(client, words, nursery)

    assert client.asked == []
    numbers = proxy.statistics()
    assert numbers["connections"] == TRIES
    assert numbers["bugs"] == 0
    assert numbers["opened"] == numbers["resolved"] == numbers["connections_open"] == 0


async def send(client: NoClient, words: list[bytes], nursery: trio.Nursery) -> Proxy:
    """Send each of `words` over a connection of its own to a proxy, until it closes them."""
    listener = SocketNetwork().listen(Address("127.0.0.1", 0))
    proxy = Proxy(client)
    nursery.start_soon(proxy.serve, listener, nursery)
    limiter = trio.CapacityLimiter(50)

    async def visit(each: bytes) -> None:
        async with limiter:
            stream = await trio.open_tcp_stream("127.0.0.1", listener.local.port)
            async with stream:
                try:
                    await stream.send_all(each)
                    await stream.send_eof()
                    while await stream.receive_some(4096):
                        pass
                except trio.BrokenResourceError:
                    return  # the proxy has seen enough

    async with trio.open_nursery() as visits:
        for each in words:
            visits.start_soon(visit, each)
    await trio.testing.wait_all_tasks_blocked(0.05)
    listener.close()
    return proxy
