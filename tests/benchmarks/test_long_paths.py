"""Transfers over a long path: their second halves, against the origin with no proxy between."""

import pytest

from benchmarks.client import Direction
from benchmarks.long_paths import PATHS, second_half_rate
from benchmarks.route import Route
from benchmarks.systems import running_origin
from warren.lab.line import Impairment
from warren.lab.plan import LabOptions


@pytest.mark.parametrize("direction", ["down", "up"])
def test_both_halves_of_a_transfer_arrive_and_the_second_has_a_rate(direction: Direction) -> None:
    with running_origin() as origin:
        assert second_half_rate(Route(origin.place), direction, 40_000_001) > 0


def test_every_path_is_one_that_a_lab_accepts_and_as_fast_as_it_says() -> None:
    for path in PATHS:
        lines = dict(text.split("=", 1) for text in path.impairments)
        impairments = {name: Impairment.parse(line) for name, line in lines.items()}

        LabOptions(relays=3, exits=1, impairments=impairments)
        assert {each.rate for each in impairments.values()} == {path.rate}
