"""A link after its handshake: cells for its circuits and from them, in records, by turns.

The machine moves no bytes itself. ``receive`` takes what came from the socket and hands each run
of cells to its circuit; ``fill`` writes the records to send next. What it cannot decide alone it
leaves in ``events``. ``wake`` is called when there is something to send. What waits on one circuit
is its ``leg``'s.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from warren.errors import ProtocolError, expect, refuse
from warren.identity import PeerId, Suite
from warren.protocol.cells import (
    CELL_LENGTH,
    HEADER,
    HEADER_LENGTH,
    LINK_VERSION,
    MOST_GRANTS,
    NK_MESSAGE_2_LENGTH,
    RELAY_WORD,
    RELAY_WORDS,
    Command,
    Ready,
    decode_create,
    decode_created,
    decode_credit,
    decode_ready,
    encode_create,
    encode_credit,
    encode_ready,
    expect_zeros,
    make_cell,
)
from warren.protocol.ciphers import TAG_LENGTH
from warren.protocol.circuit_numbers import CircuitNumbers
from warren.protocol.credit import CreditBudget, ReceiveWindow
from warren.protocol.handshake import LinkSecrets
from warren.protocol.leg import Leg
from warren.protocol.records import MOST_RECORD_CELLS, RECORD_EXTRA, RECORD_LENGTHS, RecordKey

# A record is opened here and read before the call returns; one buffer serves all links.
_PLAIN = memoryview(bytearray(MOST_RECORD_CELLS * CELL_LENGTH))


# What a link cannot decide alone


@dataclass(frozen=True, slots=True)
class ReadyReceived:
    """The other side's READY came: the link is authenticated and may be used."""

    ready: Ready


@dataclass(frozen=True, slots=True)
class CreateRequested:
    """The other side asks for a circuit on ``leg``."""

    leg: Leg
    depth: int
    suite: Suite
    message: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """A PING came back."""

    token: bytes


Event = ReadyReceived | CreateRequested | PongReceived


def _nothing() -> None:
    return


class LinkProtocol:
    """Own everything about one link but its socket: keys, legs, turns, owed credit."""

    def __init__(
        self,
        secrets: LinkSecrets,
        ready: Ready,
        *,
        is_initiator: bool,
        is_anonymous: bool,
        budget: CreditBudget,
        now: float,
    ) -> None:
        self.peer_id: PeerId | None = secrets.peer_id
        self.is_initiator = is_initiator
        self.is_anonymous = is_anonymous  # whether the initiator kept its name to itself (NK)
        self.handshake_hash = secrets.handshake_hash
        self._sealer = RecordKey(secrets.suite, secrets.send_key)
        self._opener = RecordKey(secrets.suite, secrets.receive_key)
        self._own_ready = ready
        self.ready: Ready | None = None
        self._ready_sent = False
        self._budget = budget
        self.legs: dict[int, Leg] = {}
        self._numbers = CircuitNumbers(is_initiator=is_initiator)
        self._control: deque[tuple[int, Command, bytes]] = deque()  # CREATE, CREATED, DESTROY
        self._grants: dict[int, int] = {}
        self._fresh: deque[Leg] = deque()  # circuits that were quiet: one turn before the others
        self._busy: deque[Leg] = deque()
        self._ping: bytes | None = None  # on its way, its PONG awaited
        self._ping_due: bytes | None = None
        self._pong_due: bytes | None = None
        self.now = now  # seconds; the owner sets it before every call
        self.round_trip = 0.0  # seconds; the least measured lately
        self.events: list[Event] = []
        self.wake: Callable[[], None] = _nothing
        self.cells_received = self.cells_sent = 0
        self._pings_moved = 0  # of these cells, PING and PONG

    def __repr__(self) -> str:
        return f"<Link {self.peer_id!r}, {len(self.legs)} circuits>"

    @property
    def cells_moved(self) -> int:
        """Return how many cells went either way but for PING and PONG."""
        return self.cells_received + self.cells_sent - self._pings_moved

    # ---- verbs

    def create(self, depth: int, suite: Suite, message: bytes) -> Leg:
        """Send CREATE; return the new leg. Raises LinkError when the link is full."""
        assert self.ready is not None
        number = self._numbers.take()
        leg = self._add_leg(number)
        leg.created_due = True
        self._send_control(number, Command.CREATE, encode_create(depth, suite, message))
        return leg

    def send_created(self, leg: Leg, message: bytes) -> None:
        """Answer a CREATE with message 2 (1152 bytes)."""
        assert len(message) == NK_MESSAGE_2_LENGTH
        if not leg.destroy_sent:
            self._send_control(leg.number, Command.CREATED, message)

    def send_destroy(self, leg: Leg) -> None:
        """Send the DESTROY of a leg (called by the leg)."""
        self._grants.pop(leg.number, None)
        self._send_control(leg.number, Command.DESTROY)

    def grant(self, leg: Leg, cells: int) -> None:
        """Owe the other side `cells` more on `leg`; sent with the next record."""
        self._grants[leg.number] = self._grants.get(leg.number, 0) + cells
        self.wake()

    def ping(self, token: bytes) -> bool:
        """Send a PING with 8 bytes; return False when one is still outstanding."""
        assert len(token) == 8
        if self._ping is not None:
            return False
        self._ping = self._ping_due = token
        self.wake()
        return True

    def close(self) -> None:
        """Tell every circuit that the link is gone; nothing more is sent."""
        self._control.clear()
        self._grants.clear()
        self.events.clear()
        for leg in tuple(self.legs.values()):
            user = leg.user
            leg.close()
            self._forget(leg)
            if user is not None:
                user.leg_lost(leg)
        self.wake = _nothing

    def _send_control(self, number: int, command: Command, body: bytes = b"") -> None:
        self._control.append((number, command, body))
        self.wake()

    def _add_leg(self, number: int) -> Leg:
        assert self.ready is not None
        window = ReceiveWindow(self._own_ready.window, self._budget, self.now)
        leg = self.legs[number] = Leg(self, number, self.ready.window, window)
        return leg

    def _forget(self, leg: Leg) -> None:
        if self.legs.pop(leg.number, None) is not None:
            leg.user = None
            leg.window.close()
            self._numbers.forget(leg.number)

    # ---- sending

    def activate(self, leg: Leg) -> None:
        """Give `leg` a turn; one that was quiet goes before those that are busy."""
        leg.active = True
        self._fresh.append(leg)
        self.wake()

    @property
    def has_something(self) -> bool:
        """Tell whether ``fill`` would write something, as far as circuits with a turn can."""
        if self.ready is None or not self._ready_sent:
            return not self._ready_sent
        if self._fresh or self._busy or self._grants:
            return True
        return bool(self._control or self._ping_due or self._pong_due)

    def fill(self, out: memoryview) -> int:
        """Write records to `out` until it is full or nothing is left; return the bytes written.

        What is written must be sent, in order, and never again asked for. `out` has room for a
        record of one cell at least, and bounds how much nothing more urgent can overtake any more.
        """
        at, end = 0, len(out) - RECORD_EXTRA
        while (most := (end - at) // CELL_LENGTH) > 0 and self.has_something:
            parts, count = self._next_cells(min(most, MOST_RECORD_CELLS))
            if not count:
                continue  # a circuit could not go on, and may have left its DESTROY
            size = count * CELL_LENGTH + TAG_LENGTH
            out[at] = size >> 8
            out[at + 1] = size & 0xFF
            plain = parts[0] if len(parts) == 1 else b"".join(parts)
            self._sealer.seal(plain, out[at + 2 : at + 2 + size])
            at += 2 + size
            self.cells_sent += count
        return at

    def _next_cells(self, most: int) -> tuple[list[bytes | memoryview], int]:
        """Return up to `most` cells in the order of their urgency, in as few parts as they lie."""
        parts: list[bytes | memoryview] = []
        if not self._ready_sent:
            self._ready_sent = True
            return [make_cell(0, Command.READY, encode_ready(self._own_ready))], 1
        if self.ready is None:
            return [], 0
        if self._pong_due is not None:
            self._pings_moved += 1
            parts.append(make_cell(0, Command.PONG, self._pong_due))
            self._pong_due = None
        if self._ping_due is not None and len(parts) < most:
            self._pings_moved += 1
            parts.append(make_cell(0, Command.PING, self._ping_due))
            self._ping_due = None
        while self._grants and len(parts) < most:
            parts.append(self._grant_cell())
        while self._control and len(parts) < most:
            parts.append(self._control_cell())
        count = len(parts)
        while count < most:
            is_fresh = bool(self._fresh)
            queue = self._fresh or self._busy
            if not queue:
                break
            leg = queue.popleft()
            run = leg.take(most - count)
            if run is not None:
                parts.append(run)
                count += len(run) // CELL_LENGTH
            # One that was fresh and is empty now takes its place behind the busy all the same:
            # a crowd of circuits that are quiet by turns must not starve a download.
            if leg.has_something or (is_fresh and self._busy):
                self._busy.append(leg)
            else:
                leg.active = False
        return parts, count

    def _control_cell(self) -> bytes:
        number, command, body = self._control.popleft()
        if command is Command.DESTROY:
            # Only now may the leg be forgotten: legs are bounded, and so the queue is too, however
            # many circuits a peer creates and destroys without reading our answers (FLO-1).
            leg = self.legs[number]
            leg.destroy_left = True
            if leg.destroy_received:
                self._forget(leg)
        return make_cell(number, command, body)

    def _grant_cell(self) -> bytes:
        grants = list(self._grants.items())[:MOST_GRANTS]
        for number, cells in grants:
            del self._grants[number]
            leg = self.legs.get(number)
            assert leg is not None
            assert cells
        return make_cell(0, Command.CREDIT, encode_credit(grants))

    # ---- receiving

    def receive(self, data: memoryview) -> int:
        """Read whole records at the start of `data`; return how many bytes they took.

        Raises ProtocolError for anything out of order: close the link then. What went wrong on
        one circuit has destroyed that circuit only.
        """
        at, end = 0, len(data)
        while end - at >= 2:
            size = data[at] << 8 | data[at + 1]
            if size not in RECORD_LENGTHS:
                refuse(f"a record of {size} bytes, expected 16 + 4096·k with k from 1 to 15")
            if end - at - 2 < size:
                break
            plain = _PLAIN[: size - TAG_LENGTH]
            self._opener.open(data[at + 2 : at + 2 + size], plain)
            self._receive_cells(plain)
            at += 2 + size
        return at

    def _receive_cells(self, cells: memoryview) -> None:
        size = len(cells)
        self.cells_received += size // CELL_LENGTH
        unpack = HEADER.unpack_from
        at = 0
        while at < size:
            start = at
            head = unpack(cells, at)
            at += CELL_LENGTH
            number, word = head
            if word in RELAY_WORDS:
                while at < size and unpack(cells, at) == head:
                    at += CELL_LENGTH
                leg = self.legs.get(number)
                if leg is None:
                    refuse(f"a cell for circuit {number:#x}, which does not exist")
                count = (at - start) // CELL_LENGTH
                leg.window.received(count)
                if leg.destroy_received:
                    refuse("a cell behind a DESTROY")
                if leg.destroy_sent:
                    continue  # discarded, and no credit for it again
                if leg.user is None or leg.created_due:
                    refuse("a cell on a circuit before its CREATED")
                command = Command.RELAY if word == RELAY_WORD else Command.RELAY_EARLY
                try:
                    leg.user.receive_run(leg, command, cells, start, count)
                except ProtocolError as error:
                    leg.user.violation(leg, error)
            else:
                self._receive_control(number, word, cells[start + HEADER_LENGTH : at])

    def _receive_control(self, number: int, word: int, body: memoryview) -> None:
        command = word >> 24
        expect(word & 0xFFFFFF == 0, "a reserved byte of a cell header that is not zero")
        if self.ready is None:
            expect(command == Command.READY, f"command {command} before READY")
        else:
            expect(self._ready_sent, "a cell before our READY can have been read")
        if command == Command.PADDING:
            expect(number == 0, "PADDING on a circuit")
        elif command in _ON_LINK:
            expect(number == 0, f"command {command} on a circuit")
            self._receive_on_link(command, body)
        elif command == Command.CREATE:
            self._receive_create(number, body)
        elif command in (Command.CREATED, Command.DESTROY):
            leg = self.legs.get(number)
            if leg is None:
                refuse(f"command {command} for circuit {number:#x}, which does not exist")
            if command == Command.CREATED:
                self._receive_created(leg, body)
            else:
                self._receive_destroy(leg, body)
        else:
            refuse(f"unknown cell command {command}")

    def _receive_on_link(self, command: int, body: memoryview) -> None:
        if command == Command.CREDIT:
            for number, cells in decode_credit(body):
                self._receive_credit(number, cells)
        elif command == Command.PING:
            expect_zeros(body, 8)
            expect(self._pong_due is None, "a second PING before the PONG")
            self._pong_due = bytes(body[:8])
            self._pings_moved += 1
            self.wake()
        elif command == Command.PONG:
            expect_zeros(body, 8)
            expect(self._ping is not None and body[:8] == self._ping, "a PONG without its PING")
            self._ping = None
            self._pings_moved += 1
            self.events.append(PongReceived(bytes(body[:8])))
        else:
            expect(self.ready is None, "a second READY")
            ready = decode_ready(body)
            if self.is_initiator or not self.is_anonymous:
                expect(ready.relay is not None, "the READY of a client from a relay")
            else:
                expect(ready.relay is None, "the READY of a relay from an anonymous client")
            expect(LINK_VERSION in ready.versions, "no link version in common")
            self.ready = ready
            self.events.append(ReadyReceived(ready))
            self.wake()

    def _receive_credit(self, number: int, cells: int) -> None:
        leg = self.legs.get(number)
        if leg is None:
            refuse(f"credit for circuit {number:#x}, which does not exist")
        expect(not leg.destroy_received, "credit behind a DESTROY")
        leg.credit += cells
        expect(leg.credit <= 1 << 20, "credit that overflows")
        if not leg.active and leg.has_something:
            self.activate(leg)

    def _receive_create(self, number: int, body: memoryview) -> None:
        expect(not (self.is_anonymous and self.is_initiator), "a CREATE towards a client")
        self._numbers.taken(number)
        leg = self._add_leg(number)
        try:
            depth, suite, message = decode_create(body)
            expect((depth == 0) == self.is_anonymous, f"depth {depth} does not fit this link")
        except ProtocolError:
            leg.destroy()
        else:
            self.events.append(CreateRequested(leg, depth, suite, message))

    def _receive_created(self, leg: Leg, body: memoryview) -> None:
        expect(leg.created_due and not leg.destroy_received, "a CREATED that was not asked for")
        leg.created_due = False
        if leg.destroy_sent or leg.user is None:
            return
        try:
            leg.user.receive_created(leg, decode_created(body))
        except ProtocolError as error:
            leg.user.violation(leg, error)

    def _receive_destroy(self, leg: Leg, body: memoryview) -> None:
        expect_zeros(body, 0)
        expect(not leg.destroy_received, "a second DESTROY")
        leg.destroy_received = True
        if leg.destroy_left:
            self._forget(leg)
        if leg.destroy_sent:
            return
        leg.destroy()
        if leg.user is not None:
            leg.user.leg_lost(leg)
        else:  # its CREATE was not answered yet, and must not be any more
            self.events = [
                event
                for event in self.events
                if not (isinstance(event, CreateRequested) and event.leg is leg)
            ]


_ON_LINK = frozenset((Command.CREDIT, Command.READY, Command.PING, Command.PONG))
