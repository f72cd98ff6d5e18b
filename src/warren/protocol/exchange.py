r"""Opening exchanges as generators, read from top to bottom.

A pure generator yields what it wants next and is sent the bytes it asked for; whoever owns the
socket drives it. Bytes that arrive beyond what was asked stay with the driver, so early data is
never lost and no exchange reads past its own end::

    version, count = yield Receive(2)
    name = yield ReceiveUntil(b"\0", limit=256)
    yield Send(b"\x05\x00")
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from warren.errors import ProtocolError

T = TypeVar("T")


class TooLong(ProtocolError):
    """Tell that a ``ReceiveUntil`` passed its limit without its end."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Ask for exactly ``count`` bytes; nothing is read when it is 0."""

    count: int


@dataclass(frozen=True, slots=True)
class Peek:
    """Ask for the first ``count`` bytes, which stay to be received."""

    count: int


@dataclass(frozen=True, slots=True)
class ReceiveUntil:
    """Ask for the bytes up to and with ``end``, at most ``limit`` of them in all."""

    end: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``data``; the generator is resumed with b""."""

    data: bytes


Wanted = Receive | Peek | ReceiveUntil
Exchange = Generator[Wanted | Send, bytes, T]


def take(wanted: Wanted, buffer: bytearray) -> bytes | None:
    """Cut what `wanted` asks for from the front of `buffer`; None when more must arrive.

    Raises TooLong when a ``ReceiveUntil`` passed its limit without its end.
    """
    if isinstance(wanted, Receive):
        size = wanted.count
        if len(buffer) < size:
            return None
    elif isinstance(wanted, Peek):
        size = wanted.count
        return bytes(buffer[:size]) if len(buffer) >= size else None
    else:
        found = buffer.find(wanted.end, 0, wanted.limit)
        if found < 0:
            if len(buffer) >= wanted.limit:
                raise TooLong(f"no {wanted.end!r} within {wanted.limit} bytes")
            return None
        size = found + len(wanted.end)
    data = bytes(buffer[:size])
    del buffer[:size]
    return data


def give(exchange: Exchange[T], wanted: Wanted, buffer: bytearray) -> Wanted | Send | None:
    """Give `exchange` what it `wanted`; return what it wants next, None when more must arrive.

    Raises what the exchange raises; StopIteration has its result. A ``ReceiveUntil`` that passed
    its limit is a TooLong for the exchange, which may have an answer to it.
    """
    try:
        taken = take(wanted, buffer)
    except ProtocolError as error:
        return exchange.throw(error)
    return None if taken is None else exchange.send(taken)
