"""What is kept for others in memory, of how much there may be, and who had to go because of it."""

from warren.status.text.page import Row
from warren.status.text.told import Told, tallied
from warren.status.text.units import amount, size

#: Bytes of which it is not worth speaking.
_NOTHING = 1 << 20
_CLOSED = (
    ("circuits", "circuits"),
    ("circuits that had died", "circuits that had died"),
    ("links", "links"),
)


def memory_row(told: Told) -> Row:
    """Return how much is kept, while that is something, and what had to go so far."""
    memory = told.part("memory")
    kept, limit, pressures = (memory.number(name) for name in ("kept", "limit", "pressures"))
    if not limit or (kept < _NOTHING and not pressures):
        return Row("Memory", [])
    closed = tallied(memory.part("closed"), _CLOSED)
    return Row(
        "Memory",
        [
            f"{size(kept)} kept for others, {size(limit)} at most",
            "under pressure now: takes no new circuits" if memory.count("pressed") else "",
            f"ran short {amount(int(pressures), 'time{s}')}, closed {closed}" if pressures else "",
        ],
    )
