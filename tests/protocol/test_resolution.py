"""Questions and answers of circuits: their bytes, and what both ends make of them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import EndReason, ExitError, NotFound, ProtocolError
from warren.protocol.messages import Message, encode_message
from warren.protocol.multiplexer import MOST_STREAMS, Multiplexer
from warren.protocol.resolution import (
    MOST_ADDRESSES,
    Question,
    Resolved,
    decode_resolve,
    decode_resolved,
    encode_resolve,
)

PAYLOAD = 4040
NAME, FOUR, SIX = Address("a.example", 0), Address("5.5.5.5", 0), Address("2a00::1", 0)
ANSWER = Resolved((FOUR, SIX), 300)

NAMES = st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,20}){1,3}", fullmatch=True).map(
    lambda name: Address(name, 0)
)
IPS = st.ip_addresses().map(lambda ip: Address(str(ip), 0))
TTLS = st.integers(0, 2**32 - 1)


class Ends:
    """Own both ends of a circuit's questions; ``came`` are those that the last hop was asked."""

    def __init__(self) -> None:
        self.near = Multiplexer(is_origin=True, on_send=lambda: None, clock=lambda: 0.0)
        self.far = Multiplexer(is_origin=False, on_send=lambda: None, clock=lambda: 0.0)
        self.came: list[Question] = []
        self.told = 0
        self.far.on_question = self.came.append

    def _tell(self) -> None:
        self.told += 1

    def ask(self, subject: Address = NAME) -> Question:
        """Ask; return the near end of the question."""
        question = self.near.resolve(subject, self._tell)
        self.settle()
        return question

    def answer(self, outcome: Resolved | EndReason) -> None:
        self.far.questions.answer(self.came.pop(), outcome)
        self.settle()

    def settle(self) -> None:
        for source, target in ((self.near, self.far), (self.far, self.near)):
            payload = memoryview(bytearray(PAYLOAD))
            while source.outbox.write_payload(payload):
                assert target.receive(payload) == []


def payload_of(*messages: bytes) -> memoryview:
    return memoryview(b"".join(messages).ljust(PAYLOAD, b"\0"))


# ---- bytes


@given(st.one_of(NAMES, IPS))
def test_a_question_is_read_as_it_was_written(subject: Address) -> None:
    assert decode_resolve(encode_resolve(subject)) == subject


@given(st.lists(IPS, max_size=MOST_ADDRESSES), TTLS)
def test_addresses_are_read_as_they_were_written(addresses: list[Address], ttl: int) -> None:
    answer = Resolved(tuple(addresses), ttl)

    assert decode_resolved(answer.encode(), NAME) == answer


@given(NAMES, TTLS)
def test_a_name_is_read_as_it_was_written(name: Address, ttl: int) -> None:
    assert decode_resolved(Resolved((name,), ttl).encode(), FOUR) == Resolved((name,), ttl)


@given(st.sampled_from(EndReason))
def test_a_reason_is_one_byte(reason: EndReason) -> None:
    assert decode_resolved(bytes((reason,)), NAME) is reason


def test_the_longest_answer_has_310_bytes() -> None:
    longest = Resolved((SIX,) * MOST_ADDRESSES, 3600)

    assert len(longest.encode()) == 6 + 16 * 19 == 310


@given(st.binary(), st.sampled_from([NAME, FOUR]))
def test_garbage_raises_protocol_error_and_nothing_else(data: bytes, subject: Address) -> None:
    for decode in (decode_resolve, lambda data: decode_resolved(data, subject)):
        try:
            decode(data)
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (b"", NAME),
        (b"\x00", NAME),
        (bytes((EndReason.TIMEOUT, 0)), NAME),
        (b"\xff", NAME),
        (ANSWER.encode()[:-1], NAME),
        (ANSWER.encode() + b"\0", NAME),
        (Resolved((Address("5.5.5.5", 80),), 1).encode(), NAME),
        (Resolved((NAME,), 1).encode(), NAME),
        (Resolved((FOUR,), 1).encode(), FOUR),
        (b"\0\0\0\0\x01\x02" + NAME.encode() * 2, FOUR),
        (b"\0\0\0\0\x01\x11" + FOUR.encode() * 17, NAME),
    ],
    ids=[
        "empty", "cut short", "bytes behind the reason", "unknown reason", "cut address",
        "bytes behind", "a port", "a name for a name", "an address for an address", "two names",
        "seventeen addresses",
    ],
)  # fmt: skip
def test_what_is_no_answer_to_the_question_is_refused(data: bytes, subject: Address) -> None:
    with pytest.raises(ProtocolError):
        decode_resolved(data, subject)


@pytest.mark.parametrize("data", [Address("a.example", 80).encode(), NAME.encode() + b"\0"])
def test_a_question_has_no_port_and_nothing_behind(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_resolve(data)


# ---- both ends


def test_a_question_is_answered_once() -> None:
    ends = Ends()

    question = ends.ask()
    open_questions = (len(ends.near.questions.open), len(ends.far.questions.open))
    ends.answer(ANSWER)

    assert question.answer == ANSWER
    assert ends.told == 1
    assert open_questions == (1, 1)
    assert (len(ends.near.questions.open), len(ends.far.questions.open)) == (0, 0)


def test_no_addresses_and_reasons_become_errors() -> None:
    ends = Ends()

    nothing, timeout = ends.ask(), ends.ask()
    ends.answer(EndReason.TIMEOUT)
    ends.answer(Resolved((), 60))

    with pytest.raises(NotFound):
        _ = nothing.answer
    with pytest.raises(ExitError) as caught:
        _ = timeout.answer
    assert caught.value.reason is EndReason.TIMEOUT


def test_answers_come_in_any_order() -> None:
    ends = Ends()
    first, second = ends.ask(), ends.ask(FOUR)

    ends.answer(Resolved((NAME,), 300))
    ends.answer(ANSWER)

    assert (first.answer, second.answer.addresses) == (ANSWER, (NAME,))


def test_questions_and_streams_share_their_numbers() -> None:
    ends = Ends()

    ends.near.begin(Address("a.example", 80))
    question = ends.near.resolve(NAME, lambda: None)
    stream = ends.near.begin(Address("a.example", 80))
    ends.settle()

    assert (question.number, stream.number) == (2, 3)
    assert [each.number for each, _ in ends.far.opened] == [1, 3]
    assert [each.number for each in ends.came] == [2]


def test_a_circuit_that_is_lost_settles_its_questions() -> None:
    ends = Ends()
    question = ends.ask()

    for end in (ends.near, ends.far):
        end.lose_all(EndReason.DESTROY)
    ends.answer(ANSWER)  # too late: nothing is sent

    with pytest.raises(ExitError) as caught:
        _ = question.answer
    assert caught.value.reason is EndReason.DESTROY
    assert ends.told == 1
    assert not ends.far.outbox.has_something


def test_answers_that_nobody_takes_are_bounded() -> None:  # FLO-1, EXT-11
    """An origin that grants no credit could let any number of them wait, at no cost to itself."""
    ends = Ends()

    for number in range(1, MOST_STREAMS + 1):
        ends.far.receive(payload_of(resolve(number)))
        ends.far.questions.answer(ends.came.pop(), EndReason.EXIT_POLICY)

    with pytest.raises(ProtocolError, match="nobody takes"):
        ends.far.receive(payload_of(resolve(MOST_STREAMS + 1)))


def test_an_answer_that_has_left_makes_room_for_another_question() -> None:
    ends = Ends()

    for _ in range(2 * MOST_STREAMS):
        ends.ask()
        ends.answer(ANSWER)

    assert ends.told == 2 * MOST_STREAMS


def test_questions_count_as_streams_do() -> None:  # EXT-11
    ends = Ends()
    ends.far.most_streams = 3
    ends.near.begin(Address("a.example", 80))
    ends.ask()
    ends.ask()

    with pytest.raises(ProtocolError):
        ends.ask()


def resolve(number: int) -> bytes:
    return encode_message(Message.RESOLVE, number, encode_resolve(NAME))


def resolved(number: int, answer: Resolved = ANSWER) -> bytes:
    return encode_message(Message.RESOLVED, number, answer.encode())


def at_near(*messages: bytes) -> Callable[[Ends], object]:
    return lambda ends: ends.near.receive(payload_of(*messages))


def at_far(*messages: bytes) -> Callable[[Ends], object]:
    return lambda ends: ends.far.receive(payload_of(*messages))


@pytest.mark.parametrize(
    "arrive",
    [
        at_near(resolve(2)),
        at_near(resolved(7)),
        at_near(resolved(1), resolved(1)),
        at_near(resolved(1, Resolved((NAME,), 1))),
        at_near(encode_message(Message.DATA, 1, b"x")),
        at_near(encode_message(Message.END, 1, bytes((EndReason.MISC,)))),
        at_far(resolved(1)),
        at_far(resolve(1)),
        at_far(resolve(0)),
        at_far(resolve(2), resolve(2)),
        at_far(encode_message(Message.DATA, 1, b"x")),
    ],
    ids=[
        "RESOLVE to the origin", "never asked", "twice", "wrong kind", "DATA for a question",
        "END for a question", "RESOLVED forward", "used number", "number zero", "the same number",
        "DATA forward",
    ],
)  # fmt: skip
def test_nothing_out_of_order_is_dropped_silently(arrive: Callable[[Ends], object]) -> None:  # T25
    ends = Ends()
    ends.ask()

    with pytest.raises(ProtocolError):
        arrive(ends)


def test_the_number_of_a_question_says_nothing_of_its_subject() -> None:
    assert repr(Ends().ask()) == "<Question 1 open>"
