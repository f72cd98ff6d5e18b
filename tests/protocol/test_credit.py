"""Windows of cells: their law, when they grant, when they widen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.errors import ProtocolError
from warren.protocol.credit import MOST_WINDOW, SCHEDULING_SECONDS, CreditBudget, ReceiveWindow

sizes = st.integers(1, MOST_WINDOW)
ROUND_TRIP = 0.1
#: Longer than any window needs to count as the limit.
SLOW = 10.0


def fixed_window(size: int) -> ReceiveWindow:
    """Return a window that cannot grow."""
    return ReceiveWindow(size, CreditBudget(0))


def carry(window: ReceiveWindow, cells: int, now: float) -> int:
    """Receive cells and pass them on at once; return what was granted."""
    window.received(cells)
    return window.passed(cells, now, ROUND_TRIP)


operations = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 0.3)), min_size=1, max_size=80
)


@given(sizes, st.integers(0, 3000), operations)
def test_outstanding_held_and_owed_are_always_the_window(
    size: int, budget_size: int, steps: list[tuple[bool, float, float]]
) -> None:
    budget = CreditBudget(budget_size)
    window = ReceiveWindow(size, budget)
    now = 0.0

    for is_arrival, share, seconds in steps:
        now += seconds
        if is_arrival:
            window.received(round(share * window.outstanding))
        else:
            window.passed(round(share * window.held), now, ROUND_TRIP)
        assert window.outstanding + window.held + window.owed == window.size
        assert min(window.outstanding, window.held, window.owed) >= 0
        assert size <= window.size <= MOST_WINDOW
        assert budget.left == budget_size - (window.size - size) >= 0


@given(sizes, operations)
def test_the_sender_counts_what_the_receiver_granted(
    size: int, steps: list[tuple[bool, float, float]]
) -> None:
    window, credit, now = ReceiveWindow(size, CreditBudget(5000)), size, 0.0

    for is_arrival, share, seconds in steps:
        now += seconds
        if is_arrival:
            cells = round(share * credit)
            credit -= cells
            window.received(cells)
        else:
            credit += window.passed(round(share * window.held), now, ROUND_TRIP)
        assert credit == window.outstanding


@given(sizes)
def test_a_sender_never_waits_when_everything_was_passed_on(size: int) -> None:
    window = fixed_window(size)

    for _ in range(3):
        window.received(window.outstanding)
        window.passed(window.held, SLOW, ROUND_TRIP)
        assert window.outstanding > 0


@given(sizes, st.integers(0, 2000))
def test_cells_without_credit_are_refused(size: int, more: int) -> None:  # FLO-2, T20
    window = fixed_window(size)
    window.received(size)

    with pytest.raises(ProtocolError):
        window.received(1 + more)


@pytest.mark.parametrize(("size", "worth"), [(1024, 64), (400, 64), (64, 16), (10, 3), (1, 1)])
def test_credit_is_granted_when_a_quarter_of_the_window_or_64_cells_are_owed(
    size: int, worth: int
) -> None:
    window = fixed_window(size)

    granted = [carry(window, 1, SLOW) for _ in range(worth)]

    assert granted == [0] * (worth - 1) + [worth]


def test_a_window_that_was_the_limit_doubles_up_to_the_most() -> None:
    budget = CreditBudget(5000)
    window = ReceiveWindow(64, budget)

    seen = []
    for _ in range(6):
        carry(window, window.outstanding, now=0.0)
        seen.append(window.size)

    assert seen == [128, 256, 512, 1024, 1024, 1024]
    assert budget.left == 5000 - (1024 - 64)


def test_a_window_takes_no_more_than_the_node_has_left() -> None:
    window = ReceiveWindow(64, CreditBudget(40))

    granted = carry(window, 64, now=0.0)

    assert (window.size, granted) == (104, 104)


@pytest.mark.parametrize(
    ("seconds", "widened"), [(2 * ROUND_TRIP + SCHEDULING_SECONDS, True), (0.22, False)]
)
def test_a_window_widens_only_when_it_went_through_in_two_round_trips(
    seconds: float, widened: bool
) -> None:
    window = ReceiveWindow(64, CreditBudget(5000), now=5.0)

    carry(window, 64, 5.0 + seconds)

    assert (window.size > 64) is widened


def test_a_window_is_timed_from_when_the_one_before_had_gone_through() -> None:
    window = ReceiveWindow(64, CreditBudget(5000))

    carry(window, 64, now=100.0)
    assert window.size == 64
    carry(window, 64, now=100.1)

    assert window.size == 128


def test_a_window_does_not_widen_while_its_cells_wait_here() -> None:
    window = ReceiveWindow(64, CreditBudget(5000))
    window.received(64)
    window.passed(16, 0.0, ROUND_TRIP)
    window.passed(16, 0.0, ROUND_TRIP)
    window.received(32)

    for _ in range(2):
        window.passed(16, 0.0, ROUND_TRIP)
        window.received(16)

    assert (window.size, window.held) == (64, 64)


def test_no_window_widens_while_the_node_is_pressed() -> None:  # DOS-5
    budget = CreditBudget(5000)
    budget.is_pressed = True
    window = ReceiveWindow(64, budget)

    carry(window, 64, now=0.0)
    pressed = window.size
    budget.is_pressed = False
    carry(window, 64, now=0.0)

    assert (pressed, window.size) == (64, 128)


def test_a_closed_window_gives_back_what_it_grew_by_once() -> None:
    budget = CreditBudget(100)
    window = ReceiveWindow(64, budget)
    carry(window, 64, now=0.0)

    window.close()
    window.close()

    assert budget.left == 100
