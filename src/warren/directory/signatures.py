"""Signatures of a consensus on their way between authorities, apart from what they sign.

    valid-after u64 | SHA-512 of the content 64 | key id 32 | signature 64

Each authority computes the content by itself, so only this travels. The signature is the one
that will stand in the finished document; with the hash beside it, it is verified at once, also
before the content is known here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from warren.directory.documents import Envelope, Kind, content_hash, signed_message
from warren.directory.network_file import NetworkFile
from warren.errors import DirectoryError, expect
from warren.identity import KEY_LENGTH, SIGNATURE_LENGTH, Identity, PeerId, verify

_HASH_LENGTH = 64
SIGNATURE_SIZE = 8 + _HASH_LENGTH + KEY_LENGTH + SIGNATURE_LENGTH


@dataclass(frozen=True)
class DetachedSignature:
    """Hold an authority's signature of the content with the 64-byte hash ``hashed``."""

    valid_after: int
    hashed: bytes
    authority: PeerId
    signature: bytes

    def encode(self) -> bytes:
        """Return the 168 bytes."""
        return b"".join(
            (self.valid_after.to_bytes(8, "big"), self.hashed, self.authority, self.signature)
        )


def sign_consensus(
    valid_after: int, content: bytes, identity: Identity, network_id: bytes
) -> DetachedSignature:
    """Sign `content`; the caller has made sure that it is the only one for `valid_after`."""
    hashed = content_hash(content)
    signature = identity.sign(signed_message(Kind.CONSENSUS, network_id, hashed))
    return DetachedSignature(valid_after, hashed, identity.peer_id, signature)


def read_signatures(data: bytes, network: NetworkFile) -> tuple[DetachedSignature, ...]:
    """Verify and read signatures that follow each other without anything between.

    Raises ProtocolError unless all are valid and of authorities of `network`.
    """
    most = len(network.authorities)
    expect(
        len(data) % SIGNATURE_SIZE == 0 and len(data) <= most * SIGNATURE_SIZE,
        f"{len(data)} bytes of signatures, expected 0 to {most} times {SIGNATURE_SIZE}",
    )
    return tuple(
        _read_signature(data[at : at + SIGNATURE_SIZE], network)
        for at in range(0, len(data), SIGNATURE_SIZE)
    )


def _read_signature(data: bytes, network: NetworkFile) -> DetachedSignature:
    hash_end = 8 + _HASH_LENGTH
    key_end = hash_end + KEY_LENGTH
    signature = DetachedSignature(
        valid_after=int.from_bytes(data[:8], "big"),
        hashed=data[8:hash_end],
        authority=PeerId(data[hash_end:key_end]),
        signature=data[key_end:],
    )
    expect(signature.authority in network.authority_ids, "a signature by no authority")
    message = signed_message(Kind.CONSENSUS, network.network_id, signature.hashed)
    expect(
        verify(signature.authority, message, signature.signature),
        f"the signature of {signature.authority!r} on a consensus is wrong",
    )
    return signature


def combine(content: bytes, signatures: Iterable[DetachedSignature], network: NetworkFile) -> bytes:
    """Return the finished document: `content` with those of `signatures` that are for it.

    Raises DirectoryError when they are fewer than the threshold.
    """
    hashed = content_hash(content)
    fitting = {s.authority: s.signature for s in signatures if s.hashed == hashed}
    if len(fitting) < network.threshold:
        raise DirectoryError(
            f"{len(fitting)} of {len(network.authority_ids)} authorities signed the same "
            f"consensus, expected at least {network.threshold}"
        )
    return Envelope(Kind.CONSENSUS, fitting, content).encode()
