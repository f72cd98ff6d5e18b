"""What a run found, and how it is written down."""

import json

import pytest

from benchmarks.measures import Sample
from benchmarks.results import Conditions, Results
from tests.benchmarks.papers import CONDITIONS, paper_results


def test_runs_of_a_figure_are_summed_up() -> None:
    runs = paper_results("warren").summary("down", "warren")

    assert runs is not None
    assert runs.values == pytest.approx((200, 220))
    assert runs.loads == (0.1, 0.1)


def test_figures_come_in_the_order_of_the_table() -> None:
    assert list(paper_results("warren").figures()) == ["down", "down.cpu", "echo.p50", "idle"]


def test_a_figure_that_the_table_does_not_have_is_left_out() -> None:
    results = Results(CONDITIONS, ["warren"])
    results.add("warren", "down10", Sample({"down10.cpu": 1.0}, 0.0))

    assert list(results.figures()) == []


def test_a_ratio_needs_both_systems() -> None:
    results = paper_results("warren", "tor")

    assert results.ratio("down", "tor") == pytest.approx(2)
    assert results.ratio("down", "chain") is None


def test_details_are_medians_by_process() -> None:
    results = Results(CONDITIONS, ["warren"])
    for peak in (5.0, 1.0, 3.0):
        results.add("warren", "memory", Sample({}, None, {"peak MiB": {"client": peak}}))

    assert results.by_process("memory", "peak MiB", "warren") == {"client": 3.0}
    assert results.by_process("memory", "now MiB", "warren") == {}


def test_the_json_says_what_when_and_how_noisy_it_was() -> None:
    results = paper_results("warren", "tor")
    results.errors.append("run 1, down, tor: no answer")

    read = json.loads(json.dumps(results.as_json()))

    assert read["conditions"]["date"] == "2026-01-31"
    assert read["systems"] == ["warren", "tor"]
    assert read["figures"]["down"]["systems"]["warren"]["median"] == 210
    assert read["figures"]["down"]["systems"]["tor"]["other_load"] == [0.1, 0.1]
    assert read["figures"]["down"]["ratios"] == {"tor": 2.0}
    assert read["by_process"]["idle, idle MiB, tor"] == {"client": 4.0}
    assert read["errors"] == ["run 1, down, tor: no answer"]


def test_the_conditions_here_are_those_of_this_machine() -> None:
    here = Conditions.here(
        is_private_network=False, congestion_control="cubic", runs=1, is_quick=True
    )

    assert here.cores >= 1
    assert here.python.startswith("3.")
