"""A leg: one circuit on one link, seen from one side.

It has its number there, its credit both ways, and what waits to be sent. A forwarding relay joins
two legs, of which each is owed credit for the cells that the other one sends; an end of a circuit
has one. When it is a leg's turn is decided in ``link``.
"""

from collections import deque
from typing import Protocol

from warren.errors import ProtocolError
from warren.protocol.cells import CELL_LENGTH, Command
from warren.protocol.credit import ReceiveWindow


class CellSource(Protocol):
    """Make cells on demand: an end of a circuit seals only what leaves now."""

    @property
    def has_something(self) -> bool:
        """Tell whether ``take`` would return something."""

    def take(self, most: int) -> memoryview | None:
        """Return a run of at most `most` cells, None when there is nothing."""


class CircuitUser(Protocol):
    """Be what a leg belongs to.

    A ProtocolError from ``receive_run`` or ``receive_created`` comes back as a ``violation``: it
    costs the circuit, not the link.
    """

    def receive_run(
        self, leg: "Leg", command: Command, cells: memoryview, start: int, count: int
    ) -> None:
        """Take `count` cells at `cells[start:]`, a buffer that is reused afterwards."""

    def receive_created(self, leg: "Leg", message: bytes) -> None:
        """Take the answer to a CREATE: message 2, 1152 bytes."""

    def leg_lost(self, leg: "Leg") -> None:
        """Note that the other side destroyed the circuit, or that the link is gone."""

    def violation(self, leg: "Leg", error: ProtocolError) -> None:
        """Destroy the circuit: what came on `leg` broke the rules."""


class LegLink(Protocol):
    """Be the link of a leg: what it sends goes there, in turn with others.

    ``now`` and ``round_trip`` are seconds; the latter is 0 while none was measured.
    """

    now: float
    round_trip: float

    def activate(self, leg: "Leg") -> None:
        """Give `leg`, which has something to send, a turn."""

    def grant(self, leg: "Leg", cells: int) -> None:
        """Owe the other side credit for `cells` more on `leg`."""

    def send_destroy(self, leg: "Leg") -> None:
        """Send the DESTROY of `leg`."""


class Leg:
    """Own one circuit on one link: number, credit and waiting cells."""

    __slots__ = (
        "active", "created_due", "credit", "destroy_left", "destroy_received", "destroy_sent",
        "feeder", "link", "number", "own", "queue", "queued", "source", "user", "window",
    )  # fmt: skip

    def __init__(self, link: LegLink, number: int, credit: int, window: ReceiveWindow) -> None:
        self.link, self.number = link, number
        self.credit = credit  # cells we may send
        self.window = window  # cells they may send
        self.queue: deque[memoryview] = deque()  # runs that are sealed already
        self.queued = 0  # cells in the queue
        self.own = 0  # the first of them that were made here and owe the feeder nothing
        self.source: CellSource | None = None
        self.feeder: Leg | None = None  # the leg whose cells these are; it is owed credit for them
        self.user: CircuitUser | None = None
        self.active = False  # whether the link has it among those that want a turn
        self.created_due = False
        self.destroy_sent = self.destroy_received = False
        self.destroy_left = False  # whether our DESTROY is in a record, no longer in a queue

    def __repr__(self) -> str:
        return f"<Leg {self.number:#x} credit {self.credit}, {self.queued} queued>"

    @property
    def has_something(self) -> bool:
        """Tell whether ``take`` would return cells."""
        if not self.credit:
            return False
        return bool(self.queue) or (self.source is not None and self.source.has_something)

    def enqueue(self, run: memoryview) -> None:
        """Queue a run of sealed cells behind the others."""
        if self.destroy_sent:
            return
        self.queue.append(run)
        self.queued += len(run) // CELL_LENGTH
        if self.credit and not self.active:
            self.link.activate(self)

    def enqueue_own(self, run: memoryview) -> None:
        """Queue a run that was made here, before any that came from the feeder."""
        assert self.queued == self.own
        self.own += len(run) // CELL_LENGTH
        self.enqueue(run)

    def has_news(self) -> None:
        """Note that ``source`` has something to send."""
        if self.credit and not self.active and not self.destroy_sent:
            self.link.activate(self)

    def take(self, most: int) -> memoryview | None:
        """Take up to `most` cells to send now, as far as there is credit."""
        most = min(most, self.credit)
        if not most:
            return None
        if self.queue:
            run = self.queue[0]
            if len(run) > most * CELL_LENGTH:
                self.queue[0] = run[most * CELL_LENGTH :]
                run = run[: most * CELL_LENGTH]
            else:
                self.queue.popleft()
            count = len(run) // CELL_LENGTH
            self.queued -= count
            if self.own:
                self.own -= count  # a run is from one maker, so all of this one was made here
            elif self.feeder is not None:
                self.feeder.passed(count)
        elif self.source is not None:
            try:
                made = self.source.take(most)
            except ProtocolError as error:  # a key is used up: it ends the circuit, not the link
                assert self.user is not None
                self.user.violation(self, error)
                return None
            if made is None:
                return None
            run, count = made, len(made) // CELL_LENGTH
        else:
            return None
        self.credit -= count
        return run

    def passed(self, count: int) -> None:
        """Grant credit again for `count` cells that came on this leg and went on."""
        if not self.destroy_sent:
            link = self.link
            granted = self.window.passed(count, link.now, link.round_trip)
            if granted:
                link.grant(self, granted)

    def destroy(self) -> None:
        """Send our one DESTROY; what waited is dropped."""
        if self.destroy_sent:
            return
        self.destroy_sent = True
        self._drop()
        self.link.send_destroy(self)

    def close(self) -> None:
        """Send nothing more, not even a DESTROY: the link is gone."""
        self.destroy_sent = self.destroy_received = True
        self._drop()

    def _drop(self) -> None:
        self.queue.clear()
        self.queued = 0
        self.source = self.feeder = None
