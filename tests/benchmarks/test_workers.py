"""The benchmark of workers: what its figures mean."""

import pytest

from benchmarks.__main__ import main
from benchmarks.workers import GIGABYTE, Spent, _rows, _spent

ONE = Spent(GIGABYTE, 0.0, (10.0,))
TWO = Spent(GIGABYTE, 0.5, (6.0, 4.0))


def test_the_busiest_process_bounds_what_a_relay_can_carry() -> None:
    assert ONE.capacity == pytest.approx(100)
    assert TWO.capacity == pytest.approx(1000 / 6)
    assert Spent(GIGABYTE, 8.0, (2.0, 2.0)).capacity == pytest.approx(125)


def test_all_processes_of_a_relay_cost() -> None:
    assert ONE.cost == pytest.approx(10)
    assert TWO.cost == pytest.approx(10.5)


def test_shares_say_how_even_the_load_is() -> None:
    assert (ONE.busiest_share, ONE.main_share) == (1.0, 0.0)
    assert TWO.busiest_share == pytest.approx(0.6)
    assert TWO.main_share == pytest.approx(0.5 / 10.5)


def test_a_relay_of_one_process_is_its_own_worker() -> None:
    assert _spent(GIGABYTE, [5.0], [15.0]) == ONE
    assert _spent(GIGABYTE, [1.0, 0.0, 2.0], [1.5, 6.0, 6.0]) == TWO


def test_a_line_compares_medians_with_one_worker() -> None:
    rows = list(_rows({2: [{"exit1": TWO}], 1: [{"exit1": ONE}, {"exit1": ONE}]}))

    assert rows == [
        ("1", "exit1", "100", "1.00", "10.00", "100%", "0.0%"),
        ("2", "exit1", "167", "1.67", "10.50", "60%", "4.8%"),
    ]


def test_a_time_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["workers", "--seconds", "0"])

    assert refusal.value.code == 2
    assert "--seconds: is 0, expected 0.1 to 3600" in capsys.readouterr().err
