"""The streams of one circuit at one end: payloads in, payloads out.

Sending is a pull. Nothing is made before there is credit for a cell, so a CREDIT or a CONNECTED
never waits behind data that was packed earlier, and one payload carries as many messages as fit:
a BEGIN with its first DATA, the last DATA with its EOF, several CREDITs (protocol §5). The streams
that have something to send take turns of a few payloads; one that had nothing goes first for one,
so a keystroke overtakes fifty downloads.

What a message may do to the circuit itself (EXTEND and the like) is decided in
``origin_circuit`` and ``relay_circuit``, which get everything that is not about a stream.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from warren.addresses import Address
from warren.errors import EndReason, expect, refuse
from warren.protocol.cells import ZEROS
from warren.protocol.datagrams import (
    NO_PLACE,
    Association,
    decode_associate,
    encode_associate,
)
from warren.protocol.messages import (
    ANY_FAMILY,
    MESSAGE_HEADER,
    MESSAGE_HEADER_LENGTH,
    STREAM_CREDIT_LENGTH,
    Begin,
    BeginFlags,
    Connected,
    Message,
    decode_end,
    decode_stream_credit,
    encode_end,
    encode_message,
    encode_stream_credit,
    read_messages,
)
from warren.protocol.pace import Pace
from warren.protocol.resolution import Question, Questions
from warren.protocol.stream import StreamProtocol

#: Streams one circuit may carry at once, those whose second END is awaited and questions that are
#: not answered included (EXT-11).
MOST_STREAMS = 512
#: Payloads that a stream sends before the next one has its turn: 16 KB, so that both ends move
#: more than a cell's worth in each system call.
TURN_PAYLOADS = 4
_DATA = Message.DATA
_CREDIT_ROOM = MESSAGE_HEADER_LENGTH + STREAM_CREDIT_LENGTH


class Multiplexer:
    """Own the streams of one end of one circuit.

    ``on_send`` is called when there is something to send and there was nothing before.
    ``opened`` collects, at the last hop, the streams the origin began: (stream, BEGIN), or None
    for a stream to the directory. ``associated`` does so for associations, with the flags, and
    ``on_question`` is called there with each question that came. ``on_resumed`` takes the parts of
    a RESUMED in their place among the messages, because those of the streams that it brings may
    follow in the same cell.
    """

    __slots__ = (
        "_busy", "_credits", "_fresh", "_push", "_turn", "_urgent", "associated", "associations",
        "first_unused", "is_origin", "most_streams", "on_question", "on_resumed", "on_send",
        "opened", "pace", "questions", "streams",
    )  # fmt: skip

    def __init__(
        self, *, is_origin: bool, on_send: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self.is_origin = is_origin
        self.pace = Pace(clock)
        self.on_send = on_send
        self.on_resumed: Callable[[int, memoryview], None] | None = None
        self.streams: dict[int, StreamProtocol] = {}
        self.opened: list[tuple[StreamProtocol, Begin | None]] = []
        self.associations: dict[int, Association] = {}
        self.associated: list[tuple[Association, BeginFlags]] = []
        self.on_question: Callable[[Question], None] | None = None
        self.questions = Questions(self.push)
        self.most_streams = MOST_STREAMS
        self.first_unused = 1
        self._urgent: deque[bytes] = deque()
        self._credits: deque[StreamProtocol] = deque()
        self._fresh: deque[_Sender] = deque()  # those that had nothing: a payload each first
        self._busy: deque[_Sender] = deque()  # those that have more, in turns
        self._turn = 0  # payloads that the first of them has had
        self._push = self.push  # one for all streams

    # ---- verbs

    def begin(self, address: Address, flags: BeginFlags = ANY_FAMILY) -> StreamProtocol:
        """Open a stream to `address` (the origin's verb)."""
        return self._open(Message.BEGIN, Begin(address, flags).encode())

    def begin_directory(self) -> StreamProtocol:
        """Open a stream to the relay's own directory (the origin's verb)."""
        return self._open(Message.BEGIN_DIR, b"")

    def associate(self, flags: BeginFlags = ANY_FAMILY) -> Association:
        """Open an association (the origin's verb); datagrams may follow at once."""
        assert self.is_origin
        number = self.first_unused
        self.first_unused = number + 1
        association = self._add_association(number)
        self.push(encode_message(Message.ASSOCIATE, number, encode_associate(flags)))
        return association

    def associate_here(self, association: Association) -> None:
        """Tell the origin that `association` can be used (the last hop's verb)."""
        if association.connected is None and not association.is_ended:
            association.connected = NO_PLACE
            self.push(encode_message(Message.CONNECTED, association.number, NO_PLACE.encode()))

    def resolve(self, subject: Address, on_answer: Callable[[], None]) -> Question:
        """Ask for the addresses, or the name, of `subject` at port 0 (the origin's verb)."""
        assert self.is_origin
        number = self.first_unused
        self.first_unused = number + 1
        return self.questions.ask(number, subject, on_answer)

    @property
    def is_idle(self) -> bool:
        """Tell whether there is no stream, association or question, and nothing to send."""
        return not (self.count or self.has_something)

    def push(self, message: bytes) -> None:
        """Queue a whole message that goes ahead of all data."""
        self._urgent.append(message)
        self.on_send()

    def lose_all(self, reason: EndReason) -> None:
        """End every stream without a word: the circuit is gone."""
        for stream in tuple(self.streams.values()):
            stream.lose(reason)
        for association in tuple(self.associations.values()):
            association.lose(reason)
        self.streams.clear()
        self.associations.clear()
        self.questions.lose_all(reason)
        self.opened.clear()
        self.associated.clear()
        self._urgent.clear()
        self._credits.clear()
        self._fresh.clear()
        self._busy.clear()

    def detach(self) -> list[StreamProtocol]:
        """Give up every stream: return those that can go on over another circuit, lose the rest."""
        begun = {stream.number for stream, _ in self.opened}  # of these nobody knows yet
        able = [s for n, s in self.streams.items() if s.can_go_on and n not in begun]
        for stream in able:
            del self.streams[stream.number]
            stream.suspend()
        self.lose_all(EndReason.DESTROY)
        return able

    def adopt(self, stream: StreamProtocol) -> None:
        """Take a stream that was on another circuit, with its number; it sends from now on."""
        assert stream.number not in self.streams
        self.first_unused = max(self.first_unused, stream.number + 1)
        self._join(stream)
        self._has_something(stream)
        stream.on_news()  # there may be more room

    def _open(self, command: Message, data: bytes) -> StreamProtocol:
        assert self.is_origin
        number = self.first_unused
        self.first_unused = number + 1
        stream = self._add(number)
        self.push(encode_message(command, number, data))
        return stream

    def _add(self, number: int) -> StreamProtocol:
        stream = StreamProtocol(number, self.pace, is_origin=self.is_origin)
        self._join(stream)
        return stream

    def _join(self, stream: StreamProtocol) -> None:
        stream.on_send = lambda: self._has_something(stream)
        stream.push = self._push
        stream.pace = self.pace
        self.streams[stream.number] = stream

    def _add_association(self, number: int) -> Association:
        association = Association(number, self.pace, is_origin=self.is_origin)
        association.on_send = partial(self._has_datagrams, association)
        self.associations[number] = association
        return association

    def _has_datagrams(self, association: Association) -> None:
        if _has_more(association):
            if not association.queued:
                association.queued = True
                self._fresh.append(association)
            self.on_send()

    def _has_something(self, stream: StreamProtocol) -> None:
        if self._queue(stream):
            self.on_send()

    def _queue(self, stream: StreamProtocol) -> bool:
        """Queue `stream` for what it has to send; return whether it has something."""
        found = False
        if stream.credit_is_due:
            found = True
            if not stream.credit_queued:
                stream.credit_queued = True
                self._credits.append(stream)
        if _has_more(stream):
            found = True
            if not stream.queued:
                stream.queued = True
                self._fresh.append(stream)
        return found

    @property
    def count(self) -> int:
        """Return how many streams, associations and open questions there are, ending ones too."""
        return len(self.streams) + len(self.associations) + len(self.questions)

    # ---- sending

    @property
    def has_something(self) -> bool:
        """Tell whether ``write_payloads`` would write something."""
        return bool(self._urgent or self._credits or self._fresh or self._busy)

    def write_payloads(self, places: Sequence[memoryview]) -> int:
        """Fill `places`, whole payloads of one size; return how many there was something for."""
        count, most = 0, len(places)
        while count < most:
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
        if not _has_more(stream):
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

    def _write_stream(self, queue: "deque[_Sender]", target: memoryview, at: int) -> int:
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
            if _has_more(stream):
                self._busy.append(stream)
            else:
                stream.queued = False
        return at

    def _write_last(self, stream: "_Sender", target: memoryview, at: int) -> int:
        """Write EOF and END of `stream` behind its data, as far as they are due and fit."""
        if isinstance(stream, Association):
            return self._write_datagrams(stream, target, at)
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
                del self.streams[stream.number]
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
                del self.associations[association.number]
        return at

    # ---- receiving

    def receive_payloads(
        self, payloads: memoryview, size: int
    ) -> list[tuple[int, int, memoryview]]:
        """Hand the messages of payloads of `size` bytes, one behind the other, to their streams.

        Returns the messages that are for the circuit. Raises ProtocolError for what is out of
        order: nothing is silently dropped (SID-1).
        """
        others: list[tuple[int, int, memoryview]] = []
        full = size - MESSAGE_HEADER_LENGTH
        for at in range(0, len(payloads), size):
            command, number, length = MESSAGE_HEADER.unpack_from(payloads, at)
            if command == _DATA and length == full:  # the common case
                stream = self.streams.get(number)
                if stream is None:
                    refuse("DATA for a stream that does not exist")
                stream.receive_data(payloads[at + MESSAGE_HEADER_LENGTH : at + size])
            else:
                others += self.receive(payloads[at : at + size])
        return others

    def receive(self, payload: memoryview) -> list[tuple[int, int, memoryview]]:
        """Hand one payload's messages to their streams, as ``receive_payloads`` does."""
        others: list[tuple[int, int, memoryview]] = []
        left = len(payload)
        for command, number, data in read_messages(payload):
            left -= MESSAGE_HEADER_LENGTH + len(data)
            if command in _OPENING:
                self._receive_begin(command, number, bytes(data))
            elif command in _STREAM:
                stream = self.streams.get(number)
                if stream is None:
                    self._receive_for_association(number, command, bytes(data))
                else:
                    self._receive_for(stream, command, data)
                    if command == _DATA and left:  # not cut off by the end of the cell
                        stream.note_little()
            elif command == Message.DATAGRAM:
                self._receive_for_association(number, command, bytes(data))
            elif command == Message.RESOLVE:
                self._receive_question(number, bytes(data))
            elif command == Message.RESOLVED:
                expect(self.is_origin, "a RESOLVED towards the last hop")
                self.questions.receive_resolved(number, bytes(data))
            elif command == Message.DROP:
                expect(not self.is_origin, "a DROP towards the origin")
                expect(number == 0, "a DROP that names a stream")
            elif command == Message.RESUMED and self.on_resumed is not None:
                self.on_resumed(number, data)
            else:
                others.append((command, number, data))
        return others

    def _receive_for(self, stream: StreamProtocol, command: int, data: memoryview) -> None:
        if command == _DATA:
            stream.receive_data(data)
        elif command == Message.CREDIT:
            stream.receive_credit(*decode_stream_credit(bytes(data)))
        elif command == Message.EOF:
            expect(not data, "an EOF with data")
            stream.receive_eof()
        elif command == Message.CONNECTED:
            stream.receive_connected(Connected.decode(bytes(data)))
        else:
            stream.receive_end(decode_end(bytes(data)))
            if stream.end_sent:
                del self.streams[stream.number]

    def _receive_for_association(self, number: int, command: int, data: bytes) -> None:
        association = self.associations.get(number)
        if association is None:
            refuse(f"message {command} for a stream that does not exist")
        if command == Message.DATAGRAM:
            association.receive_datagram(data)
        elif command == Message.CONNECTED:
            association.receive_connected(Connected.decode(data))
        else:
            expect(command == Message.END, f"message {command} for an association")
            association.receive_end(decode_end(data))
            if association.end_sent:
                del self.associations[number]

    def _receive_begin(self, command: int, number: int, data: bytes) -> None:
        """Open what the origin began."""
        self._take_number(number)
        if command == Message.ASSOCIATE:
            flags = decode_associate(data)
            self.associated.append((self._add_association(number), flags))
            return
        begin = None
        if command == Message.BEGIN:
            begin = Begin.decode(data)
        else:
            expect(not data, "a BEGIN_DIR with data")
        self.opened.append((self._add(number), begin))

    def _receive_question(self, number: int, data: bytes) -> None:
        self._take_number(number)
        question = self.questions.receive_resolve(number, data)
        assert self.on_question is not None, "the last hop has somebody to answer"
        self.on_question(question)

    def _take_number(self, number: int) -> None:
        """Check an id of the origin's: they ascend and are never zero (T28)."""
        expect(not self.is_origin, "a BEGIN or RESOLVE towards the origin")
        expect(number >= self.first_unused, "a stream id that was used before, or zero")
        expect(self.count < self.most_streams, "too many streams on one circuit")
        self.first_unused = number + 1


_OPENING = frozenset((Message.BEGIN, Message.BEGIN_DIR, Message.ASSOCIATE))
_STREAM = frozenset((Message.DATA, Message.END, Message.CONNECTED, Message.CREDIT, Message.EOF))


#: What takes turns with its data, or its datagrams.
_Sender = StreamProtocol | Association


def _has_more(stream: _Sender) -> bool:
    """Tell whether `stream` has data, EOF or END to send."""
    return stream.has_data or stream.eof_is_next or stream.end_is_next is not None


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
