"""The machines that clients ask for something, and the little protocol they speak.

A request is one line: what, how many bytes, and the seed that those bytes follow from, so that
either end knows each byte of a transfer beforehand and can tell at once when one is wrong::

    GET SIZE SEED     the target sends the bytes and ends
    PUT SIZE SEED     the client sends the bytes and ends, the target answers with their SHA-256
    ECHO 0 0          the target says everything back
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import ClassVar

import trio

from simulation.chance import dice
from simulation.wire import WireStream
from warren.addresses import Address
from warren.errors import LinkError
from warren.network.byte_streams import ByteStream

TARGET_PORT = 80
#: How long a target waits for a client that has its connection and says nothing.
_REQUEST_SECONDS = 300.0
_CHUNK = 64 * 1024

#: Told of what a wrong stream did: which invariant, and what happened.
Complain = Callable[[str, str], None]


def pattern(size: int, seed: int) -> bytes:
    """Return the bytes of a transfer."""
    return dice("pattern", seed).randbytes(size)


async def receive_some(stream: ByteStream, most: int = _CHUNK) -> bytes:
    """Return what is there, b"" at the end; raise LinkError when the connection broke."""
    chunk = bytearray(most)
    while (count := stream.receive_into(chunk)) is None:
        await stream.wait_readable()
    return bytes(chunk[:count])


class Target:
    """Own what one target says; it complains of bytes that are wrong."""

    def __init__(self, name: str, complain: Complain) -> None:
        self.name = name
        self.open = 0
        self._complain = complain

    async def accept(self, stream: ByteStream) -> None:
        """Answer one connection."""
        assert isinstance(stream, WireStream)
        self.open += 1
        try:
            await self._serve(stream)
        except LinkError:
            stream.reset()
        finally:
            self.open -= 1
            stream.close()

    async def _serve(self, stream: WireStream) -> None:
        head = b""
        with trio.move_on_after(_REQUEST_SECONDS):
            while b"\n" not in head:
                more = await receive_some(stream)
                if not more:
                    return
                head += more
        line, found, rest = head.partition(b"\n")
        words = line.split()
        if not found:
            return
        if len(words) != 3 or words[0] not in self._VERBS:
            self._complain("wrong byte", f"{self.name} was asked {line[:60]!r}")
            return
        await self._VERBS[words[0]](self, stream, rest, int(words[1]), int(words[2]))

    async def _get(self, stream: WireStream, rest: bytes, size: int, seed: int) -> None:
        await stream.send_all(pattern(size, seed))
        stream.send_eof()
        if rest or await receive_some(stream):
            self._complain("wrong byte", f"{self.name} was sent bytes behind a GET")

    async def _put(self, stream: WireStream, rest: bytes, size: int, seed: int) -> None:
        wanted, taken = pattern(size, seed), 0
        more = rest
        while True:
            if more != wanted[taken : taken + len(more)]:
                where = f"between {taken} and {taken + len(more)} of {size}"
                self._complain("wrong byte", f"{self.name} was sent a wrong byte {where}")
                return
            taken += len(more)
            more = await receive_some(stream)
            if not more:
                break
        if taken == size:
            await stream.send_all(sha256(wanted).hexdigest().encode())
            stream.send_eof()
        elif not stream.other.was_killed:
            what = f"an upload of {size} bytes ended cleanly after {taken} at {self.name}"
            self._complain("truncated", what)

    async def _echo(self, stream: WireStream, rest: bytes, size: int, seed: int) -> None:
        more = rest
        while True:
            if more:
                await stream.send_all(more)
            more = await receive_some(stream)
            if not more:
                break
        stream.send_eof()

    _VERBS: ClassVar[
        dict[bytes, Callable[["Target", WireStream, bytes, int, int], Awaitable[None]]]
    ] = {
        b"GET": _get,
        b"PUT": _put,
        b"ECHO": _echo,
    }


def target_names(addresses: list[str]) -> dict[str, Address]:
    """Return what the names of the targets resolve to."""
    return {
        f"site{number}.example.net": Address(address, TARGET_PORT)
        for number, address in enumerate(addresses, start=1)
    }
