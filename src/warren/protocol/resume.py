"""Resuming: streams move from a circuit that is gone to another to the same exit (protocol §5.4).

Both ends know where they were, because streams count bytes by absolute offset and a sender keeps
what was not acknowledged. All that must be said is whose streams are meant, and how far each end
is. Who they belong to is shown with the resume secret of the circuit that is gone::

    body of RESUME   count u8 | names 32 … | MACs 32 … | count u16 | standings 29 …
    body of RESUMED  count u16 | standings 29 …

One name is enough until an answer gets lost: then the origin cannot know whether its streams
stayed where they were or had moved already, and names both circuits, the newest first. Numbers of
streams stay what they were, so it need not know (decision 25).

``Handover`` is the origin's side, ``Holdings`` the exit's. Neither knows time: who waits for how
long is decided in ``roles``.
"""

import hmac
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from warren.errors import EndReason, ProtocolError, expect, refuse
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.credit import CreditBudget
from warren.protocol.handshake import HopSecrets
from warren.protocol.messages import (
    MESSAGE_HEADER_LENGTH,
    STANDING_LENGTH,
    Message,
    Standing,
    StandingFlags,
    encode_message,
)
from warren.protocol.multiplexer import MOST_STREAMS, Multiplexer
from warren.protocol.stream import ENOUGH_UNSENT, StreamProtocol, StreamState

#: Circuits that one RESUME names: the one that is gone, and those lost before it was answered.
MOST_NAMES = 16
#: Streams that an exit holds at most, each with a socket, whoever they belong to.
MOST_HELD_STREAMS = 4096

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
        return cls(names, macs, _decode_standings(body[end:]), body[:middle] + body[end:])


def encode_resume(
    tickets: Sequence[Ticket], handshake_hash: bytes, standings: Sequence[Standing]
) -> bytes:
    """Return the body of a RESUME, for the circuit whose last hop's hash is `handshake_hash`."""
    assert 1 <= len(tickets) <= MOST_NAMES
    head = bytes((len(tickets),)) + b"".join(ticket.name for ticket in tickets)
    tail = _encode_standings(standings)
    return head + b"".join(ticket.seal(handshake_hash, head + tail) for ticket in tickets) + tail


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + _DIGEST_LENGTH] for at in range(0, len(digests), _DIGEST_LENGTH)]


def _encode_standings(standings: Sequence[Standing]) -> bytes:
    assert len(standings) <= MOST_STREAMS
    return _COUNT.pack(len(standings)) + b"".join(each.encode() for each in standings)


def _decode_standings(data: bytes) -> list[Standing]:
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


class Handover:
    """Own the streams of an origin's circuit that is gone, until another circuit has them.

    ``tickets`` name the circuits at which the exit may look for them, the newest first.
    """

    def __init__(
        self, ticket: Ticket, streams: Sequence[StreamProtocol], first_unused: int
    ) -> None:
        self.tickets: tuple[Ticket, ...] = (ticket,)
        self.streams = list(streams)
        self.first_unused = first_unused
        self.given_up = 0  # connected streams that do not go on, for any reason but their own
        self._asked: list[StreamProtocol] = []

    def __repr__(self) -> str:
        return f"<Handover of {len(self.streams)} streams, {len(self.tickets)} names>"

    def drop_ended(self) -> None:
        """Forget the streams whose applications have given them up meanwhile."""
        self.streams = [stream for stream in self.streams if stream.can_go_on]

    def ask(self, handshake_hash: bytes) -> bytes:
        """Return the body of a RESUME over the circuit whose last hop's hash this is."""
        self.drop_ended()
        self._asked = sorted(self.streams, key=lambda stream: stream.number)
        standings = [stream.tell_standing() for stream in self._asked]
        return encode_resume(self.tickets, handshake_hash, standings)

    def lost(self, ticket: Ticket) -> None:
        """Note that the circuit of `ticket` is gone as well, and its answer with it."""
        self.tickets = (ticket, *self.tickets)[:MOST_NAMES]

    def answered(self, body: bytes, home: Multiplexer) -> None:
        """Let the streams go on in `home` as the RESUMED with `body` says; lose the unknown ones.

        Raises ProtocolError, with nothing changed, for an answer that cannot be.
        """
        standings = _decode_standings(body)
        asked, self._asked = self._asked, []
        expect(
            [each.number for each in standings] == [stream.number for stream in asked],
            "a RESUMED about other streams than were asked for",
        )
        for stream, standing in zip(asked, standings, strict=True):
            if standing.flags:
                stream.check_standing(standing)
        home.first_unused = self.first_unused
        self.streams = []
        for stream, standing in zip(asked, standings, strict=True):
            if standing.flags:
                stream.go_on(standing)
                home.adopt(stream)
            else:
                self._lose(stream)

    def lose(self) -> None:
        """Give all of them up: their applications' sockets are reset (SID-4)."""
        streams, self.streams = self.streams, []
        for stream in streams:
            self._lose(stream)

    def lose_one(self, stream: StreamProtocol) -> None:
        """Give up one of them."""
        self.streams.remove(stream)
        self._lose(stream)

    def lose_unconnected(self) -> None:
        """Give up those that are not CONNECTED: whoever waits for them begins them elsewhere."""
        for stream in [each for each in self.streams if each.connected is None]:
            self.lose_one(stream)

    def _lose(self, stream: StreamProtocol) -> None:
        is_over = stream.state is StreamState.ENDED  # cleanly, and only the last END was missing
        self.given_up += stream.connected is not None and stream.can_go_on and not is_over
        stream.lose(EndReason.DESTROY)


class LastHop(Protocol):
    """Be a circuit that ends here, as far as resuming needs it."""

    @property
    def ticket(self) -> Ticket:
        """Return what its streams can be claimed with."""

    @property
    def streams(self) -> Multiplexer | None:
        """Return the streams while this is the last hop."""

    def destroy(self) -> None:
        """Destroy the circuit both ways."""


@dataclass(eq=False, slots=True)
class Held:
    """Own the streams of a circuit that died here; ``streams`` is empty once they are claimed."""

    ticket: Ticket
    streams: dict[int, StreamProtocol]
    cells: int  # of the node's memory


def _move(stream: StreamProtocol, standing: Standing, home: Multiplexer) -> None:
    """Let the exit's end of `stream` go on in `home` from the origin's `standing`."""
    stream.go_on(standing)
    home.adopt(stream)
    if StandingFlags.CONNECTED not in standing.flags:
        stream.tell_connected()


class Holdings:
    """Own the streams of circuits that died here, and know the living ones by name.

    What is held counts in `budget`, in cells, and is the first to go when that is short: the
    oldest first. ``on_held`` is told of each circuit whose streams are held from now on; after
    ``HOLD_SECONDS`` it is to be given to ``let_go``.
    """

    def __init__(self, budget: CreditBudget, *, most_streams: int = MOST_HELD_STREAMS) -> None:
        self.on_held: Callable[[Held], None] = lambda _: None
        self.resumed = self.lost = 0
        self._budget = budget
        self._most_streams = most_streams
        self._living: dict[bytes, LastHop] = {}
        self._held: dict[bytes, Held] = {}  # oldest first
        self.streams = 0  # held, of all circuits
        budget.on_short = self._make_room

    def __len__(self) -> int:
        return len(self._held)

    def register(self, circuit: LastHop) -> None:
        """Know a living circuit by name, from its first stream on."""
        self._living[circuit.ticket.name] = circuit

    def circuit_gone(self, circuit: LastHop, *, is_over: bool) -> None:
        """Hold what can go on of the streams of a registered circuit that is being destroyed.

        None can where the circuit `is_over`: its origin broke the rules.
        """
        ticket = circuit.ticket
        known = self._living.pop(ticket.name, None)
        if known is None or circuit.streams is None or is_over:
            return
        streams = {stream.number: stream for stream in circuit.streams.detach()}
        if not streams:
            return
        # Whoever has a target's socket reads on until so much waits to be sent.
        size = sum(stream.held_bytes + ENOUGH_UNSENT for stream in streams.values())
        held = Held(ticket, streams, -(-size // CELL_LENGTH))
        while self._held and self.streams + len(streams) > self._most_streams:
            self._lose(next(iter(self._held.values())))
        taken = self._budget.take(held.cells)
        if taken < held.cells or len(streams) > self._most_streams:
            self._budget.give_back(taken)
            self._reset(streams.values())
            return
        self._held[ticket.name] = held
        self.streams += len(streams)
        self.on_held(held)

    def let_go(self, held: Held) -> None:
        """Reset what was not claimed in time."""
        if self._held.get(held.ticket.name) is held:
            self._lose(held)

    def resume(self, circuit: LastHop, handshake_hash: bytes, body: bytes, payload: int) -> None:
        """Move the streams that a RESUME's `body` claims to `circuit`, and answer there.

        The circuit they were on is destroyed if it lives. Raises ProtocolError for a MAC that is
        wrong, which costs the claimed streams nothing, and for offsets that cannot be, which
        costs the streams. A cell of `circuit` carries `payload` bytes.
        """
        resume = Resume.decode(body)
        home = circuit.streams
        assert home is not None
        taken = self._take(resume, handshake_hash)
        try:
            for standing in resume.standings:
                if standing.number in taken:
                    taken[standing.number].check_standing(standing)
        except ProtocolError:
            self._reset(taken.values())
            raise
        self.register(circuit)
        moving, answers = [], []
        for standing in resume.standings:
            home.first_unused = max(home.first_unused, standing.number + 1)
            stream = taken.pop(standing.number, None)
            if stream is None:
                answers.append(Standing(standing.number, StandingFlags(0)))
            else:
                answers.append(stream.tell_standing())
                moving.append((stream, standing))
        self._reset(taken.values())  # the origin has given these up
        for message in cut(Message.RESUMED, _encode_standings(answers), payload):
            home.outbox.push(message)
        for stream, standing in moving:
            _move(stream, standing, home)
        self.resumed += len(moving)

    def _take(self, resume: Resume, handshake_hash: bytes) -> dict[int, StreamProtocol]:
        """Return the streams of the first circuit named that is known, which is over with that."""
        for name, mac in zip(resume.names, resume.macs, strict=True):
            held, living = self._held.get(name), self._living.get(name)
            ticket = held.ticket if held is not None else living and living.ticket
            if not ticket:
                continue
            if not hmac.compare_digest(ticket.seal(handshake_hash, resume.signed), mac):
                refuse("a RESUME whose MAC is wrong")
            if held is not None:
                self._forget(held)
                streams, held.streams = held.streams, {}
                return streams
            assert living is not None
            # It may not have noticed yet that it is dead. What still comes on it is not read.
            able = living.streams.detach() if living.streams is not None else []
            del self._living[name]
            living.destroy()
            return {stream.number: stream for stream in able}
        return {}

    def _reset(self, streams: Collection[StreamProtocol]) -> None:
        self.lost += len(streams)
        for stream in streams:
            stream.lose(EndReason.DESTROY)

    def _lose(self, held: Held) -> None:
        self._forget(held)
        self._reset(held.streams.values())

    def _forget(self, held: Held) -> None:
        del self._held[held.ticket.name]
        self.streams -= len(held.streams)
        self._budget.give_back(held.cells)

    def _make_room(self, cells: int) -> None:
        """Let held streams go until `cells` more are free, or none is held."""
        while self._held and self._budget.left < cells:
            self._lose(next(iter(self._held.values())))
