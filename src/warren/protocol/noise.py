"""Noise: the two-message handshakes behind every link and every hop of a circuit.

This is Noise revision 34 with the hfs extension, for what Warren uses: the patterns NK and IK,
each plain or hybrid, over X25519, ML-KEM-768, two AEADs and SHA-256. A pattern is a list of
tokens; ``HandshakeState`` writes or reads one message by walking them::

    NKhfs   -> e, es, e1            IKhfs   -> e, es, e1, s, ss
            <- e, ee, ekem1                 <- e, ee, ekem1, se

``e1`` is a fresh encapsulation key and ``ekem1`` its ciphertext, both sent encrypted, so a wrong
message fails at a tag before any ML-KEM is done (DOS-3). The plain patterns are never spoken;
the tests hold them against another implementation. What goes round a message on the wire, and
which keys go in, is decided in ``protocol.handshake``.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from cryptography.exceptions import InvalidTag

from warren.errors import ProtocolError, expect
from warren.identity import (
    KEM_CIPHERTEXT_LENGTH,
    KEM_PUBLIC_LENGTH,
    KEY_LENGTH,
    KemKey,
    KeyPair,
    KeySource,
    Suite,
)
from warren.protocol.ciphers import TAG_LENGTH, make_aead, nonce_maker

Token = Literal["e", "s", "ee", "es", "se", "ss", "e1", "ekem1"]

_HASH_LENGTH = 32
_BLOCK_LENGTH = 64
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
_REKEY_NONCE = 2**64 - 1
_AEAD_NAMES = {Suite.AESGCM: "AESGCM", Suite.CHACHAPOLY: "ChaChaPoly"}

# Bytes of a token in a message; the others (ee, es, se, ss) send nothing. All but e have a tag,
# because every pattern here begins with e, es and so has a key from there on.
_FIELD_LENGTHS: dict[Token, int] = {
    "e": KEY_LENGTH,
    "s": KEY_LENGTH + TAG_LENGTH,
    "e1": KEM_PUBLIC_LENGTH + TAG_LENGTH,
    "ekem1": KEM_CIPHERTEXT_LENGTH + TAG_LENGTH,
}


@dataclass(frozen=True)
class Pattern:
    """Hold the tokens of a handshake's two messages, the initiator's first.

    The initiator knows the responder's static key beforehand (the pre-message ``<- s``).
    """

    name: str
    tokens: tuple[tuple[Token, ...], tuple[Token, ...]]

    def __post_init__(self) -> None:
        assert self.tokens[0][:2] == ("e", "es"), "nothing may be sent before there is a key"

    def protocol_name(self, suite: Suite) -> bytes:
        """Return Noise's name for this pattern with `suite` (Noise §8)."""
        kem = "+MLKEM768" if self.name.endswith("hfs") else ""
        return f"Noise_{self.name}_25519{kem}_{_AEAD_NAMES[suite]}_SHA256".encode("ascii")

    def message_length(self, number: int, payload_length: int = 0) -> int:
        """Return the bytes of message `number` (1 or 2) with a payload of `payload_length`."""
        fields = sum(_FIELD_LENGTHS.get(token, 0) for token in self.tokens[number - 1])
        return fields + payload_length + TAG_LENGTH


NK = Pattern("NK", (("e", "es"), ("e", "ee")))
IK = Pattern("IK", (("e", "es", "s", "ss"), ("e", "ee", "se")))
NKHFS = Pattern("NKhfs", (("e", "es", "e1"), ("e", "ee", "ekem1")))
IKHFS = Pattern("IKhfs", (("e", "es", "e1", "s", "ss"), ("e", "ee", "ekem1", "se")))


@dataclass(frozen=True)
class Split:
    """Hold what a finished handshake gives, 32 bytes each.

    ``initiator_key`` encrypts what the initiator sends, ``responder_key`` the other direction.
    ``extra_secret`` is a third HKDF output, which leaves the first two as Noise has them
    (protocol §2). Both sides have the same ``handshake_hash``, and nobody else can make it so.
    """

    initiator_key: bytes = field(repr=False)
    responder_key: bytes = field(repr=False)
    extra_secret: bytes = field(repr=False)
    handshake_hash: bytes = field(repr=False)


def rekey(suite: Suite, key: bytes) -> bytes:
    """Return the key that follows the 32-byte `key`: Noise's REKEY (Noise §4.2)."""
    nonce = nonce_maker(suite)(_REKEY_NONCE)
    return make_aead(suite, key).encrypt(nonce, bytes(KEY_LENGTH), None)[:KEY_LENGTH]


def _hkdf(chaining_key: bytes, material: bytes, count: int) -> list[bytes]:
    """Return `count` outputs of 32 bytes (Noise §4.3): RFC 5869 with the chaining key as salt."""
    secret = _hmac(chaining_key, material)
    outputs: list[bytes] = []
    output = b""
    for number in range(1, count + 1):
        output = _hmac(secret, output + bytes((number,)))
        outputs.append(output)
    return outputs


def _hmac(key: bytes, message: bytes) -> bytes:
    """Return HMAC-SHA-256 under a `key` of at most 64 bytes (RFC 2104).

    By hand, because a handshake is always done cold: the hash has just been used, while the code
    of the libraries' HMAC and HKDF takes 30 to 50 us to come from memory, at every hop.
    """
    padded = key.ljust(_BLOCK_LENGTH, b"\0")
    inner = sha256(padded.translate(_INNER_PAD) + message).digest()
    return sha256(padded.translate(_OUTER_PAD) + inner).digest()


class CipherState:
    """Own a key and the counter of its nonces (Noise §5.1)."""

    def __init__(self, suite: Suite, key: bytes) -> None:
        self._aead = make_aead(suite, key)
        self._nonce = nonce_maker(suite)
        self._counter = 0

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """Return the ciphertext, 16 bytes longer than `plaintext`."""
        ciphertext = self._aead.encrypt(self._nonce(self._counter), plaintext, associated)
        self._counter += 1
        return ciphertext

    def decrypt(self, associated: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext; raise ProtocolError unless its tag is right."""
        try:
            plaintext = self._aead.decrypt(self._nonce(self._counter), ciphertext, associated)
        except InvalidTag:
            raise ProtocolError("a handshake message that does not open") from None
        self._counter += 1
        return plaintext


class SymmetricState:
    """Own the chaining key, the hash and the cipher that grow with a handshake (Noise §5.4)."""

    def __init__(self, suite: Suite, protocol_name: bytes) -> None:
        self._suite = suite
        self._cipher: CipherState | None = None
        if len(protocol_name) <= _HASH_LENGTH:
            self.hash = protocol_name.ljust(_HASH_LENGTH, b"\0")
        else:
            self.hash = sha256(protocol_name).digest()
        self._chaining_key = self.hash

    def mix_key(self, material: bytes) -> None:
        """Let the secret `material` into all keys from here on."""
        self._chaining_key, key = _hkdf(self._chaining_key, material, 2)
        self._cipher = CipherState(self._suite, key)

    def mix_hash(self, data: bytes) -> None:
        """Let `data`, which both sides have seen, into the hash."""
        self.hash = sha256(self.hash + data).digest()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Encrypt `plaintext` bound to all that was said so far, and mix the result in."""
        assert self._cipher is not None, "a pattern has a key before it encrypts"
        ciphertext = self._cipher.encrypt(self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Undo ``encrypt_and_hash``; raise ProtocolError unless the tag is right."""
        assert self._cipher is not None, "a pattern has a key before it decrypts"
        plaintext = self._cipher.decrypt(self.hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> Split:
        """Return the keys of both directions, the extra secret and the hash."""
        first, second, extra = _hkdf(self._chaining_key, b"", 3)
        return Split(first, second, extra, self.hash)


class HandshakeState:
    """Own one side of one handshake: write and read its messages in turn, then split it.

    After it has raised it is finished: make a new one. ``remote_static`` and
    ``remote_ephemeral`` are the other side's 32-byte keys once known; what they may be trusted
    for is for the caller to decide.
    """

    def __init__(
        self,
        pattern: Pattern,
        suite: Suite,
        prologue: bytes,
        keys: KeySource,
        *,
        is_initiator: bool,
        static: KeyPair | None = None,
        remote_static: bytes | None = None,
    ) -> None:
        """Take `static`, our own static key, and on an initiator's side the responder's.

        An NK initiator has none of its own. Raises ProtocolError when `remote_static` does not
        have 32 bytes.
        """
        self._pattern = pattern
        self._keys = keys
        self._is_initiator = is_initiator
        self._static = static
        self._ephemeral: KeyPair | None = None
        self._kem_key: KemKey | None = None
        self._remote_kem: bytes | None = None
        self.remote_static = remote_static
        self.remote_ephemeral: bytes | None = None
        self._messages_done: int | None = 0  # None: it has raised

        known = remote_static if is_initiator or static is None else static.public
        assert known is not None, "every pattern here needs the responder's static key"
        expect(len(known) == KEY_LENGTH, f"a static key of {len(known)} bytes, expected 32")
        self._symmetric = SymmetricState(suite, pattern.protocol_name(suite))
        self._symmetric.mix_hash(prologue)
        self._symmetric.mix_hash(known)

    def write_message(self, payload: bytes = b"") -> bytes:
        """Return the next message with `payload` encrypted in it.

        Raises ProtocolError when a key of the other side is unusable (HS-2): a low-order point
        or an encapsulation key that is not reduced.
        """
        number = self._begin(is_writing=True)
        parts = [self._write(token) for token in self._pattern.tokens[number]]
        parts.append(self._symmetric.encrypt_and_hash(payload))
        self._messages_done = number + 1
        return b"".join(parts)

    def read_message(self, message: bytes) -> bytes:
        """Return the payload of the other side's next message.

        Raises ProtocolError for a message of the wrong length, with an unusable key or with
        any bit that the other side did not send. Only the tags decide (HS-1).
        """
        number = self._begin(is_writing=False)
        start = 0
        for token in self._pattern.tokens[number]:
            end = start + _FIELD_LENGTHS.get(token, 0)
            expect(len(message) >= end, f"a handshake message cut short at {len(message)} bytes")
            self._read(token, message[start:end])
            start = end
        payload = self._symmetric.decrypt_and_hash(message[start:])
        self._messages_done = number + 1
        return payload

    def split(self) -> Split:
        """Return keys and secrets, once both messages have passed."""
        assert self._messages_done == 2, "a handshake is split after its second message"
        return self._symmetric.split()

    def _begin(self, *, is_writing: bool) -> int:
        """Return the index of the message at hand; the state is finished until that is done."""
        number = self._messages_done
        assert number is not None, "this handshake has raised: make a new one"
        assert number < 2, "a handshake has two messages"
        assert (number == 0) == (is_writing == self._is_initiator), "it is the other side's turn"
        self._messages_done = None
        return number

    def _write(self, token: Token) -> bytes:
        match token:
            case "e":
                self._ephemeral = self._keys.key_pair()
                self._symmetric.mix_hash(self._ephemeral.public)
                return self._ephemeral.public
            case "s":
                assert self._static is not None, "IK needs the initiator's static key"
                return self._symmetric.encrypt_and_hash(self._static.public)
            case "e1":
                self._kem_key = self._keys.kem_key()
                return self._symmetric.encrypt_and_hash(self._kem_key.public)
            case "ekem1":
                assert self._remote_kem is not None
                ciphertext, secret = self._keys.encapsulate(self._remote_kem)
                sealed = self._symmetric.encrypt_and_hash(ciphertext)
                self._symmetric.mix_key(secret)
                return sealed
            case _:
                self._mix_shared(token)
                return b""

    def _read(self, token: Token, data: bytes) -> None:
        match token:
            case "e":
                self.remote_ephemeral = data
                self._symmetric.mix_hash(data)
            case "s":
                self.remote_static = self._symmetric.decrypt_and_hash(data)
            case "e1":
                self._remote_kem = self._symmetric.decrypt_and_hash(data)
            case "ekem1":
                assert self._kem_key is not None
                ciphertext = self._symmetric.decrypt_and_hash(data)
                self._symmetric.mix_key(self._kem_key.decapsulate(ciphertext))
            case _:
                self._mix_shared(token)

    def _mix_shared(self, token: Token) -> None:
        """Mix in the X25519 secret of two keys: the initiator's, then the responder's."""
        ours, theirs = (token[0], token[1]) if self._is_initiator else (token[1], token[0])
        pair = self._ephemeral if ours == "e" else self._static
        public = self.remote_ephemeral if theirs == "e" else self.remote_static
        assert pair is not None, f"{token} needs a key pair of ours"
        assert public is not None, f"{token} needs a key of the other side"
        self._symmetric.mix_key(pair.exchange(public))
