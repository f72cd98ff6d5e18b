"""Signed documents: a fixed binary envelope around exact bytes, and strict CBOR inside.

    magic "WRRN" | kind u8 | signatures u8 | length u32 | (key id 32, signature 64) … | content

Signatures stand in ascending order of their key ids, so one set of them has one encoding. Each
covers a label, the network and the hash of the content as it was received (DIR-1)::

    "warren dir <kind> v1" | 00 | network id | SHA-512(content)

so that a document of one network or kind is never one of another. Signatures are checked before
any CBOR is decoded, and nothing is ever encoded again to check one. What a document means is
the business of the module named after it.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import cbor2
import msgspec

from warren.errors import ProtocolError, expect, refuse
from warren.identity import KEY_LENGTH, SIGNATURE_LENGTH, Identity, PeerId, verify

T = TypeVar("T")

MAGIC = b"WRRN"
MOST_SIGNATURES = 64
_HEAD = len(MAGIC) + 1 + 1 + 4
_ENTRY = KEY_LENGTH + SIGNATURE_LENGTH
_MOST_DEPTH = 8


class Kind(IntEnum):
    """Name the kind of a document; the numbers are those on the wire."""

    DESCRIPTOR = 1
    VOTE = 2
    CONSENSUS = 3


@dataclass(frozen=True)
class Envelope:
    """Hold a document whose signatures nobody has checked yet.

    ``signatures`` maps the key id of each signer, ascending, to 64 bytes.
    """

    kind: Kind
    signatures: Mapping[PeerId, bytes]
    content: bytes

    def encode(self) -> bytes:
        """Return the envelope's bytes."""
        entries = sorted(self.signatures.items())
        head = MAGIC + bytes((self.kind, len(entries))) + len(self.content).to_bytes(4, "big")
        return b"".join((head, *(key + signature for key, signature in entries), self.content))

    def signed_by(self, network_id: bytes, keys: Collection[PeerId]) -> frozenset[PeerId]:
        """Return those of `keys` that signed this; other signatures are not looked at.

        Raises ProtocolError when one of `keys` is named with a signature that is not its own.
        """
        signed = signed_message(self.kind, network_id, content_hash(self.content))
        signers = self.signatures.keys() & set(keys)
        for key in signers:
            expect(
                verify(key, signed, self.signatures[key]),
                f"the signature of {key!r} on a {self.kind.name.lower()} is wrong",
            )
        return frozenset(signers)


def content_hash(content: bytes) -> bytes:
    """Return the 64-byte hash of a document's content that its signatures cover."""
    return hashlib.sha512(content).digest()


def signed_message(kind: Kind, network_id: bytes, hashed: bytes) -> bytes:
    """Return what a signature under a content of hash `hashed` is over (DIR-1)."""
    assert len(network_id) == 32
    assert len(hashed) == 64
    return b"warren dir %s v1\0" % kind.name.lower().encode("ascii") + network_id + hashed


def sign_content(kind: Kind, content: bytes, identity: Identity, network_id: bytes) -> bytes:
    """Return the 64-byte signature of `identity` for `content`."""
    return identity.sign(signed_message(kind, network_id, content_hash(content)))


def seal_document(kind: Kind, content: bytes, identity: Identity, network_id: bytes) -> bytes:
    """Return the document of `content`, signed by `identity` alone."""
    signature = sign_content(kind, content, identity, network_id)
    return Envelope(kind, {identity.peer_id: signature}, content).encode()


def read_envelope(data: bytes, kind: Kind, limit: int) -> Envelope:
    """Take the envelope of `kind` apart; nothing in it is verified yet.

    Raises ProtocolError when `data` is longer than `limit` or is not exactly one envelope in
    its one encoding.
    """
    name = kind.name.lower()
    expect(len(data) <= limit, f"a {name} of {len(data)} bytes, expected at most {limit}")
    expect(len(data) >= _HEAD and data.startswith(MAGIC), f"this is no {name}: wrong magic")
    expect(data[4] == kind, f"a document of kind {data[4]}, expected a {name} ({kind:d})")
    count, length = data[5], int.from_bytes(data[6:_HEAD], "big")
    expect(1 <= count <= MOST_SIGNATURES, f"{count} signatures, expected 1 to {MOST_SIGNATURES}")
    start = _HEAD + count * _ENTRY
    expect(len(data) == start + length, f"a {name} that is cut short or has bytes behind it")
    signatures: dict[PeerId, bytes] = {}
    last = b""
    for at in range(_HEAD, start, _ENTRY):
        key = PeerId(data[at : at + KEY_LENGTH])
        expect(key > last, "signatures out of order, or two by one key")
        signatures[key] = bytes(data[at + KEY_LENGTH : at + _ENTRY])
        last = key
    return Envelope(kind, signatures, bytes(data[start:]))


def open_own_document(
    data: bytes,
    kind: Kind,
    network_id: bytes,
    limit: int,
    allowed: Collection[PeerId] | None = None,
) -> tuple[PeerId, bytes]:
    """Return signer and content of a document that has exactly one signature, and a valid one.

    Raises ProtocolError for anything else, and for a signer that is not `allowed`.
    """
    name = kind.name.lower()
    envelope = read_envelope(data, kind, limit)
    signer = next(iter(envelope.signatures))
    expect(len(envelope.signatures) == 1, f"a {name} with more than one signature")
    expect(allowed is None or signer in allowed, f"a {name} by {signer!r}, who may not make one")
    envelope.signed_by(network_id, (signer,))
    return signer, envelope.content


def dump_cbor(value: object) -> bytes:
    """Return `value` (dict, list, bytes, str, int, bool, None) as deterministic CBOR."""
    return cbor2.dumps(value, canonical=True)


def load_cbor(data: bytes, model: type[T], most_items: int) -> T:
    """Read deterministic CBOR into `model`, a frozen ``msgspec.Struct`` with limits (DIR-2).

    The caller has capped the size of `data` and checked who signed it. Raises ProtocolError
    for more than `most_items` values, for tags, indefinite lengths, duplicate or unsorted keys,
    numbers longer than needed, trailing bytes, and for what `model` does not allow.
    """
    _count_items(data, most_items)
    try:
        value = cbor2.loads(
            data,
            max_depth=_MOST_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
        )
        expect(dump_cbor(value) == data, "CBOR that is not in its one deterministic form")
        # Without builtin_types a text string would be taken as base64 of a byte string.
        return msgspec.convert(value, model, builtin_types=(bytes,))
    except (cbor2.CBORError, msgspec.ValidationError, ValueError, RecursionError) as error:
        # CBORDecodeError tells what was refused; its cause may be our own ProtocolError.
        raise ProtocolError(f"not a document as expected: {str(error)[:200]}") from None


def _count_items(data: bytes, most: int) -> None:
    """Refuse more than `most` values before any of them becomes an object.

    A byte of CBOR can become seventy of memory (DIR-2). Only heads are read here: a container
    is one item, and its members follow it.
    """
    at, items, end = 0, 0, len(data)
    while at < end:
        items += 1
        if items > most:
            refuse(f"a document of more than {most} values")
        head = data[at]
        at += 1
        value = head & 0x1F
        if value >= 24:
            width = (1 << (value - 24)) & 0xF  # indefinite and reserved: 0, refused later
            value = int.from_bytes(data[at : at + width], "big")
            at += width
        if head >> 5 in (2, 3):  # byte and text strings
            at += value


def _refuse_tag(*_: Any) -> NoReturn:
    raise ValueError("CBOR tags are not allowed")


#: The tags that cbor2 decodes by itself; all others come to the ``tag_hook``.
_KNOWN_TAGS = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 64),
    *(100, 256, 258, 260, 261, 1004, 43000, 55799),
)
_NO_TAGS: dict[int, Any] = dict.fromkeys(_KNOWN_TAGS, _refuse_tag)
