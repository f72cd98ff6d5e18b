from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import identity
from warren.directory.documents import (
    MAGIC,
    Envelope,
    Kind,
    dump_cbor,
    load_cbor,
    open_own_document,
    read_envelope,
    seal_document,
    sign_content,
)
from warren.errors import ProtocolError
from warren.identity import Identity, PeerId, verify

NETWORK_ID = b"n" * 32
LIMIT = 4096
ALICE, BOB = identity("alice"), identity("bob")

# The order of the group of Ed25519.
L = 2**252 + 27742317777372353535851937790883648493

#: Points of small order and their encodings that are not canonical (T53).
SMALL_ORDER_KEYS = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes(31) + b"\x80",
    b"\x01" + bytes(30) + b"\x80",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    bytes.fromhex("ec" + "ff" * 30 + "7f"),
    bytes.fromhex("ed" + "ff" * 30 + "7f"),
    bytes.fromhex("ee" + "ff" * 30 + "7f"),
    bytes.fromhex("ec" + "ff" * 31),
    bytes.fromhex("ed" + "ff" * 31),
    bytes.fromhex("ee" + "ff" * 31),
]


class Anything(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    a: Any


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    key: bytes
    text: str


def sealed(content: bytes = b"content", kind: Kind = Kind.VOTE, by: Identity = ALICE) -> bytes:
    return seal_document(kind, content, by, NETWORK_ID)


def opened(data: bytes, kind: Kind = Kind.VOTE) -> tuple[PeerId, bytes]:
    return open_own_document(data, kind, NETWORK_ID, LIMIT)


# ---- the envelope


@given(content=st.binary(max_size=200), kind=st.sampled_from(Kind))
def test_a_sealed_document_opens_to_its_signer_and_content(content: bytes, kind: Kind) -> None:
    document = sealed(content, kind)

    assert opened(document, kind) == (ALICE.peer_id, content)
    assert read_envelope(document, kind, LIMIT).encode() == document


def test_every_changed_byte_is_noticed() -> None:
    document = sealed()

    for at in range(len(document)):
        changed = document[:at] + bytes([document[at] ^ 1]) + document[at + 1 :]
        with pytest.raises(ProtocolError):
            opened(changed)


def test_every_cut_and_every_trailing_byte_is_refused() -> None:
    document = sealed()

    for bad in [document[:length] for length in range(len(document))] + [document + b"\0"]:
        with pytest.raises(ProtocolError):
            opened(bad)


@given(tail=st.binary(max_size=300), prefix=st.sampled_from([b"", MAGIC, MAGIC + b"\x02\x01"]))
def test_garbage_is_refused(prefix: bytes, tail: bytes) -> None:
    with pytest.raises(ProtocolError):
        opened(prefix + tail)


def test_a_document_of_another_network_is_refused() -> None:
    document = sealed()

    with pytest.raises(ProtocolError, match="signature"):
        open_own_document(document, Kind.VOTE, b"m" * 32, LIMIT)


def test_a_signature_for_one_kind_is_none_for_another() -> None:  # T08: wrong label
    signature = sign_content(Kind.VOTE, b"content", ALICE, NETWORK_ID)
    envelope = Envelope(Kind.CONSENSUS, {ALICE.peer_id: signature}, b"content")

    with pytest.raises(ProtocolError, match="signature"):
        envelope.signed_by(NETWORK_ID, [ALICE.peer_id])


def test_a_document_over_its_limit_is_refused_before_anything_else() -> None:
    with pytest.raises(ProtocolError, match="at most 100"):
        read_envelope(bytes(101), Kind.VOTE, 100)


def test_signatures_of_two_are_in_the_order_of_their_keys() -> None:
    keys = {who.peer_id: sign_content(Kind.VOTE, b"x", who, NETWORK_ID) for who in (ALICE, BOB)}
    document = Envelope(Kind.VOTE, keys, b"x").encode()
    envelope = read_envelope(document, Kind.VOTE, LIMIT)
    start, size = 10, 96
    swapped = (
        document[:start]
        + document[start + size : start + 2 * size]
        + document[start : start + size]
        + document[start + 2 * size :]
    )

    assert envelope.signed_by(NETWORK_ID, keys) == set(keys)
    with pytest.raises(ProtocolError, match="out of order"):
        read_envelope(swapped, Kind.VOTE, LIMIT)


def test_one_key_cannot_sign_twice() -> None:  # T08: copies by one authority
    signature = ALICE.peer_id + sign_content(Kind.VOTE, b"x", ALICE, NETWORK_ID)
    document = MAGIC + bytes((Kind.VOTE, 2)) + (1).to_bytes(4, "big") + signature * 2 + b"x"

    with pytest.raises(ProtocolError, match="two by one key"):
        read_envelope(document, Kind.VOTE, LIMIT)


def test_a_document_of_its_own_has_one_signature_of_someone_allowed() -> None:
    both = {who.peer_id: sign_content(Kind.VOTE, b"x", who, NETWORK_ID) for who in (ALICE, BOB)}

    with pytest.raises(ProtocolError, match="more than one"):
        opened(Envelope(Kind.VOTE, both, b"x").encode())
    with pytest.raises(ProtocolError, match="may not"):
        open_own_document(sealed(), Kind.VOTE, NETWORK_ID, LIMIT, [BOB.peer_id])


@pytest.mark.parametrize("key", SMALL_ORDER_KEYS, ids=bytes.hex)
def test_keys_of_small_order_sign_nothing(key: bytes) -> None:  # T53, HS-3
    forged = Envelope(Kind.VOTE, {PeerId(key): key + bytes(32)}, b"x").encode()
    identity_point = Envelope(Kind.VOTE, {PeerId(key): b"\x01" + bytes(63)}, b"x").encode()

    for document in (forged, identity_point):
        with pytest.raises(ProtocolError, match="signature"):
            opened(document)


def test_a_signature_with_a_number_over_the_group_order_is_refused() -> None:  # T53
    signature = ALICE.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little")
    unreduced = signature[:32] + (scalar + L).to_bytes(32, "little")

    assert verify(ALICE.peer_id, b"message", signature)
    assert not verify(ALICE.peer_id, b"message", unreduced)


# ---- CBOR


@given(
    number=st.integers(-(2**63), 2**63),
    key=st.binary(max_size=40),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_cbor_comes_back_as_it_was(number: int, key: bytes, text: str) -> None:
    data = dump_cbor({"number": number, "key": key, "text": text})

    assert load_cbor(data, Strict, 10) == Strict(number, key, text)


@given(st.binary(max_size=200))
def test_cbor_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        load_cbor(data, Strict, 100)


@given(st.data())
def test_damaged_cbor_is_refused_or_says_something_else(data: st.DataObject) -> None:
    good = dump_cbor({"number": 1000, "key": b"0123456789", "text": "hello"})
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]

    try:
        read = load_cbor(bad, Strict, 100)
    except ProtocolError:
        return
    assert dump_cbor(msgspec.to_builtins(read, builtin_types=(bytes,))) == bad


HOSTILE = {
    "trailing byte": b"\xa1\x61a\x01\x00",
    "number longer than needed": b"\xa1\x61a\x18\x01",
    "length longer than needed": b"\xa1\x78\x01a\x01",
    "duplicate key": b"\xa2\x61a\x01\x61a\x02",
    "unsorted keys": b"\xa2\x61b\x01\x61a\x02",
    "key that is a number": b"\xa1\x01\x01",
    "key that is bytes": b"\xa1\x41a\x01",
    "indefinite array": b"\xa1\x61a\x9f\x01\xff",
    "indefinite map": b"\xbf\x61a\x01\xff",
    "indefinite text": b"\xa1\x61a\x7f\x61x\xff",
    "reserved length": b"\xa1\x61a\x1c",
    "too deep": b"\xa1\x61a" + b"\x81" * 9 + b"\x00",
    "very deep": b"\xa1\x61a" + b"\x81" * 90,
    "text that is not UTF-8": b"\xa1\x61a\x61\xff",
    "array of 2^62": b"\xa1\x61a\x9b\x40" + bytes(7),
    "bytes of 2^40": b"\xa1\x61a\x5b\x00\x00\x01" + bytes(5),
    "missing field": b"\xa0",
    "unknown field": b"\xa2\x61a\x01\x61b\x01",
    "no map": b"\x01",
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_cbor_is_refused(data: bytes) -> None:  # DIR-2
    with pytest.raises(ProtocolError):
        load_cbor(data, Anything, 200)


#: One of each kind of value a tag may stand before.
TAGGED = (b"\x00", b"\x41\x00", b"\x61a", b"\x80", b"\x82\x00\x00", b"\xa0", b"\xf4")


@pytest.mark.parametrize("tags", [range(320), range(43000, 43003), range(55798, 55801)])
def test_no_tag_is_accepted(tags: range) -> None:  # DIR-2; all 65536 were tried with cbor2 6.3
    for tag in (*tags, 1004, 65535):
        for value in TAGGED:
            data = b"\xa1\x61a" + cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + value
            with pytest.raises(ProtocolError):
                load_cbor(data, Anything, 100)


@pytest.mark.parametrize(
    "value",
    [
        {"number": 1.0, "key": b"", "text": ""},
        {"number": True, "key": b"", "text": ""},
        {"number": None, "key": b"", "text": ""},
        {"number": 1, "key": "AAAA", "text": ""},
        {"number": 1, "key": b"", "text": b""},
        {"number": float("nan"), "key": b"", "text": ""},
        {"number": cbor2.undefined, "key": b"", "text": ""},
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        load_cbor(cbor2.dumps(value, canonical=True), Strict, 100)


def test_too_many_values_are_refused_before_they_are_made() -> None:  # T52: memory
    bomb = b"\xa1\x61a\x9a\x00\x10\x00\x00" + b"\x80" * (1 << 20)

    with pytest.raises(ProtocolError, match="more than 1000 values"):
        load_cbor(bomb, Anything, 1000)
