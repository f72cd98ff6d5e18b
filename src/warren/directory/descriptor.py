"""What a relay says of itself, signed by itself.

The signer of the document *is* the peer id, so the two cannot disagree. Of two descriptors of
one relay the one with the greater (published, counter) is newer; nobody goes back to an older
one, even validly signed (DIR-6). What others believe of the relay stands in a consensus.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import msgspec

from warren.addresses import Address
from warren.directory.documents import (
    Kind,
    dump_cbor,
    load_cbor,
    open_own_document,
    seal_document,
)
from warren.directory.exit_policy import ExitPolicy
from warren.directory.parameters import Parameters
from warren.errors import DirectoryError, ProtocolError, expect
from warren.identity import KEY_LENGTH, Hop, Identity, KeyPair, PeerId, Suite

#: DIR-3, TROVE-2018-005: caps for whatever a stranger may say.
DESCRIPTOR_LIMIT = 8 * 1024
MOST_STRING_BYTES = 256
MOST_BANDWIDTH = (1 << 50) - 1
MOST_LIST = 64
MOST_RULES = 64
MOST_GATEWAYS = 3
_MOST_ITEMS = 512

# Any private key will do to find out whether a public one is of low order (HS-2, T53).
_PROBE = KeyPair.from_private(bytes(range(KEY_LENGTH)))


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """Hold what a relay says of itself.

    ``bandwidth`` is in bytes per second; ``policy`` holds exit rules as text, none for no exit,
    and ``udp_policy`` those for datagrams; ``family`` are relays of the same operator; ``links``
    the link versions it speaks; ``published`` is in Unix seconds and ``counter`` orders
    descriptors of one second. A relay that cannot be dialled names one to three ``gateways``
    (protocol §8) and may have port 0.
    Raises ProtocolError when a field is beyond its limit (DIR-3).
    """

    peer_id: PeerId
    address: Address
    link_key: bytes
    onion_key: bytes
    suites: tuple[Suite, ...]
    bandwidth: int
    published: int
    policy: tuple[str, ...] = ()
    udp_policy: tuple[str, ...] = ()
    family: tuple[PeerId, ...] = ()
    contact: str = ""
    version: str = ""
    links: tuple[int, ...] = (1,)
    gateways: tuple[PeerId, ...] = ()
    counter: int = 0

    def __post_init__(self) -> None:
        expect(self.address.ip is not None, "a relay's address must be an IP address")
        expect(self.address.port > 0 or self.gateways != (), "a relay at port 0 without gateway")
        for key in (self.link_key, self.onion_key):
            expect(len(key) == KEY_LENGTH, "a relay's key is not 32 bytes long")
        for text in (self.contact, self.version, *self.policy, *self.udp_policy):
            check_string(text)
        most = max(len(self.policy), len(self.udp_policy))
        expect(most <= MOST_RULES, f"more than {MOST_RULES} policy rules")
        expect(0 < self.bandwidth <= MOST_BANDWIDTH, f"a bandwidth of {self.bandwidth} bytes/s")
        expect(0 <= self.published < 1 << 40, "a time of publication outside all calendars")
        expect(0 <= self.counter < 1 << 63, "a counter of more than 63 bits")
        _check_list("suites", self.suites, 1, len(Suite))
        _check_list("link versions", self.links, 1, MOST_LIST)
        _check_list("family members", self.family, 0, MOST_LIST)
        _check_list("gateways", self.gateways, 0, MOST_GATEWAYS)
        expect(self.peer_id not in self.gateways, "a relay that is its own gateway")

    @property
    def hop(self) -> Hop:
        """Return what is needed to reach the relay."""
        return Hop(self.peer_id, self.address, self.link_key, self.onion_key, self.suites)

    @property
    def is_exit(self) -> bool:
        """Tell whether the relay offers to be an exit."""
        return bool(self.policy)

    def supersedes(self, held: "Descriptor | None") -> bool:
        """Tell whether this is newer than the one `held`, if any (DIR-6)."""
        return held is None or (self.published, self.counter) > (held.published, held.counter)


def check_string(text: str) -> None:
    """Raise ProtocolError unless a descriptor may carry `text`."""
    expect(text.isprintable(), "a string with unprintable characters")
    expect(len(text.encode()) <= MOST_STRING_BYTES, "a string of more than 256 bytes")


def sign_descriptor(descriptor: Descriptor, identity: Identity, network_id: bytes) -> bytes:
    """Return the signed document of `descriptor`, which must be that of `identity`.

    Raises ProtocolError when it is longer than 8 KiB.
    """
    assert identity.peer_id == descriptor.peer_id
    content = dump_cbor(
        {
            "address": descriptor.address.encode(),
            "link_key": descriptor.link_key,
            "onion_key": descriptor.onion_key,
            "suites": [int(suite) for suite in descriptor.suites],
            "bandwidth": descriptor.bandwidth,
            "published": descriptor.published,
            "policy": list(descriptor.policy),
            "udp_policy": list(descriptor.udp_policy),
            "family": [bytes(peer) for peer in descriptor.family],
            "contact": descriptor.contact,
            "version": descriptor.version,
            "links": list(descriptor.links),
            "gateways": [bytes(peer) for peer in descriptor.gateways],
            "counter": descriptor.counter,
        }
    )
    document = seal_document(Kind.DESCRIPTOR, content, identity, network_id)
    expect(
        len(document) <= DESCRIPTOR_LIMIT,
        f"a descriptor of {len(document)} bytes, expected at most {DESCRIPTOR_LIMIT}: "
        "shorten the policy, the family or the contact",
    )
    return document


def read_descriptor(document: bytes, network_id: bytes) -> Descriptor:
    """Verify and read a signed descriptor; about 0.2 ms, most of it for the signature.

    Raises ProtocolError for anything but a well-formed descriptor of this network, also when
    one of its keys is of low order (T53) or its policy has a rule that nobody could follow.
    """
    peer_id, content = open_own_document(document, Kind.DESCRIPTOR, network_id, DESCRIPTOR_LIMIT)
    fields = load_cbor(content, _Content, _MOST_ITEMS)
    address, length = Address.decode(fields.address)
    expect(length == len(fields.address), "an address with bytes behind it")
    descriptor = Descriptor(
        peer_id=peer_id,
        address=address,
        link_key=fields.link_key,
        onion_key=fields.onion_key,
        suites=fields.suites,
        bandwidth=fields.bandwidth,
        published=fields.published,
        policy=fields.policy,
        udp_policy=fields.udp_policy,
        family=tuple(map(PeerId, fields.family)),
        contact=fields.contact,
        version=fields.version,
        links=fields.links,
        gateways=tuple(map(PeerId, fields.gateways)),
        counter=fields.counter,
    )
    for key in (descriptor.link_key, descriptor.onion_key):
        _PROBE.exchange(key)
    _check_policy(descriptor.policy)
    _check_policy(descriptor.udp_policy)
    return descriptor


def check_published(descriptor: Descriptor, now: float, parameters: Parameters) -> None:
    """Raise DirectoryError when `descriptor` is from the future, or older than a relay's may be.

    A relay publishes every interval; after two without news its word is stale.
    """
    ahead = descriptor.published - now
    if ahead > parameters.clock_tolerance_seconds:
        raise DirectoryError(f"a descriptor published {ahead:.0f} s in the future: check the clock")
    if -ahead > descriptor_lifetime(parameters):
        raise DirectoryError(f"a descriptor published {-ahead:.0f} s ago: publish a new one")


def descriptor_lifetime(parameters: Parameters) -> int:
    """Return the seconds after which a descriptor does not count any more."""
    return 2 * parameters.descriptor_interval_seconds + parameters.consensus_interval_seconds


class DescriptorReader:
    """Read descriptors of one network, and remember those read.

    The same documents come in every vote of every authority; each is verified once. Owns the
    memory of those of this period and the last one, at most ``most`` of each; the oldest go first.
    """

    def __init__(self, network_id: bytes, most: int = 1 << 15) -> None:
        self._network_id = network_id
        self._most = most
        self._known: dict[bytes, Descriptor] = {}
        self._known_before: dict[bytes, Descriptor] = {}

    def begin_period(self) -> None:
        """Forget what was not read since this was called last."""
        self._known_before, self._known = self._known, {}

    def read(self, document: bytes) -> Descriptor:
        """Return the descriptor in `document`; raise ProtocolError as ``read_descriptor`` does."""
        descriptor = self._known.get(document)
        if descriptor is None:
            descriptor = self._known_before.get(document)
            if descriptor is None:
                descriptor = read_descriptor(document, self._network_id)
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[document] = descriptor
        return descriptor

    def __repr__(self) -> str:
        return f"<DescriptorReader of {len(self._known | self._known_before)} descriptors>"


_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_LENGTH, max_length=KEY_LENGTH)]
_Text = Annotated[str, msgspec.Meta(max_length=MOST_STRING_BYTES)]
_Keys = Annotated[tuple[_Key, ...], msgspec.Meta(max_length=MOST_LIST)]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Draw the CBOR map of a descriptor; every field is there, none besides."""

    address: bytes
    link_key: _Key
    onion_key: _Key
    suites: Annotated[tuple[Suite, ...], msgspec.Meta(max_length=len(Suite))]
    bandwidth: int
    published: int
    policy: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=MOST_RULES)]
    udp_policy: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=MOST_RULES)]
    family: _Keys
    contact: _Text
    version: _Text
    links: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)], ...],
        msgspec.Meta(max_length=MOST_LIST),
    ]
    gateways: _Keys
    counter: int


@lru_cache(maxsize=256)  # most relays have one of a few policies
def _check_policy(rules: tuple[str, ...]) -> None:
    try:
        ExitPolicy.parse(rules)
    except ValueError as error:
        raise ProtocolError(f"an exit policy that is none: {error}") from None


def _check_list(name: str, values: tuple[object, ...], least: int, most: int) -> None:
    if not least <= len(values) <= most:
        raise ProtocolError(f"{len(values)} {name}, expected {least} to {most}")
    expect(len(set(values)) == len(values), f"a descriptor that names {name} twice")
