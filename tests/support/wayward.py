"""A relay that does not die but goes astray: it answers PINGs, and treats cells as it should not.

``Wayward`` takes hold of the circuits of one relay, those there are and those that come. What it
does with the cells of one direction is one of

    pass      what a relay does
    drop      nothing goes on, and credit is given for it
    hold      nothing goes on until ``release``, and then all of it, in its order
    starve    all goes on, and no credit is given for it

and ``snap`` destroys a circuit on the next cell that comes from one side, before or behind it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.small_network import RelayPeer
from warren.errors import ProtocolError
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.relay_circuit import RelayCircuit
from warren.roles.passing_circuit import PassingCircuit

FORWARD, BACKWARD = "forward", "backward"


@dataclass
class _Way:
    """Hold what is done with the cells of one direction."""

    manner: str = "pass"
    held: list[Callable[[], None]] = field(default_factory=list)
    snaps: int = 0  # circuits still to be destroyed
    cells: int = 0  # before the next one is
    is_before: bool = False


def swallow(peer: RelayPeer) -> None:
    """Let a relay swallow what comes on the circuits it has, also where it is the last hop.

    It answers PINGs all the same, and gives no credit.
    """

    def receive_run(*_: object) -> None:
        return

    for circuit in peer.circuits:
        circuit.machine.receive_run = receive_run  # type: ignore[assignment, method-assign]


class Wayward:
    """Own a relay's manners; it passes everything on until it is told otherwise."""

    def __init__(self, peer: RelayPeer) -> None:
        self.peer = peer
        self._ways = {FORWARD: _Way(), BACKWARD: _Way()}
        self._grants: list[Callable[[], None]] = []
        circuits = _Watched(self._take)
        for circuit in peer.relay._circuits:
            circuits.add(circuit)
        peer.relay._circuits = circuits

    def be(self, manner: str, *ways: str) -> None:
        """Treat the cells of `ways`, by default both, like this from now on."""
        for way in ways or (FORWARD, BACKWARD):
            self._ways[way].manner = manner

    def release(self, *ways: str) -> None:
        """Pass on what was held in `ways`, by default both, and everything from now on."""
        self.be("pass", *ways)
        for name in ways or (FORWARD, BACKWARD):
            way = self._ways[name]
            held, way.held = way.held, []
            for go in held:
                go()
        self.peer.turn.run()

    def snap(self, way: str, *, cells: int = 0, circuits: int = 1, is_before: bool = False) -> None:
        """Destroy as many circuits, each behind a cell of `way`, or in its place.

        Before the first one so many `cells` pass as they should.
        """
        self._ways[way].snaps, self._ways[way].cells = circuits, cells
        self._ways[way].is_before = is_before

    def _take(self, circuit: PassingCircuit) -> None:
        machine = circuit.machine
        receive: Callable[..., None] = machine.receive_run

        def receive_run(leg: Any, command: Any, cells: memoryview, start: int, count: int) -> None:
            way = self._ways[FORWARD if leg is machine.previous else BACKWARD]
            if machine.next is None:
                receive(leg, command, cells, start, count)
                return
            self._treat(way, machine, receive, (leg, command, cells, start, count))

        machine.receive_run = receive_run  # type: ignore[method-assign]

    def _treat(
        self, way: _Way, machine: RelayCircuit, receive: Callable[..., None], run: tuple[Any, ...]
    ) -> None:
        leg, command, cells, start, count = run
        if way.snaps and way.cells < count:
            way.snaps, way.cells = way.snaps - 1, 0
            if not way.is_before:
                receive(*run)
                self.peer.turn.run()
            machine.destroy()
            return
        way.cells = max(way.cells - count, 0)
        if way.manner == "drop":
            leg.passed(count)
        elif way.manner == "hold" or way.held:
            copy = memoryview(bytes(cells[start : start + count * CELL_LENGTH]))
            way.held.append(lambda: self._go_on(machine, receive, (leg, command, copy, 0, count)))
        elif way.manner == "starve":
            feeder = machine.next if leg is machine.previous else machine.previous
            assert feeder is not None
            feeder.feeder = None  # whom it owes credit
            receive(*run)
        else:
            receive(*run)

    def _go_on(
        self, machine: RelayCircuit, receive: Callable[..., None], run: tuple[Any, ...]
    ) -> None:
        """Pass on what was held, unless its circuit is gone."""
        if machine.is_closed:
            return
        try:
            receive(*run)
        except ProtocolError as error:
            machine.violation(run[0], error)


class _Watched(set[PassingCircuit]):
    """Be the circuits of a relay, and tell of each that is added."""

    def __init__(self, on_added: Callable[[PassingCircuit], None]) -> None:
        super().__init__()
        self._on_added = on_added

    def add(self, circuit: PassingCircuit) -> None:
        super().add(circuit)
        self._on_added(circuit)
