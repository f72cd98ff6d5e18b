"""Whose word about the time counts, on paper."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.clock_hints import HINT_SECONDS, MOST_HINTS, ClockHints, clock_trouble
from warren.directory.parameters import Parameters

RIGHT = 1_800_000_000
HOUR, DAY = 3600, 86400
FAST, SLOW = RIGHT + 2 * DAY, RIGHT - 2 * DAY
#: Three networks, and more relays in the first.
ONE, TWO, THREE = "198.51.100.1", "203.0.113.1", "192.0.2.1"
NEIGHBOURS = ("198.51.7.1", "198.51.8.1", "198.51.9.1")


def hints(*said: tuple[str, int], every: float = 0.0) -> ClockHints:
    """Return what is known after each has said its time, counted from 1000 s on."""
    known = ClockHints(Parameters())
    for number, (host, time) in enumerate(said):
        known.hear(ip_address(host), time + round(number * every), 1000 + number * every)
    return known


def error_of(known: ClockHints, wall: float = RIGHT) -> float | None:
    return known.error(wall, 1000)


@pytest.mark.parametrize("off", [3 * HOUR, 2 * DAY, 365 * DAY, -3 * HOUR, -2 * DAY, -365 * DAY])
def test_three_relays_of_different_networks_tell_how_wrong_a_clock_is(off: int) -> None:
    known = hints((ONE, RIGHT), (TWO, RIGHT + 2), (THREE, RIGHT - 4))

    assert error_of(known, RIGHT + off) == off


def test_two_are_not_enough() -> None:
    assert error_of(hints((ONE, RIGHT), (TWO, RIGHT)), FAST) is None


@pytest.mark.parametrize("liars", [(ONE,), NEIGHBOURS])
def test_a_liar_or_three_in_one_network_change_nothing(liars: tuple[str, ...]) -> None:
    lies = [(liar, SLOW) for liar in liars]
    truth = [(TWO, RIGHT), (THREE, RIGHT), ("100.64.0.1", RIGHT)]

    alone, before, behind = hints(*lies), hints(*lies, *truth), hints(*truth, *lies)

    assert error_of(alone) is None
    for known in (before, behind):
        assert error_of(known) is None
        assert error_of(known, FAST) == 2 * DAY


def test_two_honest_ones_and_a_liar_agree_on_nothing() -> None:
    assert error_of(hints((ONE, RIGHT), (TWO, SLOW), (THREE, RIGHT)), FAST) is None


def test_a_relay_that_says_it_three_times_counts_once() -> None:
    assert error_of(hints((ONE, RIGHT), (ONE, RIGHT), (ONE, RIGHT)), FAST) is None


def test_a_relay_that_is_dialled_often_pushes_nobody_out() -> None:
    often = [(TWO, RIGHT)] * MOST_HINTS

    assert error_of(hints((ONE, RIGHT), *often, (THREE, RIGHT)), FAST) == 2 * DAY


def test_of_ipv6_a_network_is_what_paths_take_for_one() -> None:
    near = [(f"2001:db8:{n}::1", RIGHT) for n in range(3)]
    apart = [(f"2001:{n}::1", RIGHT) for n in range(3)]

    assert error_of(hints(*near), FAST) is None
    assert error_of(hints(*apart), FAST) == 2 * DAY


def test_a_network_for_tests_tells_them_apart_by_what_its_parameters_say() -> None:
    loopback = [ip_address(f"127.0.{n}.1") for n in range(3)]
    usual, lab = ClockHints(Parameters()), ClockHints(Parameters(subnet_v4_prefix=24))

    for known in (usual, lab):
        for host in loopback:
            known.hear(host, RIGHT, 1000)

    assert (error_of(usual, FAST), error_of(lab, FAST)) == (None, 2 * DAY)


@pytest.mark.parametrize(("every", "error"), [(HINT_SECONDS / 2, 2 * DAY), (301.0, None)])
def test_what_was_said_within_ten_minutes_counts_together(
    every: float, error: float | None
) -> None:
    assert error_of(hints((ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT), every=every), FAST) == error


def test_what_was_agreed_on_holds_for_longer_and_through_a_clock_that_is_set() -> None:
    known = hints((ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))
    later = 1000 + 5 * HOUR
    known.hear(ip_address(ONE), RIGHT + 5 * HOUR, later)

    assert known.error(FAST + 5 * HOUR, later) == 2 * DAY
    assert known.error(RIGHT + 5 * HOUR, later) is None


def test_relays_of_three_other_networks_may_correct_it() -> None:
    known = hints((ONE, SLOW), (TWO, SLOW), (THREE, SLOW))

    for number in range(4):
        known.hear(ip_address(f"100.{number}.0.1"), RIGHT, 1000)

    assert error_of(known) is None


def test_half_of_the_networks_are_not_believed() -> None:
    times = (SLOW, RIGHT, SLOW, RIGHT, RIGHT, SLOW)

    known = hints(*((f"100.{number}.0.1", time) for number, time in enumerate(times)))

    # Three of five were believed; the sixth made it three of six, and changes nothing.
    assert error_of(known, FAST) == 2 * DAY


@pytest.mark.parametrize(("off", "is_told"), [(1799, False), (1801, True), (-1801, True)])
def test_an_error_that_the_network_bears_is_none(off: int, is_told: bool) -> None:
    known = hints((ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))

    assert (error_of(known, RIGHT + off) is not None) == is_told


def test_after_a_sleep_nothing_is_known() -> None:
    known = hints((ONE, RIGHT), (TWO, RIGHT), (THREE, RIGHT))

    known.forget()

    assert error_of(known, FAST) is None


_LIES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 255), st.integers(0, 2**64 - 1)),
    max_size=2 * MOST_HINTS,
)


@given(_LIES)
def test_nobody_in_two_networks_makes_a_clock_wrong(
    lies: list[tuple[int, int, int]],
) -> None:
    known = hints(*((f"203.{network}.0.{host}", time) for network, host, time in lies))

    assert error_of(known) is None
    assert len(known._hints) <= MOST_HINTS


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (45 * 60, "about 45 minutes fast"),
        (-80 * 60, "about 80 minutes slow"),
        (3 * HOUR + 60, "about 3 hours fast"),
        (-35 * HOUR, "about 35 hours slow"),
        (-2 * DAY, "about 2 days slow"),
        (365 * DAY, "about 365 days fast"),
    ],
)
def test_a_person_reads_by_how_much_and_which_way_and_what_to_do(error: float, words: str) -> None:
    assert clock_trouble(error) == (
        f"the clock of this machine is {words}, as several relays say: set it right, and this goes "
        "on by itself"
    )
