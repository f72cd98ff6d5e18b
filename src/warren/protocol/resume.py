"""RESUME and RESUMED: what is said when streams move to another circuit (protocol §5.4).

Both ends know where they were, because streams count bytes by absolute offset and a sender keeps
what was not acknowledged. All that must be said is whose streams are meant, and how far each end
is. Who they belong to is shown with the resume secret of the circuit that is gone::

    body of RESUME   count u8 | names 32 … | MACs 32 … | count u16 | standings 29 …
    body of RESUMED  count u16 | standings 29 …

One name is enough until an answer gets lost: then the origin cannot know whether its streams
stayed where they were or had moved already, and names both circuits, the newest first. Numbers of
streams stay what they were, so it need not know (decision 25).

Whose streams they are meanwhile is in ``handover`` at the origin, in ``holdings`` at the exit.
"""

import hmac
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from warren.errors import expect
from warren.protocol.handshake import HopSecrets
from warren.protocol.messages import (
    MESSAGE_HEADER_LENGTH,
    STANDING_LENGTH,
    Message,
    Standing,
    encode_message,
)
from warren.protocol.multiplexer import MOST_STREAMS

#: Circuits that one RESUME names: the one that is gone, and those lost before it was answered.
MOST_NAMES = 16

_DIGEST_LENGTH = 32
_COUNT = struct.Struct(">H")
_MOST_BODY = 1 + MOST_NAMES * 2 * _DIGEST_LENGTH + _COUNT.size + MOST_STREAMS * STANDING_LENGTH
_MORE, _LAST = b"\x01", b"\x00"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Hold what shows that a circuit's streams are ours: its name, and the key of the MAC."""

    name: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, secrets: HopSecrets) -> "Ticket":
        """Derive both from what origin and last hop share."""
        secret = secrets.resume_secret
        name = _digest(secret, b"warren resume name 1")
        return cls(name, _digest(secret, b"warren resume mac 1"))

    def seal(self, handshake_hash: bytes, body: bytes) -> bytes:
        """Return the MAC that binds a RESUME's `body` to the circuit it travels on."""
        return _digest(self.key, b"warren resume 1" + handshake_hash + body)


def _digest(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


@dataclass(frozen=True, slots=True)
class Resume:
    """Hold what a RESUME says; ``signed`` is what its MACs, one for each name, stand for."""

    names: Sequence[bytes]
    macs: Sequence[bytes]
    standings: Sequence[Standing]
    signed: bytes

    @classmethod
    def decode(cls, body: bytes) -> "Resume":
        """Read the whole body of a RESUME."""
        count = body[0] if body else 0
        expect(1 <= count <= MOST_NAMES, f"a RESUME that names {count} circuits")
        middle = 1 + count * _DIGEST_LENGTH
        end = middle + count * _DIGEST_LENGTH
        names, macs = _split(body[1:middle]), _split(body[middle:end])
        expect(len(set(names)) == count, "a RESUME that names a circuit twice")
        return cls(names, macs, decode_standings(body[end:]), body[:middle] + body[end:])


def encode_resume(
    tickets: Sequence[Ticket], handshake_hash: bytes, standings: Sequence[Standing]
) -> bytes:
    """Return the body of a RESUME, for the circuit whose last hop's hash is `handshake_hash`."""
    assert 1 <= len(tickets) <= MOST_NAMES
    head = bytes((len(tickets),)) + b"".join(ticket.name for ticket in tickets)
    tail = encode_standings(standings)
    return head + b"".join(ticket.seal(handshake_hash, head + tail) for ticket in tickets) + tail


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + _DIGEST_LENGTH] for at in range(0, len(digests), _DIGEST_LENGTH)]


def encode_standings(standings: Sequence[Standing]) -> bytes:
    """Return the body of a RESUMED, which is also how a RESUME ends."""
    assert len(standings) <= MOST_STREAMS
    return _COUNT.pack(len(standings)) + b"".join(each.encode() for each in standings)


def decode_standings(data: bytes) -> list[Standing]:
    """Read the same; raise ProtocolError unless each stream comes once, in order."""
    expect(len(data) >= _COUNT.size, "standings without their number")
    (count,) = _COUNT.unpack_from(data)
    rest = data[_COUNT.size :]
    expect(count <= MOST_STREAMS, f"{count} streams of one circuit")
    expect(len(rest) == count * STANDING_LENGTH, f"{len(rest)} bytes for {count} streams")
    standings = [
        Standing.decode(rest[at : at + STANDING_LENGTH])
        for at in range(0, len(rest), STANDING_LENGTH)
    ]
    numbers = [each.number for each in standings]
    expect(numbers == sorted(set(numbers)), "streams that are not in the order of their numbers")
    return standings


def cut(command: Message, body: bytes, payload: int) -> Iterator[bytes]:
    """Yield the messages that carry `body` in payloads of `payload` bytes: each ``more u8 | part``.

    ``more`` is 1 where another part follows. A circuit's 512 streams do not fit one cell.
    """
    room = payload - MESSAGE_HEADER_LENGTH - 1
    for at in range(0, len(body), room):
        more = _MORE if at + room < len(body) else _LAST
        yield encode_message(command, 0, more + body[at : at + room])


class Parts:
    """Own the parts of a RESUME or RESUMED until the last one is here."""

    def __init__(self) -> None:
        self._body = bytearray()

    def take(self, stream: int, data: memoryview) -> bytes | None:
        """Add the part in a message's `data`; return the whole body with the last one."""
        expect(stream == 0, "a RESUME or RESUMED that names a stream in its header")
        expect(len(data) > 1 and data[0] < 2, "a part of a RESUME or RESUMED that is empty")
        self._body += data[1:]
        expect(len(self._body) <= _MOST_BODY, "a RESUME or RESUMED that is too long")
        return None if data[0] else bytes(self._body)
