"""Numbers are said as people read them."""

import pytest

from warren.status.text.units import amount, duration, moved, pause, size


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (10 * 1024 - 1, "10 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (12_345_678, "12 MiB"),
        (9.94 * 1024**3, "9.9 GiB"),
        (5 * 1024**4, "5.0 TiB"),
        (2000 * 1024**6, "2,000 EiB"),
    ],
)
def test_sizes_have_a_unit_in_which_they_are_short(count: float, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3 * 3600 + 12 * 60 + 59, "3 h 12 min"),
        (86400, "1 d"),
        (40 * 86400 + 5 * 3600, "40 d 5 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.043, "43 ms"), (1, "1.0 s"), (12.34, "12.3 s")])
def test_pauses_are_told_to_the_millisecond_while_they_are_short(seconds: float, said: str) -> None:
    assert pause(seconds) == said


def test_one_of_something_is_no_plural() -> None:
    assert amount(1, "stream{s} opened") == "1 stream opened"
    assert amount(2, "stream{s} opened") == "2 streams opened"
    assert amount(1234, "consensus{es}") == "1,234 consensuses"


def test_a_cell_has_4096_bytes() -> None:
    assert moved(256) == "1.0 MiB"
