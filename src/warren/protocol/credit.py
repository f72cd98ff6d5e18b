"""Credit: how many cells one side of a link lets the other send on one circuit.

Back pressure runs hop by hop (protocol §6). The receiver grants cells; RELAY and RELAY_EARLY use
them up; it grants again what it has passed on. So a circuit's memory has a hard bound, and there
is no end-to-end estimate to tune or to forge. The law of a window, whatever happens::

    outstanding + held + owed == size
"""

from collections.abc import Callable

from warren.errors import refuse

#: The most cells of one circuit that may be on their way over one link.
MOST_WINDOW = 1024
#: How long a busy event loop may need to come round; it counts as part of a round trip.
SCHEDULING_SECONDS = 0.010
#: Cells owed that are always worth a CREDIT. What is owed lets nothing be on its way, and a
#: quarter of a wide window is a quarter of what a long path could carry (decision 14).
ENOUGH_OWED = 64


def _nobody(cells: int) -> None:
    return


class CreditBudget:
    """Bound the cells that all windows of a node may grow beyond their first size.

    ``on_short`` is told how many are wanted when there are fewer, and may give some back. While
    ``is_pressed``, the node keeps too much for others already, and no window is widened (DOS-5).
    """

    __slots__ = ("is_pressed", "left", "on_short")

    def __init__(self, cells: int) -> None:
        self.left = cells
        self.is_pressed = False
        self.on_short: Callable[[int], None] = _nobody

    def take(self, cells: int) -> int:
        """Take up to `cells`; return how many there were."""
        if cells > self.left:
            self.on_short(cells)
        taken = min(cells, self.left)
        self.left -= taken
        return taken

    def give_back(self, cells: int) -> None:
        """Return what a closed window had taken."""
        self.left += cells


class ReceiveWindow:
    """Own the credit of one direction: what the other side may send (``outstanding``), what
    waits here (``held``), and what was passed on but not granted again yet (``owed``).
    """

    __slots__ = ("_budget", "_drained", "_grown", "_since", "held", "outstanding", "owed", "size")

    def __init__(self, size: int, budget: CreditBudget, now: float = 0.0) -> None:
        self.size = self.outstanding = size
        self.held = self.owed = 0
        self._budget = budget
        self._grown = 0
        self._drained = 0
        self._since = now

    def received(self, count: int) -> None:
        """Count arriving cells; raise ProtocolError when they had no credit (FLO-2)."""
        if count > self.outstanding:
            refuse("cells without credit")
        self.outstanding -= count
        self.held += count

    def passed(self, count: int, now: float, round_trip: float) -> int:
        """Count cells passed on; return the cells to grant, 0 while it is not worth a cell.

        A window is widened, doubled at a time, when a whole one went through in about a round
        trip of the link and little of it waited here: then the window was the limit, not what
        lies behind. `now` and `round_trip` are in seconds.
        """
        self.held -= count
        self.owed += count
        self._drained += count
        if self.owed < ENOUGH_OWED and self.owed * 4 < self.size:
            return 0
        granted = self.owed
        self.owed = 0
        if self._drained >= self.size:
            quick = now - self._since <= 2 * round_trip + SCHEDULING_SECONDS
            is_pressed = self._budget.is_pressed
            if quick and self.held * 2 <= self.size < MOST_WINDOW and not is_pressed:
                extra = self._budget.take(min(self.size, MOST_WINDOW - self.size))
                self._grown += extra
                self.size += extra
                granted += extra
            self._drained, self._since = 0, now
        self.outstanding += granted
        return granted

    def close(self) -> None:
        """Return to the node's budget what this window had grown by."""
        self._budget.give_back(self._grown)
        self._grown = 0
