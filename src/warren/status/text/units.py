"""Says numbers as people read them: KiB and MiB, hours and minutes, one stream and two streams."""

from collections.abc import Iterable

MINUTE, HOUR, DAY = 60, 3600, 86400
#: A cell, as it goes over a link.
CELL_BYTES = 4096

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SMALL = 10  # below it a digit behind the point says something


def amount(number: int, what: str) -> str:
    """Return `number` and what there is so much of; ``{s}`` or ``{es}`` makes the plural."""
    return f"{number:,} {what.format(s='', es='') if number == 1 else what.format(s='s', es='es')}"


def size(count: float) -> str:
    """Return `count` bytes in the unit in which it has one to four digits."""
    power = 0
    while round(count) >= 1024 and power < len(_UNITS) - 1:
        count /= 1024
        power += 1
    digits = 1 if power and round(count, 1) < _SMALL else 0
    return f"{count:,.{digits}f} {_UNITS[power]}"


def moved(cells: int) -> str:
    """Return how much so many cells are."""
    return size(cells * CELL_BYTES)


def duration(seconds: float) -> str:
    """Return `seconds` in one unit or two, rounded down."""
    seconds = int(seconds)
    if seconds < MINUTE:
        return f"{seconds} s"
    if seconds < HOUR:
        return f"{seconds // MINUTE} min"
    if seconds < DAY:
        return _two(seconds // HOUR, "h", seconds % HOUR // MINUTE, "min")
    return _two(seconds // DAY, "d", seconds % DAY // HOUR, "h")


def tally(counts: Iterable[tuple[str, int]]) -> str:
    """Return how often each was there, without those that never were."""
    return together(f"{what}: {count:,}" for what, count in counts if count)


def _two(first: int, unit: str, second: int, smaller: str) -> str:
    return f"{first:,} {unit} {second} {smaller}" if second else f"{first:,} {unit}"


def pause(seconds: float) -> str:
    """Return how long something stood still, which is milliseconds as often as seconds."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def together(phrases: Iterable[str], joint: str = ", ") -> str:
    """Return the phrases there are in one."""
    return joint.join(filter(None, phrases))
