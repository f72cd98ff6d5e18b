"""Onion layers: there and back, and every change noticed by the very next hop."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warren.errors import ProtocolError
from warren.identity import Suite
from warren.protocol.cells import BODY_LENGTH, CELL_LENGTH, HEADER_LENGTH, Command, cell_header
from warren.protocol.ciphers import TAG_LENGTH
from warren.protocol.onion import MOST_RUN, EndLayers, LayerKey, RelayLayer, payload_length

HOPS = [1, 2, 3, 4, 5, 7]
HEADER = cell_header(77, Command.RELAY)
RELAY, EARLY = Command.RELAY, Command.RELAY_EARLY

both_suites = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)
every_length = pytest.mark.parametrize("hops", HOPS)


class Onion:
    """Hold the layers of everybody on a circuit: the origin, the relays, the last hop."""

    def __init__(self, hops: int, suite: Suite = Suite.AESGCM) -> None:
        self.hops = hops

        def keys(name: int) -> list[LayerKey]:
            return [LayerKey(suite, bytes([name, depth]) * 16) for depth in range(hops)]

        forward, backward = keys(1), keys(2)
        self.origin = EndLayers(keys(1)[::-1], keys(2)[::-1])
        self.last = EndLayers((backward[-1],), (forward[-1],), hops - 1)
        self.relays = [RelayLayer(forward[d], backward[d], d) for d in range(hops - 1)]

    def payload(self, fill: int) -> memoryview:
        return memoryview(bytes([fill]) * self.origin.payload)


def sealed(layers: EndLayers, *payloads: memoryview, command: Command = RELAY) -> memoryview:
    """Return the run of cells in which an end sends `payloads`."""
    parts = [payloads[at : at + MOST_RUN] for at in range(0, len(payloads), MOST_RUN)]
    runs = [layers.seal_run(command, part, bytes(HEADER_LENGTH)) for part in parts]
    return memoryview(b"".join(runs))


def forward(onion: Onion, run: memoryview, hops: int, command: Command = RELAY) -> memoryview:
    """Pass a run through the first `hops` relays."""
    for relay in onion.relays[:hops]:
        run = relay.open_run(command, run, 0, len(run) // CELL_LENGTH, HEADER)
    return run


def backward(onion: Onion, run: memoryview) -> memoryview:
    for relay in reversed(onion.relays):
        run = relay.seal_run(run, 0, len(run) // CELL_LENGTH, HEADER)
    return run


def open_at(onion: Onion, depth: int, run: memoryview) -> memoryview:
    """Let the hop at `depth` open one cell."""
    if depth == onion.hops - 1:
        return onion.last.open_run(RELAY, run, 0, 1)
    return onion.relays[depth].open_run(RELAY, run, 0, 1, HEADER)


def arrive_from(onion: Onion, depth: int, run: memoryview) -> memoryview:
    """Pass one cell backward from above the hop at `depth`, and let the origin open it."""
    for relay in reversed(onion.relays[:depth]):
        run = relay.seal_run(run, 0, 1, HEADER)
    return onion.origin.open_run(RELAY, run, 0, 1)


def flip(run: memoryview, bit: int, cell: int = 0) -> memoryview:
    """Return a copy of `run` with one bit of the body of one cell flipped."""
    changed = bytearray(run)
    changed[cell * CELL_LENGTH + HEADER_LENGTH + bit // 8] ^= 1 << bit % 8
    return memoryview(changed)


def assert_does_not_open(opens: Callable[[], object]) -> None:
    with pytest.raises(ProtocolError):
        opens()


# There and back


@both_suites
@every_length
def test_what_the_origin_says_the_last_hop_reads(hops: int, suite: Suite) -> None:
    onion = Onion(hops, suite)
    payloads = [onion.payload(fill) for fill in (1, 2, 3)]

    run = forward(onion, sealed(onion.origin, *payloads), hops)

    assert onion.last.open_run(RELAY, run, 0, 3) == b"".join(payloads)


@both_suites
@every_length
def test_what_the_last_hop_says_the_origin_reads(hops: int, suite: Suite) -> None:
    onion = Onion(hops, suite)
    payloads = [onion.payload(fill) for fill in (1, 2, 3)]

    run = backward(onion, sealed(onion.last, *payloads))

    assert onion.origin.open_run(RELAY, run, 0, 3) == b"".join(payloads)


@every_length
def test_a_layer_costs_one_tag_of_the_payload(hops: int) -> None:
    onion = Onion(hops)

    assert onion.origin.payload == onion.last.payload == BODY_LENGTH - TAG_LENGTH * hops
    assert payload_length(hops) == onion.origin.payload


@every_length
def test_every_link_sees_the_same_length_and_zeros_where_tags_were(hops: int) -> None:
    onion = Onion(hops)
    run = sealed(onion.origin, onion.payload(1))

    for depth in range(hops):
        at_depth = forward(Onion(hops), run, depth)
        ciphertext = BODY_LENGTH - TAG_LENGTH * depth
        assert len(at_depth) == CELL_LENGTH
        assert at_depth[HEADER_LENGTH + ciphertext :] == bytes(TAG_LENGTH * depth)


def test_a_relay_writes_the_header_of_its_own_link() -> None:
    onion = Onion(2)
    run = sealed(onion.origin, onion.payload(1), onion.payload(2))

    passed = forward(onion, run, 1)

    assert [bytes(passed[at : at + 8]) for at in (0, CELL_LENGTH)] == [HEADER, HEADER]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 3))
def test_runs_may_be_cut_anywhere(cuts: list[int], offset: int) -> None:
    onion = Onion(3)
    payloads = [onion.payload(fill) for fill in range(sum(cuts))]
    run = memoryview(bytes(offset * CELL_LENGTH) + sealed(onion.origin, *payloads))

    opened, at = b"", offset * CELL_LENGTH
    for count in cuts:
        first = onion.relays[0].open_run(RELAY, run, at, count, HEADER)
        second = onion.relays[1].open_run(RELAY, first, 0, count, HEADER)
        opened += onion.last.open_run(RELAY, second, 0, count)
        at += count * CELL_LENGTH

    assert opened == b"".join(payloads)


# Changes


@both_suites
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_any_bit_changed_forward_is_noticed_by_the_next_hop(depth: int, suite: Suite) -> None:
    bits = Random(depth).sample(range(BODY_LENGTH * 8), 60)  # T04

    for bit in [*bits, 0, BODY_LENGTH * 8 - 1]:
        onion = Onion(3, suite)
        run = flip(forward(onion, sealed(onion.origin, onion.payload(1)), depth), bit)
        with pytest.raises(ProtocolError):
            open_at(onion, depth, run)


@both_suites
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_any_bit_changed_backward_is_noticed_by_the_origin_or_before(
    depth: int, suite: Suite
) -> None:
    bits = Random(depth).sample(range(BODY_LENGTH * 8), 60)  # T05

    for bit in [*bits, 0, BODY_LENGTH * 8 - 1]:
        onion = Onion(3, suite)
        run = sealed(onion.last, onion.payload(1))
        for relay in reversed(onion.relays[depth:]):
            run = relay.seal_run(run, 0, 1, HEADER)
        run = flip(run, bit)

        with pytest.raises(ProtocolError):
            arrive_from(onion, depth, run)


def test_a_changed_cell_takes_the_rest_of_its_run_with_it() -> None:
    onion = Onion(2)
    run = flip(sealed(onion.origin, *(onion.payload(fill) for fill in range(4))), 100, cell=2)

    assert_does_not_open(lambda: onion.relays[0].open_run(RELAY, run, 0, 4, HEADER))


def test_a_command_cannot_be_changed() -> None:
    onion = Onion(2)
    run = sealed(onion.origin, onion.payload(1))

    assert_does_not_open(lambda: onion.relays[0].open_run(EARLY, run, 0, 1, HEADER))
    assert_does_not_open(lambda: onion.last.open_run(EARLY, run, 0, 1))


@pytest.mark.parametrize(
    "order", [(0, 0), (1,), (0, 2), (1, 0)], ids=["replay", "drop first", "drop", "reorder"]
)
def test_cells_come_once_each_and_in_order(order: tuple[int, ...]) -> None:  # T05
    onion = Onion(3)
    runs = [sealed(onion.origin, onion.payload(fill)) for fill in range(3)]

    def arrive() -> None:
        for number in order:
            onion.relays[0].open_run(RELAY, runs[number], 0, 1, HEADER)

    assert_does_not_open(arrive)


def test_a_layer_of_another_depth_does_not_open() -> None:
    onion = Onion(2)
    run = sealed(onion.origin, onion.payload(1))

    assert_does_not_open(lambda: onion.last.open_run(RELAY, run, 0, 1))


@pytest.mark.parametrize("at", [BODY_LENGTH - 1, BODY_LENGTH - TAG_LENGTH])
def test_a_tail_that_is_not_zero_is_refused_by_every_hop(at: int) -> None:
    onion = Onion(3)
    at_middle = flip(forward(onion, sealed(onion.origin, onion.payload(1)), 1), at * 8)
    from_exit = flip(sealed(onion.last, onion.payload(1)), at * 8)

    assert_does_not_open(lambda: onion.relays[1].open_run(RELAY, at_middle, 0, 1, HEADER))
    assert_does_not_open(lambda: onion.relays[1].seal_run(from_exit, 0, 1, HEADER))


# The end of a key


def test_a_key_gives_each_number_once_up_to_its_end() -> None:  # T80
    key = LayerKey(Suite.AESGCM, bytes(32))
    key.count = key.most - 3

    assert key.most == 1 << 32
    assert (key.advance(1), key.advance(2)) == (key.most - 3, key.most - 2)
    assert_does_not_open(lambda: key.advance(1))


@pytest.mark.parametrize("count", [2, 15])
def test_a_run_beyond_the_end_of_a_key_is_refused_whole(count: int) -> None:
    onion = Onion(2)
    onion.relays[0].forward.count = onion.relays[0].forward.most - 1
    run = sealed(onion.origin, *(onion.payload(fill) for fill in range(count)))

    assert_does_not_open(lambda: onion.relays[0].open_run(RELAY, run, 0, count, HEADER))
    assert onion.relays[0].forward.count < onion.relays[0].forward.most


@both_suites
def test_the_last_cells_of_a_key_open_like_all_others(suite: Suite) -> None:
    onion = Onion(2, suite)
    last = (1 << 32) - 1
    for layers in (onion.origin, onion.last):
        for key in (*layers._outgoing, *layers._incoming):
            key.count = last
    onion.relays[0].forward.count = onion.relays[0].backward.count = last

    run = forward(onion, sealed(onion.origin, onion.payload(9)), 1)

    assert onion.last.open_run(RELAY, run, 0, 1) == onion.payload(9)
    assert_does_not_open(lambda: sealed(onion.origin, onion.payload(9)))
