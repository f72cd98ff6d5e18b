"""A network on paper, of the shape that Tor's has: for measuring what its size costs.

Two fifths of the relays are guards and one fifth exits; weights have a long tail; operators have
families of up to ten; nine addresses of ten are IPv4. Most exits share one of a few policies, and
every tenth has one of its own, so there are more policies in a larger network. A crowded network
differs in that everybody is in a family and all live in few subnets.

The same count gives the same network. As a program it writes a network file, consensuses
an hour apart, and the votes that make one, for processes that measure: what they read must not
have been made in their own memory.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from warren.addresses import Address
from warren.directory.consensus import NO_DIGEST, write_content
from warren.directory.descriptor import Descriptor, sign_descriptor
from warren.directory.network_file import (
    Authority,
    NetworkFile,
    create_network,
    render_network_file,
)
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag, RelayEntry
from warren.directory.signatures import combine, sign_consensus
from warren.directory.votes import Opinion, Vote, sign_vote
from warren.identity import Hop, Identity, KeyPair, PeerId, Suite

VALID_AFTER = 1_800_000_000
HOUR = 3600
AUTHORITIES = 5
#: Consensuses that are written, one for each hour.
HOURS = 6
#: A port that one exit of thirty opens.
RARE_PORT = 25
#: What changes from one hour to the next: the weight of every so manieth relay.
_CHANGED_EVERY = 20

_FAMILIES = (1, 1, 1, 1, 2, 2, 4, 10)
_COUNTRIES = ("de", "fr", "nl", "us", "se", "??")
_POLICIES = (
    ("accept *:80,443", "reject *:*"),
    ("reject *:25,119,135-139,445,563", "accept *:*"),
    ("accept *:20-23,43,53,80,110,143,194,443,993,995,5222,6667", "reject *:*"),
    ("reject 10.0.0.0/8:*", "reject *:25", "accept *:*"),
)


def authority(number: int) -> Identity:
    """Return the identity of the authority `number` of every network on paper."""
    return Identity(bytes([number + 1]) * 32)


def paper_network(*, is_testing: bool = False) -> NetworkFile:
    """Return the network file: five authorities at places where nobody listens."""
    authorities = [
        Authority(
            f"authority{number}",
            Hop(
                authority(number).peer_id,
                Address(f"127.1.0.{number + 1}", 9),
                KeyPair.from_private(bytes([number + 101]) * 32).public,
                None,
                tuple(Suite),
            ),
        )
        for number in range(AUTHORITIES)
    ]
    return create_network(
        "paper",
        bytes(32),
        authorities,
        testing=is_testing,
        # A test network has all its relays on one machine.
        parameters=Parameters(subnet_v4_prefix=24 if is_testing else 16),
    )


class PaperRelays:
    """Own the relays of a network of `count`; ``entries`` are ascending by peer id."""

    def __init__(self, count: int, *, is_crowded: bool = False) -> None:
        self._rng = Random(count)
        self._is_crowded = is_crowded
        self._hours = self._exits = 0
        identities = (Identity(self._rng.randbytes(32)) for _ in range(count))
        self.identities = sorted(identities, key=lambda identity: identity.peer_id)
        families = dict(self._families())
        self.entries = [self._entry(i.peer_id, families[i.peer_id]) for i in self.identities]

    def pass_an_hour(self) -> None:
        """Let some relays, others every hour, weigh more."""
        self._hours += 1
        for number in range(self._hours % _CHANGED_EVERY, len(self.entries), _CHANGED_EVERY):
            entry = self.entries[number]
            self.entries[number] = replace(entry, weight=entry.weight + 1)

    def _families(self) -> Iterator[tuple[PeerId, tuple[PeerId, ...]]]:
        """Yield each relay with the others of its family."""
        left = [identity.peer_id for identity in self.identities]
        while left:
            size = 10 if self._is_crowded else self._rng.choice(_FAMILIES)
            family, left = left[:size], left[size:]
            for peer_id in family:
                yield peer_id, tuple(other for other in family if other != peer_id)

    def _entry(self, peer_id: PeerId, family: tuple[PeerId, ...]) -> RelayEntry:
        rng = self._rng
        flags = {Flag.RUNNING, Flag.MIRROR}
        if rng.random() < 0.4:
            flags.add(Flag.GUARD)
        policy: tuple[str, ...] = ()
        if rng.random() < 0.2:
            flags.add(Flag.EXIT)
            policy = self._policy()
        link_key = KeyPair.from_private(rng.randbytes(32)).public
        onion_key = KeyPair.from_private(rng.randbytes(32)).public
        return RelayEntry(
            Hop(peer_id, self._address(), link_key, onion_key, tuple(Suite)),
            frozenset(flags),
            int(min(rng.paretovariate(1.1), 200.0) * 1_000_000),
            rng.choice(_COUNTRIES),
            family,
            policy,
        )

    def _policy(self) -> tuple[str, ...]:
        self._exits += 1
        if self._exits % 30 == 1:
            return (f"accept *:{RARE_PORT},443", "reject *:*")
        if self._exits % 10 == 2:
            return (f"reject *:25,{self._rng.randint(1024, 65535)}", "accept *:*")
        return self._rng.choice(_POLICIES)

    def _address(self) -> Address:
        rng = self._rng
        if rng.random() < 0.1:
            host = f"2a0{rng.randint(0, 9)}:{rng.randint(1, 999):x}::{rng.randint(1, 0xFFFF):x}"
        else:
            nets = 2 if self._is_crowded else 256
            host = ".".join(
                str(rng.randint(*bounds))
                for bounds in ((11, 99), (0, nets - 1), (0, 255), (1, 254))
            )
        return Address(host, 9001)


def signed_consensus(
    entries: Sequence[RelayEntry], network: NetworkFile, valid_after: int = VALID_AFTER
) -> bytes:
    """Return the consensus that lists `entries`, signed by as many authorities as must."""
    content = write_content(
        valid_after=valid_after,
        fresh_until=valid_after + HOUR,
        valid_until=valid_after + 3 * HOUR,
        previous_digest=NO_DIGEST,
        parameters=network.parameters.to_mapping(),
        relays=entries,
    )
    signatures = [
        sign_consensus(valid_after, content, authority(number), network.network_id)
        for number in range(network.threshold)
    ]
    return combine(content, signatures, network)


def descriptors(relays: PaperRelays, network: NetworkFile) -> list[bytes]:
    """Return what each relay says of itself, signed."""
    return [
        sign_descriptor(
            Descriptor(
                peer_id=entry.peer_id,
                address=entry.hop.address,
                link_key=entry.hop.link_key,
                onion_key=entry.hop.onion_key or b"",
                suites=entry.hop.suites,
                bandwidth=max(1, entry.weight),
                published=VALID_AFTER - HOUR,
                policy=entry.policy,
                family=entry.family,
                version="warren 1.0",
            ),
            identity,
            network.network_id,
        )
        for entry, identity in zip(relays.entries, relays.identities, strict=True)
    ]


def signed_vote(
    number: int, relays: PaperRelays, documents: Sequence[bytes], network: NetworkFile
) -> bytes:
    """Return the vote of the authority `number`; authorities differ in what they measured."""
    opinions = (
        Opinion(
            document,
            running=True,
            flags=frozenset(str(flag) for flag in entry.flags - {Flag.RUNNING, Flag.GUARD}),
            measured=max(1, entry.weight + number),
            country=entry.country,
        )
        for document, entry in zip(documents, relays.entries, strict=True)
    )
    vote = Vote(
        authority(number).peer_id,
        VALID_AFTER,
        network.parameters.to_mapping(),
        NO_DIGEST,
        tuple(opinions),
    )
    return sign_vote(vote, authority(number), network.network_id)


def write_files(count: int, folder: Path) -> None:
    """Write what the measuring processes read."""
    network = paper_network()
    (folder / "network.toml").write_text(render_network_file(network), encoding="utf-8")
    crowded = PaperRelays(count, is_crowded=True)
    (folder / "crowded").write_bytes(signed_consensus(crowded.entries, network))
    relays = PaperRelays(count)
    documents = descriptors(relays, network)
    for number in range(AUTHORITIES):
        vote = signed_vote(number, relays, documents, network)
        (folder / f"vote{number}").write_bytes(vote)
    for hour in range(HOURS):
        document = signed_consensus(relays.entries, network, VALID_AFTER + hour * HOUR)
        (folder / f"consensus{hour}").write_bytes(document)
        relays.pass_an_hour()


if __name__ == "__main__":
    write_files(int(sys.argv[1]), Path(sys.argv[2]))
