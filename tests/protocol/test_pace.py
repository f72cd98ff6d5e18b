"""Pace: a stream is wide alone, narrow in company, and wide again when the company is gone."""

from collections import deque
from dataclasses import dataclass, field

import pytest

from tests.protocol.test_stream import REACHED
from warren.errors import EndReason
from warren.protocol.pace import (
    BUSY_SECONDS,
    COMPANY_SECONDS,
    QUEUE_SECONDS,
    SHARED_BYTES,
    Pace,
)
from warren.protocol.stream import FIRST_WINDOW, LEAST_WINDOW, MOST_WINDOW, StreamProtocol

ROUND_TRIP = 0.1


@dataclass
class Path:
    """Be a sender that always has more, and a path with a round trip and a rate, on paper."""

    rate: float
    now: float = 0.0
    pace: Pace = field(init=False)
    stream: StreamProtocol = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(lambda: self.now)
        self.pace.begin(ROUND_TRIP)
        self.stream = StreamProtocol(1, self.pace, is_origin=True)
        self.stream.receive_connected(REACHED)
        self._limits = [(-ROUND_TRIP, self.stream.allowed)]  # when the sender learns of which limit

    def run(self, seconds: float, *, company: bool = False) -> None:
        """Let bytes arrive, a millisecond's worth at a time, and be consumed at once."""
        stream, end = self.stream, self.now + seconds
        while self.now < end:
            self.now += 0.001
            if company:
                self.pace.note_company(2)
            limit = max(limit for since, limit in self._limits if since + ROUND_TRIP <= self.now)
            size = min(int(self.rate * 0.001), limit - stream.received)
            if size > 0:
                stream.receive_data(memoryview(bytes(size)))
                stream.incoming.clear()
                stream.consume(size)
            if stream.credit_is_due:
                self._limits.append((self.now, stream.take_credit()[1]))
                del self._limits[:-200]

    @property
    def queue_seconds(self) -> float:
        """Return how long a byte would wait behind the whole window, beyond the round trip."""
        return self.stream.window / self.rate - ROUND_TRIP


def test_alone_a_window_becomes_as_wide_as_it_may() -> None:
    path = Path(rate=50e6)

    path.run(3)

    assert path.stream.window == MOST_WINDOW


def test_in_company_a_window_fills_the_path_and_builds_little_queue() -> None:
    path = Path(rate=5e6)
    path.run(3)
    alone = path.queue_seconds

    path.run(4, company=True)
    before = path.stream.received
    path.run(1, company=True)

    assert alone > 5 * ROUND_TRIP
    assert 0 < path.queue_seconds <= 0.75 * ROUND_TRIP
    assert path.stream.received - before >= 0.9 * path.rate


def test_a_stream_that_begins_in_company_fills_the_path_too() -> None:
    path = Path(rate=5e6)

    path.run(3, company=True)
    before = path.stream.received
    path.run(1, company=True)

    assert path.stream.received - before >= 0.9 * path.rate
    assert path.queue_seconds <= 0.75 * ROUND_TRIP


def test_without_company_a_window_becomes_wide_again() -> None:
    path = Path(rate=10e6)
    path.run(3)
    path.run(3, company=True)
    narrow = path.stream.window

    path.run(COMPANY_SECONDS + 3)

    assert narrow < MOST_WINDOW // 2
    assert path.stream.window == MOST_WINDOW


def test_a_slow_circuit_leaves_the_least_window() -> None:
    path = Path(rate=100e3)
    path.run(2)

    path.run(10, company=True)

    assert LEAST_WINDOW <= path.stream.window <= FIRST_WINDOW
    assert path.stream.received >= 0.9 * path.rate * 10


def test_a_stream_is_no_company_of_itself() -> None:
    pace = Pace(lambda: 0.0)

    pace.note_company(1)

    assert not pace.has_company(1)
    assert pace.has_company(2)


def test_little_at_a_time_is_company_and_little_of_much_is_not() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    typed, fast = (StreamProtocol(number, pace, is_origin=False) for number in (1, 2))

    for _ in range(30):  # a piece every 10 ms, of 10 bytes and of 12 KiB
        now += 0.01
        fast.receive_data(memoryview(bytes(12 * 1024)))
        fast.incoming.clear()
        fast.consume(12 * 1024)
        fast.take_credit()
        fast.note_little()
    assert not pace.has_company(1)

    for _ in range(30):
        now += 0.01
        typed.receive_data(memoryview(bytes(10)))
        typed.note_little()
    assert pace.has_company(2)


def test_who_is_cut_short_by_a_window_is_no_company_however_slow() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    slow = StreamProtocol(1, pace, is_origin=False)
    limits = deque([slow.allowed])  # what the sender learns, some of it long after it was said
    noted = []

    for _ in range(10):
        now += 0.1
        limit = limits.popleft()
        while slow.received < limit:
            size = min(4000, limit - slow.received)
            slow.receive_data(memoryview(bytes(size)))
            slow.incoming.clear()
            slow.consume(size)
            if slow.credit_is_due:
                limits.append(slow.take_credit()[1])
        slow.note_little()
        noted.append(pace.has_company(2))

    assert len(limits) > 1
    assert not any(noted)


def test_one_answer_however_late_is_no_talk() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    stream = StreamProtocol(1, pace, is_origin=False)

    now = 5.0
    stream.receive_data(memoryview(b"an answer"))
    stream.note_little()

    assert not pace.has_company(2)


def test_a_stream_that_is_over_is_no_company_any_more() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    stream = StreamProtocol(1, pace, is_origin=False)
    for _ in range(2):
        now += 1
        stream.receive_data(memoryview(b"key"))
        stream.note_little()
    before = pace.has_company(2)

    stream.lose(EndReason.DESTROY)

    assert before
    assert not pace.has_company(2)


@pytest.mark.parametrize("round_trip", [0.0, 1e-9, 1e-3])
def test_a_round_trip_of_nothing_is_no_trouble(round_trip: float) -> None:
    pace = Pace(lambda: 0.0)

    share = pace.share(round_trip)

    assert 1 < share < 1 + 2 * QUEUE_SECONDS / 1e-6


def busy_streams(pace: Pace, count: int) -> list[StreamProtocol]:
    """Return streams that took turns until each had moved 8 MiB."""
    streams = [StreamProtocol(number, pace, is_origin=False) for number in range(1, count + 1)]
    for _ in range(512):
        for stream in streams:
            take(stream, 16 * 1024)
    return streams


def take(stream: StreamProtocol, size: int) -> None:
    """Let `size` bytes come and be consumed at once, and grant more as soon as it is due."""
    stream.receive_data(memoryview(bytes(size)))
    stream.incoming.clear()
    stream.consume(size)
    if stream.credit_is_due:
        stream.take_credit()


@pytest.mark.parametrize("count", [1, 2, 10, 50])
def test_what_busy_streams_may_have_on_their_way_is_theirs_together(count: int) -> None:
    pace = Pace(lambda: 0.0)

    streams = busy_streams(pace, count)

    on_their_way = sum(stream.allowed - stream.consumed for stream in streams)
    assert on_their_way <= SHARED_BYTES
    assert all(s.window == min(MOST_WINDOW, SHARED_BYTES // count) for s in streams)


def test_who_is_over_leaves_its_share_to_the_others() -> None:
    pace = Pace(lambda: 0.0)
    stays, *others = busy_streams(pace, 50)
    narrow = stays.window

    for other in others:
        other.lose(EndReason.DESTROY)
    for _ in range(1024):
        take(stays, 16 * 1024)

    assert narrow < MOST_WINDOW
    assert stays.window == MOST_WINDOW


@pytest.mark.parametrize("silence", [3 * BUSY_SECONDS, 100 * BUSY_SECONDS])
def test_who_moves_nothing_any_more_has_no_share(silence: float) -> None:
    now = 0.0
    pace = Pace(lambda: now)
    stays, *_ = busy_streams(pace, 50)
    narrow = stays.window

    for _ in range(2048):
        now += silence / 2048
        take(stays, 16 * 1024)

    assert narrow < MOST_WINDOW
    assert stays.window == MOST_WINDOW
