"""Backlogs: what waits on a circuit, how much memory it takes, and since when (DOS-5)."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from tests.support.paper_network import PaperNetwork, read_all
from warren.addresses import Address
from warren.errors import EndReason
from warren.protocol.backlog import (
    ENDED_BYTES,
    PIECE_BYTES,
    UNSETTLED_SECONDS,
    Marks,
    Queue,
    circuit_queues,
    give_up,
    multiplexer_queues,
    stream_queues,
)
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.pace import Pace
from warren.protocol.stream import StreamProtocol

KIB = 1024
NOBODYS = Address("5.6.7.8", 53)


def size_of(queues: list[Queue]) -> int:
    return sum(queue.size for queue in queues)


def far_stream() -> StreamProtocol:
    return StreamProtocol(1, Pace(lambda: 0.0), is_origin=False)


# ---- since when


steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=60)


@given(steps)
def test_nothing_is_thought_older_than_it_is_and_what_stands_is_known_since_it_was_seen(
    moves: list[tuple[int, int]],
) -> None:
    marks, waiting = Marks(), deque[int]()
    entered = left = 0
    last_moved, seen_at = 0, 0.0
    for now, (came, gone) in enumerate(moves):
        was_empty = not waiting
        waiting.extend([now] * came)
        entered += came
        gone = min(gone, len(waiting))
        for _ in range(gone):
            waiting.popleft()
        left += gone
        if gone or was_empty:
            last_moved = now
        if waiting:
            since = marks.since(Queue("a", len(waiting), entered, left), now)
            assert waiting[0] <= since <= now
            seen_at = since if last_moved == now else seen_at
            assert since <= max(seen_at, last_moved)
        marks.forget()


def test_a_queue_that_was_empty_at_a_look_begins_anew() -> None:
    marks = Marks()
    marks.since(Queue("a", 10, 10, 0), 1.0)
    marks.forget()
    marks.forget()  # it was empty

    assert marks.since(Queue("a", 10, 20, 10), 3.0) == 3.0


def test_what_counts_and_does_not_wait_is_of_now() -> None:
    marks, since = Marks(), list[float]()
    for now in (1.0, 2.0, 3.0):
        since.append(marks.since(Queue("a", 10, 0, 0), now))
        marks.forget()

    assert since == [1.0, 2.0, 3.0]


def test_patience_is_no_waiting() -> None:
    marks, since = Marks(), list[float]()
    for now in (1.0, 2.0, 100.0):
        since.append(marks.since(Queue("a", 10, 10, 0, patience=60.0), now))
        marks.forget()

    assert since == [61.0, 61.0, 61.0]


# ---- at a relay on the way


def stalled(cells: int) -> PaperNetwork:
    """Return a network on whose first link nothing moves, with about so many cells behind it."""
    network = PaperNetwork(3)
    near, far = network.open_stream(network.build())
    near.limit = near.allowed = far.limit = 4096 * KIB
    far.write(bytes(cells * 4000))
    for _ in range(50):
        network.step(1)
        network.step(2)
    return network


def test_an_idle_circuit_keeps_nothing_anywhere() -> None:
    network = PaperNetwork(3)
    near, far = network.open_stream(network.build())
    near.write(b"a question")
    network.settle()
    read_all(far)
    far.settle()
    network.settle()

    kept = [circuit_queues(relay.circuit) for relay in network.relays]

    assert kept == [[], [], []]


def test_cells_that_wait_for_the_next_link_are_counted_with_their_buffers() -> None:
    network = stalled(30)
    guard = network.relays[0].circuit

    [queue] = circuit_queues(guard)

    waiting = guard.previous.queued
    assert waiting >= 30
    assert waiting * CELL_LENGTH < queue.size <= (waiting + 15) * (CELL_LENGTH + PIECE_BYTES)
    assert queue.entered - queue.left == waiting
    assert queue.place is guard.previous


def test_a_run_of_which_a_part_was_sent_is_kept_whole() -> None:
    network = stalled(30)
    leg = network.relays[0].circuit.previous
    run_bytes = sum(len(run) for run in leg.queue)

    leg.take(len(leg.queue[0]) // CELL_LENGTH - 1)

    [queue] = circuit_queues(network.relays[0].circuit)
    assert queue.size >= run_bytes


def test_cells_towards_the_exit_are_counted_too() -> None:
    network = PaperNetwork(3)
    near, _ = network.open_stream(network.build())
    near.write(bytes(60_000))
    for _ in range(20):
        network.step(0)
    guard = network.relays[0].circuit

    [queue] = circuit_queues(guard)

    assert guard.next is not None
    assert queue.place is guard.next
    assert queue.size > 60_000


# ---- at an end


def test_an_exit_keeps_what_was_not_acknowledged_and_no_longer() -> None:
    network = PaperNetwork(3)
    near, far = network.open_stream(network.build())
    far.write(bytes(40 * KIB))
    network.settle()
    before = circuit_queues(network.exit.circuit)

    read_all(near)
    near.settle()
    network.settle()

    assert 40 * KIB <= size_of(before) < 48 * KIB
    assert circuit_queues(network.exit.circuit) == []


def test_what_is_sent_and_only_not_acknowledged_is_waited_for_with_patience() -> None:
    stream = far_stream()
    stream.write(bytes(100 * KIB))
    stream.take_data(memoryview(bytearray(64 * KIB)), 0, 64 * KIB)
    [unsent] = stream_queues([stream])
    stream.limit = 100 * KIB
    stream.take_data(memoryview(bytearray(64 * KIB)), 0, 64 * KIB)
    [sent] = stream_queues([stream])

    assert unsent.patience == 0
    assert sent.patience == UNSETTLED_SECONDS


def test_what_nobody_takes_is_counted_with_the_runs_that_it_came_in() -> None:
    """A stream that stands keeps the cells of those alive that came with its own."""
    streams = [far_stream() for _ in range(3)]
    for _ in range(10):
        run = memoryview(bytearray(15 * 4000))
        streams[0].receive_data(run[:4000])
        streams[1].receive_data(run[4000:8000])
        streams[2].receive_data(run[8000:12000])
        read_all(streams[2])

    size = size_of(list(stream_queues(streams)))

    assert 10 * 15 * 4000 <= size < 10 * 16 * 4000


def test_what_the_directory_says_is_not_made_for_one_who_asks() -> None:
    stream = far_stream()
    stream.write(bytes(100 * KIB))

    assert list(stream_queues([stream], directories={stream.number})) == []


def test_a_stream_that_the_other_side_does_not_end_is_counted_until_it_does() -> None:
    network = PaperNetwork(3)
    near, far = network.open_stream(network.build())
    far.end(EndReason.CONNECT_REFUSED)
    before = circuit_queues(network.exit.circuit)

    network.settle()

    assert size_of(before) == ENDED_BYTES
    assert near.end_received
    assert circuit_queues(network.exit.circuit) == []


def test_datagrams_and_whole_messages_that_wait_are_counted() -> None:
    network = PaperNetwork(3)
    circuit = network.build()
    association = circuit.streams.associate()
    for _ in range(5):
        association.send(NOBODYS, bytes(1000))

    queues = multiplexer_queues(circuit.streams)

    assert 5 * 1000 < size_of(queues) < 5 * 1200
    assert sorted(queue.entered - queue.left for queue in queues) == [0, 5]
    network.settle()
    assert multiplexer_queues(circuit.streams) == []
    ((far, _),) = network.end_of(circuit).streams.associated  # type: ignore[union-attr]
    [received] = circuit_queues(network.exit.circuit)
    assert (received.entered, received.left) == (5, 0)
    far.take()
    assert circuit_queues(network.exit.circuit) == []


def test_a_stream_that_is_given_up_keeps_nothing_but_its_end() -> None:
    network = PaperNetwork(3)
    near, far = network.open_stream(network.build())
    far.write(bytes(100 * KIB))
    near.write(bytes(30 * KIB))
    network.settle()

    give_up([far])
    kept = circuit_queues(network.exit.circuit)
    network.settle()

    assert size_of(kept) == ENDED_BYTES
    assert near.reason is EndReason.RESOURCE_LIMIT
