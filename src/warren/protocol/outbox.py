"""What the streams of one end of a circuit have to send, in the order in which it leaves.

Sending is a pull. Nothing is made before there is credit for a cell, so a CREDIT or a CONNECTED
never waits behind data that was packed earlier, and one payload carries as many messages as fit:
a BEGIN with its first DATA, the last DATA with its EOF, several CREDITs (protocol §5). The streams
that have something to send take turns of a few payloads; one that had nothing goes first for one,
so a keystroke overtakes fifty downloads.
"""

from collections import deque
from collections.abc import Callable, Sequence

from warren.protocol.cells import ZEROS
from warren.protocol.datagrams import Association
from warren.protocol.messages import (
    MESSAGE_HEADER,
    MESSAGE_HEADER_LENGTH,
    STREAM_CREDIT_LENGTH,
    Message,
    encode_end,
    encode_stream_credit,
)
from warren.protocol.stream import StreamProtocol

#: Payloads that a stream sends before the next one has its turn: 16 KB, so that both ends move
#: more than a cell's worth in each system call.
TURN_PAYLOADS = 4
_DATA = Message.DATA
_CREDIT_ROOM = MESSAGE_HEADER_LENGTH + STREAM_CREDIT_LENGTH

#: What takes turns with its data, or its datagrams.
Sender = StreamProtocol | Association


def _nothing(*_: object) -> None:
    return


class Outbox:
    """Own the queues of what is to be sent, and whose turn it is.

    `on_send` is called when there is something to send, and `on_ended` with a stream or an
    association for which both sides have now said END.
    """

    __slots__ = ("_busy", "_credits", "_fresh", "_on_ended", "_on_send", "_turn", "_urgent")

    def __init__(self, on_send: Callable[[], None], on_ended: Callable[[Sender], None]) -> None:
        self._on_send = on_send
        self._on_ended = on_ended
        self._urgent: deque[bytes] = deque()
        self._credits: deque[StreamProtocol] = deque()
        self._fresh: deque[Sender] = deque()  # those that had nothing: a payload each first
        self._busy: deque[Sender] = deque()  # those that have more, in turns
        self._turn = 0  # payloads that the first of them has had

    def push(self, message: bytes) -> None:
        """Queue a whole message that goes ahead of all data."""
        self._urgent.append(message)
        self._on_send()

    def add(self, sender: Sender) -> None:
        """Queue `sender` for what it has to send, if it has something."""
        if self._queue(sender):
            self._on_send()

    def count_waiting(self, command: Message) -> int:
        """Return how many of the whole messages that wait to be sent are a `command`."""
        return sum(message[0] == command for message in self._urgent)

    @property
    def urgent_bytes(self) -> int:
        """Return how long the whole messages are that wait to be sent."""
        return sum(map(len, self._urgent))

    def clear(self) -> None:
        """Forget everything: the circuit is gone."""
        self._urgent.clear()
        self._credits.clear()
        self._fresh.clear()
        self._busy.clear()
        self._on_send = self._on_ended = _nothing

    def _queue(self, sender: Sender) -> bool:
        found = False
        if isinstance(sender, StreamProtocol) and sender.credit_is_due:
            found = True
            if not sender.credit_queued:
                sender.credit_queued = True
                self._credits.append(sender)
        if sender.has_more:
            found = True
            if not sender.queued:
                sender.queued = True
                self._fresh.append(sender)
        return found

    @property
    def has_something(self) -> bool:
        """Tell whether ``write_payloads`` would write something."""
        return bool(self._urgent or self._credits or self._fresh or self._busy)

    def write_payloads(self, places: Sequence[memoryview]) -> int:
        """Fill `places`, whole payloads of one size; return how many there was something for."""
        count, most = 0, len(places)
        while count < most and self.has_something:
            if self._busy and not (self._urgent or self._credits or self._fresh):
                filled = self._write_bulk(places, count)
                if filled:
                    count += filled
                    continue
            if not self.write_payload(places[count]):
                break
            count += 1
        return count

    def _write_bulk(self, places: Sequence[memoryview], start: int) -> int:
        """Fill `places[start:]` with what is left of the turn of the busy stream that is next.

        Nearly all payloads of a long transfer are made here: one stream's data fills each.
        """
        stream = self._busy[0]
        room = len(places[start]) - MESSAGE_HEADER_LENGTH
        most = len(places) - start
        if len(self._busy) > 1:
            most = min(most, TURN_PAYLOADS - self._turn)
        count = min(most, stream.sendable // room)
        header = MESSAGE_HEADER.pack(_DATA, stream.number, room)
        for place in places[start : start + count]:
            place[:MESSAGE_HEADER_LENGTH] = header
            stream.take_data(place, MESSAGE_HEADER_LENGTH, room)
        if count:
            self._count_turn(count)
        return count

    def _count_turn(self, payloads: int) -> None:
        """Count `payloads` of the first busy stream's turn; the next one follows at its end."""
        busy = self._busy
        self._turn += payloads
        stream = busy[0]
        if not stream.has_more:
            busy.popleft()
            stream.queued = False
            self._turn = 0
        elif self._turn >= TURN_PAYLOADS:
            busy.rotate(-1)
            self._turn = 0

    def write_payload(self, target: memoryview) -> bool:
        """Fill `target`, a whole payload; return whether there was anything to send."""
        size, at = len(target), 0
        urgent, credits_due = self._urgent, self._credits
        while urgent and at + len(urgent[0]) <= size:
            message = urgent.popleft()
            target[at : at + len(message)] = message
            at += len(message)
        # Not ahead of an urgent one that did not fit: it may be this stream's CONNECTED.
        while credits_due and at + _CREDIT_ROOM <= size and not urgent:
            stream = credits_due.popleft()
            stream.credit_queued = False
            if stream.credit_is_due:
                at = _put_credit(target, at, stream)
                self._queue(stream)  # the last acknowledgement may make its END due
        while size - at > MESSAGE_HEADER_LENGTH and not (urgent or credits_due):
            queue = self._fresh or self._busy
            if not queue:
                break
            at = self._write_stream(queue, target, at)
        if at < size:
            target[at:] = ZEROS[: size - at]
        return at > 0

    def _write_stream(self, queue: deque[Sender], target: memoryview, at: int) -> int:
        """Write what the first of `queue` has at `target[at:]`; return where the next one goes."""
        stream = queue[0]
        room = len(target) - at - MESSAGE_HEADER_LENGTH
        taken = stream.take_data(target, at + MESSAGE_HEADER_LENGTH, room)
        if taken:
            MESSAGE_HEADER.pack_into(target, at, _DATA, stream.number, taken)
            at += MESSAGE_HEADER_LENGTH + taken
        if taken < room:
            at = self._write_last(stream, target, at)
        if queue is self._busy:
            self._count_turn(1)
        else:
            queue.popleft()
            if stream.has_more:
                self._busy.append(stream)
            else:
                stream.queued = False
        return at

    def _write_last(self, stream: Sender, target: memoryview, at: int) -> int:
        """Write EOF and END of `stream` behind its data, as far as they are due and fit."""
        if isinstance(stream, Association):
            return self._write_datagrams(stream, target, at)
        if not stream.nears_its_end:
            return at
        size = len(target)
        if stream.eof_is_next and at + MESSAGE_HEADER_LENGTH <= size:
            if stream.owes_credit and at + _CREDIT_ROOM + MESSAGE_HEADER_LENGTH <= size:
                at = _put_credit(target, at, stream)  # the other side may then end at once
            at = _put(target, at, Message.EOF, stream.number, b"")
            stream.eof_sent = True
        reason = stream.end_is_next
        if reason is not None and at + MESSAGE_HEADER_LENGTH + 1 <= size:
            at = _put(target, at, Message.END, stream.number, encode_end(reason))
            stream.ended(reason)
            if stream.end_received:
                self._on_ended(stream)
            stream.on_news()
        return at

    def _write_datagrams(self, association: Association, target: memoryview, at: int) -> int:
        """Write what `association` has; a datagram is never cut, so the rest may stay empty."""
        at, size = association.write_datagrams(target, at), len(target)
        if association.has_data:  # the next one is first in the next cell
            target[at:] = ZEROS[: size - at]
            return size
        reason = association.end_is_next
        if reason is not None and at + MESSAGE_HEADER_LENGTH + 1 <= size:
            at = _put(target, at, Message.END, association.number, encode_end(reason))
            association.ended()
            if association.end_received:
                self._on_ended(association)
        return at


def _put(target: memoryview, at: int, command: Message, stream: int, data: bytes) -> int:
    """Write a message at `target[at:]`; return where the next one goes."""
    MESSAGE_HEADER.pack_into(target, at, command, stream, len(data))
    start = at + MESSAGE_HEADER_LENGTH
    end = start + len(data)
    target[start:end] = data
    return end


def _put_credit(target: memoryview, at: int, stream: StreamProtocol) -> int:
    """Write the CREDIT that `stream` has to send, as ``_put``."""
    body = encode_stream_credit(*stream.take_credit())
    return _put(target, at, Message.CREDIT, stream.number, body)
