"""Holdings: what an exit keeps of circuits that died, so that their origin can claim the streams.

Whoever shows the right ticket (``resume``) gets them, once. They cost memory and sockets, so there
is a bound to both. It knows no time: how long they are held is decided in ``roles``.
"""

import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from warren.errors import EndReason, ProtocolError, refuse
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.credit import CreditBudget
from warren.protocol.messages import Message, Standing, StandingFlags
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.resume import Resume, Ticket, cut, encode_standings
from warren.protocol.stream import ENOUGH_UNSENT, StreamProtocol

#: Streams that an exit holds at most, each with a socket, whoever they belong to.
MOST_HELD_STREAMS = 4096


class LastHop(Protocol):
    """Be a circuit that ends here, as far as resuming needs it."""

    @property
    def ticket(self) -> Ticket:
        """Return what its streams can be claimed with."""

    @property
    def streams(self) -> Multiplexer | None:
        """Return the streams while this is the last hop."""

    def destroy(self) -> None:
        """Destroy the circuit both ways."""


@dataclass(eq=False, slots=True)
class Held:
    """Own the streams of a circuit that died here; ``streams`` is empty once they are claimed."""

    ticket: Ticket
    streams: dict[int, StreamProtocol]
    cells: int  # of the node's memory


def _move(stream: StreamProtocol, standing: Standing, home: Multiplexer) -> None:
    """Let the exit's end of `stream` go on in `home` from the origin's `standing`."""
    stream.go_on(standing)
    home.adopt(stream)
    if StandingFlags.CONNECTED not in standing.flags:
        stream.tell_connected()


class Holdings:
    """Own the streams of circuits that died here, and know the living ones by name.

    What is held counts in `budget`, in cells, and is the first to go when that is short: the
    oldest first. ``on_held`` is told of each circuit whose streams are held from now on; after
    ``HOLD_SECONDS`` it is to be given to ``let_go``.
    """

    def __init__(self, budget: CreditBudget, *, most_streams: int = MOST_HELD_STREAMS) -> None:
        self.on_held: Callable[[Held], None] = lambda _: None
        self.resumed = self.lost = 0
        self._budget = budget
        self._most_streams = most_streams
        self._living: dict[bytes, LastHop] = {}
        self._held: dict[bytes, Held] = {}  # oldest first
        self.streams = 0  # held, of all circuits
        budget.on_short = self._make_room

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held(self) -> tuple[Held, ...]:
        """Return what is held, the oldest first."""
        return tuple(self._held.values())

    def register(self, circuit: LastHop) -> None:
        """Know a living circuit by name, from its first stream on."""
        self._living[circuit.ticket.name] = circuit

    def circuit_gone(self, circuit: LastHop, *, is_over: bool) -> None:
        """Hold what can go on of the streams of a registered circuit that is being destroyed.

        None can where the circuit `is_over`: its origin broke the rules.
        """
        ticket = circuit.ticket
        known = self._living.pop(ticket.name, None)
        if known is None or circuit.streams is None or is_over:
            return
        streams = {stream.number: stream for stream in circuit.streams.detach()}
        if not streams:
            return
        # Whoever has a target's socket reads on until so much waits to be sent.
        size = sum(stream.held_bytes + ENOUGH_UNSENT for stream in streams.values())
        held = Held(ticket, streams, -(-size // CELL_LENGTH))
        while self._held and self.streams + len(streams) > self._most_streams:
            self._lose(next(iter(self._held.values())))
        taken = self._budget.take(held.cells)
        if taken < held.cells or len(streams) > self._most_streams:
            self._budget.give_back(taken)
            self._reset(streams.values())
            return
        self._held[ticket.name] = held
        self.streams += len(streams)
        self.on_held(held)

    def let_go(self, held: Held) -> None:
        """Reset what was not claimed in time."""
        if self._held.get(held.ticket.name) is held:
            self._lose(held)

    def resume(self, circuit: LastHop, handshake_hash: bytes, body: bytes, payload: int) -> None:
        """Move the streams that a RESUME's `body` claims to `circuit`, and answer there.

        The circuit they were on is destroyed if it lives. Raises ProtocolError for a MAC that is
        wrong, which costs the claimed streams nothing, and for offsets that cannot be, which
        costs the streams. A cell of `circuit` carries `payload` bytes.
        """
        resume = Resume.decode(body)
        home = circuit.streams
        assert home is not None
        taken = self._take(resume, handshake_hash)
        try:
            for standing in resume.standings:
                if standing.number in taken:
                    taken[standing.number].check_standing(standing)
        except ProtocolError:
            self._reset(taken.values())
            raise
        self.register(circuit)
        moving, answers = [], []
        for standing in resume.standings:
            home.first_unused = max(home.first_unused, standing.number + 1)
            stream = taken.pop(standing.number, None)
            if stream is None:
                answers.append(Standing(standing.number, StandingFlags(0)))
            else:
                answers.append(stream.tell_standing())
                moving.append((stream, standing))
        self._reset(taken.values())  # the origin has given these up
        for message in cut(Message.RESUMED, encode_standings(answers), payload):
            home.outbox.push(message)
        for stream, standing in moving:
            _move(stream, standing, home)
        self.resumed += len(moving)

    def _take(self, resume: Resume, handshake_hash: bytes) -> dict[int, StreamProtocol]:
        """Return the streams of the first circuit named that is known, which is over with that."""
        for name, mac in zip(resume.names, resume.macs, strict=True):
            held, living = self._held.get(name), self._living.get(name)
            ticket = held.ticket if held is not None else living and living.ticket
            if not ticket:
                continue
            if not hmac.compare_digest(ticket.seal(handshake_hash, resume.signed), mac):
                refuse("a RESUME whose MAC is wrong")
            if held is not None:
                self._forget(held)
                streams, held.streams = held.streams, {}
                return streams
            assert living is not None
            # It may not have noticed yet that it is dead. What still comes on it is not read.
            able = living.streams.detach() if living.streams is not None else []
            del self._living[name]
            living.destroy()
            return {stream.number: stream for stream in able}
        return {}

    def _reset(self, streams: Collection[StreamProtocol]) -> None:
        self.lost += len(streams)
        for stream in streams:
            stream.lose(EndReason.DESTROY)

    def _lose(self, held: Held) -> None:
        self._forget(held)
        self._reset(held.streams.values())

    def _forget(self, held: Held) -> None:
        del self._held[held.ticket.name]
        self.streams -= len(held.streams)
        self._budget.give_back(held.cells)

    def _make_room(self, cells: int) -> None:
        """Let held streams go until `cells` more are free, or none is held."""
        while self._held and self._budget.left < cells:
            self._lose(next(iter(self._held.values())))
