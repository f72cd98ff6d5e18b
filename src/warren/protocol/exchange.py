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


@dataclass(slots=True)
class Receive:
    """Ask for exactly ``count`` bytes; nothing is read when it is 0."""

    count: int


@dataclass(slots=True)
class Peek:
    """Ask for the first ``count`` bytes, which stay to be received."""

    count: int


@dataclass(slots=True)
class ReceiveUntil:
    """Ask for the bytes up to and with ``end``, at most ``limit`` of them in all."""

    end: bytes
    limit: int


@dataclass(slots=True)
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


def advance(exchange: Exchange[T], wanted: Wanted | Send, buffer: bytearray) -> Wanted | Send:
    """Give `exchange` what it `wanted`, and so on, as long as `buffer` has it.

    Returns what it wants then: something to be sent, or more than there is. Raises what the
    exchange raises; StopIteration has its result. A ``ReceiveUntil`` that passed its limit is a
    TooLong for the exchange, which may have an answer to it.
    """
    while not isinstance(wanted, Send):
        try:
            taken = take(wanted, buffer)
        except TooLong as error:
            wanted = exchange.throw(error)
            continue
        if taken is None:
            break
        wanted = exchange.send(taken)
    return wanted
