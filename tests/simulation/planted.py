"""Bugs of the kinds that a simulation is for, to be planted for the length of a test."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import trio

from warren.directory.path_search import Closeness
from warren.errors import CircuitError, EndReason
from warren.network.link import Link
from warren.network.splice import Splice
from warren.network.streams import CircuitStream
from warren.protocol.credit import CreditBudget
from warren.protocol.handover import Handover
from warren.protocol.leg import Leg
from warren.protocol.link import LinkProtocol
from warren.protocol.messages import Message, Standing
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.onion import LayerKey
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.stream import StreamProtocol
from warren.roles.circuit_builder import Built, CircuitBuilder
from warren.roles.pool import Slot
from warren.roles.resumer import Resumer

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


def stream_window_granted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth CREDIT of a stream allows a window more than its receiver means to take."""
    take_credit, numbers = StreamProtocol.take_credit, count(1)

    def take_twice(self: StreamProtocol) -> tuple[int, int]:
        offset, limit = take_credit(self)
        return offset, limit if next(numbers) % 5 else limit + self.window

    monkeypatch.setattr(StreamProtocol, "take_credit", take_twice)


def number_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seventh stream's number is given to the next one, too."""
    open_stream, numbers = Multiplexer._open, count(1)

    def open_and_forget(self: Multiplexer, command: Message, data: bytes) -> StreamProtocol:
        stream = open_stream(self, command, data)
        if next(numbers) % 7 == 0:
            self.first_unused -= 1
        return stream

    monkeypatch.setattr(Multiplexer, "_open", open_and_forget)


def one_byte_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who resumes a stream says that it has received one byte more than it has."""
    tell_standing = StreamProtocol.tell_standing

    def tell_more(self: StreamProtocol) -> Standing:
        standing = tell_standing(self)
        return replace(standing, received=standing.received + bool(standing.received))

    monkeypatch.setattr(StreamProtocol, "tell_standing", tell_more)


def kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other side has acknowledged is kept to be sent again."""
    monkeypatch.setattr(StreamProtocol, "_drop_acknowledged", lambda _: None)


def forgotten_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link whose peer fell silent is not given up."""
    monkeypatch.setattr(Link, "give_up", lambda *_: None)


def destroy_that_stops_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth time a relay loses one side of a circuit it does not tell the other."""
    leg_lost, numbers = RelayCircuit.leg_lost, count(1)

    def tell_nobody(self: RelayCircuit, leg: Leg) -> None:
        if next(numbers) % 4:
            leg_lost(self, leg)
        else:
            leg.close()

    monkeypatch.setattr(RelayCircuit, "leg_lost", tell_nobody)


def nothing_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams of a circuit that died are reset, although their exit lives."""

    async def give_up(_: Resumer, slot: Slot, handover: Handover) -> None:
        handover.lose()

    monkeypatch.setattr(Resumer, "resume", give_up)


def one_failure_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that could not build a circuit once never builds another one."""
    build_once = CircuitBuilder._build_once

    async def give_up(self: CircuitBuilder, *arguments: Any) -> Built:
        if self.failed:
            raise CircuitError("planted")
        return await build_once(self, *arguments)

    monkeypatch.setattr(CircuitBuilder, "_build_once", give_up)
