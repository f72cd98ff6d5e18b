"""Reads a status document so that nothing in it can surprise.

The process that made it may be of an older or a newer version, and some of its texts came from
others: error messages, what relays say of themselves. Numbers, texts and parts are asked for by
name here, and whatever is missing, or of another kind than expected, counts as not said.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from warren.status.text.units import amount, tally, together

#: Characters of one text that are shown; the rest of it is in the log or in the JSON.
MOST_TEXT = 400
#: Names of counters, and what each of them counts.
Table = Iterable[tuple[str, str]]
#: No counter gets there, and what is greater would fill lines with digits.
MOST_NUMBER = 10**18


class Told:
    """Give what one part of the document says, and nothing for what it does not."""

    def __init__(self, document: Any) -> None:
        self._values: Mapping[Any, Any] = document if isinstance(document, Mapping) else {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def part(self, name: str) -> "Told":
        """Return what is nested below `name`; it may be empty."""
        return Told(self._values.get(name))

    def parts(self, name: str) -> list["Told"]:
        """Return the parts that are listed below `name`."""
        return [Told(each) for each in self._list(name) if isinstance(each, Mapping)]

    def says(self, name: str, value: bool | None) -> bool:
        """Tell whether `name` is `value`: what is not said is neither true nor false nor None."""
        return name in self._values and self._values[name] is value

    def has_number(self, name: str) -> bool:
        """Tell whether `name` is a number that can be shown."""
        return _number(self._values.get(name)) is not None

    def says_none(self, name: str) -> bool:
        """Tell whether `name` is the number 0, and not just missing."""
        return self.has_number(name) and not self.number(name)

    def number(self, name: str) -> float:
        """Return a number of what can be divided, seconds as a rule; 0 where there is none."""
        return _number(self._values.get(name)) or 0

    def count(self, name: str) -> int:
        """Return a number of what is counted; 0 where there is none."""
        return int(self.number(name))

    def counts(self) -> dict[str, int]:
        """Return all counters of this part that are not 0, by their names, which are texts."""
        found = {clean(name): _number(value) for name, value in self._values.items()}
        return {name: int(value) for name, value in found.items() if name and value}

    def numbers(self, name: str) -> list[float]:
        """Return the numbers that are listed below `name`."""
        return [number for each in self._list(name) if (number := _number(each)) is not None]

    def text(self, name: str) -> str:
        """Return a text as it may be shown; "" where there is none."""
        return clean(self._values.get(name))

    def texts(self, name: str) -> list[str]:
        """Return the texts that are listed below `name`; "" for what is none."""
        return [clean(each) for each in self._list(name)]

    def _list(self, name: str) -> list[Any]:
        value = self._values.get(name)
        return value if isinstance(value, list) else []


def phrases(told: Told, table: Table) -> str:
    """Return the counters in `table` that are not 0, each with what it counts."""
    return together(amount(told.count(name), what) for name, what in table if told.count(name))


def tallied(told: Told, table: Table) -> str:
    """Return the counters in `table` that are not 0, each behind what it counts."""
    return tally((what, told.count(name)) for name, what in table)


def clean(text: Any) -> str:
    """Return `text` as it may be shown on a terminal: one line of printable ASCII, bounded.

    Nothing else has the same width everywhere, and escape sequences could rewrite the page.
    """
    if not isinstance(text, str):
        return ""
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in text[: MOST_TEXT + 1])
    return shown if len(shown) <= MOST_TEXT else shown[: MOST_TEXT - 3] + "..."


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    is_sane = math.isfinite(value) and 0 <= value < MOST_NUMBER
    return value if is_sane else None
