"""The demo's application: a download through the proxy, with nothing but this file.

It speaks just enough SOCKS5 (RFC 1928), HTTP CONNECT and HTTP to fetch from the lab's origin,
so that the demo needs no program that might be missing, and can pause in the middle.
"""

import hashlib
from typing import Literal

import trio

from warren.addresses import Address
from warren.errors import WarrenError

Way = Literal["SOCKS5", "HTTP CONNECT"]
WAYS: tuple[Way, ...] = ("SOCKS5", "HTTP CONNECT")

_HEAD_LIMIT = 16 * 1024
_CHUNK_BYTES = 256 * 1024


class DownloadError(WarrenError):
    """Tell that a download was refused or broke off."""


class Download:
    """Own the connection of one GET request; made by ``begin_download``, closed by its owner."""

    def __init__(self, stream: trio.SocketStream, buffer: bytes, size: int) -> None:
        self._stream = stream
        self._buffer = buffer
        self._digest = hashlib.sha256()
        self.size = size
        self.received = 0

    async def read(self, until: int | None = None) -> str:
        """Read up to the offset `until`, or to the end; return the SHA-256 so far, in hex.

        Raises DownloadError when the connection ends before that.
        """
        wanted = self.size if until is None else min(until, self.size)
        while self.received < wanted:
            chunk = self._buffer or await _receive(self._stream, _CHUNK_BYTES)
            self._buffer = b""
            self.received += len(chunk)
            self._digest.update(chunk)
        return self._digest.hexdigest()

    async def aclose(self) -> None:
        """Close the connection."""
        await trio.aclose_forcefully(self._stream)


async def begin_download(proxy: Address, way: Way, target: Address, path: str) -> Download:
    """Ask `target` for `path` through `proxy`, by its name; return when the answer has begun.

    Raises DownloadError unless the answer is 200.
    """
    try:
        stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise DownloadError(f"cannot connect to the proxy at {proxy}: {error}") from error
    try:
        await (_socks5(stream, target) if way == "SOCKS5" else _connect(stream, target))
        request = f"GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        await stream.send_all(request.encode("ascii"))
        status, headers, rest = await _read_head(stream)
        if status != 200 or "content-length" not in headers:
            raise DownloadError(f"{path} answered with status {status}, expected 200 and a length")
        return Download(stream, rest, int(headers["content-length"]))
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _socks5(stream: trio.SocketStream, target: Address) -> None:
    await stream.send_all(b"\x05\x01\x00")
    if await _receive_exactly(stream, 2) != b"\x05\x00":
        raise DownloadError("the proxy does not speak SOCKS5 without a password")
    name = target.host.encode("ascii")
    port = target.port.to_bytes(2, "big")
    await stream.send_all(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port)
    _, code, _, kind = await _receive_exactly(stream, 4)
    if code:
        raise DownloadError(f"the proxy refused with SOCKS5 code {code}, expected 0")
    await _receive_exactly(stream, (16 if kind == 4 else 4) + 2)


async def _connect(stream: trio.SocketStream, target: Address) -> None:
    await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
    status, _, rest = await _read_head(stream)
    if status != 200 or rest:
        raise DownloadError(f"the proxy answered CONNECT with status {status}, expected 200")


async def _read_head(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and the first bytes of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _HEAD_LIMIT:
            raise DownloadError(f"an HTTP head of more than {_HEAD_LIMIT} bytes")
        data += await _receive(stream, _CHUNK_BYTES)
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    if len(words) < 2 or not words[1].isdigit():
        raise DownloadError(f"{first[:64]!r}, expected an HTTP status line")
    fields = (line.partition(":") for line in lines)
    return int(words[1]), {name.lower(): value.strip() for name, _, value in fields}, rest


async def _receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await _receive(stream, count - len(data))
    return data


async def _receive(stream: trio.SocketStream, most: int) -> bytes:
    try:
        data = await stream.receive_some(most)
    except trio.BrokenResourceError as error:
        raise DownloadError(f"the connection was reset: {error.__cause__}") from error
    if not data:
        raise DownloadError("the connection ended too early")
    return bytes(data)
