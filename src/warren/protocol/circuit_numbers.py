"""Numbers of circuits on one link: each side counts up in a half of its own, and never twice.

So no two circuits are ever confused, not even one that is gone with one that is new (LNK-5). Each
side may have so many at a time.
"""

from warren.errors import LinkError, expect
from warren.protocol.cells import INITIATOR_NUMBERS

#: Circuits that each side may have begun on one link (DOS-4: 4096 in all). Counted by side, or
#: two honest neighbours could break the rule by beginning one at the same time.
MOST_CIRCUITS = 2048


class CircuitNumbers:
    """Own which numbers may come next on one link, and how many circuits each side has there."""

    def __init__(self, *, is_initiator: bool) -> None:
        self._own_low = INITIATOR_NUMBERS if is_initiator else 1
        self._their_low = 1 if is_initiator else INITIATOR_NUMBERS
        self._next_own, self._next_theirs = self._own_low, self._their_low
        self._own = self._theirs = 0

    def take(self) -> int:
        """Return the number of one more circuit of ours.

        Raises LinkError when there are too many, or no number is left.
        """
        number = self._next_own
        if self._own >= MOST_CIRCUITS or not _is_from(number, self._own_low):
            raise LinkError("the link carries as many circuits as it may")
        self._next_own = number + 1
        self._own += 1
        return number

    def taken(self, number: int) -> None:
        """Note that the other side begins a circuit; raise ProtocolError if it may not."""
        expect(_is_from(number, self._their_low), "a circuit number of the wrong side")
        expect(number >= self._next_theirs, f"circuit number {number:#x} again")
        expect(self._theirs < MOST_CIRCUITS, "more circuits than a link may carry")
        self._next_theirs = number + 1
        self._theirs += 1

    def forget(self, number: int) -> None:
        """Make room for another circuit: this one is over on both sides."""
        if _is_from(number, self._own_low):
            self._own -= 1
        else:
            self._theirs -= 1


def _is_from(number: int, low: int) -> bool:
    """Tell whether `number` is in the half that begins at `low`."""
    return low <= number < low + INITIATOR_NUMBERS - 1
