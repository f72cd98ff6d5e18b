"""One end of a stream: its windows, its two half-closes, its one END, its memory."""

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paper_network import read_all
from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.protocol.messages import MESSAGE_HEADER_LENGTH, Connected, decode_stream_credit
from warren.protocol.pace import Pace
from warren.protocol.stream import (
    ENOUGH_UNSENT,
    FIRST_WINDOW,
    MOST_UNACKNOWLEDGED,
    MOST_WINDOW,
    StreamProtocol,
    StreamState,
)

REACHED = Connected(Address("5.6.7.8", 80))
KIB = 1024


class Hooks:
    """Count how often a stream asked for attention."""

    def __init__(self, stream: StreamProtocol) -> None:
        self.sends = self.news = 0
        stream.on_send = self._on_send
        stream.on_news = self._on_news

    def _on_send(self) -> None:
        self.sends += 1

    def _on_news(self) -> None:
        self.news += 1


def opening_stream() -> StreamProtocol:
    """Return the origin's end before CONNECTED."""
    return StreamProtocol(1, Pace(lambda: 0.0), is_origin=True)


def open_stream() -> StreamProtocol:
    """Return the origin's end of an open stream."""
    stream = opening_stream()
    stream.receive_connected(REACHED)
    return stream


def far_stream() -> StreamProtocol:
    """Return the last hop's end, with its target not reached yet."""
    return StreamProtocol(1, Pace(lambda: 0.0), is_origin=False)


def send(stream: StreamProtocol, room: int = 1 << 30) -> bytes:
    """Return the bytes of the DATA that `stream` sends now."""
    target = memoryview(bytearray(min(room, stream.sendable)))
    assert stream.take_data(target, 0, room) == len(target)
    return bytes(target)


def receive(stream: StreamProtocol, size: int, part: int = 4000) -> None:
    """Let `size` bytes arrive in cells."""
    while size:
        stream.receive_data(memoryview(bytes(min(size, part))))
        size -= min(size, part)


def consume(stream: StreamProtocol, size: int) -> None:
    """Take over `size` bytes of what arrived, as the application does."""
    left = size
    while left:
        chunk = stream.incoming.popleft()
        if len(chunk) > left:
            stream.incoming.appendleft(chunk[left:])
        left -= min(left, len(chunk))
    stream.consume(size)


def held_bytes(stream: StreamProtocol) -> int:
    """Return the size of all buffers that waiting bytes keep alive."""
    return sum(len(cast(bytes, chunk.obj)) for chunk in stream.incoming)


def finish_sending(stream: StreamProtocol) -> None:
    """Half-close and send the EOF."""
    stream.write_eof()
    assert stream.eof_is_next
    stream.eof_sent = True


def assert_refused(act: Callable[[], object]) -> None:
    with pytest.raises(ProtocolError):
        act()


# Sending


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(1, 200)))
def test_bytes_leave_as_they_were_written_wherever_cells_cut_them(
    writes: list[bytes], rooms: list[int]
) -> None:
    stream, sent = open_stream(), b""

    for data in writes:
        stream.write(data)
        if rooms:
            sent += send(stream, rooms.pop())
    sent += send(stream)

    assert sent == b"".join(writes)
    assert stream.sent == stream.written == len(sent)


def test_a_stream_starts_with_64_kib_each_way_and_optimistic_data_gets_no_more() -> None:
    near, far = opening_stream(), far_stream()
    near.write(bytes(100 * KIB))

    far.receive_data(memoryview(send(near)))

    assert far.received == FIRST_WINDOW == 64 * KIB
    assert not near.sendable
    assert_refused(lambda: far.receive_data(memoryview(b"x")))


def test_an_application_is_read_no_further_than_what_can_be_sent_soon() -> None:
    stream = open_stream()
    stream.write(bytes(ENOUGH_UNSENT))

    assert stream.room == 0

    send(stream)
    assert stream.room == FIRST_WINDOW


def test_a_sender_keeps_at_most_4_mib_whatever_its_limit_says() -> None:
    stream = open_stream()
    stream.receive_credit(0, 1 << 40)

    while stream.room > 0:
        stream.write(bytes(stream.room))
        send(stream)

    assert stream.written - stream.acknowledged == MOST_UNACKNOWLEDGED == 4 * KIB * KIB
    stream.receive_credit(1000, 1 << 40)
    assert stream.room == 1000


def test_who_waits_for_room_is_told_when_half_of_it_is_free() -> None:
    stream = open_stream()
    stream.receive_credit(0, 1 << 20)
    hooks = Hooks(stream)
    stream.write(bytes(ENOUGH_UNSENT))
    stream.waits_for_room = True

    told = []
    for room in (ENOUGH_UNSENT // 2 - 1, 1, 1):
        send(stream, room)
        told.append(hooks.news)

    assert told == [0, 1, 1]


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20), st.data())
def test_what_is_acknowledged_is_forgotten_and_nothing_else(
    writes: list[int], data: st.DataObject
) -> None:
    stream = open_stream()
    for size in writes:
        stream.write(bytes(size))
        send(stream)
    sent = stream.sent

    offset = data.draw(st.integers(0, sent))
    stream.receive_credit(offset, FIRST_WINDOW + 1)

    kept = sum(map(len, stream._retained)) + stream._head
    assert stream._base <= offset
    assert stream._base + kept == sent
    assert offset - stream._base <= max(5000, 4 * KIB)


def test_an_eof_goes_behind_the_last_byte() -> None:
    stream = open_stream()
    stream.write(b"last words")
    stream.write_eof()

    before = stream.eof_is_next
    send(stream)

    assert (before, stream.eof_is_next) == (False, True)


def test_a_reset_stream_sends_no_eof_for_what_it_dropped() -> None:  # SID-4, T29
    stream = far_stream()
    stream.write(b"half of a page")
    stream.write_eof()

    stream.end(EndReason.CONNECTION_RESET)

    assert not stream.eof_is_next
    assert not stream.sendable
    assert stream.end_is_next is EndReason.CONNECTION_RESET


@pytest.mark.parametrize("reason", sorted(set(EndReason) - {EndReason.DONE}))
def test_a_client_tells_no_reason_but_other(reason: EndReason) -> None:  # SID-3, T68
    near, far = open_stream(), far_stream()

    near.end(reason)
    far.end(reason)

    assert (near.reason, near.end_is_next) == (reason, EndReason.MISC)
    assert (far.reason, far.end_is_next) == (reason, reason)


def test_nothing_is_written_to_a_stream_that_is_over() -> None:
    stream = open_stream()
    stream.lose(EndReason.DESTROY)
    hooks = Hooks(stream)

    stream.write(b"late")
    stream.write_eof()
    stream.lose(EndReason.MISC)

    assert (stream.written, stream.eof_due, hooks.sends) == (0, False, 0)
    assert stream.reason is EndReason.DESTROY


# Receiving


def test_a_credit_is_sent_when_it_is_worth_a_quarter_of_the_window() -> None:
    stream = open_stream()
    hooks = Hooks(stream)
    receive(stream, FIRST_WINDOW)

    asked = []
    for size in (FIRST_WINDOW // 4 - 1, 1):
        consume(stream, size)
        asked.append(hooks.sends)

    assert asked == [0, 1]
    assert stream.credit_is_due
    assert stream.take_credit() == (16 * KIB, 80 * KIB - 1)
    assert not stream.credit_is_due


def test_a_window_doubles_for_a_reader_that_keeps_up_and_ends_at_4_mib() -> None:
    stream, windows = open_stream(), []

    for _ in range(9):
        size = stream.allowed - stream.received
        receive(stream, size, part=64 * KIB)
        consume(stream, size)
        stream.take_credit()
        windows.append(stream.window // KIB)

    assert windows == [128, 256, 512, 1024, 2048, 4096, 4096, 4096, 4096]
    assert MOST_WINDOW - KIB <= stream.allowed - stream.consumed <= MOST_WINDOW


def test_a_window_does_not_double_while_the_reader_is_behind() -> None:
    stream = open_stream()

    for _ in range(40):
        receive(stream, stream.allowed - stream.received)
        consume(stream, 20 * KIB)
        stream.take_credit()

    assert stream.window == FIRST_WINDOW


def test_the_last_bytes_are_acknowledged_however_few_they_are() -> None:
    stream = open_stream()
    receive(stream, 1)
    consume(stream, 1)

    due = [stream.credit_is_due]
    stream.receive_eof()
    due.append(stream.credit_is_due)  # it goes with our own EOF
    stream.eof_sent = True
    due.append(stream.credit_is_due)
    offset, _ = stream.take_credit()
    due.append(stream.credit_is_due)

    assert due == [False, False, True, False]
    assert offset == 1


def test_single_bytes_do_not_keep_the_cells_alive_that_they_came_in() -> None:  # DOS-5, T18
    stream = far_stream()

    for _ in range(8000):
        run = memoryview(bytearray(15 * 4040))
        stream.receive_data(run[7:8])

    assert held_bytes(stream) == stream.received == 8000
    assert len(stream.incoming) <= 3


def test_a_reader_that_is_far_behind_does_not_keep_whole_runs_alive() -> None:  # DOS-5
    stream = far_stream()
    stream.allowed = MOST_WINDOW

    while stream.received + 4033 <= MOST_WINDOW:
        run = memoryview(bytearray(15 * 4040))
        stream.receive_data(run[7:4040])

    assert held_bytes(stream) < 2 * MOST_WINDOW


def test_single_bytes_written_take_no_object_each() -> None:
    stream = open_stream()
    for _ in range(4000):
        stream.write(b"x")
        send(stream)
    assert len(stream._retained) <= 3

    stream = open_stream()
    for _ in range(4000):
        stream.write(b"x")
    assert len(stream._unsent) <= 3
    assert send(stream) == b"x" * 4000


@given(st.lists(st.integers(1, 4400), max_size=40), st.lists(st.integers(1, 9000)))
@settings(max_examples=50)
def test_pieces_of_any_size_are_read_in_order(sizes: list[int], takes: list[int]) -> None:
    stream, data, read = far_stream(), b"", b""
    stream.allowed = MOST_WINDOW

    for number, size in enumerate(sizes):
        part = bytes([number]) * size
        data += part
        stream.receive_data(memoryview(part))
        if takes and stream.incoming:
            first = stream.incoming.popleft()
            taken = min(takes.pop(), len(first))
            read += first[:taken]
            if taken < len(first):
                stream.incoming.appendleft(first[taken:])
            stream.consume(taken)

    assert read + b"".join(stream.incoming) == data


# What is out of order


def test_data_must_fit_its_window_and_not_be_empty() -> None:  # FLO-2
    assert_refused(lambda: open_stream().receive_data(memoryview(b"")))
    assert_refused(lambda: receive(open_stream(), FIRST_WINDOW + 1))


def test_the_far_end_says_nothing_before_connected() -> None:  # T25
    assert_refused(lambda: opening_stream().receive_data(memoryview(b"x")))
    assert_refused(lambda: opening_stream().receive_eof())
    assert_refused(lambda: opening_stream().receive_credit(0, FIRST_WINDOW + 1))


def test_a_stream_connects_once_and_at_its_origin_only() -> None:  # T25
    assert_refused(lambda: open_stream().receive_connected(REACHED))
    assert_refused(lambda: far_stream().receive_connected(REACHED))


def test_an_eof_is_the_last_word_of_its_direction() -> None:
    stream = open_stream()
    stream.receive_eof()

    assert_refused(stream.receive_eof)
    assert_refused(lambda: stream.receive_data(memoryview(b"x")))


@pytest.mark.parametrize(
    ("offset", "limit"),
    [(0, 99_999), (50, FIRST_WINDOW), (10, 99_999), (50, 100_000), (101, 100_001)],
    ids=["both fall", "the limit falls", "the offset falls", "nothing rises", "unsent"],
)
def test_a_credit_raises_something_and_acknowledges_only_what_was_sent(
    offset: int, limit: int
) -> None:
    stream = open_stream()
    stream.write(bytes(100))
    send(stream)
    stream.receive_credit(50, 100_000)

    assert_refused(lambda: stream.receive_credit(offset, limit))


def test_an_end_is_the_last_word_of_all() -> None:
    stream = open_stream()
    stream.receive_end(EndReason.MISC)

    assert_refused(lambda: stream.receive_end(EndReason.MISC))
    assert_refused(lambda: stream.receive_data(memoryview(b"x")))
    assert_refused(stream.receive_eof)
    assert_refused(lambda: stream.receive_credit(0, 1 << 20))
    ended = opening_stream()
    ended.receive_end(EndReason.EXIT_POLICY)
    assert_refused(lambda: ended.receive_connected(REACHED))


def test_the_far_end_takes_no_reason_that_clients_do_not_have() -> None:  # SID-3
    assert_refused(lambda: far_stream().receive_end(EndReason.CONNECT_REFUSED))
    assert_refused(lambda: far_stream().receive_end(EndReason.DONE))


@pytest.mark.parametrize("missing", ["eof sent", "eof received", "consumed", "acknowledged"])
def test_done_is_for_streams_that_came_to_their_end(missing: str) -> None:  # SID-4, T29
    stream = open_stream()
    stream.write(b"request")
    send(stream)
    receive(stream, 6)
    if missing != "eof sent":
        finish_sending(stream)
    if missing != "eof received":
        stream.receive_eof()
    if missing != "consumed":
        consume(stream, 6)
    if missing != "acknowledged":
        stream.receive_credit(7, FIRST_WINDOW + 7)

    assert stream.end_is_next is None
    assert_refused(lambda: stream.receive_end(EndReason.DONE))


def test_done_follows_when_both_directions_are_through() -> None:
    stream = open_stream()
    stream.write(b"request")
    send(stream)
    finish_sending(stream)
    stream.receive_credit(7, FIRST_WINDOW + 7)
    receive(stream, 6)
    stream.receive_eof()
    consume(stream, 6)

    before = stream.end_is_next
    stream.take_credit()  # the last bytes are acknowledged

    assert (before, stream.end_is_next) == (None, EndReason.DONE)
    stream.receive_end(EndReason.DONE)
    assert (stream.state, stream.reason) == (StreamState.ENDED, EndReason.DONE)
    assert stream.end_is_next is EndReason.DONE


# Behind our own END (SID-2, T27)


def ended_stream() -> StreamProtocol:
    """Return an end that has sent its END before CONNECTED came."""
    stream = opening_stream()
    stream.write(bytes(1000))
    send(stream)
    stream.end(EndReason.TIMEOUT)
    stream.ended(EndReason.MISC)
    return stream


def test_behind_our_end_everything_under_way_is_still_in_order() -> None:
    stream = ended_stream()
    hooks = Hooks(stream)

    stream.receive_connected(REACHED)
    receive(stream, FIRST_WINDOW)
    stream.receive_credit(1000, 1 << 20)
    stream.receive_eof()
    stream.receive_end(EndReason.CONNECTION_RESET)

    assert (stream.state, stream.reason) == (StreamState.ENDED, EndReason.TIMEOUT)
    assert not stream.incoming
    assert hooks.news <= 1


def test_behind_our_end_a_second_connected_or_too_much_data_is_not() -> None:
    stream = ended_stream()
    stream.receive_connected(REACHED)
    receive(stream, FIRST_WINDOW)

    assert_refused(lambda: stream.receive_connected(REACHED))
    assert_refused(lambda: stream.receive_data(memoryview(b"x")))


def test_behind_our_end_credits_are_bounded() -> None:
    stream = ended_stream()
    stream.receive_connected(REACHED)

    def receive_credits(first: int, last: int) -> None:
        for number in range(first, last):
            stream.receive_credit(0, FIRST_WINDOW + number)

    receive_credits(1, 9)  # what may be under way

    assert_refused(lambda: receive_credits(9, 64))


def test_an_end_drops_what_waits_to_be_sent_and_leaves_what_came() -> None:
    stream = open_stream()
    stream.write(bytes(100))
    receive(stream, 5000)

    stream.receive_end(EndReason.CONNECTION_RESET)

    assert sum(map(len, stream.incoming)) == 5000
    assert not stream.sendable
    assert stream.end_is_next is EndReason.MISC
    assert "ended" in repr(stream)


def test_an_end_behind_what_was_written_waits_for_it_and_is_no_clean_one() -> None:
    stream = open_stream()
    stream.write(bytes(100))
    stream.write_eof()

    stream.end_behind(EndReason.CONNECTION_RESET)

    assert stream.end_is_next is None
    stream.take_data(memoryview(bytearray(100)), 0, 100)
    assert not stream.eof_is_next  # SID-4
    assert stream.end_is_next is EndReason.MISC  # SID-3: it is the origin's


def test_an_end_behind_more_than_the_other_side_takes_does_not_wait() -> None:
    stream = open_stream()
    stream.write(bytes(FIRST_WINDOW + 1))

    stream.end_behind(EndReason.CONNECTION_RESET)

    assert not stream.sendable
    assert stream.end_is_next is EndReason.MISC


# ---- quiet streams


def test_a_quiet_stream_acknowledges_the_little_that_it_had_not() -> None:
    stream, said = open_stream(), list[bytes]()
    stream.push = said.append
    stream.receive_data(memoryview(bytes(100)))
    read_all(stream)
    before = stream.credit_is_due

    stream.settle()
    stream.settle()

    [credit] = said
    assert not before
    assert decode_stream_credit(credit[MESSAGE_HEADER_LENGTH:])[0] == 100


def test_what_was_not_taken_is_not_acknowledged_by_a_quiet_stream() -> None:
    stream, said = open_stream(), list[bytes]()
    stream.push = said.append
    stream.receive_data(memoryview(bytes(100)))

    stream.settle()

    assert said == []


@given(st.lists(st.tuples(st.integers(1, 40_000), st.booleans()), max_size=60))
def test_every_credit_raises_something_though_streams_fall_quiet_now_and_then(
    moves: list[tuple[int, bool]],
) -> None:
    sender, receiver = far_stream(), open_stream()
    sender.accept(REACHED)
    receiver.push = lambda credit: sender.receive_credit(
        *decode_stream_credit(credit[MESSAGE_HEADER_LENGTH:])
    )
    for size, falls_quiet in moves:
        sender.write(bytes(min(size, max(sender.room, 1))))
        data = send(sender)
        if data:
            receiver.receive_data(memoryview(data))
            read_all(receiver)
        if receiver.credit_is_due:
            sender.receive_credit(*receiver.take_credit())
        if falls_quiet:
            receiver.settle()

    assert sender.acknowledged == receiver._credited
