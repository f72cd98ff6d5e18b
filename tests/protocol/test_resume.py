"""Streams that outlive their circuits, on paper: no byte is lost, doubled or given to a thief."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paper_network import (
    REACHED,
    TARGET,
    PaperNetwork,
    PaperRelay,
    inject,
    read_all,
)
from warren.errors import EndReason, ProtocolError
from warren.protocol.circuit import Resumed
from warren.protocol.credit import CreditBudget
from warren.protocol.handover import Handover
from warren.protocol.holdings import Holdings
from warren.protocol.messages import Message, Standing, StandingFlags, encode_message
from warren.protocol.origin_circuit import OriginCircuit
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.resume import MOST_NAMES, Resume, Ticket, cut, encode_resume
from warren.protocol.stream import StreamProtocol, StreamState

KIB = 1024
CONNECTED = StandingFlags.KNOWN | StandingFlags.CONNECTED
HASH = bytes(range(32))


class Story:
    """Own a network whose circuits run over guard, one of two middles, and exit."""

    def __init__(self, window: int = 64) -> None:
        self.network = PaperNetwork(4, window=window, holds=True)
        self.guard, self.first, self.exit, self.second = self.network.relays
        self.middle = self.first
        self.circuit = self.build()

    def build(self) -> OriginCircuit:
        circuit = self.network.start()
        self.network.settle()
        for relay in (self.middle, self.exit):
            self.network.extend(circuit, relay)
        circuit.keeps_streams = True
        self.middle = self.second if self.middle is self.first else self.first
        return circuit

    @property
    def holdings(self) -> Holdings:
        return self.exit.holdings

    @property
    def end(self) -> RelayCircuit:
        return self.exit.circuit

    def begin(self, early: bytes = b"") -> tuple[StreamProtocol, StreamProtocol]:
        near = self.circuit.streams.begin(TARGET)
        near.write(early)
        self.network.settle()
        assert self.end.streams is not None
        ((far, _),) = self.end.streams.opened
        self.end.streams.opened.clear()
        return near, far

    def open(self) -> tuple[StreamProtocol, StreamProtocol]:
        near, far = self.begin()
        far.accept(REACHED)
        self.network.settle()
        return near, far

    def lose(self, *, exit_notices: bool = True) -> Handover:
        """Let the circuit die; what was on its way is lost."""
        circuit = self.circuit
        if exit_notices:
            self.end.destroy()
        circuit.destroy()
        handover = circuit.orphans
        assert handover is not None
        return handover

    def resume(self, handover: Handover) -> bool:
        """Ask for the streams over another circuit; return whether there was an answer."""
        self.circuit = self.build()
        self.circuit.resume(handover)
        self.network.settle()
        return any(isinstance(event, Resumed) for event in self.circuit.events)

    def survive(self, *, exit_notices: bool = True) -> None:
        assert self.resume(self.lose(exit_notices=exit_notices))

    def carry(self, near: StreamProtocol, far: StreamProtocol) -> tuple[bytes, bytes]:
        """Let everything arrive; return what both ends read."""
        got = [b"", b""]
        moved = True
        while moved:
            self.network.settle()
            read = [read_all(near), read_all(far)]
            got[0] += read[0]
            got[1] += read[1]
            moved = any(read)
        return got[0], got[1]


def noise(size: int, start: int = 0) -> bytes:
    return bytes((number * 7 + number // 251) % 256 for number in range(start, start + size))


# ---- what a stream may rely on


@pytest.mark.parametrize("exit_notices", [True, False], ids=["dead", "alive"])
def test_what_was_on_its_way_is_sent_again(exit_notices: bool) -> None:
    story = Story()
    near, far = story.open()
    near.write(noise(50 * KIB))
    far.write(noise(60 * KIB, 5))
    for number in range(3):
        story.network.step(number)

    story.survive(exit_notices=exit_notices)

    assert story.carry(near, far) == (noise(60 * KIB, 5), noise(50 * KIB))
    assert len(story.holdings) == 0


def test_a_resume_destroys_the_circuit_that_still_lives() -> None:  # RES-1
    story = Story()
    story.open()
    old = story.end

    story.survive(exit_notices=False)

    assert old.is_closed
    assert old.streams is not None
    assert not old.streams.streams


def test_all_streams_of_a_circuit_go_on_and_keep_their_numbers() -> None:
    story = Story()
    pairs = [story.open() for _ in range(300)]
    for number, (near, far) in enumerate(pairs):
        near.write(noise(100 + number))
        far.write(noise(200 + number))

    story.survive()

    numbers = [near.number for near, _ in pairs]
    assert list(story.circuit.streams.streams) == numbers
    for number, (near, far) in enumerate(pairs):
        assert story.carry(near, far) == (noise(200 + number), noise(100 + number))


def test_new_streams_begin_behind_those_that_moved() -> None:
    story = Story()
    moved, _ = story.open()
    story.survive()

    near, far = story.open()

    near.write(b"new")
    assert near.number > moved.number
    assert story.carry(near, far) == (b"", b"new")


def test_a_stream_moves_again_and_again() -> None:
    story = Story()
    near, far = story.open()
    sent = got = b""

    for number in range(20):
        near.write(noise(9000, number))
        sent += noise(9000, number)
        for wire in range(number % 4):
            story.network.step(wire)
        got += read_all(far)
        story.survive(exit_notices=number % 2 == 0)
    got += story.carry(near, far)[1]

    assert got == sent


@pytest.mark.parametrize("down", [b"down", b""])
def test_ends_are_said_again_until_both_have_heard_them(down: bytes) -> None:
    for moves in range(30):
        story = Story()
        near, far = story.open()
        near.write(b"up")
        near.write_eof()
        far.write(down)
        far.write_eof()
        got = [b"", b""]
        for number in range(moves):
            story.network.step(number % 3)
            got[0] += read_all(near)
            got[1] += read_all(far)
        circuit, end = story.circuit, story.end
        end.destroy()
        circuit.destroy()
        if circuit.orphans is not None:
            assert story.resume(circuit.orphans)
        rest = story.carry(near, far)

        assert (got[0] + rest[0], got[1] + rest[1]) == (down, b"up")
        assert near.reason is EndReason.DONE, moves
        assert far.reason is EndReason.DONE or far.state is not StreamState.ENDED, moves
        assert not story.circuit.streams.streams, moves


def test_credit_that_was_lost_is_not_lost_for_good() -> None:
    story = Story()
    near, far = story.open()
    near.write(noise(64 * KIB))
    story.network.settle()
    assert near.sent == near.limit
    got = read_all(far)
    while far.allowed == 64 * KIB:  # the CREDIT leaves and does not arrive
        story.network.step(2)
    near.write(noise(9000, 64 * KIB))

    story.survive()

    assert got + story.carry(near, far)[1] == noise(64 * KIB + 9000)


def test_a_lost_resumed_is_asked_for_again_by_both_names() -> None:
    story = Story()
    near, far = story.open()
    near.write(noise(5000))
    handover = story.lose()
    story.circuit = story.build()
    story.circuit.resume(handover)
    for wire in (0, 1, 2, 3):  # the RESUME arrives, its answer does not
        story.network.step(wire)
    unanswered = story.circuit
    while story.holdings.resumed == 0:
        for wire in range(len(story.network.wires)):
            if story.network.wires[wire].owner is not story.exit:
                story.network.step(wire)
    unanswered.destroy()
    handover.lost(unanswered.ticket)

    assert story.resume(handover)

    assert len(handover.tickets) == 2
    assert story.carry(near, far) == (b"", noise(5000))


def test_a_resume_that_never_arrived_is_repeated() -> None:
    story = Story()
    near, far = story.open()
    near.write(noise(5000))
    handover = story.lose()
    lost = story.build()
    lost.resume(handover)
    lost.destroy()
    handover.lost(lost.ticket)

    assert story.resume(handover)

    assert story.carry(near, far) == (b"", noise(5000))


def test_a_chain_names_no_more_circuits_than_fit() -> None:
    tickets = [Ticket(bytes([number]) * 32, bytes(32)) for number in range(20)]
    handover = Handover(tickets[0], [], 1)

    for ticket in tickets[1:]:
        handover.lost(ticket)

    assert len(handover.tickets) == MOST_NAMES
    assert handover.tickets[0] is tickets[-1]


# ---- streams that are not connected


def test_a_stream_still_being_connected_moves_with_its_early_data() -> None:
    story = Story()
    near, far = story.begin(b"early")
    handover = story.lose()
    assert story.resume(handover)
    assert near.connected is None

    far.accept(REACHED)
    far.write(b"answer")

    assert story.carry(near, far) == (b"answer", b"early")
    assert near.connected == REACHED


def test_a_connected_that_was_lost_is_said_again() -> None:
    story = Story()
    near, far = story.begin(b"early")
    far.accept(REACHED)
    far.write(b"answer")

    story.survive()

    assert story.carry(near, far) == (b"answer", b"early")


def test_a_stream_connected_while_it_was_held_says_so_afterwards() -> None:
    story = Story()
    near, far = story.begin()
    handover = story.lose()
    far.accept(REACHED)
    far.write(b"answer")

    assert story.resume(handover)

    assert story.carry(near, far) == (b"answer", b"")


def test_a_begin_that_was_lost_is_answered_with_not_known() -> None:
    story = Story()
    kept = story.open()
    near = story.circuit.streams.begin(TARGET)

    story.survive()

    assert near.reason is EndReason.DESTROY  # whoever waits for it begins it elsewhere
    assert kept[0].reason is None
    again, far = story.open()
    again.write(b"x")
    assert again.number > near.number
    assert story.carry(again, far) == (b"", b"x")


# ---- streams that are over


def test_a_stream_given_up_meanwhile_is_reset_at_the_exit() -> None:
    story = Story()
    near, far = story.open()
    other = story.open()
    handover = story.lose()
    near.end(EndReason.MISC)

    assert story.resume(handover)

    assert far.reason is EndReason.DESTROY
    other[0].write(b"x")
    assert story.carry(*other) == (b"", b"x")


def test_a_stream_given_up_while_the_answer_is_under_way_is_ended() -> None:
    story = Story()
    near, far = story.open()
    near.write(noise(3000))
    handover = story.lose()
    story.circuit = story.build()
    story.circuit.resume(handover)
    near.end(EndReason.MISC)

    story.network.settle()

    assert far.reason is EndReason.MISC
    assert not story.circuit.is_closed
    assert not story.circuit.streams.streams


def test_a_target_that_breaks_off_meanwhile_is_told_of() -> None:
    story = Story()
    near, far = story.open()
    far.write(noise(3000))
    handover = story.lose()
    far.end(EndReason.CONNECTION_RESET)

    assert story.resume(handover)

    assert near.reason is EndReason.CONNECTION_RESET
    assert not story.circuit.is_closed


def test_what_was_ended_before_a_deliberate_destroy_is_not_held() -> None:
    story = Story()
    near, far = story.open()
    near.end(EndReason.MISC)
    story.network.settle()

    story.circuit.destroy()
    story.network.settle()

    assert far.reason is EndReason.MISC
    assert story.circuit.orphans is None
    assert len(story.holdings) == 0


def test_an_end_that_breaks_the_rules_has_no_streams_to_go_on_with() -> None:
    story = Story()
    near, _ = story.open()
    inject(story.end, encode_message(Message.EOF, 99))

    story.network.settle()

    assert story.circuit.orphans is None
    assert near.reason is EndReason.DESTROY


def test_a_cell_changed_on_the_way_costs_the_circuit_and_no_stream() -> None:
    story = Story()
    near, far = story.open()
    far.write(noise(3000))

    def flip(cell: bytearray) -> list[bytes]:
        cell[500] ^= 1
        return [bytes(cell)]

    story.network.tap(story.guard, None, flip)
    story.network.settle()
    story.network.tap(story.guard, None, None)
    handover = story.circuit.orphans
    assert handover is not None

    assert story.resume(handover)

    assert story.carry(near, far) == (noise(3000), b"")


# ---- thieves and liars


def hold(story: Story) -> tuple[Handover, StreamProtocol, StreamProtocol]:
    near, far = story.open()
    far.write(noise(1000))
    story.network.settle()
    return story.lose(), near, far


def claim(story: Story, body: bytes) -> OriginCircuit:
    """Send a RESUME with `body` over a fresh circuit."""
    circuit = story.build()
    end = circuit._end
    assert end is not None
    circuit.streams.on_resumed = lambda *_: None
    for message in cut(Message.RESUME, body, end.layers.payload):
        circuit.streams.outbox.push(message)
    story.network.settle()
    return circuit


def test_a_resume_replayed_over_another_circuit_gets_nothing() -> None:
    story = Story()
    handover, near, far = hold(story)
    elsewhere = story.build()
    assert elsewhere.secrets is not None
    body = handover.ask(elsewhere.secrets.handshake_hash)

    thief = claim(story, body)

    assert thief.is_closed
    assert story.exit.circuit.error is not None
    assert "MAC" in str(story.exit.circuit.error)
    assert far.reason is None
    assert story.resume(handover)  # and it cost its owner nothing
    assert story.carry(near, far) == (noise(1000), b"")


def test_a_name_without_its_key_gets_nothing() -> None:
    story = Story()
    handover, _, far = hold(story)
    guess = Ticket(handover.tickets[0].name, bytes(32))

    thief = claim(story, encode_resume([guess], HASH, [Standing(far.number, CONNECTED, 0, 0, 9)]))

    assert thief.is_closed
    assert len(story.holdings) == 1


def test_a_name_is_good_once() -> None:
    story = Story()
    handover, _, far = hold(story)
    spent = handover.tickets[0]
    assert story.resume(handover)
    again = story.build()
    assert again.secrets is not None
    standing = Standing(far.number, CONNECTED, 0, 0, 1 << 20)
    body = encode_resume([spent], again.secrets.handshake_hash, [standing])
    thief = claim(story, body)

    assert far.reason is None
    assert far.number in story.circuit.streams.streams
    assert thief.streams.streams == {}


def test_an_unknown_name_is_answered_and_not_punished() -> None:
    story = Story()
    near, _ = story.open()
    handover = story.lose()
    story.holdings.let_go(next(iter(story.holdings._held.values())))

    assert story.resume(handover)

    assert near.reason is EndReason.DESTROY
    assert not story.circuit.is_closed


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_byte_of_a_resume_can_be_changed(data: st.DataObject) -> None:
    key = bytes([7]) * 32
    tickets = [Ticket(bytes([number]) * 32, key) for number in range(1, 3)]
    standings = [Standing(number, CONNECTED, number, 0, 100) for number in range(1, 4)]
    body = bytearray(encode_resume(tickets, HASH, standings))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))

    try:
        resume = Resume.decode(bytes(body))
    except ProtocolError:
        return
    good = [
        ticket.name == name and ticket.seal(HASH, resume.signed) == mac
        for ticket, name, mac in zip(tickets, resume.names, resume.macs, strict=True)
    ]

    assert good.count(True) < 2
    changed_a_mac = 1 + 64 <= at < 1 + 128
    assert not any(good) or changed_a_mac


@given(st.binary(max_size=400))
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    try:
        resume = Resume.decode(data)
    except ProtocolError:
        return

    assert len(resume.names) == len(resume.macs) == data[0]


def test_a_resume_comes_back_as_it_was_written() -> None:
    tickets = [Ticket(bytes([number]) * 32, bytes([number + 1]) * 32) for number in range(3)]
    standings = [Standing(number, CONNECTED, 2, 1, 3) for number in (1, 5, 9)]

    resume = Resume.decode(encode_resume(tickets, HASH, standings))

    assert list(resume.names) == [ticket.name for ticket in tickets]
    assert list(resume.macs) == [ticket.seal(HASH, resume.signed) for ticket in tickets]
    assert list(resume.standings) == standings


LIES = {
    "received what was not sent": {"received": 1001},
    "took an acknowledgement back": {"consumed": 0},
    "lowered its limit": {"limit": 1000},
    "heard an end that was not said": {"flags": CONNECTED | StandingFlags.EOF},
}


@pytest.mark.parametrize("lie", list(LIES))
def test_an_origin_that_lies_about_offsets_loses_its_streams(lie: str) -> None:  # RES-1
    story = Story()
    near, far = story.open()
    far.write(noise(1000))
    story.network.settle()
    near.consume(1000)
    near.incoming.clear()
    near.window = 2 * near.window  # so that a CREDIT is due
    near.on_send()
    story.network.settle()
    assert far.acknowledged == 1000
    handover = story.lose()
    fresh = story.build()
    assert fresh.secrets is not None
    true = near.tell_standing()
    standing = replace(true, **LIES[lie])  # type: ignore[arg-type]

    body = encode_resume(handover.tickets, fresh.secrets.handshake_hash, [standing])
    assert fresh._end is not None
    for message in cut(Message.RESUME, body, fresh._end.layers.payload):
        fresh.streams.outbox.push(message)
    story.network.settle()

    assert fresh.is_closed
    assert far.reason is EndReason.DESTROY
    assert len(story.holdings) == 0


@pytest.mark.parametrize("lie", list(LIES))
def test_an_exit_that_lies_about_offsets_costs_the_circuit(lie: str) -> None:
    story = Story()
    near, far = story.open()
    near.write(noise(1000))
    story.network.settle()
    near.acknowledged = 1000
    handover = story.lose()
    true = replace(far.tell_standing(), consumed=1000)
    standing = replace(true, **LIES[lie])  # type: ignore[arg-type]
    fresh = story.build()
    fresh.resume(handover)

    body = b"\x00\x01" + standing.encode()
    for message in cut(Message.RESUMED, body, 4040):
        inject(story.exit.circuit, message)
    story.network.settle()

    assert fresh.is_closed
    assert fresh.error is not None
    assert near.state is not StreamState.ENDED  # whoever asked decides: it is not read again
    assert handover.streams == [near]


def test_an_exit_that_answers_for_other_streams_costs_the_circuit() -> None:
    story = Story()
    handover, *_ = hold(story)
    fresh = story.build()
    fresh.resume(handover)

    inject(story.exit.circuit, encode_message(Message.RESUMED, 0, b"\x00\x00\x00"))
    story.network.settle()

    assert fresh.error is not None


def test_a_resumed_that_nobody_asked_for_costs_the_circuit() -> None:
    story = Story()
    fresh = story.build()

    inject(story.exit.circuit, encode_message(Message.RESUMED, 0, b"\x00\x00\x00"))
    story.network.settle()

    assert fresh.error is not None


def test_only_a_fresh_circuit_takes_streams_over() -> None:
    story = Story()
    handover, _, far = hold(story)
    story.circuit = story.build()
    story.open()
    assert story.circuit.secrets is not None
    body = handover.ask(story.circuit.secrets.handshake_hash)

    for message in cut(Message.RESUME, body, 4040):
        story.circuit.streams.outbox.push(message)
    story.network.settle()

    assert story.circuit.is_closed
    assert far.reason is None


def test_a_relay_next_to_the_origin_takes_no_resume() -> None:  # EXT-8
    story = Story()
    alone = story.network.start()
    story.network.settle()

    inject(alone, encode_message(Message.RESUME, 0, b"\x00" + b"\x01" * 70))
    story.network.settle()

    assert alone.is_closed


# ---- memory


def test_held_streams_count_in_the_memory_and_give_it_back() -> None:
    story = Story()
    budget = story.holdings._budget
    before = budget.left
    handover, *_ = hold(story)
    assert budget.left < before

    assert story.resume(handover)

    assert budget.left == before


def test_held_streams_are_the_first_to_go() -> None:
    story = Story()
    _, _, far = hold(story)
    budget = story.holdings._budget

    taken = budget.take(budget.left + 1)

    assert far.reason is EndReason.DESTROY
    assert len(story.holdings) == 0
    assert taken > 0


def test_the_oldest_go_before_the_newer() -> None:
    story = Story()
    oldest = hold(story)[2]
    story.circuit = story.build()
    newer = hold(story)[2]

    story.holdings._budget.take(story.holdings._budget.left + 1)

    assert oldest.reason is EndReason.DESTROY
    assert newer.reason is None


def test_without_memory_nothing_is_held() -> None:
    story = Story()
    story.exit.holdings = Holdings(CreditBudget(10))
    story.circuit = story.build()

    _, _, far = hold(story)

    assert far.reason is EndReason.DESTROY
    assert story.holdings._budget.left == 10


def test_no_more_than_so_many_streams_are_held() -> None:
    story = Story()
    story.exit.holdings = Holdings(CreditBudget(1 << 20), most_streams=2)
    ends = []
    for _ in range(3):
        story.circuit = story.build()
        ends.append(hold(story)[2])

    reasons = [far.reason for far in ends]

    assert reasons == [EndReason.DESTROY, None, None]


def test_a_circuit_is_known_for_as_long_as_it_ends_here() -> None:
    story = Story()
    near, _ = story.open()
    leaving = story.end
    assert len(story.holdings._living) == 1
    near.end(EndReason.MISC)
    story.network.settle()

    story.network.extend(story.circuit, story.second)
    known = len(story.holdings._living)
    leaving.destroy()

    assert story.circuit.hops == 4
    assert known == 0
    assert len(story.holdings) == 0


def test_nothing_is_known_of_circuits_that_are_gone() -> None:
    story = Story()
    for _ in range(3):
        story.open()
        story.survive()

    story.circuit.streams.streams.copy().popitem()[1].end(EndReason.MISC)
    story.network.settle()
    story.circuit.destroy()
    story.network.settle()

    assert len(story.holdings._living) == 0


# ---- any cut at any point


class Talk:
    """Own one stream with an application at each end, who write, read and end as they like."""

    def __init__(self, near: StreamProtocol, far: StreamProtocol) -> None:
        self.ends = (near, far)
        self.sent, self.got = [b"", b""], [b"", b""]

    def write(self, who: int, size: int) -> None:
        end = self.ends[who]
        size = min(size, max(end.room, 0))
        if size and not end.eof_due and (who == 0 or end.connected is not None):
            data = noise(size, len(self.sent[who]))
            end.write(data)
            self.sent[who] += data

    def read(self, who: int, most: int) -> None:
        end = self.ends[who]
        if end.incoming:
            part = end.incoming.popleft()
            if len(part) > most:
                end.incoming.appendleft(part[most:])
                part = part[:most]
            self.got[who] += part
            end.consume(len(part))

    def finish(self, who: int) -> None:
        if who == 0 or self.ends[1].connected is not None:
            self.ends[who].write_eof()


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 90_000)),
    st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 90_000)),
    st.tuples(st.just("step"), st.integers(0, 5), st.integers(1, 8)),
    st.tuples(st.just("cut"), st.integers(0, 3), st.integers(0, 40)),
    st.tuples(st.just("connect"), st.just(0), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 1), st.just(0)),
)


def cut_circuit(story: Story, where: int, moves: int) -> Handover | None:
    """Let the circuit die at one place, with `moves` steps before everybody has noticed."""
    circuit = story.circuit
    machines: list[OriginCircuit | RelayCircuit] = [circuit, story.guard.circuit, story.end]
    if where < 3:
        machines[where].destroy()
        for number in range(moves):
            story.network.step(number % len(story.network.wires))
    circuit.destroy()
    return circuit.orphans


@given(st.lists(STEPS, max_size=40), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_delivered_is_what_was_sent_wherever_circuits_die(
    steps: list[tuple[str, int, int]], connected: bool
) -> None:
    story = Story(window=8)
    near, far = story.begin(b"")
    talk = Talk(near, far)
    if connected:
        far.accept(REACHED)
    for what, who, size in steps:
        if what == "write":
            talk.write(who, size)
        elif what == "read":
            talk.read(who, size)
        elif what == "step":
            for _ in range(size):
                story.network.step(who)
        elif what == "connect":
            far.accept(REACHED)
        elif what == "end":
            talk.finish(who)
        else:
            survive_cut(story, who, size)
        assert near.acknowledged <= near.sent <= near.written
        assert far.acknowledged <= far.sent <= far.written
    far.accept(REACHED)
    for _ in range(200):
        story.network.settle()
        talk.read(0, 1 << 20)
        talk.read(1, 1 << 20)
        if not near.can_go_on and not far.can_go_on:
            break
    for who in (0, 1):
        assert talk.got[1 - who] == talk.sent[who]
    is_whole = near.eof_due and far.eof_due
    assert near.reason is (EndReason.DONE if is_whole else None)
    assert not story.circuit.is_closed


def survive_cut(story: Story, where: int, moves: int) -> None:
    """Cut the circuit, and the next ones as well while RESUME or its answer is under way."""
    handover = cut_circuit(story, where, moves)
    if handover is None:  # the stream is over
        story.circuit = story.build()
        return
    for patience in range(moves % 3):
        story.circuit = story.build()
        story.circuit.resume(handover)
        for number in range(patience * moves):
            story.network.step(number % len(story.network.wires))
        if any(isinstance(event, Resumed) for event in story.circuit.events):
            later = cut_circuit(story, where, moves)
            if later is None:
                story.circuit = story.build()
                return
            handover = later
        else:
            story.circuit.destroy()
            handover.lost(story.circuit.ticket)
    assert story.resume(handover)


def test_a_relay_that_is_no_exit_refuses_a_resume() -> None:
    network = PaperNetwork(3)
    circuit = network.build(3)

    inject(circuit, encode_message(Message.RESUME, 0, b"\x00" + b"\x01" * 70))
    network.settle()

    assert circuit.is_closed
    assert isinstance(network.exit, PaperRelay)
