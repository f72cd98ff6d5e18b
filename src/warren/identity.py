"""Who a peer is: its Ed25519 id, the keys that hang on it, and what is needed to reach it.

Ed25519 and X25519 are PyNaCl's everywhere (HS-3: one verifier; OpenSSL accepts signatures
under small-order keys, PyNaCl does not). ML-KEM-768 is ``cryptography``'s. All chance that key
agreement needs comes from a ``KeySource``, so that the pure floors stay without it.
"""

import base64
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import nacl.bindings
import nacl.exceptions
import nacl.signing
from cryptography.hazmat.primitives.asymmetric import mlkem

from warren.addresses import Address
from warren.errors import ProtocolError, expect, refuse

KEY_LENGTH = 32
SIGNATURE_LENGTH = 64
KEM_PUBLIC_LENGTH = 1184
KEM_CIPHERTEXT_LENGTH = 1088


class Suite(IntEnum):
    """Name the AEAD of a handshake; the numbers are those on the wire."""

    AESGCM = 1
    CHACHAPOLY = 2


class PeerId(bytes):
    """Be a peer's Ed25519 public key, 32 bytes; in text lower-case base32 without padding."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> "PeerId":
        """Raise ProtocolError unless `raw` has 32 bytes."""
        if len(raw) != KEY_LENGTH:
            refuse(f"a peer id of {len(raw)} bytes, expected 32")
        return super().__new__(cls, raw)

    @classmethod
    def parse(cls, text: str) -> "PeerId":
        """Read the text form, 52 characters; raise ValueError otherwise."""
        if len(text) != 52 or text != text.lower():
            raise ValueError(
                f"{text[:64]!r} is no peer id: expected 52 lower-case characters a-z, 2-7"
            )
        try:
            raw = base64.b32decode(text.upper() + "====")
        except ValueError:
            raise ValueError(f"{text[:64]!r} is no peer id: expected only a-z and 2-7") from None
        peer = cls(raw)
        if str(peer) != text:
            raise ValueError(f"{text[:64]!r} is no peer id: its last character has stray bits")
        return peer

    def __str__(self) -> str:
        return base64.b32encode(self).decode("ascii").rstrip("=").lower()

    def __repr__(self) -> str:
        return f"<peer {str(self)[:8]}>"


class Identity:
    """Hold a peer's long-term signing key and sign with it."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32-byte Ed25519 seed."""
        self._key = nacl.signing.SigningKey(seed)
        self.seed = seed
        self.peer_id = PeerId(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"<Identity {self.peer_id!r}>"


def verify(peer_id: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is `peer_id`'s over `message`; never raises for bad input."""
    if len(peer_id) != KEY_LENGTH or len(signature) != SIGNATURE_LENGTH:
        return False
    try:
        nacl.signing.VerifyKey(bytes(peer_id)).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return True


def _expect_key(key: bytes) -> None:
    # libsodium reads 32 bytes whatever it is given.
    if len(key) != KEY_LENGTH:
        refuse(f"an X25519 key of {len(key)} bytes, expected 32")


@dataclass(frozen=True)
class KeyPair:
    """Hold an X25519 key pair, 32 bytes each."""

    private: bytes
    public: bytes

    def __post_init__(self) -> None:
        for key in (self.private, self.public):
            _expect_key(key)

    @classmethod
    def from_private(cls, private: bytes) -> "KeyPair":
        """Derive the public key of the 32 bytes `private`."""
        _expect_key(private)
        return cls(private, nacl.bindings.crypto_scalarmult_base(private))

    def exchange(self, public: bytes) -> bytes:
        """Return the 32-byte shared secret; raise ProtocolError for a low-order point (HS-2)."""
        _expect_key(public)
        try:
            return nacl.bindings.crypto_scalarmult(self.private, public)
        except (nacl.exceptions.RuntimeError, nacl.exceptions.CryptoError, TypeError, ValueError):
            raise ProtocolError("an X25519 key that gives no shared secret") from None

    def __repr__(self) -> str:
        return f"<KeyPair {self.public.hex()[:8]}>"


class KemKey:
    """Hold a fresh ML-KEM-768 decapsulation key."""

    def __init__(self, key: mlkem.MLKEM768PrivateKey) -> None:
        self._key = key
        self.public: bytes = key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte secret; garbage gives a random-looking one without error (HS-1).

        Raises ProtocolError when `ciphertext` does not have 1088 bytes.
        """
        try:
            return self._key.decapsulate(ciphertext)
        except ValueError:
            raise ProtocolError("an ML-KEM ciphertext of the wrong length") from None


class KeySource(Protocol):
    """Give the fresh keys that a handshake needs; known-answer tests replay one."""

    def key_pair(self) -> KeyPair:
        """Return a fresh X25519 key pair."""

    def kem_key(self) -> KemKey:
        """Return a fresh ML-KEM-768 key."""

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return ciphertext (1088 bytes) and secret (32) for the encapsulation key `public`.

        Raises ProtocolError for a key of the wrong length or not reduced (HS-2).
        """


class SystemKeys:
    """Be the ``KeySource`` of real life: the operating system's randomness."""

    def key_pair(self) -> KeyPair:
        """Return a fresh X25519 key pair."""
        return KeyPair.from_private(os.urandom(KEY_LENGTH))

    def kem_key(self) -> KemKey:
        """Return a fresh ML-KEM-768 key."""
        return KemKey(mlkem.MLKEM768PrivateKey.generate())

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return ciphertext and secret for `public`; see ``KeySource``."""
        try:
            secret, ciphertext = mlkem.MLKEM768PublicKey.from_public_bytes(public).encapsulate()
        except ValueError:
            raise ProtocolError("an ML-KEM key that is not a valid encapsulation key") from None
        return ciphertext, secret


@dataclass(frozen=True, slots=True)
class Hop:
    """Hold what is needed to reach a relay and to make a circuit to it.

    ``onion_key`` is None where only the link is known yet (network files, invitations): the
    peer's READY then carries it. ``suites`` are in the peer's order of preference.
    """

    peer_id: PeerId
    address: Address
    link_key: bytes
    onion_key: bytes | None
    suites: tuple[Suite, ...]

    def __post_init__(self) -> None:
        _expect_key(self.link_key)
        if self.onion_key is not None:
            _expect_key(self.onion_key)
        expect(bool(self.suites), "a relay without a cipher suite")

    def __repr__(self) -> str:
        return f"<Hop {str(self.peer_id)[:8]} at {self.address}>"
