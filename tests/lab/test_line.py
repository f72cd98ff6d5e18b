"""The line of an impairment: what its words mean, and when bytes come out of it."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.errors import ConfigError
from warren.lab.line import MOST_STALL, SEGMENT_BYTES, Impairment, Line

latencies = st.floats(0, 10)
rates = st.one_of(st.just(math.inf), st.floats(1000, 1e10))
stalls = st.floats(0, MOST_STALL)
impairments = st.builds(Impairment, latencies, rates, stalls)


def line(impairment: Impairment) -> Line:
    return Line(impairment, random.Random(1))


def empty(line: Line) -> list[tuple[float, bytes]]:
    """Let all that is in `line` come out, each piece when it is due."""
    out = []
    while line.next_at < math.inf:
        now = line.next_at
        out += [(now, data) for data in line.leave(now)]
    return out


# ---- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150ms", Impairment(0.15)),
        ("0.15s,12.5MB/s", Impairment(0.15, 12.5e6)),
        ("100Mbit/s, 150ms", Impairment(0.15, 12.5e6)),
        ("64kB/s", Impairment(rate=64e3)),
        ("stall=0.001", Impairment(stall=0.001)),
        ("stall=0.01:50ms,1Gbit/s", Impairment(0, 125e6, 0.01, 0.05)),
    ],
)
def test_latency_rate_and_stall_stand_in_any_order(text: str, expected: Impairment) -> None:
    assert Impairment.parse(text) == expected


@given(impairments)
def test_what_is_written_is_read_again(impairment: Impairment) -> None:
    assert Impairment.parse(str(impairment)) == impairment


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "''"),
        ("150", "'150'"),
        ("150 ms", "'150 ms'"),
        ("-1ms", "'-1ms'"),
        ("1MB", "'1MB'"),
        ("1ms,2ms", "a second latency"),
        ("1MB/s,1kB/s", "a second rate"),
        ("stall=often", "'stall=often'"),
        ("stall=0.1:soon", "'soon'"),
        ("stall=0.6", "a stall of 0.6"),
        ("stall=nan", "a stall of nan"),
        ("stall=0.1:11s", "a stall time of 11 s"),
        ("11s", "a latency of 11 s"),
        ("1B/s", "a rate of 1 B/s"),
    ],
)
def test_a_wrong_line_is_refused_with_what_was_found_and_expected(text: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Impairment.parse(text)

    assert found in str(caught.value)
    if "second" not in found:
        assert "expected" in str(caught.value)


@given(st.text())
def test_garbage_is_a_configuration_error_and_nothing_else(text: str) -> None:
    try:
        Impairment.parse(text)
    except ConfigError:
        return
    assert text.strip()


# ---- time


def test_a_byte_takes_the_latency_and_the_time_to_leave() -> None:
    slow = line(Impairment(0.5, 1000.0))

    slow.enter(bytes(1000), now=10.0)

    assert slow.leave(11.49) == []
    assert slow.next_at == pytest.approx(11.5)
    assert slow.leave(11.51) == [bytes(1000)]
    assert slow.next_at == math.inf


def test_bytes_behind_others_leave_after_them() -> None:
    slow = line(Impairment(0.5, 1000.0))

    slow.enter(b"a" * 1000, now=0.0)
    slow.enter(b"b" * 1000, now=0.5)
    slow.enter(b"c" * 1000, now=9.0)

    assert [round(at, 6) for at, _ in empty(slow)] == [1.5, 2.5, 10.5]


def test_much_does_not_leave_as_a_lump() -> None:
    quick = line(Impairment(0.0, 1e6))

    quick.enter(bytes(50_000), now=0.0)
    times = [at for at, _ in empty(quick)]

    assert len(times) == 25
    assert times[0] == pytest.approx(0.002)
    assert times[-1] == pytest.approx(0.05)


def test_the_end_comes_behind_all_bytes_and_as_late() -> None:
    slow = line(Impairment(0.5, 1000.0))

    slow.enter(b"x" * 1000, now=0.0)
    slow.end(now=0.1)

    assert [data for _, data in empty(slow)] == [b"x" * 1000, b""]
    slow.end(now=5.0)
    assert slow.next_at == 5.5


@given(impairments, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30))
def test_everything_comes_out_once_in_order_and_never_early(
    impairment: Impairment, steps: list[tuple[float, float]]
) -> None:
    tested, now, entered, left = line(impairment), 0.0, bytearray(), bytearray()

    for seconds, share in steps:
        now += seconds
        data = bytes(len(entered) % 251 for _ in range(int(share * min(tested.room(now), 5000))))
        if data:
            tested.enter(data, now)
            assert tested.next_at >= impairment.latency
        entered += data
        left += b"".join(tested.leave(now))
    for at, data in empty(tested):
        assert at >= now or not data
        left += data

    assert left == entered
    assert tested.carried == len(entered)


# ---- bounds


def test_no_more_enters_than_a_round_trip_carries_until_something_has_left() -> None:
    impairment = Impairment(0.1, 1e6)
    full = line(impairment)

    full.enter(bytes(full.room(0.0)), now=0.0)

    assert impairment.queue_bytes == 200_000
    assert full.room(0.0) == 0
    assert full.room(0.05) == pytest.approx(50_000, abs=2000)


def test_a_line_whose_end_nobody_empties_fills_up() -> None:
    impairment = Impairment(0.1, 1e6)
    full = line(impairment)
    now = 0.0

    for _ in range(100):
        now += 1
        full.enter(bytes(full.room(now)), now)

    assert full.room(now + 1000) == 0
    assert len(b"".join(full.leave(math.inf))) == impairment.most_bytes


# ---- stalls


def test_a_segment_stalls_as_often_as_it_is_asked_to() -> None:
    lossy = line(Impairment(stall=0.01, stall_seconds=0.0))

    for _ in range(20_000):
        lossy.enter(bytes(SEGMENT_BYTES), now=0.0)
        lossy.leave(0.0)

    assert 150 <= lossy.stalls <= 250


def test_what_comes_behind_a_stall_waits_for_it() -> None:
    lossy = line(Impairment(stall=0.5, stall_seconds=0.2))

    lossy.enter(bytes(SEGMENT_BYTES * 20), now=0.0)
    times = [at for at, _ in empty(lossy)]

    assert lossy.stalls > 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(0.2 * lossy.stalls)


def test_the_same_seed_stalls_the_same_segments() -> None:
    impairment = Impairment(rate=1e6, stall=0.1)
    one, other = line(impairment), line(impairment)

    for each in (one, other):
        each.enter(bytes(60_000), now=0.0)

    assert empty(one) == empty(other)
