"""The results as a picture: one bar for each figure, as long as it is many times as good.

The axis is logarithmic, so that twice as good and half as good are equally far from the line in
the middle, which is C Tor in the same run; where that is missing another peer is, or Warren's own
median, and then the picture shows the spread alone. A thin line is the spread of the runs, a
diamond is the shadowsocks chain.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.figures import FIGURES, Figure, Summary, advantage, ratio, ratios, show
from benchmarks.results import Results

_LEFT, _WIDTH, _RIGHT = 285, 420, 190
_TOP, _ROW, _BOTTOM = 58, 22, 30
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_GOOD, _BAD, _OTHER = "#2a7f62", "#b4553a", "#5b6b8c"


@dataclass(frozen=True)
class Row:
    """Hold one bar: how many times as good as the reference, with the spread and the chain."""

    label: str
    text: str
    bar: float
    least: float
    most: float
    chain: float | None = None


def reference_of(results: Results) -> str:
    """Return the system that bars are compared with."""
    return next((peer for peer in ("tor", *results.systems[1:]) if peer in results.systems), "")


def make_rows(results: Results) -> Iterator[Row]:
    """Yield a row for each figure that can be compared."""
    ours = results.systems[0]
    reference = reference_of(results) or ours
    for key in results.figures():
        figure = FIGURES[key]
        runs, base = results.summary(key, ours), results.summary(key, reference)
        if runs is None or base is None or base.median <= 0:
            continue
        found = ratios(runs, base) if reference != ours else _spread(runs)
        bars = [bar for value in found if (bar := advantage(figure, value)) is not None]
        if len(bars) < len(found) or not bars:
            continue
        text = f"{show(runs.median)} {figure.unit}"
        if reference != ours:
            text += f", {reference} {show(base.median)}"
        bar, chain = statistics.median(bars), _chain(results, figure, reference)
        yield Row(_label(figure), text, bar, min(bars), max(bars), chain)


def _spread(runs: Summary) -> tuple[float, ...]:
    """Return the runs as multiples of their own median."""
    return tuple(value / runs.median for value in runs.values)


def _label(figure: Figure) -> str:
    """Return a title that stands alone: an indented one continues the line above it."""
    if not figure.title.startswith(" "):
        return figure.title
    group = figure.key.partition(".")[0]
    head = next(each for each in FIGURES.values() if each.key.partition(".")[0] == group)
    return f"{head.title.removesuffix(', p50')}, {figure.title.strip()}"


def _chain(results: Results, figure: Figure, reference: str) -> float | None:
    if reference == "chain":
        return None
    chain, base = results.summary(figure.key, "chain"), results.summary(figure.key, reference)
    value = None if chain is None or base is None else ratio(chain, base)
    return None if value is None else advantage(figure, value)


def draw(results: Results) -> str:
    """Return the picture as SVG."""
    rows = list(make_rows(results))
    canvas = _Canvas(rows)
    against = reference_of(results)
    title = f"Warren against {against}" if against else "Warren, spread of the runs"
    note = "right of the line is better; thin lines: spread of the runs; diamonds: the chain"
    return canvas.finish(title, f"{note}. {results.conditions.date}")


class _Canvas:
    """Own the elements of the picture and its scale."""

    def __init__(self, rows: list[Row]) -> None:
        reach = [1.0] + [x for row in rows for x in (row.bar, row.least, row.most, row.chain or 1)]
        self._low = math.log(min(0.5, *reach) * 0.9)
        self._high = math.log(max(2.0, *reach) * 1.1)
        self._height = _TOP + _ROW * len(rows) + _BOTTOM
        self._parts: list[str] = []
        self._draw_axis()
        for number, row in enumerate(rows):
            self._draw_row(_TOP + _ROW * number, row)

    def _x(self, value: float) -> float:
        place = (math.log(value) - self._low) / (self._high - self._low)
        return round(_LEFT + _WIDTH * place, 1)

    def _draw_axis(self) -> None:
        bottom = self._height - _BOTTOM
        for tick in _TICKS:
            if not self._low <= math.log(tick) <= self._high:
                continue
            colour = "#333" if tick == 1 else "#ddd"
            x = self._x(tick)
            self._parts.append(
                f'<line x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{bottom}" stroke="{colour}"/>'
            )
            self._text(x, bottom + 16, f"{tick:g} ×", "middle")

    def _draw_row(self, y: int, row: Row) -> None:
        start, end = sorted((self._x(1), self._x(row.bar)))
        colour = _GOOD if row.bar >= 1 else _BAD
        middle = y + _ROW // 2 - 2
        self._text(_LEFT - 8, middle + 4, row.label, "end")
        self._text(_LEFT + _WIDTH + 8, middle + 4, row.text, "start")
        self._parts.append(
            f'<rect x="{start}" y="{y + 2}" width="{round(end - start, 1)}" height="{_ROW - 8}" '
            f'fill="{colour}"/>'
        )
        self._parts.append(
            f'<line x1="{self._x(row.least)}" y1="{middle}" x2="{self._x(row.most)}" '
            f'y2="{middle}" stroke="#000" stroke-width="1.5"/>'
        )
        if row.chain is not None:
            x = self._x(row.chain)
            self._parts.append(
                f'<path d="M{x} {middle - 6} l6 6 l-6 6 l-6 -6 z" fill="{_OTHER}" stroke="#fff"/>'
            )

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#222">{escape(text)}</text>'
        )

    def finish(self, title: str, note: str) -> str:
        """Return the whole document."""
        width = _LEFT + _WIDTH + _RIGHT
        size, box = f'width="{width}" height="{self._height}"', f"0 0 {width} {self._height}"
        font = 'font-family="sans-serif" font-size="12"'
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="{box}" {font}>',
                f"<title>{escape(title)}</title>",
                f'<rect {size} fill="#fff"/>',
                f'<text x="12" y="22" font-size="16" fill="#222">{escape(title)}</text>',
                f'<text x="12" y="40" fill="#666">{escape(note)}</text>',
                *self._parts,
                "</svg>\n",
            )
        )
