"""The lab's origin and the demo's application, one against the other."""

import hashlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.lab.downloads import Download, DownloadError, begin_download
from warren.lab.origin import BLOCK_BYTES, PAGE, answer, content, digest


@pytest.fixture
async def origin(nursery: trio.Nursery) -> Address:
    listeners = await nursery.start(trio.serve_tcp, answer, 0)
    host, port = listeners[0].socket.getsockname()[:2]
    return Address("127.0.0.1", port) if host else Address("::1", port)


async def exchange(origin: Address, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream(origin.host, origin.port)
    async with stream:
        await stream.send_all(request)
        await stream.send_eof()
        reply = b""
        async for chunk in stream:
            reply += chunk
    return reply


@given(st.integers(0, 5 * BLOCK_BYTES))
def test_content_is_as_long_as_asked_and_begins_alike(size: int) -> None:
    whole = b"".join(content(size))

    assert len(whole) == size
    assert hashlib.sha256(whole).hexdigest() == digest(size)
    assert b"".join(content(5 * BLOCK_BYTES)).startswith(whole)


def test_no_block_is_like_another() -> None:
    assert len(set(content(50 * BLOCK_BYTES))) == 50


async def test_pages_come_one_after_the_other_on_one_connection(origin: Address) -> None:
    get = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

    reply = await exchange(origin, get % b"/" + get % b"/bytes/3" + get % b"/nothing")

    assert reply.count(b"HTTP/1.1 200") == 2
    assert PAGE in reply
    assert reply.count(b"HTTP/1.1 404") == 1


async def test_an_upload_is_counted_and_hashed(origin: Address) -> None:
    body = b"x" * 100_000
    head = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"

    reply = await exchange(origin, head + body)

    assert reply.endswith(f"100000 {hashlib.sha256(body).hexdigest()}\n".encode())


@pytest.mark.parametrize("request_bytes", [b"", b"\x00\x01", b"GET /", b"GET / HTTP/9\r\n\r\n"])
async def test_garbage_costs_only_its_connection(origin: Address, request_bytes: bytes) -> None:
    await exchange(origin, request_bytes)

    assert PAGE in await exchange(origin, b"GET / HTTP/1.0\r\n\r\n")


class FakeProxy:
    """Be a proxy that knows one target, and how to refuse."""

    def __init__(self, origin: Address, *, refuses: bool = False, cut_after: int = 1 << 60) -> None:
        self.origin, self.refuses, self.cut_after = origin, refuses, cut_after
        self.asked = b""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            first = bytes(await stream.receive_some())
            if first == b"\x05\x01\x00":
                await stream.send_all(b"\x05\x00")
                self.asked = bytes(await stream.receive_some())
                code = b"\x02" if self.refuses else b"\x00"
                await stream.send_all(b"\x05" + code + b"\x00\x01" + bytes(6))
            else:
                self.asked = first
                status = b"403 no" if self.refuses else b"200 fine"
                await stream.send_all(b"HTTP/1.1 " + status + b"\r\n\r\n")
            if not self.refuses:
                await self.carry(stream)

    async def carry(self, stream: trio.SocketStream) -> None:
        target = await trio.open_tcp_stream(self.origin.host, self.origin.port)
        async with target:
            await target.send_all(await stream.receive_some())
            sent = 0
            async for chunk in target:
                await stream.send_all(chunk[: self.cut_after - sent])
                sent += len(chunk)
                if sent >= self.cut_after:
                    return


async def start_proxy(proxy: FakeProxy, nursery: trio.Nursery) -> Address:
    listeners = await nursery.start(trio.serve_tcp, proxy.serve, 0)
    return Address("127.0.0.1", listeners[0].socket.getsockname()[1])


@pytest.mark.parametrize("way", ["SOCKS5", "HTTP CONNECT"])
async def test_a_download_can_pause_and_knows_its_hash(
    way: str, origin: Address, nursery: trio.Nursery
) -> None:
    proxy = FakeProxy(origin)
    port = await start_proxy(proxy, nursery)
    target = Address("site.example.net", 81)

    download = await begin(port, way, target, "/bytes/1000000")
    await download.read(until=1000)
    paused_at = download.received
    found = await download.read()
    await download.aclose()

    assert b"site.example.net" in proxy.asked  # never resolved here
    assert 1000 <= paused_at < 1_000_000
    assert found == digest(1_000_000)


@pytest.mark.parametrize("way", ["SOCKS5", "HTTP CONNECT"])
async def test_a_refusal_is_told(way: str, origin: Address, nursery: trio.Nursery) -> None:
    port = await start_proxy(FakeProxy(origin, refuses=True), nursery)

    with pytest.raises(DownloadError, match=r"refused with SOCKS5 code 2|with status 403"):
        await begin(port, way, Address("site.example.net", 81), "/")


async def test_a_page_that_is_not_there_is_no_download(
    origin: Address, nursery: trio.Nursery
) -> None:
    port = await start_proxy(FakeProxy(origin), nursery)

    with pytest.raises(DownloadError, match="status 404"):
        await begin(port, "SOCKS5", origin, "/nothing")


async def test_a_download_that_breaks_off_is_an_error(
    origin: Address, nursery: trio.Nursery
) -> None:
    port = await start_proxy(FakeProxy(origin, cut_after=500_000), nursery)

    download = await begin(port, "SOCKS5", origin, "/bytes/1000000")
    with pytest.raises(DownloadError):
        await download.read()
    await download.aclose()


async def begin(proxy: Address, way: str, target: Address, path: str) -> Download:
    assert way in {"SOCKS5", "HTTP CONNECT"}
    return await begin_download(proxy, way, target, path)  # type: ignore[arg-type]  # just checked
