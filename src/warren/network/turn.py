"""Turns: everything that one synchronous step queued leaves at its end, in one go.

A link, a stream or a circuit whose pure machine has something to do is added once; ``run`` lets
each of them act until nothing is left. Whoever changes machines from a task calls ``run`` before
it waits again: after a batch was read from a socket, after bytes were written to a stream. So a
wake-up costs something per batch and nothing per cell.
"""

from collections import deque
from typing import Protocol

import structlog
import trio

from warren.network import readiness

logger = structlog.get_logger()


class Item(Protocol):
    """Be something that acts at the end of a turn."""

    in_turn: bool

    def flush(self) -> None:
        """Do now what has become possible; must not wait."""


class Turn:
    """Own the list of those that have something to do; one for each node."""

    __slots__ = ("_comes_soon", "_items", "_readiness", "_running", "now", "nursery")

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery  # for tasks that outlive the step that needs them
        self.now = trio.lowlevel.current_clock().current_time  # ``trio.current_time``, at once
        self._readiness = readiness.here()
        self._items: deque[Item] = deque()
        self._running = False
        self._comes_soon = False

    def add(self, item: Item) -> None:
        """Let `item` act at the end of this step; adding it twice is the same as once."""
        if not item.in_turn:
            item.in_turn = True
            self._items.append(item)

    def run_soon(self) -> None:
        """Run when the tasks and sockets of this round have had their say.

        When many sockets become readable at once, what was read from all of them leaves together.
        """
        if self._items and not self._comes_soon:
            self._comes_soon = True
            self._readiness.soon(self._run_later)

    def soon(self, act: readiness.Act) -> None:
        """Call `act` at the end of this round, behind all that leaves: nobody waits for it."""
        self._readiness.soon(act)

    def _run_later(self) -> None:
        self._comes_soon = False
        self.run()

    def run(self) -> None:
        """Let everything act that was added, also meanwhile."""
        if self._running:
            return  # an outer call is at it
        self._running = True
        items = self._items
        try:
            while items:
                item = items.popleft()
                item.in_turn = False
                try:
                    item.flush()
                except Exception:
                    logger.exception("a bug while sending", item=repr(item))  # DOS-1
        finally:
            self._running = False
