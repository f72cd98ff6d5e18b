"""A small network's documents, made to order: identities, descriptors, votes, consensuses.

Everything follows from numbers, so that a test can name a relay by one and get the same again.
"""

from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import Any

from warren.addresses import Address
from warren.directory.consensus import NO_DIGEST, Consensus, read_content, write_content
from warren.directory.descriptor import Descriptor, read_descriptor, sign_descriptor
from warren.directory.network_file import Authority, NetworkFile, create_network
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag, RelayEntry
from warren.directory.signatures import combine, sign_consensus
from warren.directory.votes import Opinion, Vote, sign_vote
from warren.identity import Hop, Identity, KeyPair, Suite

NOW = 1_800_000_000
PARAMETERS = Parameters(founding_relays=1)


@cache
def identity(name: str | int) -> Identity:
    return Identity(sha256(f"identity {name}".encode()).digest())


@cache
def public_key(name: str) -> bytes:
    return KeyPair.from_private(sha256(name.encode()).digest()).public


def authority_identity(number: int) -> Identity:
    return identity(f"authority {number}")


def authority_hop(number: int) -> Hop:
    return Hop(
        peer_id=authority_identity(number).peer_id,
        address=Address(f"198.51.100.{number + 1}", 9001),
        link_key=public_key(f"link of authority {number}"),
        onion_key=None,
        suites=(Suite.AESGCM, Suite.CHACHAPOLY),
    )


def network_of(
    count: int = 3,
    *,
    name: str = "example",
    threshold: int | None = None,
    testing: bool = True,
    parameters: Parameters = PARAMETERS,
) -> NetworkFile:
    return create_network(
        name,
        sha256(name.encode()).digest(),
        [Authority(f"authority {n}", authority_hop(n)) for n in range(count)],
        threshold=threshold,
        testing=testing,
        parameters=parameters,
    )


NETWORK = network_of()


def descriptor_of(number: int, **changes: Any) -> Descriptor:
    """Return the descriptor of relay `number`, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "peer_id": identity(number).peer_id,
        "address": Address(f"5.{number // 250}.{number % 250 + 1}.5", 9001),
        "link_key": public_key(f"link {number}"),
        "onion_key": public_key(f"onion {number}"),
        "suites": (Suite.AESGCM, Suite.CHACHAPOLY),
        "bandwidth": 100_000 + number,
        "published": NOW,
    }
    return Descriptor(**(fields | changes))


def document_of(number: int, network: NetworkFile = NETWORK, **changes: Any) -> bytes:
    """Return the signed descriptor of relay `number`."""
    return sign_descriptor(descriptor_of(number, **changes), identity(number), network.network_id)


def opinion_of(number: int, network: NetworkFile = NETWORK, **changes: Any) -> Opinion:
    """Return an opinion of relay `number`: running, of unknown bandwidth and country."""
    fields: dict[str, Any] = {
        "descriptor": changes.pop("descriptor", None) or document_of(number, network),
        "running": True,
        "flags": frozenset({Flag.MIRROR.value}),
        "measured": None,
        "country": "??",
    }
    return Opinion(**(fields | changes))


def vote_of(
    number: int, opinions: Iterable[Opinion], network: NetworkFile = NETWORK, **changes: Any
) -> Vote:
    """Return the vote of authority `number` with `opinions`, put in order."""
    read = cache(lambda document: read_descriptor(document, network.network_id).peer_id)
    fields: dict[str, Any] = {
        "authority": authority_identity(number).peer_id,
        "valid_after": NOW + 3600,
        "parameters": network.parameters.to_mapping(),
        "previous_digest": NO_DIGEST,
        "opinions": tuple(sorted(opinions, key=lambda opinion: read(opinion.descriptor))),
    }
    return Vote(**(fields | changes))


def vote_document(vote: Vote, number: int, network: NetworkFile = NETWORK) -> bytes:
    return sign_vote(vote, authority_identity(number), network.network_id)


#: What makes an entry an exit's.
EXIT = {"flags": frozenset({Flag.RUNNING, Flag.MIRROR, Flag.EXIT})}


def entry_of(number: int, **changes: Any) -> RelayEntry:
    """Return relay `number` as a consensus lists it."""
    fields: dict[str, Any] = {
        "flags": frozenset({Flag.RUNNING, Flag.MIRROR, Flag.GUARD}),
        "weight": 100_000 + number,
    }
    return RelayEntry(descriptor_of(number).hop, **(fields | changes))


@cache
def content_of(
    relays: tuple[int, ...] = (1, 2, 3),
    network: NetworkFile = NETWORK,
    *,
    valid_after: int = NOW,
    exits: tuple[int, ...] = (),
) -> bytes:
    """Return the content of a consensus that lists `relays`, of which some are `exits`."""
    interval = network.parameters.consensus_interval_seconds
    return write_content(
        valid_after=valid_after,
        fresh_until=valid_after + interval,
        valid_until=valid_after + 3 * interval,
        previous_digest=NO_DIGEST,
        parameters=network.parameters.to_mapping(),
        relays=[entry_of(relay, **(EXIT if relay in exits else {})) for relay in relays],
    )


def signed(
    content: bytes, signers: Iterable[int] = (0, 1), network: NetworkFile = NETWORK
) -> bytes:
    """Return the consensus of `content`, signed by the authorities numbered in `signers`."""
    signatures = [
        sign_consensus(0, content, authority_identity(n), network.network_id) for n in signers
    ]
    return combine(content, signatures, network)


def consensus_document(
    relays: tuple[int, ...] = (1, 2, 3),
    network: NetworkFile = NETWORK,
    *,
    valid_after: int = NOW,
    exits: tuple[int, ...] = (),
) -> bytes:
    content = content_of(relays, network, valid_after=valid_after, exits=exits)
    return signed(content, network=network)


def consensus_of(
    relays: tuple[int, ...] = (1, 2, 3), network: NetworkFile = NETWORK, *, valid_after: int = NOW
) -> Consensus:
    return read_content(content_of(relays, network, valid_after=valid_after))


def quarrelsome_votes() -> list[Vote]:
    """Return votes that differ in everything, with sets in them, the same in every process."""
    peers = [identity(n).peer_id for n in range(1, 7)]
    documents = [
        document_of(
            n,
            family=tuple(peer for peer in peers if peer != identity(n).peer_id),
            policy=(f"accept *:{n % 3 + 1}",),
        )
        for n in range(1, 7)
    ]
    flags = ["exit", "stable", "mirror", "of_a_later_version"]
    return [
        vote_of(
            v,
            [
                opinion_of(
                    n,
                    descriptor=document,
                    flags=frozenset(flags[: (n + v) % 5]),
                    measured=n + v + 1,
                )
                for n, document in enumerate(documents)
            ],
            parameters=dict.fromkeys(("usable_hours", "a", "b", "founding_relays"), v + 1),
        )
        for v in range(3)
    ]
