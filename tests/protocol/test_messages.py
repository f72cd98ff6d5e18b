"""Relay messages: the envelope that cuts a payload, and what is in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.identity import PeerId, Suite
from warren.protocol.messages import (
    MESSAGE_HEADER,
    MESSAGE_HEADER_LENGTH,
    Begin,
    BeginFlags,
    Connected,
    Extend,
    ExtendStatus,
    Message,
    decode_end,
    decode_extended,
    decode_stream_credit,
    encode_end,
    encode_extended,
    encode_message,
    encode_stream_credit,
    read_messages,
)

PAYLOAD = 4040

labels = st.text("abcxyz019_", min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=4).map(lambda parts: ".".join((*parts, "org")))
ports = st.integers(1, 65535)
literals = st.ip_addresses().map(str)
peer_ids = st.binary(min_size=32, max_size=32).map(PeerId)


@dataclass
class Codec:
    """Hold a message's codec, and a strategy of what it is made for."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    values: st.SearchStrategy[Any]


CODECS = {
    "EXTEND": Codec(
        Extend.encode,
        Extend.decode,
        st.builds(
            Extend,
            peer_ids,
            st.sampled_from(list(Suite)),
            st.binary(min_size=1248, max_size=1248),
        ),
    ),
    "EXTENDED": Codec(
        lambda value: encode_extended(*value),
        decode_extended,
        st.tuples(st.just(ExtendStatus.OK), st.binary(min_size=1152, max_size=1152))
        | st.tuples(st.sampled_from(list(ExtendStatus)[1:]), st.just(b"")),
    ),
    "BEGIN": Codec(
        Begin.encode,
        Begin.decode,
        st.builds(
            Begin,
            st.builds(Address, names | literals, ports),
            st.integers(0, 7).map(BeginFlags),
        ),
    ),
    "CONNECTED": Codec(
        Connected.encode,
        Connected.decode,
        st.builds(Connected, st.builds(Address, literals, ports), st.integers(0, 2**32 - 1)),
    ),
    "END": Codec(encode_end, decode_end, st.sampled_from(list(EndReason))),
    "CREDIT": Codec(
        lambda value: encode_stream_credit(*value),
        decode_stream_credit,
        st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)).map(sorted).map(tuple),
    ),
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


def in_payload(*messages: bytes) -> memoryview:
    """Return a payload with `messages` and zeros."""
    return memoryview(b"".join(messages).ljust(PAYLOAD, b"\0"))


def spell(command: int, stream: int, data: bytes) -> bytes:
    """Return a message with any command, known or not."""
    return MESSAGE_HEADER.pack(command, stream, len(data)) + data


def read_all(payload: memoryview) -> list[tuple[int, int, bytes]]:
    return [(command, stream, bytes(data)) for command, stream, data in read_messages(payload)]


def is_refused(decode: Callable[[bytes], object], data: bytes) -> bool:
    try:
        decode(data)
    except ProtocolError:
        return True
    return False


# What is in a message


@every_codec
@given(data=st.data())
def test_a_message_comes_back_as_it_was(codec: Codec, data: st.DataObject) -> None:
    value = data.draw(codec.values)

    assert codec.decode(codec.encode(value)) == value


@every_codec
@settings(max_examples=15)
@given(data=st.data())
def test_a_message_that_is_cut_or_has_bytes_behind_it_is_refused(
    codec: Codec, data: st.DataObject
) -> None:
    whole = codec.encode(data.draw(codec.values))

    sizes = [size for size in range(len(whole)) if size < 300 or size % 97 == 0]
    assert all(is_refused(codec.decode, whole[:size]) for size in [*sizes, len(whole) - 1])
    assert is_refused(codec.decode, whole + b"\0")


@every_codec
@given(data=st.data(), at=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_changed_message_is_another_one_or_refused(
    codec: Codec, data: st.DataObject, at: int, value: int
) -> None:
    changed = bytearray(codec.encode(data.draw(codec.values)))
    changed[at % len(changed)] = value

    try:
        decoded = codec.decode(bytes(changed))
    except ProtocolError:
        return
    assert codec.encode(decoded) == changed


@every_codec
@given(garbage=st.binary(max_size=80))
def test_garbage_in_a_message_is_a_protocol_error_and_nothing_else(
    codec: Codec, garbage: bytes
) -> None:
    assert is_refused(codec.decode, garbage) or codec.encode(codec.decode(garbage)) == garbage


@pytest.mark.parametrize("number", sorted(set(range(256)) - set(EndReason)))
def test_an_end_for_a_reason_out_of_the_list_is_refused(number: int) -> None:  # SID-3, T68
    with pytest.raises(ProtocolError):
        decode_end(bytes((number,)))


def test_the_status_of_a_failed_extension_brings_no_message() -> None:
    with pytest.raises(ProtocolError):
        decode_extended(bytes((ExtendStatus.REFUSED,)) + bytes(1152))
    with pytest.raises(ProtocolError):
        decode_extended(bytes((4,)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x08" + Address("example.org", 80).encode(),
        b"\x00" + Address("example.org", 0).encode(),
        b"\x00\x01\x04A.b.\x00\x50",
    ],
    ids=["unknown flags", "port 0", "a spelling not its own"],
)
def test_a_begin_has_one_spelling(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Begin.decode(data)


def test_a_connected_names_an_address_not_a_name() -> None:
    with pytest.raises(ProtocolError):
        Connected.decode(bytes(4) + Address("example.org", 80).encode())


@pytest.mark.parametrize(("offset", "limit"), [(1, 0), (2**63, 2**63), (0, 2**64 - 1)])
def test_a_stream_credit_has_a_limit_behind_its_offset_and_below_2_63(
    offset: int, limit: int
) -> None:
    with pytest.raises(ProtocolError):
        decode_stream_credit(encode_stream_credit(offset, limit))


# The envelope

messages = st.lists(
    st.tuples(st.integers(1, 255), st.integers(0, 2**32 - 1), st.binary(max_size=200)),
    min_size=1,
    max_size=19,
)


@given(messages)
def test_messages_are_cut_where_they_were_joined(parts: list[tuple[int, int, bytes]]) -> None:
    assert read_all(in_payload(*(spell(*part) for part in parts))) == parts


@pytest.mark.parametrize("left", range(MESSAGE_HEADER_LENGTH + 2))
def test_a_payload_may_be_full_to_any_byte(left: int) -> None:
    data = bytes([7]) * (PAYLOAD - MESSAGE_HEADER_LENGTH - left)

    assert read_all(in_payload(encode_message(Message.DATA, 5, data))) == [(Message.DATA, 5, data)]


@pytest.mark.parametrize("left", range(1, MESSAGE_HEADER_LENGTH + 2))
def test_bytes_behind_the_last_message_are_refused(left: int) -> None:
    data = bytes(PAYLOAD - MESSAGE_HEADER_LENGTH - left)
    payload = bytearray(in_payload(encode_message(Message.DATA, 5, data)))
    payload[-1] = 1

    with pytest.raises(ProtocolError):
        read_messages(memoryview(payload))


def test_a_message_that_runs_past_its_cell_is_refused() -> None:
    header = encode_message(Message.DATA, 5, bytes(PAYLOAD))[:MESSAGE_HEADER_LENGTH]

    with pytest.raises(ProtocolError):
        read_messages(in_payload(header))


def test_a_cell_without_a_message_is_refused() -> None:
    with pytest.raises(ProtocolError):
        read_messages(in_payload())


@given(st.binary(max_size=60))
def test_a_payload_of_garbage_is_a_protocol_error_or_reads_back_the_same(start: bytes) -> None:
    payload = in_payload(start)

    try:
        read = read_all(payload)
    except ProtocolError:
        return
    assert in_payload(*(spell(*part) for part in read)) == payload
