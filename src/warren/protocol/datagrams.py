"""One end of an association: datagrams through a circuit, each whole or not at all.

An association is a numbered stream of its circuit that carries datagrams instead of bytes, each
with the address of the remote that it is for or comes from (protocol §5.2)::

    ASSOCIATE   flags u8
    DATAGRAM    address | 0 to 1472 bytes

They keep their order, and nobody acknowledges them or sends one again, over this circuit or
another. What waits is bounded on both sides, and the oldest is dropped for the newest: it waits
unsealed, so what went stale while credit was short takes none. To ``protocol.outbox`` an
association is a stream that never has data; which remotes it may reach is the exit's business.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from warren.addresses import Address
from warren.errors import EndReason, expect
from warren.protocol.messages import (
    MESSAGE_HEADER,
    MESSAGE_HEADER_LENGTH,
    BeginFlags,
    Connected,
    Message,
)
from warren.protocol.pace import Pace, Talk

#: Bytes of one datagram: what an Ethernet frame carries of UDP over IPv4 (EXT-15).
MOST_DATAGRAM = 1472
#: Bytes of datagrams that wait in one direction, with what each of them costs besides.
MOST_WAITING = 128 * 1024
_COST = 64
#: What CONNECTED says of an association: it reaches no one place.
NO_PLACE = Connected(Address("0.0.0.0", 0))

Datagram = tuple[Address, bytes]
T = TypeVar("T")


def encode_associate(flags: BeginFlags) -> bytes:
    """Return ``flags u8``: which addresses of names are wanted."""
    return bytes((flags,))


def decode_associate(data: bytes) -> BeginFlags:
    """Read an ASSOCIATE's data; raise ProtocolError for anything but known flags."""
    expect(len(data) == 1 and data[0] < 8, "an ASSOCIATE without known flags")
    return BeginFlags(data[0])


def encode_datagram(address: Address, data: bytes | memoryview) -> bytes:
    """Return ``address | data``."""
    return b"".join((address.encode(), data))


def decode_datagram(data: bytes) -> Datagram:
    """Read a DATAGRAM's data; raise ProtocolError when it is none that could be sent."""
    address, length = Address.decode(data)
    expect(address.port != 0, "a DATAGRAM with port 0")
    expect(len(data) - length <= MOST_DATAGRAM, f"a DATAGRAM of {len(data) - length} bytes")
    return address, data[length:]


def _nothing() -> None:
    return


class _Waiting(Generic[T]):
    """Own datagrams that wait, within ``MOST_WAITING``: the oldest makes room."""

    __slots__ = ("_entries", "_left", "dropped")

    def __init__(self) -> None:
        self._entries: deque[tuple[T, int]] = deque()
        self._left = MOST_WAITING
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        return MOST_WAITING - self._left

    def add(self, entry: T, size: int) -> None:
        cost = size + _COST
        while cost > self._left:
            self.take()
            self.dropped += 1
        self._left -= cost
        self._entries.append((entry, cost))

    @property
    def first(self) -> T:
        return self._entries[0][0]

    def take(self) -> T:
        entry, cost = self._entries.popleft()
        self._left += cost
        return entry

    def clear(self) -> None:
        self._entries.clear()
        self._left = MOST_WAITING


class Association:
    """Own the datagrams of one end of an association that wait to be sent, or to be taken.

    ``on_send`` is called when there is something to send, ``on_news`` when something arrived:
    datagrams, CONNECTED or END. Both may be called often and must be cheap.
    """

    __slots__ = (
        "_bytes", "_incoming", "_outgoing", "_pace", "_talk", "connected", "end_due",
        "end_received", "end_sent", "is_origin", "number", "on_news", "on_send", "queued",
        "reason", "received", "sent",
    )  # fmt: skip

    #: What the outbox asks of a stream and an association never has.
    sendable = 0

    def __init__(self, number: int, pace: Pace, *, is_origin: bool) -> None:
        self.number, self.is_origin = number, is_origin
        self._pace = pace
        self._talk = Talk()  # a call rather than a flood: streams beside it are kept narrow
        self._bytes = 0  # that came
        self.on_send: Callable[[], None] = _nothing
        self.on_news: Callable[[], None] = _nothing
        self.connected: Connected | None = None
        self.reason: EndReason | None = None
        self.queued = False  # whether the outbox has it among those with something to send
        self._outgoing = _Waiting[bytes]()
        self._incoming = _Waiting[Datagram]()
        self.sent = self.received = 0
        self.end_due: EndReason | None = None
        self.end_sent = self.end_received = False

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "open" if self.connected else "opening"
        return f"<Association {self.number} {state}, {self.sent} sent, {self.received} received>"

    @property
    def is_ended(self) -> bool:
        """Tell whether an END was sent, is due or was received, or the circuit is gone."""
        return self.reason is not None

    @property
    def dropped(self) -> int:
        """Return how many datagrams made room for newer ones, in both directions."""
        return self._outgoing.dropped + self._incoming.dropped

    @property
    def waiting(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return of what is to be sent, and of what arrived, the bytes that wait, as they count;
        then how many datagrams there ever were, and how many of these wait no more.
        """
        out, incoming = self._outgoing, self._incoming
        left = self.sent + out.dropped
        return (
            (out.size, left + len(out), left),
            (incoming.size, self.received, self.received - len(incoming)),
        )

    # ---- for the owner of the socket

    def send(self, address: Address, data: bytes | memoryview) -> None:
        """Queue a datagram, for `address` at the origin and from it at the last hop."""
        assert len(data) <= MOST_DATAGRAM
        if self.is_ended:
            return
        body = encode_datagram(address, data)
        self._outgoing.add(body, len(body))
        self.on_send()

    def take(self) -> list[Datagram]:
        """Return what arrived since the last time, the oldest first."""
        return [self._incoming.take() for _ in range(len(self._incoming))]

    def end(self, reason: EndReason) -> None:
        """End the association; what waits to be sent goes before the END.

        A client tells the exit no more than "other", whatever `reason` is (SID-3).
        """
        assert reason is not EndReason.DONE, "an association is never complete"
        if self.end_sent or self.end_due is not None:
            return
        self.reason = self.reason or reason
        self.end_due = EndReason.MISC if self.is_origin else reason
        self._incoming.clear()
        self.on_send()

    # ---- for the outbox

    @property
    def has_data(self) -> bool:
        """Tell whether a datagram waits to be sent."""
        return len(self._outgoing) > 0

    def take_data(self, target: memoryview, at: int, room: int) -> int:
        """Give none of the bytes that a stream would."""
        return 0

    def write_datagrams(self, target: memoryview, at: int) -> int:
        """Write whole DATAGRAMs at `target[at:]`; return where the next message goes."""
        outgoing = self._outgoing
        while len(outgoing):
            body = outgoing.first
            start = at + MESSAGE_HEADER_LENGTH
            end = start + len(body)
            if end > len(target):
                break
            MESSAGE_HEADER.pack_into(target, at, Message.DATAGRAM, self.number, len(body))
            target[start:end] = body
            outgoing.take()
            self.sent += 1
            at = end
        return at

    @property
    def has_more(self) -> bool:
        """Tell whether a datagram or the END waits to be sent."""
        return self.has_data or self.end_is_next is not None

    @property
    def end_is_next(self) -> EndReason | None:
        """Return the reason of the END to send now, or None."""
        if self.end_sent or self.has_data:
            return None
        return self.end_due or (EndReason.MISC if self.end_received else None)

    def ended(self) -> None:
        """Note that our END was sent."""
        self.end_sent = True

    # ---- for the multiplexer

    def receive_connected(self, connected: Connected) -> None:
        """Take the CONNECTED; a second one is a ProtocolError."""
        expect(self.is_origin and self.connected is None, "a CONNECTED that was not asked for")
        expect(not self.end_received, "a CONNECTED behind an END")
        self.connected = connected
        self.on_news()

    def receive_datagram(self, data: bytes) -> None:
        """Take a datagram that arrived; raise ProtocolError when nothing may arrive, or not it."""
        expect(not self.end_received, "a DATAGRAM behind an END")
        expect(not self.is_origin or self.connected is not None, "a DATAGRAM before CONNECTED")
        address, content = decode_datagram(data)
        expect(not self.is_origin or address.ip is not None, "a DATAGRAM from a name")
        if self.is_ended:
            return  # in order for as long as the other side has not seen our END (SID-2)
        self.received += 1
        self._bytes += len(data)
        self._talk.note(self._pace, self.number, self._bytes)
        self._incoming.add((address, content), len(content))
        self.on_news()

    def receive_end(self, reason: EndReason) -> None:
        """Take the END; a second one, or one for a reason of streams, is a ProtocolError."""
        expect(not self.end_received, "a second END")
        is_one = reason is not EndReason.DONE if self.is_origin else reason is EndReason.MISC
        expect(is_one, f"an END of an association for {reason.name}")
        self.end_received = True
        self.lose(reason)
        self.on_send()

    def lose(self, reason: EndReason) -> None:
        """End without a word to the other side, whose circuit is gone; what came can be taken."""
        self.reason = self.reason or reason
        self._outgoing.clear()
        self.on_news()
