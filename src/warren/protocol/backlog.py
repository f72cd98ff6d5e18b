"""Backlogs: what is kept here for others, how much memory that takes and since when it waits.

Nothing is noted when a cell or a byte comes or goes. Whoever wants to know looks at all queues now
and again: each of them knows how much ever entered it, and how much of that has left. A look
*marks* how much had entered. As long as not all of that has left, the oldest that waits is as old
as the mark at least; once it has, the next look makes a new mark. So a queue that stands still has
waited since it was first seen, and one that moves for no longer than it takes to pass through it.

Sizes are those of the buffers, not of what is wanted of them: one cell of a run keeps all of it.
When there is too much is decided in ``network.quota``, who has to go in ``evictions`` (DOS-5).
"""

from collections.abc import Container, Hashable, Iterable, Iterator
from typing import NamedTuple, cast

from warren.errors import EndReason
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.datagrams import Association
from warren.protocol.leg import Leg
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.stream import StreamProtocol, StreamState

#: What each piece that waits costs besides its bytes: an object, a buffer's head, a place in line.
PIECE_BYTES = 256
#: What is left of a stream that one side has ended and the other has not (decision 34).
ENDED_BYTES = 4096
#: What was sent, and is only not acknowledged, waits from then on: an end that has taken it all may
#: say so two looks later (``StreamProtocol.settle``), and no earlier.
UNSETTLED_SECONDS = 90.0
_NOBODY = 0


class Queue(NamedTuple):
    """Hold what waits at one `place`, in one direction: its ``size`` in bytes of memory.

    Of what ever ``entered``, so much has ``left``, in whatever unit the place counts. If all of it
    has, it does not wait, but counts. The first ``patience`` seconds are no waiting either.
    """

    place: Hashable
    size: int
    entered: int
    left: int
    patience: float = 0.0


class Marks:
    """Own when the queues that were not empty at the last look were marked, and how far they were.

    A look is made of one ``since`` for each queue, and ``forget`` at its end.
    """

    def __init__(self) -> None:
        self._before: dict[Hashable, tuple[int, float]] = {}
        self._now: dict[Hashable, tuple[int, float]] = {}

    def since(self, queue: Queue, now: float) -> float:
        """Return since when the oldest in `queue` has waited; later than `now` if it need not."""
        entered, marked_at = self._before.get(queue.place, (_NOBODY, now))
        if queue.left >= entered:
            entered, marked_at = queue.entered, now
        self._now[queue.place] = entered, marked_at
        return (marked_at if queue.left < queue.entered else now) + queue.patience

    def forget(self) -> None:
        """Drop the marks of queues that were not seen since the last time."""
        self._before, self._now = self._now, {}


def circuit_queues(circuit: RelayCircuit) -> list[Queue]:
    """Return what waits at a relay on `circuit`, in both directions; nothing if it is idle."""
    queues = []
    previous, following, streams = circuit.previous, circuit.next, circuit.streams
    if following is not None and following.queued:
        queues.append(_leg_queue(following, circuit.cells_forward))
    if previous.queued:
        queues.append(_leg_queue(previous, circuit.cells_backward))
    if streams is not None:
        queues += multiplexer_queues(streams)
    return queues


def _leg_queue(leg: Leg, entered: int) -> Queue:
    """Return what waits for credit, or a turn, on `leg`, of all cells that ever `entered`."""
    first = leg.queue[0]
    sent_of_first = _buffer_bytes(first) - len(first)
    size = leg.queued * (CELL_LENGTH + PIECE_BYTES) + sent_of_first
    return Queue(leg, size, entered, entered - leg.queued)


def multiplexer_queues(ends: Multiplexer) -> list[Queue]:
    """Return what waits at one end of a circuit: of its streams, datagrams, and other messages."""
    queues = list(stream_queues(ends.streams.values(), ends.directories))
    for association in ends.associations.values():
        queues += _association_queues(association)
    if urgent := ends.outbox.urgent_bytes:
        queues.append(Queue(ends, urgent, 0, 0))
    return queues


def stream_queues(
    streams: Iterable[StreamProtocol], directories: Container[int] = ()
) -> Iterator[Queue]:
    """Yield what is kept of `streams`, which are one circuit's.

    What those numbered in `directories` send is the directory's, and not made for them.
    """
    seen: set[int] = set()  # buffers: several streams may have parts of one
    for stream in streams:
        if stream.state is StreamState.ENDED or stream.end_due is not None:
            yield Queue((stream, "ended"), ENDED_BYTES, 1, 0)
        kept = stream.kept_bytes
        if kept and stream.number not in directories:
            patience = 0.0 if stream.sent < stream.written else UNSETTLED_SECONDS
            size = kept + PIECE_BYTES * (1 + kept // CELL_LENGTH)
            yield Queue((stream, "sent"), size, stream.written, stream.acknowledged, patience)
        if stream.incoming:
            size = _fresh_bytes(stream.incoming, seen)
            yield Queue((stream, "received"), size, stream.received, stream.consumed)


def give_up(streams: Iterable[StreamProtocol]) -> None:
    """End `streams`, because something runs short here; what was kept of them is free at once."""
    for stream in tuple(streams):
        stream.end(EndReason.RESOURCE_LIMIT)
        stream.on_news()


def _association_queues(association: Association) -> Iterator[Queue]:
    for place, waiting in enumerate(association.waiting):
        if waiting[0]:
            yield Queue((association, place), *waiting)


def _fresh_bytes(chunks: Iterable[memoryview], seen: set[int]) -> int:
    """Return what the buffers behind `chunks` take that were not `seen` yet."""
    size = 0
    for chunk in chunks:
        size += PIECE_BYTES
        key = id(chunk.obj)
        if key not in seen:
            seen.add(key)
            size += _buffer_bytes(chunk)
    return size


def _buffer_bytes(chunk: memoryview) -> int:
    """Return how long the buffer is that `chunk` is a part of."""
    return len(cast(bytes, chunk.obj))
