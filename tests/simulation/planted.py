"""Bugs of the kinds that a simulation is for, to be planted for the length of a test."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import trio

from warren.directory.path_search import Closeness
from warren.errors import CircuitError, EndReason
from warren.network.splice import Splice
from warren.network.streams import CircuitStream
from warren.protocol.credit import CreditBudget
from warren.protocol.leg import Leg
from warren.protocol.link import LinkProtocol
from warren.protocol.onion import LayerKey
from warren.protocol.stream import StreamProtocol
from warren.roles.circuit_builder import Built, CircuitBuilder

Plant = Callable[[pytest.MonkeyPatch], None]


def lost_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every twentieth grant of cells never reaches the other side."""
    grant, numbers = LinkProtocol.grant, count(1)

    def lose(self: LinkProtocol, leg: Leg, cells: int) -> None:
        if next(numbers) % 20:
            grant(self, leg, cells)

    monkeypatch.setattr(LinkProtocol, "grant", lose)


def offset_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then the next bytes are taken from one place too early."""
    take_data = StreamProtocol.take_data

    def take_again(self: StreamProtocol, target: memoryview, at: int, room: int) -> int:
        taken = take_data(self, target, at, room)
        if self._head > 1 and self.sent % 5 == 0:
            self._head -= 1
        return taken

    monkeypatch.setattr(StreamProtocol, "take_data", take_again)


def leaked_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever resets a stream leaves a task behind."""
    reset = CircuitStream.reset

    def leak(self: CircuitStream, reason: EndReason = EndReason.MISC) -> None:
        self.turn.nursery.start_soon(trio.sleep_forever)
        reset(self, reason)

    monkeypatch.setattr(CircuitStream, "reset", leak)


def reused_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's counter stands still once, at the same place on both sides."""
    advance = LayerKey.advance

    def stand_still(self: LayerKey, count: int) -> int:
        first = advance(self, count)
        if first <= 30 < self.count:
            self.count -= 1
        return first

    monkeypatch.setattr(LayerKey, "advance", stand_still)


def forgotten_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth stream's end is never told by the side that did not begin it."""
    end_is_next = StreamProtocol.end_is_next.fget  # type: ignore[attr-defined]  # a property

    def forget(self: StreamProtocol) -> EndReason | None:
        if not self.is_origin and self.number % 5 == 4:
            return None
        reason: EndReason | None = end_is_next(self)
        return reason

    monkeypatch.setattr(StreamProtocol, "end_is_next", property(forget))


def clean_end_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost is told to the application as if it were over."""

    def end_in_good_order(self: Splice) -> None:
        if not self._is_over:
            self._stream.on_news = None
            self._socket.close()
            self._is_over = True
            self._on_over()

    monkeypatch.setattr(Splice, "_finish", end_in_good_order)


def near_relays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays of one network may stand in one path."""
    monkeypatch.setattr(Closeness, "_are_near", lambda *_: False)


def free_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows grow without end: what they take is not counted."""
    monkeypatch.setattr(CreditBudget, "take", lambda _, cells: cells)


def one_failure_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that could not build a circuit once never builds another one."""
    build_once = CircuitBuilder._build_once

    async def give_up(self: CircuitBuilder, *arguments: Any) -> Built:
        if self.failed:
            raise CircuitError("planted")
        return await build_once(self, *arguments)

    monkeypatch.setattr(CircuitBuilder, "_build_once", give_up)
