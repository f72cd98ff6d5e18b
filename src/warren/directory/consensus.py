"""What the authorities agree on: the relays of the network, for a while.

A consensus counts when `threshold` distinct authorities of the network file signed its exact
bytes (DIR-4). It is fresh for an interval, valid for three, and usable for a day more when no
newer one can be had (DIR-8). What may replace what is decided in ``compare`` alone.

The content is a CBOR map; relays are arrays in it, ascending by peer id. They refer to each
other, to exit policies and to flags by number, which keeps ten thousand of them small::

    [peer id, address, link key, onion key, suites, flags, weight, country,
     family, policy, udp policy, gateways]

``suites`` has a byte for each, ``flags`` is a bit set over the map's list of names, ``family``
and ``gateways`` are u16 positions in the list of relays, both policies are 0 for none or count
the map's policies from 1.
"""

import operator
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, TypeVar

import msgspec

from warren.addresses import Address
from warren.directory.descriptor import MOST_LIST, MOST_RULES, MOST_STRING_BYTES
from warren.directory.documents import Kind, content_hash, dump_cbor, load_cbor, read_envelope
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import HOUR, Parameters, read_parameters
from warren.directory.relays import Flag, RelayEntry
from warren.directory.votes import DIGEST_LENGTH, MOST_FLAGS, MOST_RELAYS
from warren.errors import DirectoryError, ProtocolError, expect
from warren.identity import KEY_LENGTH, Hop, PeerId, Suite

__all__ = ["Consensus", "Flag", "RelayEntry", "Verdict", "compare", "read_consensus"]

CONSENSUS_LIMIT = 512 * MOST_RELAYS
NO_DIGEST = bytes(DIGEST_LENGTH)

_Ordered = TypeVar("_Ordered", bytes, int)
_MOST_ITEMS = 32 * MOST_RELAYS


@dataclass(frozen=True)
class Consensus:
    """Hold a consensus; its times are whole Unix seconds.

    A newer one is expected from ``fresh_until`` on, and the authorities stand by it to
    ``valid_until``; whether paths may be chosen from it is asked of ``is_usable`` (DIR-8).
    ``digest`` are the first 32 bytes of the SHA-512 that the authorities signed, and
    ``previous_digest`` those of the consensus before it, zeros when there was none (DIR-7).
    """

    valid_after: int
    fresh_until: int
    valid_until: int
    relays: tuple[RelayEntry, ...]
    parameters: Parameters
    digest: bytes
    previous_digest: bytes = NO_DIGEST

    def __post_init__(self) -> None:
        expect(
            0 <= self.valid_after < self.fresh_until <= self.valid_until,
            "a consensus whose times are out of order",
        )

    @cached_property
    def has_exits(self) -> bool:
        """Tell whether a client can leave the network by any relay that is listed."""
        return any(entry.flags >= {Flag.RUNNING, Flag.EXIT} for entry in self.relays)

    @cached_property
    def _index(self) -> dict[PeerId, RelayEntry]:
        return {entry.peer_id: entry for entry in self.relays}

    def get(self, peer_id: PeerId) -> RelayEntry | None:
        """Return the relay with `peer_id`, or None when it is not listed."""
        return self._index.get(peer_id)

    def is_usable(self, now: float) -> bool:
        """Tell whether paths may be chosen from it while there is no newer one (DIR-8)."""
        return self.usable_from <= now < self.usable_until

    @property
    def usable_from(self) -> int:
        """Return the time before which no clock may be that uses it (DIR-9)."""
        return self.valid_after - self.parameters.clock_tolerance_seconds

    @property
    def usable_until(self) -> int:
        """Return the time after which it must not be used at all."""
        return self.valid_until + self.parameters.usable_hours * HOUR

    def __repr__(self) -> str:
        return f"<Consensus {self.valid_after}, {len(self.relays)} relays, {self.digest.hex()[:8]}>"


def content_digest(content: bytes) -> bytes:
    """Return the 32-byte digest by which the consensus of `content` is known."""
    return content_hash(content)[:DIGEST_LENGTH]


def read_consensus(document: bytes, network: NetworkFile, now: float | None = None) -> Consensus:
    """Verify and read a signed consensus; about 0.15 s for ten thousand relays.

    Raises ProtocolError when it is malformed, and DirectoryError when too few authorities
    signed it (DIR-4) or when, with `now` given, it cannot be used then (DIR-9).
    """
    envelope = read_envelope(document, Kind.CONSENSUS, CONSENSUS_LIMIT)
    signers = envelope.signed_by(network.network_id, network.authority_ids)
    if len(signers) < network.threshold:
        raise DirectoryError(
            f"a consensus signed by {len(signers)} authorities of this network, "
            f"expected at least {network.threshold}"
        )
    consensus = read_content(envelope.content)
    if now is not None:
        check_usable(consensus, now)
    return consensus


class WrongTime(DirectoryError):
    """Tell that a consensus cannot be used at the time that the clock shows."""


def check_usable(consensus: Consensus, now: float) -> None:
    """Raise WrongTime, naming the likely clock error, unless it can be used (DIR-9)."""
    if now >= consensus.usable_until:
        late = now - consensus.valid_until
        raise WrongTime(
            f"the consensus ended {late / HOUR:.1f} hours ago: "
            "get a newer one; if there is none, check the clock of this machine"
        )
    if not consensus.is_usable(now):
        early = consensus.valid_after - now
        raise WrongTime(
            f"the consensus begins {early / HOUR:.1f} hours from now: "
            "the clock of this machine is slow by at least that much"
        )


class Verdict(Enum):
    """Name how an offered consensus relates to the one held."""

    NEWER = "newer"
    SAME = "same"
    OLDER = "older"
    #: The authorities signed two different ones for one time: evidence to keep (DIR-7).
    CONFLICT = "conflict"


def compare(held: Consensus | None, offered: Consensus) -> Verdict:
    """Judge whether `offered` may replace `held`: only when NEWER (DIR-6, DIR-7)."""
    if held is None or offered.valid_after > held.valid_after:
        return Verdict.NEWER
    if offered.valid_after < held.valid_after:
        return Verdict.OLDER
    return Verdict.SAME if offered.digest == held.digest else Verdict.CONFLICT


# ---- the content, both ways


class _Relay(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    peer_id: Annotated[bytes, msgspec.Meta(min_length=KEY_LENGTH, max_length=KEY_LENGTH)]
    address: Annotated[bytes, msgspec.Meta(max_length=19)]
    link_key: Annotated[bytes, msgspec.Meta(min_length=KEY_LENGTH, max_length=KEY_LENGTH)]
    onion_key: Annotated[bytes, msgspec.Meta(min_length=KEY_LENGTH, max_length=KEY_LENGTH)]
    suites: Annotated[bytes, msgspec.Meta(min_length=1, max_length=len(Suite))]
    flags: Annotated[int, msgspec.Meta(ge=0, lt=1 << MOST_FLAGS)]
    weight: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
    country: Annotated[str, msgspec.Meta(max_length=2)]
    family: Annotated[bytes, msgspec.Meta(max_length=2 * MOST_LIST)]
    policy: Annotated[int, msgspec.Meta(ge=0, le=2 * MOST_RELAYS)]
    udp_policy: Annotated[int, msgspec.Meta(ge=0, le=2 * MOST_RELAYS)]
    gateways: Annotated[bytes, msgspec.Meta(max_length=2 * MOST_LIST)]


_Time = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_Rule = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_STRING_BYTES)]
_Rules = Annotated[tuple[_Rule, ...], msgspec.Meta(min_length=1, max_length=MOST_RULES)]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    valid_after: _Time
    fresh_until: _Time
    valid_until: _Time
    previous: Annotated[bytes, msgspec.Meta(min_length=DIGEST_LENGTH, max_length=DIGEST_LENGTH)]
    parameters: dict[str, int]
    flags: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_FLAGS)]
    policies: Annotated[tuple[_Rules, ...], msgspec.Meta(max_length=2 * MOST_RELAYS)]
    relays: Annotated[tuple[_Relay, ...], msgspec.Meta(max_length=MOST_RELAYS)]


def write_content(
    *,
    valid_after: int,
    fresh_until: int,
    valid_until: int,
    previous_digest: bytes,
    parameters: Mapping[str, int],
    relays: Iterable[RelayEntry],
) -> bytes:
    """Return the one content for these values, whatever order `relays` come in (DIR-10).

    Families and gateways must themselves be among `relays`.
    """
    entries = sorted(relays, key=lambda entry: entry.peer_id)
    position = {entry.peer_id: number for number, entry in enumerate(entries)}
    flags = sorted({str(flag) for entry in entries for flag in entry.flags})
    policies = sorted({p for entry in entries for p in (entry.policy, entry.udp_policy) if p})
    policy_number = {policy: number for number, policy in enumerate(policies, 1)}

    def positions(peers: Iterable[PeerId]) -> bytes:
        return b"".join(number.to_bytes(2, "big") for number in sorted(position[p] for p in peers))

    return dump_cbor(
        {
            "valid_after": valid_after,
            "fresh_until": fresh_until,
            "valid_until": valid_until,
            "previous": previous_digest,
            "parameters": dict(parameters),
            "flags": flags,
            "policies": [list(policy) for policy in policies],
            "relays": [
                [
                    bytes(entry.peer_id),
                    entry.hop.address.encode(),
                    entry.hop.link_key,
                    entry.hop.onion_key,
                    bytes(entry.hop.suites),
                    sum(1 << flags.index(flag) for flag in entry.flags),
                    entry.weight,
                    entry.country,
                    positions(entry.family),
                    policy_number.get(entry.policy, 0),
                    policy_number.get(entry.udp_policy, 0),
                    positions(entry.gateways),
                ]
                for entry in entries
            ],
        }
    )


def read_content(content: bytes) -> Consensus:
    """Read the content of a consensus whose signatures were checked; raise ProtocolError."""
    fields = load_cbor(content, _Content, _MOST_ITEMS)
    reader = _RelayReader(fields)
    return Consensus(
        valid_after=fields.valid_after,
        fresh_until=fields.fresh_until,
        valid_until=fields.valid_until,
        relays=tuple(map(reader.read, reader.ids, fields.relays)),
        parameters=read_parameters(fields.parameters),
        digest=content_digest(content),
        previous_digest=fields.previous,
    )


class _RelayReader:
    """Turn the arrays of one content into entries; equal parts become one object."""

    def __init__(self, fields: _Content) -> None:
        self.ids = tuple(PeerId(relay.peer_id) for relay in fields.relays)
        expect(_ascending(self.ids), "a consensus whose relays are out of order, or twice there")
        self._policies = ((), *fields.policies)
        known = {flag.value: flag for flag in Flag}
        self._flags = [known.get(name) for name in fields.flags]
        self._flag_sets: dict[int, frozenset[Flag]] = {}
        self._suites: dict[bytes, tuple[Suite, ...]] = {}
        self._countries: dict[str, str] = {}

    def read(self, peer_id: PeerId, relay: _Relay) -> RelayEntry:
        address, length = Address.decode(relay.address)
        expect(length == len(relay.address), "an address with bytes behind it")
        expect(address.ip is not None, "a relay whose address is a name")
        number = max(relay.policy, relay.udp_policy)
        expect(number < len(self._policies), "a relay with a policy that is not there")
        hop = Hop(
            peer_id=peer_id,
            address=address,
            link_key=relay.link_key,
            onion_key=relay.onion_key,
            suites=self._suites_of(relay.suites),
        )
        return RelayEntry(
            hop=hop,
            flags=self._flags_of(relay.flags),
            weight=relay.weight,
            country=self._countries.setdefault(relay.country, relay.country),
            family=self._peers_of(relay.family),
            policy=self._policies[relay.policy],
            udp_policy=self._policies[relay.udp_policy],
            gateways=self._peers_of(relay.gateways),
        )

    def _flags_of(self, bits: int) -> frozenset[Flag]:
        flags = self._flag_sets.get(bits)
        if flags is None:
            expect(bits >> len(self._flags) == 0, "a relay with a flag that is not there")
            named = (flag for at, flag in enumerate(self._flags) if bits >> at & 1)
            # Flags of a later version are left out: we would not know what to do with them.
            flags = self._flag_sets[bits] = frozenset(flag for flag in named if flag is not None)
        return flags

    def _suites_of(self, raw: bytes) -> tuple[Suite, ...]:
        suites = self._suites.get(raw)
        if suites is None:
            try:
                suites = self._suites[raw] = tuple(map(Suite, raw))
            except ValueError as error:
                raise ProtocolError(f"a relay with an unknown suite: {error}") from None
        return suites

    def _peers_of(self, raw: bytes) -> tuple[PeerId, ...]:
        if not raw:
            return ()
        expect(len(raw) % 2 == 0, "half a relay number")
        numbers = struct.unpack(f">{len(raw) // 2}H", raw)
        expect(_ascending(numbers), "relay numbers out of order, or twice there")
        expect(numbers[-1] < len(self.ids), "the number of a relay that is not listed")
        return tuple(self.ids[number] for number in numbers)


def _ascending(values: Sequence[_Ordered]) -> bool:
    return all(map(operator.lt, values, values[1:]))
