"""Who a peer is: ids in text, one verifier, and keys that give nothing away or nothing at all."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import ProtocolError
from warren.identity import (
    KEM_CIPHERTEXT_LENGTH,
    KEM_PUBLIC_LENGTH,
    Hop,
    Identity,
    KeyPair,
    PeerId,
    Suite,
    SystemKeys,
    verify,
)

KEYS = SystemKeys()
IDENTITY = Identity(bytes(range(32)))
TEXT = str(IDENTITY.peer_id)
MESSAGE = b"a message"

#: Points of small order, and one that is not reduced (RFC 7748 §6.1, T53).
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]
#: The order of Ed25519's group.
ORDER = 2**252 + 27742317777372353535851937790883648493

raw_keys = st.binary(min_size=32, max_size=32)


# Peer ids


@given(raw_keys)
def test_a_peer_id_comes_back_from_its_text(raw: bytes) -> None:
    text = str(PeerId(raw))

    assert len(text) == 52
    assert PeerId.parse(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        "", TEXT[:-1], TEXT + "a", TEXT.upper(), TEXT[:-1] + "=", "1" + TEXT[1:], " " + TEXT[1:],
        "ı" + TEXT[1:], "ß" + TEXT[1:], TEXT[:-1] + chr(ord(TEXT[-1]) + 1), "a" * 51 + "b",
    ],
)  # fmt: skip
def test_a_peer_id_has_one_text(text: str) -> None:
    with pytest.raises(ValueError, match="is no peer id"):
        PeerId.parse(text)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_peer_id_has_32_bytes(length: int) -> None:
    with pytest.raises(ProtocolError):
        PeerId(bytes(length))


# Signatures


@given(st.binary(max_size=50), st.integers(0, 64 * 8 - 1))
def test_a_signature_is_good_for_its_message_and_no_bit_else(message: bytes, bit: int) -> None:
    signature = IDENTITY.sign(message)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8

    assert verify(IDENTITY.peer_id, message, signature)
    assert not verify(IDENTITY.peer_id, message, bytes(changed))
    assert not verify(IDENTITY.peer_id, message + b"\0", signature)


def test_a_signature_of_somebody_else_is_refused() -> None:
    other = Identity(sha256(b"other").digest())

    assert not verify(IDENTITY.peer_id, MESSAGE, other.sign(MESSAGE))


@pytest.mark.parametrize("point", [(1).to_bytes(32, "little"), bytes(32), b"\xff" * 32])
def test_a_key_of_small_order_signs_nothing(point: bytes) -> None:  # HS-3, T53
    # R = A and S = 0 fit every message under the identity point, if it is let in.
    assert not verify(point, MESSAGE, point + bytes(32))


def test_a_signature_with_s_beyond_the_order_is_refused() -> None:  # T53
    signature = IDENTITY.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little")

    assert not verify(
        IDENTITY.peer_id, MESSAGE, signature[:32] + (s + ORDER).to_bytes(32, "little")
    )


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_garbage_verifies_nothing_and_raises_nothing(peer_id: bytes, signature: bytes) -> None:
    assert verify(peer_id, MESSAGE, signature) is False


# Keys


@given(raw_keys, raw_keys)
def test_both_sides_of_an_exchange_get_the_same(one: bytes, other: bytes) -> None:
    left, right = KeyPair.from_private(one), KeyPair.from_private(other)

    assert left.exchange(right.public) == right.exchange(left.public)


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_a_point_of_low_order_gives_no_secret(point: bytes) -> None:  # HS-2, T53
    with pytest.raises(ProtocolError):
        KEYS.key_pair().exchange(point)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_have_32_bytes(length: int) -> None:
    with pytest.raises(ProtocolError):
        KeyPair.from_private(bytes(length))
    with pytest.raises(ProtocolError):
        KEYS.key_pair().exchange(bytes(length))
    with pytest.raises(ProtocolError):
        KeyPair(bytes(32), bytes(length))


def test_a_kem_key_gets_back_what_was_encapsulated_to_it() -> None:
    key = KEYS.kem_key()

    ciphertext, secret = KEYS.encapsulate(key.public)

    assert (len(key.public), len(ciphertext)) == (KEM_PUBLIC_LENGTH, KEM_CIPHERTEXT_LENGTH)
    assert key.decapsulate(ciphertext) == secret


def test_a_changed_ciphertext_gives_another_secret_without_an_error() -> None:  # HS-1
    key = KEYS.kem_key()
    ciphertext, secret = KEYS.encapsulate(key.public)
    changed = bytes((ciphertext[0] ^ 1,)) + ciphertext[1:]

    assert key.decapsulate(changed) not in (secret, b"")


@pytest.mark.parametrize(
    "public",
    [b"", bytes(1183), bytes(1185), b"\xff" * 1184],
    ids=["empty", "short", "long", "unreduced"],
)
def test_a_bad_encapsulation_key_is_refused(public: bytes) -> None:  # HS-2, T54
    with pytest.raises(ProtocolError):
        KEYS.encapsulate(public)


@pytest.mark.parametrize("length", [0, 1087, 1089])
def test_a_ciphertext_of_the_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError):
        KEYS.kem_key().decapsulate(bytes(length))


def test_secrets_are_not_in_what_is_printed() -> None:
    pair = KEYS.key_pair()

    assert pair.private.hex()[:8] not in repr(pair)
    assert repr(IDENTITY) == f"<Identity <peer {TEXT[:8]}>>"


# Hops


def test_a_hop_has_whole_keys_and_a_suite() -> None:
    place, key = Address("192.0.2.1", 1), bytes(32)
    Hop(IDENTITY.peer_id, place, key, None, (Suite.AESGCM,))

    with pytest.raises(ProtocolError):
        Hop(IDENTITY.peer_id, place, bytes(31), None, (Suite.AESGCM,))
    with pytest.raises(ProtocolError):
        Hop(IDENTITY.peer_id, place, key, bytes(33), (Suite.AESGCM,))
    with pytest.raises(ProtocolError):
        Hop(IDENTITY.peer_id, place, key, key, ())
