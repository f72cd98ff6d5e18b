"""One end of one stream: absolute offsets, windows, half-close, what to send again.

Both ends count the bytes of each direction from the stream's start. The same number serves as
credit (the receiver takes bytes up to a limit), as acknowledgement (it has consumed them up to an
offset) and as the place to go on from over another circuit (protocol §5). A sender keeps
what is not acknowledged.

The machine never waits and knows no circuit: ``protocol.outbox`` asks it for what to send, and
``protocol.multiplexer`` hands it what arrives; whoever owns the application's socket writes to it
and reads from it. It tells them through its two hooks that there is something to do.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum

from warren.errors import EndReason, expect, refuse
from warren.protocol.messages import (
    Connected,
    Message,
    Standing,
    StandingFlags,
    encode_message,
    encode_stream_credit,
)
from warren.protocol.pace import Pace, Talk

FIRST_WINDOW = 64 * 1024
MOST_WINDOW = 4 * 1024 * 1024
#: What is left to a stream that has company, however slow the circuit.
LEAST_WINDOW = 16 * 1024
#: Bytes a sender keeps at most, sent or not, whatever limit it was given.
MOST_UNACKNOWLEDGED = 4 * 1024 * 1024
#: Bytes waiting to be sent beyond which nothing more is read from the application.
ENOUGH_UNSENT = 128 * 1024
_MOST_BETWEEN_CREDITS = 512 * 1024
#: Bytes consumed behind an EOF that the sender should not keep until our own.
_MUCH_OWED = 16 * 1024
#: CREDITs in order behind our own END: what 4 MiB on their way can cause, twice over (SID-2).
_MOST_LATE_CREDITS = 16
#: Less than a cell full. Such pieces are copied and joined: one byte must not keep alive the
#: buffer of the run that it came in, nor have an object of its own (DOS-5).
_SMALL = 3900
#: Bytes waiting here from which on whole cells are copied too, for the same reason.
_LONG_WAIT = 256 * 1024
#: Every limit that is told, the first window apart, is one short of a multiple of this: bytes that
#: end there were cut off by a limit, and are not all that there was to send.
_GRAIN = 1024
_NEVER = 1 << 64
_FROM_A_CLIENT = frozenset((EndReason.DONE, EndReason.MISC))


class StreamState(Enum):
    """Name what a stream can be."""

    OPENING = "opening"  # BEGIN was sent or received, CONNECTED was not
    OPEN = "open"
    ENDED = "ended"  # an END was sent or received: nothing more to deliver or to send


def _nothing() -> None:
    return


def _to_nobody(message: bytes) -> None:
    return


def _append(chunks: deque[memoryview], data: memoryview) -> None:
    """Append `data`; join it to the chunk before it while both are small."""
    if chunks and len(chunks[-1]) + len(data) <= _SMALL:
        data = memoryview(b"".join((chunks.pop(), data)))
    chunks.append(data)


class StreamProtocol:
    """Own the offsets, windows and buffered bytes of one end of a stream.

    ``on_send`` is called when there is something to send, ``on_news`` when something arrived:
    data, the end of data, CONNECTED or END. Both may be called often and must be cheap. ``push``
    takes a whole message that goes ahead of all data. A stream whose circuit is gone and that
    waits for another has nobody behind ``on_send`` and ``push``.
    """

    __slots__ = (
        "_base", "_credited", "_end_behind", "_head", "_late_credits", "_mark", "_marked_at",
        "_retained", "_step", "_talk", "_unsent", "_was_too_wide", "_widened_at",
        "acknowledged", "allowed", "connected", "consumed", "credit_queued", "end_due",
        "end_received", "end_sent", "eof_due", "eof_received", "eof_sent", "incoming",
        "is_origin", "limit", "number", "on_news", "on_send", "pace", "push", "queued", "reason",
        "received", "sent", "state", "waits_for_room", "window", "written",
    )  # fmt: skip

    def __init__(self, number: int, pace: Pace, *, is_origin: bool) -> None:
        self.number, self.is_origin = number, is_origin
        self.pace = pace
        self.state = StreamState.OPENING
        self.on_send: Callable[[], None] = _nothing
        self.on_news: Callable[[], None] = _nothing
        self.push: Callable[[bytes], None] = _to_nobody
        self.connected: Connected | None = None
        self.reason: EndReason | None = None
        # whether the outbox has it among those with data, EOF or END, or a CREDIT, to send
        self.queued = self.credit_queued = False
        # sending: acknowledged <= sent <= written, sent <= limit
        self._retained: deque[memoryview] = deque()  # sent whole, from `acknowledged` on
        self._unsent: deque[memoryview] = deque()
        self._base = 0  # offset of the first retained byte
        self._head = 0  # bytes of the first unsent chunk that were sent
        self.acknowledged = self.sent = self.written = 0
        self.limit = FIRST_WINDOW
        self.waits_for_room = False  # whether ``on_news`` is wanted when ``room`` has grown
        self.eof_due = self.eof_sent = False
        self.end_due: EndReason | None = None
        self._end_behind: EndReason | None = None  # of an END behind all that was written
        self.end_sent = False
        self._late_credits = 0  # CREDITs that came behind our END
        # receiving: consumed <= received <= allowed
        self.incoming: deque[memoryview] = deque()
        self.received = self.consumed = 0
        self.window = self.allowed = FIRST_WINDOW
        self._step = FIRST_WINDOW // 4  # how far the limit rises before it is worth a CREDIT
        self._credited = 0  # the consumed offset last told
        self._widened_at = 0
        self._mark = _NEVER  # the limit before the last one was granted
        self._marked_at = 0.0
        self._was_too_wide = False
        self._talk = Talk()
        self.eof_received = self.end_received = False

    def __repr__(self) -> str:
        return (
            f"<Stream {self.number} {self.state.value}, {self.sent} sent, {self.received} received>"
        )

    # ---- for the owner of the application's socket

    @property
    def room(self) -> int:
        """Return how many bytes ``write`` should be given now; 0 or less means wait."""
        unsent = self.written - self.sent
        return min(
            ENOUGH_UNSENT - unsent,
            MOST_UNACKNOWLEDGED - (self.written - self.acknowledged),
        )

    def write(self, data: bytes | memoryview) -> None:
        """Queue `data`, which must never change again, to be sent."""
        assert not self.eof_due, "written behind the end of the stream"
        if self.end_due is not None or self.state is StreamState.ENDED or not data:
            return
        _append(self._unsent, memoryview(data))
        self.written += len(data)
        if self.sent < self.limit:
            self.on_send()

    def write_eof(self) -> None:
        """Half-close: say that nothing more will be written."""
        if not self.eof_due and self.state is not StreamState.ENDED:
            self.eof_due = True
            self.on_send()

    def accept(self, connected: Connected) -> None:
        """Tell the origin that the target was reached (the last hop's verb)."""
        if self.state is not StreamState.OPENING or self.end_due is not None:
            return  # it ended while the target was being reached
        self.state = StreamState.OPEN
        self.connected = connected
        self.tell_connected()

    def tell_connected(self) -> None:
        """Send the CONNECTED, if the target was reached and the stream is not to be reset."""
        if self.connected is not None and self.end_due is None:
            self.push(encode_message(Message.CONNECTED, self.number, self.connected.encode()))

    def end(self, reason: EndReason) -> None:
        """End the stream for any reason but DONE; the other side resets its socket (SID-4).

        A client tells the exit no more than "other", whatever `reason` is (SID-3).
        """
        if self.end_sent or self.end_due is not None:
            return
        self.reason = self.reason or reason
        self.end_due = self._told(reason)
        self._drop_buffers()
        self.on_send()

    def end_behind(self, reason: EndReason) -> None:
        """End the stream as ``end`` does, behind what was written, if the other side takes that."""
        if self.sent == self.written or self.written > self.limit:
            self.end(reason)
        elif not self.end_sent and self.end_due is None:
            self._end_behind = self._told(reason)
            self.on_send()

    def _told(self, reason: EndReason) -> EndReason:
        return EndReason.MISC if self.is_origin else reason  # SID-3

    def consume(self, count: int) -> None:
        """Count `count` bytes of ``incoming`` as taken over by the application."""
        self.consumed += count
        assert self.consumed <= self.received
        if self.received > self._mark:
            self._come_round()
        used = self.consumed - self._widened_at >= self.window - _GRAIN
        if used and self._keeps_up and not self._has_company:
            most = self.pace.most_window(self.number)
            # While most of a shared window is not granted again, the others fill the circuit.
            self._set_window(min(2 * self.window, most), 1 if most >= MOST_WINDOW else 3)
        if self.credit_is_due:
            self.on_send()

    @property
    def _keeps_up(self) -> bool:
        """Tell whether the application takes what arrives, so that a wider window would help."""
        return (self.received - self.consumed) * 4 <= self.window

    @property
    def _has_company(self) -> bool:
        """Tell whether another stream of the circuit suffers from the queue of this one."""
        return not self._talk.is_quiet and self.pace.has_company(self.number)

    def _come_round(self) -> None:
        """Learn how long it took until what was granted last was being used."""
        share = self.pace.share(self.pace.clock() - self._marked_at)
        self._mark = _NEVER
        if not self._has_company:
            return
        if share < 1:
            self._was_too_wide = True
        elif not self._keeps_up:
            return
        else:  # doubled until it was too wide once, then raised gently, or it would swing about
            share = min(share, 1.1) if self._was_too_wide else 2.0
        self._set_window(max(int(self.window * share), LEAST_WINDOW))

    def _set_window(self, size: int, quarters: int = 1) -> None:
        """Let the window be `size` bytes, granted again when so many `quarters` were used up."""
        self.window = min(size, MOST_WINDOW)
        self._step = min(self.window // 4 * quarters, _MOST_BETWEEN_CREDITS)
        self._widened_at = self.consumed

    def note_little(self) -> None:
        """Note that less came than there was room for: see whether it is all that comes for now."""
        if (self.received + 1) % _GRAIN and self.received != FIRST_WINDOW:
            self._talk.note(self.pace, self.number, self.received)

    @property
    def is_finished(self) -> bool:
        """Tell whether both directions came to their clean end and everything was taken over."""
        return self.eof_received and self.eof_sent and self.consumed == self.received

    # ---- for the outbox

    @property
    def credit_is_due(self) -> bool:
        """Tell whether a CREDIT is worth its bytes now."""
        if self.end_due is not None or self.state is StreamState.ENDED:
            return False
        if self.eof_received and self.consumed == self.received:
            # A little waits for our own EOF, which takes it along: nobody needs it before.
            return self.owes_credit and (
                self.eof_sent or self.consumed - self._credited >= _MUCH_OWED
            )
        return self.consumed + self.window - self.allowed >= self._step

    @property
    def owes_credit(self) -> bool:
        """Tell whether something was consumed of which the other side was not told."""
        return self._credited < self.consumed

    def take_credit(self) -> tuple[int, int]:
        """Return the offset and limit of the CREDIT to send now."""
        allowed = (self.consumed + self.window - _GRAIN) | (_GRAIN - 1)
        if allowed > self.allowed:
            if self._mark == _NEVER:
                self._mark, self._marked_at = self.allowed, self.pace.clock()
            self.allowed = allowed
        self._credited = self.consumed
        return self.consumed, self.allowed

    def settle(self) -> None:
        """Acknowledge what was taken, however little: nothing has moved for a while.

        So what the other end still keeps of a quiet stream is not taken for what nobody reads.
        """
        is_quiet = self.consumed == self.received and self.owes_credit
        if is_quiet and self.state is StreamState.OPEN and self.end_due is None:
            credit = encode_stream_credit(*self.take_credit())
            self._mark = _NEVER  # what comes round after a pause is no measure of the way
            self.push(encode_message(Message.CREDIT, self.number, credit))

    @property
    def has_more(self) -> bool:
        """Tell whether data can be sent, or EOF or END must be."""
        if self.sent < self.written and self.sent < self.limit:
            return True
        return self.nears_its_end and (self.eof_is_next or self.end_is_next is not None)

    @property
    def nears_its_end(self) -> bool:
        """Tell whether there was any sign of it; without one neither EOF nor END is next."""
        if self.eof_due or self.eof_received or self.end_received:
            return True
        return self.end_due is not None or self._end_behind is not None

    @property
    def sendable(self) -> int:
        """Return how many bytes could be sent now."""
        return min(self.written, self.limit) - self.sent

    def take_data(self, target: memoryview, at: int, room: int) -> int:
        """Copy up to `room` bytes to `target[at:]` and count them as sent."""
        count = left = min(room, self.sendable)
        unsent = self._unsent
        while left:
            chunk, head = unsent[0], self._head
            size = len(chunk) - head
            if size > left:
                target[at : at + left] = chunk[head : head + left]
                self._head = head + left
                break
            target[at : at + size] = chunk[head:] if head else chunk
            _append(self._retained, unsent.popleft())
            self._head = 0
            at += size
            left -= size
        self.sent += count
        if self.waits_for_room and self.room * 2 >= ENOUGH_UNSENT:
            self.waits_for_room = False
            self.on_news()
        return count

    @property
    def eof_is_next(self) -> bool:
        """Tell whether everything was sent and the EOF follows.

        Never once the stream is to be reset: its unsent bytes were dropped, and an EOF would make
        what is left look whole (SID-4).
        """
        if not self.eof_due or self.eof_sent or self.sent < self.written:
            return False
        if self.end_due is not None or self._end_behind is not None:
            return False
        return self.state is not StreamState.ENDED

    @property
    def end_is_next(self) -> EndReason | None:
        """Return the reason of the END to send now, or None."""
        if self.end_sent:
            return None
        if self.end_due is not None:
            return self.end_due
        if self._end_behind is not None:
            return self._end_behind if self.sent == self.written else None
        if self.end_received:
            return EndReason.DONE if self.reason is EndReason.DONE else EndReason.MISC
        if self.is_finished and self.acknowledged == self.written and not self.credit_is_due:
            return EndReason.DONE
        return None

    def ended(self, reason: EndReason) -> None:
        """Note that our END was sent."""
        self.end_sent = True
        self.reason = self.reason or reason
        self.state = StreamState.ENDED
        self.pace.forget(self.number)
        self._drop_outgoing()

    # ---- for the multiplexer

    def receive_data(self, data: memoryview) -> None:
        """Take bytes that arrived; raise ProtocolError when nothing may arrive."""
        size = len(data)
        self.received += size
        if self.received > self.allowed or self.eof_received or self.end_received or not size:
            refuse("stream data beyond its limit or end, or empty")
        if self.is_origin and self.connected is None:
            refuse("DATA before CONNECTED")
        if self.end_due is not None or self.state is StreamState.ENDED:
            return  # in order for as long as the other side has not seen our END (SID-2)
        if size < _SMALL or self.received - self.consumed > _LONG_WAIT:
            _append(self.incoming, memoryview(bytes(data)))
        else:
            self.incoming.append(data)
        self.on_news()

    def receive_connected(self, connected: Connected) -> None:
        """Take the CONNECTED; a second one is a ProtocolError."""
        expect(self.is_origin and self.connected is None, "a CONNECTED that was not asked for")
        expect(not self.end_received, "a CONNECTED behind an END")
        self.connected = connected
        if self.state is StreamState.OPENING and self.end_due is None:
            self.state = StreamState.OPEN
            self.on_news()

    def receive_eof(self) -> None:
        """Take the EOF; a second one is a ProtocolError."""
        expect(not self.eof_received and not self.end_received, "a second EOF")
        expect(self.connected is not None or not self.is_origin, "an EOF before CONNECTED")
        self.eof_received = True
        self.pace.forget(self.number)
        if self.state is not StreamState.ENDED:
            self.on_news()
            self.on_send()  # the last acknowledgement, or our END

    def receive_credit(self, offset: int, limit: int) -> None:
        """Take a CREDIT; one that raises neither number, or acknowledges the unsent, is refused."""
        expect(not self.end_received, "a CREDIT behind an END")
        expect(self.connected is not None or not self.is_origin, "a CREDIT before CONNECTED")
        if self.end_sent:
            self._late_credits += 1
            expect(self._late_credits <= _MOST_LATE_CREDITS, "CREDITs for a stream that ended")
        expect(offset >= self.acknowledged and limit >= self.limit, "a CREDIT that falls")
        expect(offset > self.acknowledged or limit > self.limit, "a CREDIT that raises nothing")
        expect(offset <= self.sent, "a CREDIT for bytes that were not sent")
        self.acknowledged, self.limit = offset, limit
        if self.state is StreamState.ENDED:
            return
        self._drop_acknowledged()
        self.on_send()
        self.on_news()

    def receive_end(self, reason: EndReason) -> None:
        """Take the END; DONE before both sides are through is a ProtocolError.

        What came before it and was not taken over yet stays: a server that resets what it does
        not want to read may have said why.
        """
        expect(not self.end_received, "a second END")
        expect(self.is_origin or reason in _FROM_A_CLIENT, "an END for a reason clients have not")
        self.end_received = True
        if reason is not EndReason.DONE:
            self._drop_outgoing()
        elif self.end_due is None and not self.end_sent:
            through = self.is_finished and self.acknowledged == self.written
            expect(through, "an END for DONE in the middle of a stream")
        self.reason = self.reason or reason
        self.state = StreamState.ENDED
        self.pace.forget(self.number)
        self.on_send()
        self.on_news()

    def lose(self, reason: EndReason) -> None:
        """End without a word to the other side: its circuit is gone."""
        if self.state is not StreamState.ENDED:
            self.reason = self.reason or reason
            self.state = StreamState.ENDED
            self.pace.forget(self.number)
            self._drop_buffers()
            self.on_news()

    # ---- from one circuit to another (protocol §5.4)

    @property
    def can_go_on(self) -> bool:
        """Tell whether the stream may move to another circuit: neither side has given it up.

        One that came to its clean end may too, while the other side has not said so.
        """
        if self.end_due is not None or self.end_received:
            return False
        return self.state is not StreamState.ENDED or self.reason is EndReason.DONE

    @property
    def kept_bytes(self) -> int:
        """Return how long the buffers are of what was written and is not acknowledged."""
        return self.written - self._base if self._retained or self._unsent else 0

    @property
    def held_bytes(self) -> int:
        """Return the bytes kept here, in both directions."""
        return self.written - self.acknowledged + self.received - self.consumed

    def suspend(self) -> None:
        """Leave the circuit; whoever has the socket may go on reading and writing."""
        self.on_send, self.push = _nothing, _to_nobody
        self.queued = self.credit_queued = False
        self._mark = _NEVER  # what comes round over another circuit is no measure of it

    def tell_standing(self) -> Standing:
        """Return how far this end is; what it says is what the other side was told."""
        flags = StandingFlags.KNOWN
        if self.connected is not None:
            flags |= StandingFlags.CONNECTED
        if self.eof_received:
            flags |= StandingFlags.EOF
        self._credited = self.consumed
        return Standing(self.number, flags, self.received, self.consumed, self.allowed)

    def check_standing(self, other: Standing) -> None:
        """Raise ProtocolError unless what the other end says can be (RES-1)."""
        expect(other.received <= self.sent, "a stream that received what was not sent")
        expect(other.consumed >= self.acknowledged, "a stream that takes an acknowledgement back")
        expect(other.limit >= self.limit, "a stream whose limit falls")
        if StandingFlags.EOF in other.flags:
            is_whole = self.eof_sent and other.received == self.written
            expect(is_whole, "a stream that received an EOF that was not sent")
        theirs, ours = StandingFlags.CONNECTED in other.flags, self.connected is not None
        at_exit, at_origin = (theirs, ours) if self.is_origin else (ours, theirs)
        expect(at_exit or not at_origin, "a stream that is connected at its origin only")

    def go_on(self, other: Standing) -> None:
        """Send again from what the other end has, given its checked standing."""
        self.acknowledged, self.limit = other.consumed, other.limit
        if self.end_due is None:  # or its buffers are gone: an END is all there is to send
            self._drop_acknowledged()
            self._send_again_from(other.received)
            self.eof_sent = self.eof_sent and StandingFlags.EOF in other.flags
            if self.end_sent:  # it was DONE, and the other side has not heard it
                self.end_sent, self.state = False, StreamState.OPEN

    def _send_again_from(self, offset: int) -> None:
        start = self.sent - self._head  # of the first unsent chunk
        while start > offset:
            chunk = self._retained.pop()
            self._unsent.appendleft(chunk)
            start -= len(chunk)
        self._head = offset - start
        self.sent = offset

    def _drop_acknowledged(self) -> None:
        retained = self._retained
        while retained and self._base + len(retained[0]) <= self.acknowledged:
            self._base += len(retained.popleft())

    def _drop_buffers(self) -> None:
        self._drop_outgoing()
        self.incoming.clear()

    def _drop_outgoing(self) -> None:
        self._retained.clear()
        self._unsent.clear()
        self._head = 0
        self.written = self.sent
