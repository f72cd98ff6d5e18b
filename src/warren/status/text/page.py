"""The page: a title, what is to be known first, and rows of a label and what there is to say.

What has nothing to say is left out. No line is wider than the page: what is longer goes on below,
further to the right.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

LABEL_WIDTH = 12
#: Below that no page can be laid out; narrower terminals break its lines.
LEAST_WIDTH = 40
_DEEPER = 2


@dataclass(frozen=True)
class Row:
    """Hold lines about one thing, with the label that stands in front of the first."""

    label: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Page:
    """Hold what one process is told as, from the top to the bottom."""

    title: str
    verdict: str
    rows: Sequence[Row]

    def render(self, width: int) -> str:
        """Return the page in lines of at most `width` characters (40 at least)."""
        width = max(width, LEAST_WIDTH)
        head = [_wrapped(self.title, width), _wrapped(self.verdict, width)]
        blocks = [*head, [line for row in self.rows for line in _laid_out(row, width)]]
        return "\n".join("".join(f"{line}\n" for line in block) for block in blocks if block)


def _wrapped(text: str, width: int, deeper: int = 0) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=" " * deeper, break_on_hyphens=False)


def _laid_out(row: Row, width: int) -> Iterator[str]:
    label = row.label
    for line in filter(None, row.lines):
        for part in _wrapped(line, width - LABEL_WIDTH, _DEEPER):
            yield f"{label:{LABEL_WIDTH}}{part}"
            label = ""


def shortened(lines: Iterable[str], most: int, what: str) -> list[str]:
    """Return `lines`, the first `most` of them, and how many more of `what` there are."""
    every = list(lines)
    more = len(every) - most
    return every if more <= 1 else [*every[:most], f"and {more:,} more {what}"]
