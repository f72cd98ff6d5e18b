"""Fetching: one request to a peer's directory, over a circuit that is gone afterwards."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from tests.support.small_network import Origin, SmallNetwork, small_network
from warren.errors import DirectoryError, EndReason
from warren.network.directory_http import Response, serve
from warren.network.fetch import fetch
from warren.network.streams import CircuitStream


async def answer(method: str, path: str, body: bytes) -> Response:
    if path == "/large":
        return Response(200, bytes(300_000))
    if path == "/nothing":
        return Response(404, b"not here")
    return Response(200, f"{method} {path} ".encode() + body)


async def serve_directory(stream: CircuitStream) -> None:
    await serve(stream, answer, body_limits={"/descriptor": 100_000})


async def start(
    net: SmallNetwork, serve_it: Callable[[CircuitStream], Awaitable[None]] = serve_directory
) -> Origin:
    """Start a relay with that directory, and an origin to ask it."""
    await net.add_relay(serve_directory=serve_it)
    return await net.add_origin()


async def test_an_answer_comes_whole_and_the_circuit_goes(autojump_clock: MockClock) -> None:
    async with small_network(relays=0) as net:
        origin = await start(net)

        large = await fetch(origin.links, net.hops[0], "GET", "/large", limit=1 << 20)
        await trio.sleep(1)

        assert large == bytes(300_000)
        assert net.relays[0].circuits == []


async def test_a_body_is_sent_with_the_request(autojump_clock: MockClock) -> None:
    async with small_network(relays=0) as net:
        origin, body = await start(net), bytes(90_000)

        said = await fetch(origin.links, net.hops[0], "POST", "/descriptor", body, limit=1 << 20)

        assert said == b"POST /descriptor " + body


async def test_a_peer_is_asked_without_knowing_its_onion_key(autojump_clock: MockClock) -> None:
    async with small_network(relays=0) as net:
        origin = await start(net)
        hop = replace(net.hops[0], onion_key=None)

        assert await fetch(origin.links, hop, "GET", "/x", limit=100) == b"GET /x "


async def refuse(stream: CircuitStream) -> None:
    stream.reset(EndReason.NOT_DIRECTORY)


async def talk_nonsense(stream: CircuitStream) -> None:
    await stream.send_all(b"220 mail.example ESMTP\r\n")
    await stream.aclose()


async def say_half(stream: CircuitStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await stream.aclose()


@pytest.mark.parametrize("serve_it", [refuse, talk_nonsense, say_half])
async def test_whatever_is_wrong_is_a_directory_error(
    serve_it: Callable[[CircuitStream], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async with small_network(relays=0) as net:
        origin = await start(net, serve_it)

        with pytest.raises(DirectoryError):
            await fetch(origin.links, net.hops[0], "GET", "/x", limit=100)


@pytest.mark.parametrize(
    ("path", "limit"), [("/nothing", 100), ("/large", 1000)], ids=["missing", "too large"]
)
async def test_what_is_not_there_or_too_large_is_a_directory_error(
    path: str, limit: int, autojump_clock: MockClock
) -> None:
    async with small_network(relays=0) as net:
        origin = await start(net)

        with pytest.raises(DirectoryError):
            await fetch(origin.links, net.hops[0], "GET", path, limit=limit)


@pytest.mark.parametrize("fault", ["refuses", "other key", "no key"])
async def test_a_peer_that_cannot_be_asked_is_a_directory_error(
    fault: str, autojump_clock: MockClock
) -> None:
    async with small_network(relays=0) as net:
        origin, hop = await start(net), net.hops[0]
        if fault == "refuses":
            net.memory.refuse(hop.address.host)
        else:
            key = bytes(32) if fault == "no key" else hop.link_key
            hop = replace(hop, onion_key=key)

        with pytest.raises(DirectoryError, match="cannot be asked"):
            await fetch(origin.links, hop, "GET", "/x", limit=100)


async def test_a_peer_that_crashes_is_a_directory_error(autojump_clock: MockClock) -> None:
    async def crash(stream: CircuitStream) -> None:
        net.relays[0].crash()

    async with small_network(relays=0) as net:
        origin = await start(net, crash)

        with pytest.raises(DirectoryError):
            await fetch(origin.links, net.hops[0], "GET", "/x", limit=100)


async def test_giving_up_leaves_no_circuit(autojump_clock: MockClock) -> None:
    async def hang(stream: CircuitStream) -> None:
        await trio.sleep_forever()

    async with small_network(relays=0) as net:
        origin = await start(net, hang)

        with trio.move_on_after(5):
            await fetch(origin.links, net.hops[0], "GET", "/x", limit=100)
        await trio.sleep(1)

        assert net.relays[0].circuits == []
