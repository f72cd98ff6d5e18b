"""What one authority believes about every relay, for one consensus.

A vote carries the relays' own signed descriptors, so that whoever reads it learns them too, and
the authority's opinion of each. Flags and parameters are names here, not our enumerations: all
authorities must count the same, also those that do not know a name yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from warren.directory.descriptor import DESCRIPTOR_LIMIT
from warren.directory.documents import (
    Kind,
    dump_cbor,
    load_cbor,
    open_own_document,
    read_envelope,
    seal_document,
)
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import read_parameters
from warren.directory.relays import is_country
from warren.errors import expect
from warren.identity import Identity, PeerId

#: The most relays of a network; a consensus has 512 bytes for each (DIR-3).
MOST_RELAYS = 16384
VOTE_LIMIT = 16 * 1024 * 1024
MOST_FLAGS = 16
MOST_PARAMETERS = 128
DIGEST_LENGTH = 32
#: Said of a relay that stands in the newest consensus the authority knows: it was there before
#: others who want its place (DIR-11). It is never in a consensus itself.
LISTED = "listed"
_MOST_ITEMS = 32 * MOST_RELAYS


@dataclass(frozen=True, slots=True)
class Opinion:
    """Hold what an authority found of one relay.

    ``descriptor`` is the relay's signed document, ``measured`` its bandwidth in bytes per
    second or None, ``country`` two lower-case letters or ``??``.
    """

    descriptor: bytes
    running: bool
    flags: frozenset[str]
    measured: int | None
    country: str


@dataclass(frozen=True)
class Vote:
    """Hold an authority's vote for the consensus that becomes valid at ``valid_after``.

    ``previous_digest`` is that of the newest consensus it knows, zeros for none; ``opinions``
    are in ascending order of the relays' peer ids.
    """

    authority: PeerId
    valid_after: int
    parameters: Mapping[str, int]
    previous_digest: bytes
    opinions: tuple[Opinion, ...]

    def __repr__(self) -> str:
        return f"<Vote of {self.authority!r} for {self.valid_after}, {len(self.opinions)} relays>"


def sign_vote(vote: Vote, identity: Identity, network_id: bytes) -> bytes:
    """Return the signed document of `vote`, which must be that of `identity`."""
    assert identity.peer_id == vote.authority
    content = dump_cbor(
        {
            "valid_after": vote.valid_after,
            "parameters": dict(vote.parameters),
            "previous": vote.previous_digest,
            "relays": [
                [
                    opinion.descriptor,
                    opinion.running,
                    sorted(opinion.flags),
                    opinion.measured,
                    opinion.country,
                ]
                for opinion in vote.opinions
            ],
        }
    )
    return seal_document(Kind.VOTE, content, identity, network_id)


def read_vote(document: bytes, network: NetworkFile) -> Vote:
    """Verify and read a vote; the descriptors in it are taken apart but not verified yet.

    Raises ProtocolError for anything but a well-formed vote, signed by one of the network's
    authorities, with every relay once.
    """
    authority, content = open_own_document(
        document, Kind.VOTE, network.network_id, VOTE_LIMIT, network.authority_ids
    )
    fields = load_cbor(content, _Content, _MOST_ITEMS)
    read_parameters(fields.parameters)
    last = b""
    for relay in fields.relays:
        (peer_id,) = read_envelope(relay.descriptor, Kind.DESCRIPTOR, DESCRIPTOR_LIMIT).signatures
        expect(peer_id > last, "a vote whose relays are out of order, or twice there")
        expect(is_country(relay.country), "a vote with something else than a country code")
        last = peer_id
    return Vote(
        authority=authority,
        valid_after=fields.valid_after,
        parameters=fields.parameters,
        previous_digest=fields.previous,
        opinions=tuple(
            Opinion(
                relay.descriptor,
                relay.running,
                frozenset(relay.flags),
                relay.measured,
                relay.country,
            )
            for relay in fields.relays
        ),
    )


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[a-z0-9_]+$")]


class _Relay(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    descriptor: Annotated[bytes, msgspec.Meta(max_length=DESCRIPTOR_LIMIT)]
    running: bool
    flags: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MOST_FLAGS)]
    measured: Annotated[int, msgspec.Meta(ge=1, le=1 << 50)] | None
    country: Annotated[str, msgspec.Meta(max_length=2)]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Draw the CBOR map of a vote."""

    valid_after: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    parameters: Annotated[
        dict[_Name, Annotated[int, msgspec.Meta(ge=-(1 << 50), le=1 << 50)]],
        msgspec.Meta(max_length=MOST_PARAMETERS),
    ]
    previous: Annotated[bytes, msgspec.Meta(min_length=DIGEST_LENGTH, max_length=DIGEST_LENGTH)]
    relays: Annotated[tuple[_Relay, ...], msgspec.Meta(max_length=MOST_RELAYS)]
