"""The end of a circuit: where messages of streams become cells, and cells messages again.

A circuit has one far end. Every relay message goes to or comes from its last hop; the others pass
bodies on. There is no "is it for me" test: a hop with a next hop forwards, the last hop reads
(protocol §4). The origin has such an end, and so has a relay as long as it is the last hop. Nothing
is sealed before it can leave: the leg asks for cells, and the end asks its streams.
"""

from warren.protocol.cells import ZEROS, Command, cell_header
from warren.protocol.leg import Leg
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.onion import EndLayers


class CircuitEnd:
    """Own the layers and the streams at an end of a circuit, behind one leg."""

    __slots__ = ("_header", "cells_sealed", "layers", "leg", "streams")

    def __init__(self, leg: Leg, layers: EndLayers, *, is_origin: bool) -> None:
        self.leg = leg
        self.layers = layers
        self.cells_sealed = 0
        self._header = cell_header(leg.number, Command.RELAY)
        self.streams = Multiplexer(
            is_origin=is_origin, on_send=leg.has_news, clock=lambda: leg.link.now
        )

    @property
    def has_something(self) -> bool:
        """Tell whether ``take`` would return cells."""
        return self.streams.outbox.has_something

    def take(self, most: int) -> memoryview | None:
        """Seal up to `most` cells of what the streams have to send (ONI-1: in one step)."""
        places = self.layers.places
        count = self.streams.outbox.write_payloads(places[:most])
        if not count:
            return None
        self.cells_sealed += count
        return self.layers.seal_run(Command.RELAY, places[:count], self._header)

    def seal_alone(self, command: Command, message: bytes) -> memoryview:
        """Seal one cell with nothing but `message` in it."""
        place = self.layers.places[0]
        place[: len(message)] = message
        place[len(message) :] = ZEROS[: len(place) - len(message)]
        self.cells_sealed += 1
        return self.layers.seal_run(command, (place,), cell_header(self.leg.number, command))

    def receive(
        self, command: Command, cells: memoryview, start: int, count: int
    ) -> list[tuple[int, int, memoryview]]:
        """Open `count` cells; return the messages that are for the circuit, not for a stream."""
        payloads = self.layers.open_run(command, cells, start, count)
        return self.streams.receive_payloads(payloads, self.layers.payload)
