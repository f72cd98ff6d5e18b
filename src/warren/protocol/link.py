"""A link after its handshake: records of cells, circuits by number, credit, turns.

The machine moves no bytes itself. ``receive`` takes what came from the socket and hands each run
of cells to its circuit; ``fill`` writes the records to send next. What it cannot decide alone it
leaves in ``events``. ``wake`` is called when there is something to send.

::

    record = length u16 | AEAD ciphertext of 1 to 15 cells         (protocol §2)

A *leg* is one circuit on one link, seen from one side: its number, its credit both ways, what
waits to be sent. A forwarding relay joins two legs, an end of a circuit has one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag

from warren.errors import LinkError, ProtocolError, expect, refuse
from warren.identity import PeerId, Suite
from warren.protocol import ciphers
from warren.protocol.cells import (
    CELL_LENGTH,
    HEADER,
    HEADER_LENGTH,
    INITIATOR_NUMBERS,
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
from warren.protocol.credit import CreditBudget, ReceiveWindow
from warren.protocol.handshake import LinkSecrets
from warren.protocol.noise import rekey

MOST_RECORD_CELLS = 15
_RECORD_EXTRA = 2 + TAG_LENGTH
MOST_RECORD = MOST_RECORD_CELLS * CELL_LENGTH + _RECORD_EXTRA
RECORDS_PER_KEY = 1 << 16
#: Circuits that each side may have begun on one link (DOS-4: 4096 in all). Counted by side, or
#: two honest neighbours could break the rule by beginning one at the same time.
MOST_CIRCUITS = 2048
_RECORD_LENGTHS = frozenset(
    cells * CELL_LENGTH + TAG_LENGTH for cells in range(1, MOST_RECORD_CELLS + 1)
)

# A record is opened here and read before the call returns; one buffer serves all links.
_PLAIN = memoryview(bytearray(MOST_RECORD_CELLS * CELL_LENGTH))


class RecordKey:
    """Hold one direction's key; REKEY comes before record 2^16·k, the counter goes on."""

    __slots__ = ("_aead", "_key", "_nonce", "_suite", "count")

    def __init__(self, suite: Suite, key: bytes) -> None:
        self._suite = suite
        self._nonce = ciphers.nonce_maker(suite)
        self.count = 0
        self._use(key)

    def _use(self, key: bytes) -> None:
        self._key = key
        self._aead = ciphers.make_aead(self._suite, key)

    def seal(self, plain: bytes | memoryview, record: memoryview) -> None:
        """Seal the next record's cells into `record`, 16 bytes longer."""
        nonce = self._advance()  # first: it may change the key
        self._aead.encrypt_into(nonce, plain, None, record)

    def open(self, record: memoryview, plain: memoryview) -> None:
        """Open the next record into `plain`, 16 bytes shorter; raise ProtocolError if it fails."""
        nonce = self._advance()
        try:
            self._aead.decrypt_into(nonce, record, None, plain)
        except InvalidTag:
            refuse("a record that does not open")

    def _advance(self) -> bytes:
        """Return the nonce of the next record, after a REKEY where one is due."""
        count = self.count
        if count and count % RECORDS_PER_KEY == 0:
            self._use(rekey(self._suite, self._key))
        self.count = count + 1
        return self._nonce(count)


class CellSource(Protocol):
    """Make cells on demand: an end of a circuit seals only what leaves now."""

    @property
    def has_something(self) -> bool:
        """Tell whether ``take`` would return something."""

    def take(self, most: int) -> memoryview:
        """Return a run of at most `most` cells."""


class CircuitUser(Protocol):
    """Be what a leg belongs to; a ProtocolError it raises destroys the circuit only."""

    def receive_run(
        self, leg: "Leg", command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        """Take `count` cells at `cells[start:]`, a buffer that is reused afterwards."""

    def receive_created(self, leg: "Leg", message: bytes) -> None:
        """Take the answer to a CREATE."""

    def leg_lost(self, leg: "Leg") -> None:
        """Note that the other side destroyed the circuit, or that the link is gone."""

    def violation(self, leg: "Leg", error: ProtocolError) -> None:
        """Destroy the circuit: what came on `leg` broke the rules."""


class Leg:
    """Own one circuit on one link: number, credit and waiting cells."""

    __slots__ = (
        "active", "created_due", "credit", "destroy_left", "destroy_received", "destroy_sent",
        "feeder", "link", "number", "own", "queue", "queued", "source", "user", "window",
    )  # fmt: skip

    def __init__(
        self, link: "LinkProtocol", number: int, credit: int, window: ReceiveWindow
    ) -> None:
        self.link, self.number = link, number
        self.credit = credit  # cells we may send
        self.window = window  # cells they may send
        self.queue: deque[memoryview] = deque()  # runs that are sealed already
        self.queued = 0  # cells in the queue
        self.own = 0  # the first of them that were made here and owe the feeder nothing
        self.source: CellSource | None = None
        self.feeder: Leg | None = None  # the leg whose cells these are; it is owed credit for them
        self.user: CircuitUser | None = None
        self.active = False  # whether the link has it among those that want a turn
        self.created_due = False
        self.destroy_sent = self.destroy_received = False
        self.destroy_left = False  # whether our DESTROY is in a record, no longer in a queue

    def __repr__(self) -> str:
        return f"<Leg {self.number:#x} credit {self.credit}, {self.queued} queued>"

    @property
    def has_something(self) -> bool:
        """Tell whether ``take`` would return cells."""
        if not self.credit:
            return False
        return bool(self.queue) or (self.source is not None and self.source.has_something)

    def enqueue(self, run: memoryview) -> None:
        """Queue a run of sealed cells behind the others."""
        if self.destroy_sent:
            return
        self.queue.append(run)
        self.queued += len(run) // CELL_LENGTH
        if self.credit and not self.active:
            self.link.activate(self)

    def enqueue_own(self, run: memoryview) -> None:
        """Queue a run that was made here, before any that came from the feeder."""
        assert self.queued == self.own
        self.own += len(run) // CELL_LENGTH
        self.enqueue(run)

    def has_news(self) -> None:
        """Note that ``source`` has something to send."""
        if self.credit and not self.active and not self.destroy_sent:
            self.link.activate(self)

    def take(self, most: int) -> memoryview | None:
        """Take up to `most` cells to send now, as far as there is credit."""
        most = min(most, self.credit)
        if not most:
            return None
        if self.queue:
            run = self.queue[0]
            if len(run) > most * CELL_LENGTH:
                self.queue[0] = run[most * CELL_LENGTH :]
                run = run[: most * CELL_LENGTH]
            else:
                self.queue.popleft()
            count = len(run) // CELL_LENGTH
            self.queued -= count
            if self.own:
                self.own -= count  # a run is from one maker, so all of this one was made here
            elif self.feeder is not None:
                self.feeder.passed(count)
        elif self.source is not None and self.source.has_something:
            try:
                run = self.source.take(most)
            except ProtocolError as error:  # a key is used up: it ends the circuit, not the link
                assert self.user is not None
                self.user.violation(self, error)
                return None
            count = len(run) // CELL_LENGTH
        else:
            return None
        self.credit -= count
        return run

    def passed(self, count: int) -> None:
        """Grant credit again for `count` cells that came on this leg and went on."""
        if not self.destroy_sent:
            link = self.link
            granted = self.window.passed(count, link.now, link.round_trip)
            if granted:
                link.grant(self, granted)

    def destroy(self) -> None:
        """Send our one DESTROY; what waited is dropped."""
        if self.destroy_sent:
            return
        self.destroy_sent = True
        self.queue.clear()
        self.queued = 0
        self.source = self.feeder = None
        self.link.send_destroy(self)


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
        self._next_own = INITIATOR_NUMBERS if is_initiator else 1
        self._next_theirs = 1 if is_initiator else INITIATOR_NUMBERS
        self._own_legs = self._their_legs = 0
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

    def __repr__(self) -> str:
        return f"<Link {self.peer_id!r}, {len(self.legs)} circuits>"

    # ---- verbs

    def create(self, depth: int, suite: Suite, message: bytes) -> Leg:
        """Send CREATE; return the new leg. Raises LinkError when the link is full."""
        assert self.ready is not None
        number = self._next_own
        if self._own_legs >= MOST_CIRCUITS or not self._is_number(number, own=True):
            raise LinkError("the link carries as many circuits as it may")
        self._next_own = number + 1
        self._own_legs += 1
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
            leg.destroy_sent = leg.destroy_received = True
            leg.queue.clear()
            leg.source = leg.feeder = None
            self._forget(leg)
            if leg.user is not None:
                leg.user.leg_lost(leg)

    def _send_control(self, number: int, command: Command, body: bytes = b"") -> None:
        self._control.append((number, command, body))
        self.wake()

    def _is_number(self, number: int, *, own: bool) -> bool:
        """Tell whether circuits begun by us, or by them, may have that number."""
        low = INITIATOR_NUMBERS if own == self.is_initiator else 1
        return low <= number < low + INITIATOR_NUMBERS - 1

    def _add_leg(self, number: int) -> Leg:
        assert self.ready is not None
        window = ReceiveWindow(self._own_ready.window, self._budget, self.now)
        leg = self.legs[number] = Leg(self, number, self.ready.window, window)
        return leg

    def _forget(self, leg: Leg) -> None:
        if self.legs.pop(leg.number, None) is not None:
            leg.window.close()
            if self._is_number(leg.number, own=True):
                self._own_legs -= 1
            else:
                self._their_legs -= 1

    # ---- sending

    def activate(self, leg: Leg) -> None:
        """Give `leg` a turn; one that was quiet goes before those that are busy."""
        leg.active = True
        self._fresh.append(leg)
        self.wake()

    @property
    def has_something(self) -> bool:
        """Tell whether ``fill`` would write something."""
        if self.ready is None or not self._ready_sent:
            return not self._ready_sent
        if self._ping_due or self._pong_due or self._control or self._grants:
            return True
        return bool(self._fresh or self._busy)

    def fill(self, out: memoryview) -> int:
        """Write records to `out` until it is full or nothing is left; return the bytes written.

        What is written must be sent, in order, and never again asked for. `out` has room for a
        record of one cell at least, and bounds how much nothing more urgent can overtake any more.
        """
        at = 0
        while (most := (len(out) - at - _RECORD_EXTRA) // CELL_LENGTH) > 0:
            parts, count = self._next_cells(min(most, MOST_RECORD_CELLS))
            if not count:
                if self._control and self.ready is not None:
                    continue  # a circuit that could not go on has left its DESTROY
                break
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
            parts.append(make_cell(0, Command.PONG, self._pong_due))
            self._pong_due = None
        if self._ping_due is not None and len(parts) < most:
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
            if size not in _RECORD_LENGTHS:
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
                expect(not leg.destroy_received, "a cell behind a DESTROY")
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
            self.wake()
        elif command == Command.PONG:
            expect_zeros(body, 8)
            expect(self._ping is not None and body[:8] == self._ping, "a PONG without its PING")
            self._ping = None
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
        expect(self._is_number(number, own=False), "a circuit number of the wrong side")
        expect(number >= self._next_theirs, f"circuit number {number:#x} again")
        expect(self._their_legs < MOST_CIRCUITS, "more circuits than a link may carry")
        self._next_theirs = number + 1
        self._their_legs += 1
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
