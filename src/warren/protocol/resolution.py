"""RESOLVE and RESOLVED: what a name or an address stands for, asked of the last hop.

A question is one message and so is its answer (protocol §5.3). They carry a stream id, but there
is no stream: nothing to end, to credit or to resume. An origin that does not want to wait forgets
who asked, and takes the answer when it comes; how many may be open is bounded with the streams.

::

    RESOLVE    address, port 0                                 a name, or an address for its name
    RESOLVED   status u8 | TTL u32 | count u8 | address …      status 0: answered
               status u8                                       otherwise the reason, as in END
"""

from collections.abc import Callable
from dataclasses import dataclass

from warren.addresses import Address
from warren.errors import EndReason, ExitError, NotFound, ProtocolError, expect, refuse
from warren.protocol.messages import Message, encode_message

MOST_ADDRESSES = 16
#: A name's time to live is told between these bounds (EXT-13), one that does not exist for less.
SHORTEST_TTL, LONGEST_TTL = 5 * 60, 60 * 60
NOT_FOUND_TTL = 60
_ANSWERED = 0


@dataclass(frozen=True, slots=True)
class Resolved:
    """Hold an answer: the addresses of a name, or the one name of an address, all at port 0.

    None of them means that there is none. ``ttl`` is in seconds.
    """

    addresses: tuple[Address, ...]
    ttl: int

    def encode(self) -> bytes:
        """Return ``status u8 | TTL u32 | count u8 | address …``, 310 bytes at most."""
        assert len(self.addresses) <= MOST_ADDRESSES
        head = bytes((_ANSWERED,)) + self.ttl.to_bytes(4, "big") + bytes((len(self.addresses),))
        return head + b"".join(address.encode() for address in self.addresses)


def encode_resolve(subject: Address) -> bytes:
    """Return the data of a RESOLVE for `subject`, whose port is 0."""
    assert subject.port == 0
    return subject.encode()


def decode_resolve(data: bytes) -> Address:
    """Read the data of a RESOLVE."""
    subject, length = Address.decode(data)
    expect(length == len(data), "bytes behind the address of a RESOLVE")
    expect(subject.port == 0, "a RESOLVE with a port")
    return subject


def decode_resolved(data: bytes, subject: Address) -> Resolved | EndReason:
    """Read the data of a RESOLVED that answers for `subject`: the answer, or why there is none.

    Raises ProtocolError for addresses where a name is due, and the other way round.
    """
    expect(bool(data), "an empty RESOLVED")
    if data[0] != _ANSWERED:
        expect(len(data) == 1, "bytes behind the reason of a RESOLVED")
        try:
            return EndReason(data[0])
        except ValueError:
            raise ProtocolError("a RESOLVED without a known reason") from None
    expect(len(data) >= 6, "a RESOLVED that is cut short")
    count, at = data[5], 6
    is_name_due = subject.ip is not None
    expect(count <= (1 if is_name_due else MOST_ADDRESSES), f"a RESOLVED of {count} addresses")
    found = []
    for _ in range(count):
        address, length = Address.decode(data[at:])
        expect(address.port == 0, "a RESOLVED with a port")
        expect((address.ip is None) == is_name_due, "a RESOLVED of the wrong kind")
        found.append(address)
        at += length
    expect(at == len(data), "bytes behind the addresses of a RESOLVED")
    return Resolved(tuple(found), int.from_bytes(data[1:5], "big"))


class Question:
    """Own one question, at either end of its circuit; ``outcome`` is None until it is answered."""

    __slots__ = ("number", "on_answer", "outcome", "subject")

    def __init__(
        self, number: int, subject: Address, on_answer: Callable[[], None] | None = None
    ) -> None:
        self.number = number
        self.subject = subject
        self.on_answer = on_answer
        self.outcome: Resolved | EndReason | None = None

    def __repr__(self) -> str:
        return f"<Question {self.number} {'open' if self.outcome is None else 'answered'}>"

    @property
    def answer(self) -> Resolved:
        """Return the answer; raise NotFound when there is none, ExitError when it failed."""
        outcome = self.outcome
        assert outcome is not None, "read before it was answered"
        if isinstance(outcome, EndReason):
            raise ExitError(outcome)
        if not outcome.addresses:
            raise NotFound
        return outcome

    def settle(self, outcome: Resolved | EndReason) -> None:
        """Note the answer and tell whoever still waits."""
        self.outcome = outcome
        if self.on_answer is not None:
            self.on_answer()


class Questions:
    """Own the ``open`` questions at one end of a circuit; `push` queues a whole message."""

    __slots__ = ("_push", "open")

    def __init__(self, push: Callable[[bytes], None]) -> None:
        self._push = push
        self.open: dict[int, Question] = {}

    def ask(self, number: int, subject: Address, on_answer: Callable[[], None]) -> Question:
        """Send a question; `on_answer` is called once, at the latest when the circuit is gone."""
        question = self.open[number] = Question(number, subject, on_answer)
        self._push(encode_message(Message.RESOLVE, number, encode_resolve(subject)))
        return question

    def answer(self, question: Question, outcome: Resolved | EndReason) -> None:
        """Answer a question that came; one whose circuit is gone is answered by silence."""
        if self.open.pop(question.number, None) is None:
            return
        question.settle(outcome)
        data = outcome.encode() if isinstance(outcome, Resolved) else bytes((outcome,))
        self._push(encode_message(Message.RESOLVED, question.number, data))

    def receive_resolve(self, number: int, data: bytes) -> Question:
        """Take a question that came (the last hop's verb)."""
        question = self.open[number] = Question(number, decode_resolve(data))
        return question

    def receive_resolved(self, number: int, data: bytes) -> None:
        """Take an answer (the origin's verb); one that was not asked for is a ProtocolError."""
        question = self.open.get(number)
        if question is None:
            refuse("a RESOLVED that was not asked for")
        outcome = decode_resolved(data, question.subject)
        del self.open[number]
        question.settle(outcome)

    def lose_all(self, reason: EndReason) -> None:
        """Settle every open question without a word: the circuit is gone."""
        questions, self.open = self.open, {}
        for question in questions.values():
            question.settle(reason)
