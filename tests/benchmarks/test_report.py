"""The table that people read."""

import io

from benchmarks.figures import FIGURES
from benchmarks.report import describe, describe_goal, print_report
from tests.benchmarks.papers import paper_results


def printed(*systems: str) -> list[str]:
    output = io.StringIO()
    print_report(paper_results(*systems), output)
    return output.getvalue().splitlines()


def line_of(lines: list[str], title: str) -> str:
    [found] = [line for line in lines if line.startswith(title)]
    return " ".join(found.split())


def test_a_figure_shows_median_spread_and_load() -> None:
    line = line_of(printed("warren"), "one stream down")

    assert line == "one stream down, MB/s 210 [200..220] 0.10"


def test_a_peer_shows_its_own_and_the_ratio() -> None:
    line = line_of(printed("warren", "tor"), "one stream down")

    assert "105 [100..110] 0.10 2.00 ×" in line


def test_goals_are_judged_against_the_peer_that_they_name() -> None:
    lines = printed("warren", "tor")

    assert line_of(lines, "one stream down").endswith("≥ 5 × tor missed")
    assert line_of(lines, "echo on an open stream").endswith("≤ 1.3, 0.9 × tor met")


def test_a_goal_without_a_peer_is_judged_alone() -> None:
    assert line_of(printed("warren"), "1000 idle streams").endswith("0.000 ≤ 40, 12 met")


def test_a_goal_names_its_floor_first_and_once() -> None:
    texts = [describe_goal(FIGURES["down"], goal) for goal in FIGURES["down"].goals]

    assert texts == ["≥ 5 × tor", "≥ 3 × tor-bulk", "≥ 0.7, 1 × chain"]


def test_the_conditions_say_where_it_ran() -> None:
    text = describe(paper_results("warren"))

    assert "in a network namespace of its own, TCP reno; 2 runs." in text


def test_what_failed_is_printed() -> None:
    results = paper_results("warren")
    results.errors.append("run 1, up, warren: the stream ended [early]")
    output = io.StringIO()

    print_report(results, output)

    assert "failed: run 1, up, warren: the stream ended [early]" in output.getvalue()
