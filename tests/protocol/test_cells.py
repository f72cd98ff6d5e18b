"""Cells and their bodies: every codec there and back, and nothing in a second spelling."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import ProtocolError
from warren.identity import Suite
from warren.protocol.cells import (
    BODY_LENGTH,
    CELL_LENGTH,
    MOST_GRANTS,
    MOST_HOPS,
    NK_MESSAGE_1_LENGTH,
    NK_MESSAGE_2_LENGTH,
    Command,
    Ready,
    RelayReady,
    cell_header,
    decode_create,
    decode_created,
    decode_credit,
    decode_ready,
    encode_create,
    encode_credit,
    encode_ready,
    make_cell,
)

Decode = Callable[[memoryview], Any]
#: How each body is read, and written again from what was read.
CODECS: dict[str, tuple[Decode, Callable[[Any], bytes]]] = {
    "CREATE": (decode_create, lambda value: encode_create(*value)),
    "CREATED": (decode_created, bytes),
    "CREDIT": (decode_credit, encode_credit),
    "READY": (decode_ready, encode_ready),
}

MESSAGE_1 = bytes(range(208)) * 6
MESSAGE_2 = bytes(range(192)) * 6
RELAY = RelayReady(
    onion_key=bytes(range(32)),
    suites=(Suite.CHACHAPOLY, Suite.AESGCM),
    time=1_800_000_000,
    observed=Address("2001:db8::1", 40_000),
    valid_after=1_799_998_000,
    digest=bytes(range(32, 64)),
)

u64 = st.integers(0, 2**64 - 1)
suites = st.sampled_from(list(Suite))
relay_readies = st.builds(
    RelayReady,
    onion_key=st.binary(min_size=32, max_size=32),
    suites=st.lists(suites, min_size=1, max_size=2, unique=True).map(tuple),
    time=u64,
    observed=st.builds(Address, st.ip_addresses().map(str), st.integers(0, 65535)),
    valid_after=u64,
    digest=st.binary(min_size=32, max_size=32),
)
readies = st.builds(
    Ready,
    versions=st.lists(st.integers(0, 255), max_size=15).map(lambda more: (1, *more)),
    window=st.integers(1, 1024),
    relay=st.none() | relay_readies,
)
grants = st.lists(
    st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 1 << 20)),
    min_size=1,
    max_size=MOST_GRANTS,
    unique_by=lambda grant: grant[0],
)


def body_of(content: bytes) -> memoryview:
    """Return a whole body: `content` and zeros."""
    return memoryview(make_cell(1, Command.RELAY, content))[8:]


def assert_refused(decode: Decode, content: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(body_of(content))


# Cells


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(Command)), st.binary(max_size=64))
def test_a_cell_has_one_size_and_is_written_to_its_last_byte(
    circuit: int, command: Command, content: bytes
) -> None:
    cell = make_cell(circuit, command, content)

    assert cell == circuit.to_bytes(4, "big") + bytes((command, 0, 0, 0)) + body_of(content)
    assert len(cell) == CELL_LENGTH
    assert cell[:8] == cell_header(circuit, command)


def test_the_largest_handshake_fits_into_one_cell() -> None:
    assert 2 + NK_MESSAGE_1_LENGTH <= BODY_LENGTH
    assert (NK_MESSAGE_1_LENGTH, NK_MESSAGE_2_LENGTH) == (1248, 1152)
    assert len(make_cell(1, Command.PADDING, bytes(BODY_LENGTH))) == CELL_LENGTH


# CREATE and CREATED


@given(
    st.integers(0, MOST_HOPS - 1),
    suites,
    st.binary(min_size=NK_MESSAGE_1_LENGTH, max_size=NK_MESSAGE_1_LENGTH),
)
def test_create_comes_back_as_it_was(depth: int, suite: Suite, message: bytes) -> None:
    decoded = decode_create(body_of(encode_create(depth, suite, message)))

    assert decoded == (depth, suite, message)


@pytest.mark.parametrize("depth", [7, 8, 255])
def test_a_create_beyond_the_seventh_hop_is_refused(depth: int) -> None:  # T24
    assert_refused(decode_create, encode_create(depth, Suite.AESGCM, MESSAGE_1))


@pytest.mark.parametrize("suite", [0, 3, 255])
def test_a_create_for_an_unknown_suite_is_refused(suite: int) -> None:
    assert_refused(decode_create, bytes((0, suite)) + MESSAGE_1)


def test_created_comes_back_as_it_was() -> None:
    assert decode_created(body_of(MESSAGE_2)) == MESSAGE_2


@pytest.mark.parametrize(
    ("decode", "content"),
    [
        (decode_create, encode_create(0, Suite.AESGCM, MESSAGE_1)),
        (decode_created, MESSAGE_2),
        (decode_credit, encode_credit([(1, 2), (3, 4)])),
        (decode_ready, encode_ready(Ready((1,), 64))),
        (decode_ready, encode_ready(Ready((1,), 64, RELAY))),
    ],
)
def test_bytes_behind_the_content_are_refused_wherever_they_are(
    decode: Decode, content: bytes
) -> None:
    for place in (len(content), len(content) + 1, 3000, BODY_LENGTH - 1):
        body = bytearray(body_of(content))
        body[place] = 1

        with pytest.raises(ProtocolError):
            decode(memoryview(body))


# CREDIT


@given(grants)
def test_credit_comes_back_as_it_was(given_grants: list[tuple[int, int]]) -> None:
    assert decode_credit(body_of(encode_credit(given_grants))) == given_grants


def test_a_credit_cell_can_be_full() -> None:
    full = [(number, number) for number in range(1, MOST_GRANTS + 1)]

    assert len(encode_credit(full)) == BODY_LENGTH
    assert decode_credit(body_of(encode_credit(full))) == full


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [(1, 0)],
        [(1, (1 << 20) + 1)],
        [(1, 5), (2, 5), (1, 5)],
        [(0, 5)],
        [(1, 5), (0, 0), (2, 5)],
    ],
    ids=["empty", "nothing", "absurd", "twice", "circuit zero", "behind the end"],
)
def test_a_credit_that_makes_no_sense_is_refused(wrong: list[tuple[int, int]]) -> None:
    assert_refused(decode_credit, encode_credit(wrong))


# READY


@given(readies)
def test_ready_comes_back_as_it_was(ready: Ready) -> None:
    assert decode_ready(body_of(encode_ready(ready))) == ready


def test_an_anonymous_client_says_versions_and_window_and_no_more() -> None:
    assert encode_ready(Ready((1,), 64)) == bytes((1, 1, 0, 64, 0))


@pytest.mark.parametrize("versions", [(), (0,), (2, 3), tuple(range(1, 18))])
def test_a_ready_needs_a_version_in_common_and_at_most_sixteen(versions: tuple[int, ...]) -> None:
    assert_refused(decode_ready, encode_ready(Ready(versions, 64)))  # T79


@pytest.mark.parametrize("window", [0, 1025, 65535])
def test_a_ready_with_an_absurd_window_is_refused(window: int) -> None:
    assert_refused(decode_ready, encode_ready(Ready((1,), window)))


@pytest.mark.parametrize(
    "relay",
    [
        replace(RELAY, suites=()),
        replace(RELAY, suites=(Suite.AESGCM, Suite.AESGCM)),
        replace(RELAY, suites=(Suite.AESGCM, Suite.CHACHAPOLY, Suite.AESGCM)),
        replace(RELAY, observed=Address("relay.example", 1)),
    ],
    ids=["no suite", "one suite twice", "three suites", "observed at a name"],
)
def test_a_relays_ready_has_one_form(relay: RelayReady) -> None:
    assert_refused(decode_ready, encode_ready(Ready((1,), 64, relay)))


@given(st.integers(0, 140), st.integers(0, 255))
@example(place=0, value=17)
@example(place=3, value=2)
def test_a_changed_ready_is_another_one_or_refused(place: int, value: int) -> None:
    body = bytearray(body_of(encode_ready(Ready((1,), 64, RELAY))))
    body[place] = value

    try:
        ready = decode_ready(memoryview(body))
    except ProtocolError:
        return
    assert body_of(encode_ready(ready)) == body


# Garbage


@pytest.mark.parametrize(("decode", "encode"), CODECS.values(), ids=CODECS.keys())
@given(start=st.binary(max_size=160), fill=st.sampled_from([0, 0, 1, 255]))
def test_garbage_is_a_protocol_error_or_reads_back_the_same(
    decode: Decode, encode: Callable[[Any], bytes], start: bytes, fill: int
) -> None:
    body = start + bytes([fill]) * (BODY_LENGTH - len(start))

    try:
        value = decode(memoryview(body))
    except ProtocolError:
        return
    assert body_of(encode(value)) == body
