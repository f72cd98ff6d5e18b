"""The streams of one circuit at one end: what begins them, and what arrives for them.

Messages are handed to the streams, associations and questions that they name, and everything that
these have to say goes through an ``Outbox``, whatever cell it leaves in.

What a message may do to the circuit itself (EXTEND and the like) is decided in
``origin_circuit`` and ``relay_circuit``, which get everything that is not about a stream.
"""

from collections.abc import Callable
from functools import partial

from warren.addresses import Address
from warren.errors import EndReason, expect, refuse
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
    Begin,
    BeginFlags,
    Connected,
    Message,
    decode_end,
    decode_stream_credit,
    encode_message,
    read_messages,
)
from warren.protocol.outbox import Outbox, Sender
from warren.protocol.pace import Pace
from warren.protocol.resolution import Question, Questions
from warren.protocol.stream import StreamProtocol

#: Streams one circuit may carry at once, those whose second END is awaited and questions whose
#: answer has not left included (EXT-11).
MOST_STREAMS = 512
_DATA = Message.DATA
_NONE: frozenset[int] = frozenset()


class Multiplexer:
    """Own the streams of one end of one circuit.

    ``on_send`` is called when there is something to send: ``outbox`` has it.
    ``opened`` collects, at the last hop, the streams the origin began: (stream, BEGIN), or None
    for a stream to the directory. ``associated`` does so for associations, with the flags, and
    ``on_question`` is called there with each question that came. ``on_resumed`` takes the parts of
    a RESUMED in their place among the messages, because those of the streams that it brings may
    follow in the same cell.
    """

    __slots__ = (
        "_directories", "_push", "associated", "associations", "first_unused", "is_origin",
        "most_streams", "on_question", "on_resumed", "opened", "outbox", "pace", "questions",
        "streams",
    )  # fmt: skip

    def __init__(
        self, *, is_origin: bool, on_send: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self.is_origin = is_origin
        self.pace = Pace(clock)
        self.outbox = Outbox(on_send, self._forget)
        self._push = self.outbox.push  # one for all streams
        self.on_resumed: Callable[[int, memoryview], None] | None = None
        self.streams: dict[int, StreamProtocol] = {}
        self.opened: list[tuple[StreamProtocol, Begin | None]] = []
        self.associations: dict[int, Association] = {}
        self.associated: list[tuple[Association, BeginFlags]] = []
        self.on_question: Callable[[Question], None] | None = None
        self.questions = Questions(self._push)
        self.most_streams = MOST_STREAMS
        self.first_unused = 1
        self._directories = _NONE  # numbers of streams to the last hop's directory

    # ---- verbs

    def begin(self, address: Address, flags: BeginFlags = ANY_FAMILY) -> StreamProtocol:
        """Open a stream to `address` (the origin's verb)."""
        return self._open(Message.BEGIN, Begin(address, flags).encode())

    def begin_directory(self) -> StreamProtocol:
        """Open a stream to the relay's own directory (the origin's verb)."""
        stream = self._open(Message.BEGIN_DIR, b"")
        self._note_directory(stream.number)
        return stream

    def associate(self, flags: BeginFlags = ANY_FAMILY) -> Association:
        """Open an association (the origin's verb); datagrams may follow at once."""
        assert self.is_origin
        number = self.first_unused
        self.first_unused = number + 1
        association = self._add_association(number)
        self._push(encode_message(Message.ASSOCIATE, number, encode_associate(flags)))
        return association

    def associate_here(self, association: Association) -> None:
        """Tell the origin that `association` can be used (the last hop's verb)."""
        if association.connected is None and not association.is_ended:
            association.connected = NO_PLACE
            self._push(encode_message(Message.CONNECTED, association.number, NO_PLACE.encode()))

    def resolve(self, subject: Address, on_answer: Callable[[], None]) -> Question:
        """Ask for the addresses, or the name, of `subject` at port 0 (the origin's verb)."""
        assert self.is_origin
        number = self.first_unused
        self.first_unused = number + 1
        return self.questions.ask(number, subject, on_answer)

    @property
    def directories(self) -> frozenset[int]:
        """Return the numbers of streams to the last hop's directory, and maybe of past ones."""
        return self._directories

    @property
    def is_idle(self) -> bool:
        """Tell whether there is no stream, association or question, and nothing to send."""
        return not (self.count or self.outbox.has_something)

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
        self.outbox.clear()
        self.on_question = self.on_resumed = None

    def detach(self) -> list[StreamProtocol]:
        """Give up every stream: return those that can go on over another circuit, lose the rest.

        A directory's can be had anywhere (protocol §5.4).
        """
        # Of those that were just opened nobody knows yet.
        unable = {stream.number for stream, _ in self.opened} | self._directories
        able = [s for n, s in self.streams.items() if s.can_go_on and n not in unable]
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
        self.outbox.add(stream)
        stream.on_news()  # there may be more room

    def _open(self, command: Message, data: bytes) -> StreamProtocol:
        assert self.is_origin
        number = self.first_unused
        self.first_unused = number + 1
        stream = self._add(number)
        self._push(encode_message(command, number, data))
        return stream

    def _note_directory(self, number: int) -> None:
        self._directories = frozenset((number, *self._directories.intersection(self.streams)))

    def _add(self, number: int) -> StreamProtocol:
        stream = StreamProtocol(number, self.pace, is_origin=self.is_origin)
        self._join(stream)
        return stream

    def _join(self, stream: StreamProtocol) -> None:
        stream.on_send = partial(self.outbox.add, stream)
        stream.push = self._push
        stream.pace = self.pace
        self.streams[stream.number] = stream

    def _add_association(self, number: int) -> Association:
        association = Association(number, self.pace, is_origin=self.is_origin)
        association.on_send = partial(self.outbox.add, association)
        self.associations[number] = association
        return association

    def _forget(self, sender: Sender) -> None:
        """Drop what both sides have ended; it must not refer to itself, to be gone at once."""
        if isinstance(sender, Association):
            del self.associations[sender.number]
        else:
            del self.streams[sender.number]
            sender.suspend()

    @property
    def count(self) -> int:
        """Return how many streams, associations and open questions there are, ending ones too."""
        return len(self.streams) + len(self.associations) + len(self.questions.open)

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
                self._forget(stream)

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
                self._forget(association)

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
            self._note_directory(number)
        self.opened.append((self._add(number), begin))

    def _receive_question(self, number: int, data: bytes) -> None:
        self._take_number(number)
        # An answer counts until it has left, as its question does at the origin; or one that gives
        # no credit for cells could let any number of them wait here (FLO-1).
        waiting = self.outbox.count_waiting(Message.RESOLVED)
        expect(self.count + waiting < self.most_streams, "too many answers that nobody takes")
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
