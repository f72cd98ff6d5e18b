"""The picture: well-formed, and as long as it should be."""

from xml.etree import ElementTree as ET

import pytest

from benchmarks.figures import FIGURES
from benchmarks.measures import Sample
from benchmarks.plot import draw, make_rows
from benchmarks.results import Results
from tests.benchmarks.papers import CONDITIONS, paper_results

SVG = "{http://www.w3.org/2000/svg}"


def bars(svg: str) -> list[ET.Element]:
    """Return the bars; the first rectangle is the background."""
    return ET.fromstring(svg).findall(f"{SVG}rect")[1:]


@pytest.mark.parametrize("systems", [("warren",), ("warren", "tor"), ("warren", "tor", "chain")])
def test_the_picture_is_well_formed(systems: tuple[str, ...]) -> None:
    svg = draw(paper_results(*systems))

    assert ET.fromstring(svg).tag == f"{SVG}svg"


def test_a_picture_of_nothing_is_well_formed_too() -> None:
    assert bars(draw(Results(CONDITIONS, ["warren"]))) == []


def test_a_bar_says_how_many_times_as_good_we_are() -> None:
    rows = {row.label: row for row in make_rows(paper_results("warren", "tor", "chain"))}

    assert rows["one stream down"].bar == pytest.approx(2)
    assert rows["one stream down, CPU, all processes"].bar == pytest.approx(2)
    assert rows["echo on an open stream, p50"].chain == pytest.approx(0.5)


def test_what_cannot_be_compared_has_no_bar() -> None:
    labels = [row.label for row in make_rows(paper_results("warren", "tor"))]

    assert FIGURES["idle"].title not in labels  # ours did not grow: no multiple of it means much


def test_the_reference_is_tor_where_there_is_one() -> None:
    [first, *_] = make_rows(paper_results("warren", "chain", "tor"))

    assert first.text == "210 MB/s, tor 52.5"
    assert first.bar == pytest.approx(4)


def test_without_a_peer_the_spread_is_shown() -> None:
    [first, *_] = make_rows(paper_results("warren"))

    assert first.text == "210 MB/s"
    assert first.bar == pytest.approx(1)
    assert first.least == pytest.approx(200 / 210)
    assert first.most == pytest.approx(220 / 210)


def test_twice_as_good_reaches_to_the_right_and_half_to_the_left() -> None:
    results = Results(CONDITIONS, ["warren", "tor"])
    for system, rate in (("warren", 200.0), ("tor", 100.0)):
        results.add(system, "down", Sample({"down": rate, "down.cpu": rate}, 0.0))

    better, worse = bars(draw(results))

    assert float(worse.attrib["x"]) < float(better.attrib["x"])
    widths = [float(bar.attrib["width"]) for bar in (better, worse)]
    assert widths[0] == pytest.approx(widths[1], abs=0.2)
