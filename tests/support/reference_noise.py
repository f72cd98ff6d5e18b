"""The hybrid handshakes a second time, line by line, for the tests to compare with (T55).

Written from Noise revision 34 §4, §5 and the token rules of its hfs extension, and from nothing
of ours: no tokens, no states, another X25519 and HMAC by hand. One function plays both sides,
since all that a handshake does follows from the private keys and the ciphertext.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305


@dataclass(frozen=True)
class Transcript:
    """Hold both messages and all that the two sides share at the end."""

    message_1: bytes
    message_2: bytes
    initiator_key: bytes
    responder_key: bytes
    extra_secret: bytes
    handshake_hash: bytes


def run_nkhfs(
    aead: str,
    prologue: bytes,
    *,
    responder_static: bytes,
    initiator_ephemeral: bytes,
    responder_ephemeral: bytes,
    kem_seed: bytes,
    ciphertext: bytes,
    payload_1: bytes = b"",
    payload_2: bytes = b"",
) -> Transcript:
    """Do ``-> e, es, e1; <- e, ee, ekem1`` with these private keys and this ciphertext."""
    kem = MLKEM768PrivateKey.from_seed_bytes(kem_seed)
    h = ck = _hash(b"Noise_NKhfs_25519+MLKEM768_" + aead.encode() + b"_SHA256")
    h = _hash(h + prologue)
    h = _hash(h + _public(responder_static))

    e = _public(initiator_ephemeral)  # e
    h = _hash(h + e)
    ck, k = _hkdf2(ck, _dh(initiator_ephemeral, responder_static))  # es
    e1 = _seal(aead, k, 0, h, kem.public_key().public_bytes_raw())  # e1
    h = _hash(h + e1)
    sealed_payload = _seal(aead, k, 1, h, payload_1)
    h = _hash(h + sealed_payload)
    message_1 = e + e1 + sealed_payload

    e = _public(responder_ephemeral)  # e
    h = _hash(h + e)
    ck, k = _hkdf2(ck, _dh(responder_ephemeral, initiator_ephemeral))  # ee
    ekem1 = _seal(aead, k, 0, h, ciphertext)  # ekem1
    h = _hash(h + ekem1)
    ck, k = _hkdf2(ck, kem.decapsulate(ciphertext))
    sealed_payload = _seal(aead, k, 0, h, payload_2)
    h = _hash(h + sealed_payload)
    message_2 = e + ekem1 + sealed_payload

    return Transcript(message_1, message_2, *_hkdf3(ck, b""), h)


def run_ikhfs(
    aead: str,
    prologue: bytes,
    *,
    initiator_static: bytes,
    responder_static: bytes,
    initiator_ephemeral: bytes,
    responder_ephemeral: bytes,
    kem_seed: bytes,
    ciphertext: bytes,
    payload_1: bytes = b"",
    payload_2: bytes = b"",
) -> Transcript:
    """Do ``-> e, es, e1, s, ss; <- e, ee, ekem1, se`` with these keys and this ciphertext."""
    kem = MLKEM768PrivateKey.from_seed_bytes(kem_seed)
    h = ck = _hash(b"Noise_IKhfs_25519+MLKEM768_" + aead.encode() + b"_SHA256")
    h = _hash(h + prologue)
    h = _hash(h + _public(responder_static))

    e = _public(initiator_ephemeral)  # e
    h = _hash(h + e)
    ck, k = _hkdf2(ck, _dh(initiator_ephemeral, responder_static))  # es
    e1 = _seal(aead, k, 0, h, kem.public_key().public_bytes_raw())  # e1
    h = _hash(h + e1)
    s = _seal(aead, k, 1, h, _public(initiator_static))  # s
    h = _hash(h + s)
    ck, k = _hkdf2(ck, _dh(initiator_static, responder_static))  # ss
    sealed_payload = _seal(aead, k, 0, h, payload_1)
    h = _hash(h + sealed_payload)
    message_1 = e + e1 + s + sealed_payload

    e = _public(responder_ephemeral)  # e
    h = _hash(h + e)
    ck, k = _hkdf2(ck, _dh(responder_ephemeral, initiator_ephemeral))  # ee
    ekem1 = _seal(aead, k, 0, h, ciphertext)  # ekem1
    h = _hash(h + ekem1)
    ck, k = _hkdf2(ck, kem.decapsulate(ciphertext))
    ck, k = _hkdf2(ck, _dh(responder_ephemeral, initiator_static))  # se
    sealed_payload = _seal(aead, k, 0, h, payload_2)
    h = _hash(h + sealed_payload)
    message_2 = e + ekem1 + sealed_payload

    return Transcript(message_1, message_2, *_hkdf3(ck, b""), h)


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _hkdf2(ck: bytes, material: bytes) -> tuple[bytes, bytes]:
    temporary = _hmac(ck, material)
    first = _hmac(temporary, b"\x01")
    return first, _hmac(temporary, first + b"\x02")


def _hkdf3(ck: bytes, material: bytes) -> tuple[bytes, bytes, bytes]:
    first, second = _hkdf2(ck, material)
    return first, second, _hmac(_hmac(ck, material), second + b"\x03")


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _dh(private: bytes, other_private: bytes) -> bytes:
    public = X25519PublicKey.from_public_bytes(_public(other_private))
    return X25519PrivateKey.from_private_bytes(private).exchange(public)


def _seal(aead: str, key: bytes, counter: int, associated: bytes, plaintext: bytes) -> bytes:
    if aead == "AESGCM":
        return AESGCM(key).encrypt(struct.pack(">IQ", 0, counter), plaintext, associated)
    return ChaCha20Poly1305(key).encrypt(struct.pack("<IQ", 0, counter), plaintext, associated)
