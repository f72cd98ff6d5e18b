"""Relay messages: what an onion body says once its layers are off.

::

    payload = message … | zeros          message = command u8 | stream u32 | length u16 | data

A message is never split over cells; small ones share a cell. Only the last hop of a circuit and
its origin read messages. This module knows their fields: whatever is decoded here raises
ProtocolError for anything but what ``encode`` makes. What may follow what is decided in
``protocol.origin_circuit``, ``protocol.relay_circuit`` and ``protocol.stream``.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from warren.addresses import Address
from warren.errors import EndReason, ProtocolError, expect
from warren.identity import KEY_LENGTH, PeerId, Suite
from warren.protocol.cells import (
    NK_MESSAGE_1_LENGTH,
    NK_MESSAGE_2_LENGTH,
    are_zeros,
    decode_suite,
)

MESSAGE_HEADER = struct.Struct(">BIH")
MESSAGE_HEADER_LENGTH = MESSAGE_HEADER.size


class Message(IntEnum):
    """Name the relay messages; numbers up to 13 are Tor's for the same thing."""

    BEGIN = 1
    DATA = 2
    END = 3
    CONNECTED = 4
    CREDIT = 5
    EXTEND = 6
    EXTENDED = 7
    DROP = 10
    RESOLVE = 11
    RESOLVED = 12
    BEGIN_DIR = 13
    EOF = 14
    ASSOCIATE = 15
    DATAGRAM = 16
    RESUME = 17
    RESUMED = 18


class ExtendStatus(IntEnum):
    """Say how an EXTEND went (LNK-4)."""

    OK = 0
    UNKNOWN_PEER = 1
    UNREACHABLE = 2
    REFUSED = 3


class BeginFlags(IntFlag):
    """Tell which address families a BEGIN wants; none set means IPv4 first, IPv6 allowed."""

    NO_IPV4 = 1
    NO_IPV6 = 2
    PREFER_IPV6 = 4


#: The flags of a BEGIN that leaves the choice to the exit.
ANY_FAMILY = BeginFlags(0)


def encode_message(command: Message, stream: int, data: bytes = b"") -> bytes:
    """Return a whole message."""
    return MESSAGE_HEADER.pack(command, stream, len(data)) + data


@dataclass(frozen=True)
class Extend:
    """Ask the last hop to extend the circuit to ``peer_id``, wherever it finds it.

    ``message`` is the origin's message 1 for the new hop, 1248 bytes.
    """

    peer_id: PeerId
    suite: Suite
    message: bytes

    def encode(self) -> bytes:
        """Return ``peer id 32 | suite u8 | message 1 (1248)``."""
        return self.peer_id + bytes((self.suite,)) + self.message

    @classmethod
    def decode(cls, data: bytes) -> "Extend":
        """Read an EXTEND's data."""
        length = KEY_LENGTH + 1 + NK_MESSAGE_1_LENGTH
        expect(len(data) == length, f"an EXTEND of {len(data)} bytes, expected {length}")
        suite = decode_suite(data[KEY_LENGTH])
        return cls(PeerId(data[:KEY_LENGTH]), suite, data[KEY_LENGTH + 1 :])


def encode_extended(status: ExtendStatus, message: bytes = b"") -> bytes:
    """Return ``status u8 | message 2 (1152)``; a status other than OK has no message."""
    assert len(message) == (NK_MESSAGE_2_LENGTH if status is ExtendStatus.OK else 0)
    return bytes((status,)) + message


def decode_extended(data: bytes) -> tuple[ExtendStatus, bytes]:
    """Read an EXTENDED's data: status, and message 2 or nothing."""
    try:
        status = ExtendStatus(data[0])
    except (IndexError, ValueError):
        raise ProtocolError("an EXTENDED without a known status") from None
    length = NK_MESSAGE_2_LENGTH if status is ExtendStatus.OK else 0
    expect(len(data) == 1 + length, f"an EXTENDED of {len(data)} bytes, expected {1 + length}")
    return status, data[1:]


@dataclass(frozen=True)
class Begin:
    """Ask the last hop to connect to ``address``, whose port is not 0."""

    address: Address
    flags: BeginFlags = ANY_FAMILY

    def encode(self) -> bytes:
        """Return ``flags u8 | address``."""
        return bytes((self.flags,)) + self.address.encode()

    @classmethod
    def decode(cls, data: bytes) -> "Begin":
        """Read a BEGIN's data."""
        expect(bool(data) and data[0] < 8, "a BEGIN without known flags")
        address, length = Address.decode(data[1:])
        expect(1 + length == len(data), "bytes behind the address of a BEGIN")
        expect(address.port != 0, "a BEGIN to port 0")
        return cls(address, BeginFlags(data[0]))


@dataclass(frozen=True)
class Connected:
    """Tell the address reached and for how many seconds its name is good (0: a literal)."""

    address: Address
    ttl: int = 0

    def encode(self) -> bytes:
        """Return ``TTL u32 | address``."""
        return self.ttl.to_bytes(4, "big") + self.address.encode()

    @classmethod
    def decode(cls, data: bytes) -> "Connected":
        """Read a CONNECTED's data."""
        expect(len(data) > 4, "a CONNECTED that is cut short")
        address, length = Address.decode(data[4:])
        expect(4 + length == len(data), "bytes behind the address of a CONNECTED")
        expect(address.ip is not None, "a CONNECTED to a name")
        return cls(address, int.from_bytes(data[:4], "big"))


def encode_end(reason: EndReason) -> bytes:
    """Return ``reason u8``."""
    return bytes((reason,))


def decode_end(data: bytes) -> EndReason:
    """Read an END's data; a reason that is not in the list is a ProtocolError (SID-3)."""
    try:
        (number,) = data
        return EndReason(number)
    except ValueError:
        raise ProtocolError("an END without a known reason") from None


_STREAM_CREDIT = struct.Struct(">QQ")
STREAM_CREDIT_LENGTH = _STREAM_CREDIT.size


def encode_stream_credit(offset: int, limit: int) -> bytes:
    """Return ``consumed offset u64 | limit u64``."""
    return _STREAM_CREDIT.pack(offset, limit)


def decode_stream_credit(data: bytes) -> tuple[int, int]:
    """Read a CREDIT's data: consumed offset and limit, in bytes from the stream's start."""
    expect(len(data) == _STREAM_CREDIT.size, f"a stream CREDIT of {len(data)} bytes")
    offset, limit = _STREAM_CREDIT.unpack(data)
    expect(offset <= limit < 1 << 63, "a stream CREDIT whose limit lies before its offset")
    return offset, limit


class StandingFlags(IntFlag):
    """Say of a stream that moves: whether it is there at all, and what its end has received."""

    KNOWN = 1
    CONNECTED = 2
    EOF = 4


_STANDING = struct.Struct(">IBQQQ")
STANDING_LENGTH = _STANDING.size


@dataclass(frozen=True, slots=True)
class Standing:
    """Hold how far one end of a stream is when it moves to another circuit (protocol §5.4).

    ``received``, ``consumed`` and ``limit`` are bytes from the stream's start, of the direction
    towards this end. They are zero for a stream that the exit does not know.
    """

    number: int
    flags: StandingFlags
    received: int = 0
    consumed: int = 0
    limit: int = 0

    def encode(self) -> bytes:
        """Return ``stream u32 | flags u8 | received u64 | consumed u64 | limit u64``."""
        return _STANDING.pack(self.number, self.flags, self.received, self.consumed, self.limit)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "Standing":
        """Read a standing of exactly 29 bytes."""
        number, flags, received, consumed, limit = _STANDING.unpack(data)
        expect(number != 0, "the standing of stream 0")
        expect(flags < 8, "the standing of a stream with unknown flags")
        expect(flags & 1 or not (flags or received or consumed or limit), "a standing of nothing")
        expect(consumed <= received <= limit < 1 << 63, "a standing whose offsets cannot be")
        return cls(number, StandingFlags(flags), received, consumed, limit)


def read_messages(payload: memoryview) -> list[tuple[int, int, memoryview]]:
    """Cut a payload into (command, stream, data) and check that only zeros follow.

    Raises ProtocolError for a message that runs past the payload or for bytes behind the last.
    Unknown commands are returned: whoever reads them destroys the circuit (SID-1).
    """
    messages: list[tuple[int, int, memoryview]] = []
    at, size = 0, len(payload)
    while at + MESSAGE_HEADER_LENGTH <= size:
        command, stream, length = MESSAGE_HEADER.unpack_from(payload, at)
        if command == 0:
            break
        start = at + MESSAGE_HEADER_LENGTH
        at = start + length
        expect(at <= size, "a relay message that runs past its cell")
        messages.append((command, stream, payload[start:at]))
    expect(bool(messages), "a cell without a relay message")
    expect(are_zeros(payload[at:]), "bytes behind the last relay message")
    return messages
