import ipaddress
import time
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import (
    NETWORK,
    NOW,
    authority_identity,
    consensus_document,
    content_of,
    identity,
    network_of,
    public_key,
    signed,
)
from warren.addresses import Address
from warren.directory.consensus import (
    CONSENSUS_LIMIT,
    NO_DIGEST,
    Consensus,
    Verdict,
    compare,
    content_digest,
    read_consensus,
    read_content,
    write_content,
)
from warren.directory.documents import Envelope, Kind, dump_cbor, sign_content
from warren.directory.parameters import Parameters
from warren.directory.relays import Flag, RelayEntry
from warren.errors import DirectoryError, ProtocolError
from warren.identity import Hop, PeerId, Suite

CONTENT = content_of()
CONSENSUS = read_content(CONTENT)
PEERS = [PeerId(bytes([n]) * 32) for n in range(8)]
HOUR = 3600


def entry_of(peer_id: PeerId, **changes: Any) -> RelayEntry:
    hop = Hop(
        peer_id=peer_id,
        address=changes.pop("address", Address("5.5.5.5", 9001)),
        link_key=public_key("link"),
        onion_key=public_key("onion"),
        suites=changes.pop("suites", (Suite.CHACHAPOLY,)),
    )
    fields: dict[str, Any] = {"flags": frozenset({Flag.RUNNING}), "weight": 1}
    return RelayEntry(hop, **(fields | changes))


def content_with(relays: list[RelayEntry], **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "valid_after": NOW,
        "fresh_until": NOW + HOUR,
        "valid_until": NOW + 3 * HOUR,
        "previous_digest": NO_DIGEST,
        "parameters": {},
    }
    return write_content(relays=relays, **(fields | changes))


def envelope_of(
    *signers: int | str, kind: Kind = Kind.CONSENSUS, content: bytes = CONTENT
) -> bytes:
    """Return a consensus signed by authorities (numbers) and strangers (names)."""
    identities = [authority_identity(s) if isinstance(s, int) else identity(s) for s in signers]
    signatures = {i.peer_id: sign_content(kind, content, i, NETWORK.network_id) for i in identities}
    return Envelope(Kind.CONSENSUS, signatures, content).encode()


# ---- content

some_peers = st.lists(st.sampled_from(PEERS), unique=True, max_size=3).map(
    lambda peers: tuple(sorted(peers))
)
addresses = st.builds(
    Address,
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    st.integers(0, 0xFFFF),
)
variations = st.fixed_dictionaries(
    {
        "address": addresses,
        "suites": st.permutations(list(Suite)).map(tuple),
        "flags": st.frozensets(st.sampled_from(Flag)),
        "weight": st.integers(0, 1 << 50),
        "country": st.sampled_from(["??", "de"]),
        "family": some_peers,
        "gateways": some_peers,
        "policy": st.sampled_from([(), ("accept *:80",), ("reject *:25", "accept *:*")]),
        "udp_policy": st.sampled_from([(), ("accept *:80",), ("accept *:443",)]),
    }
)


@given(st.lists(variations, min_size=len(PEERS), max_size=len(PEERS)), st.randoms())
def test_a_consensus_comes_back_as_it_was_in_any_order_of_relays(
    changes: list[dict[str, Any]], rng: Any
) -> None:
    relays = [entry_of(peer, **change) for peer, change in zip(PEERS, changes, strict=True)]
    content = content_with(relays, previous_digest=b"p" * 32, parameters={"usable_hours": 3})
    shuffled = relays[:]
    rng.shuffle(shuffled)

    consensus = read_content(content)

    assert consensus == Consensus(
        valid_after=NOW,
        fresh_until=NOW + HOUR,
        valid_until=NOW + 3 * HOUR,
        relays=tuple(relays),
        parameters=Parameters(usable_hours=3),
        digest=content_digest(content),
        previous_digest=b"p" * 32,
    )
    again = content_with(shuffled, previous_digest=b"p" * 32, parameters={"usable_hours": 3})
    assert again == content


@given(st.binary(max_size=300))
def test_garbage_is_refused_signed_or_not(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_consensus(data, NETWORK)
    with pytest.raises(ProtocolError):
        read_consensus(envelope_of(0, 1, content=data), NETWORK)


def spoiled(**changes: Any) -> bytes:
    """Return content whose map or first relay has fields as ``write_content`` writes none."""
    relays = [entry_of(PEERS[1], policy=("accept *:80",)), entry_of(PEERS[2])]
    fields = cbor2.loads(content_with(relays))
    first = fields["relays"][0]
    for name, value in changes.items():
        if name.startswith("relay_"):
            first[int(name[6:])] = value
        elif value is None:
            del fields[name]
        else:
            fields[name] = value(fields) if callable(value) else value
    return dump_cbor(fields)


def test_the_content_that_the_following_tests_spoil_is_good() -> None:
    assert len(read_content(spoiled()).relays) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"relay_0": bytes([9]) * 32},
        {"relay_0": bytes([2]) * 32},
        {"relay_0": bytes(31)},
        {"relay_1": b""},
        {"relay_1": Address("example.org", 1).encode()},
        {"relay_1": Address("5.5.5.5", 1).encode() + b"\0"},
        {"relay_2": bytes(33)},
        {"relay_4": b""},
        {"relay_4": b"\x07"},
        {"relay_5": 1 << 15},
        {"relay_5": -1},
        {"relay_6": -1},
        {"relay_7": "Germany"},
        {"relay_7": "D1"},
        {"relay_8": b"\0"},
        {"relay_8": b"\0\1\0\0"},
        {"relay_8": b"\0\1\0\1"},
        {"relay_8": b"\0\2"},
        {"relay_9": 2},
        {"relay_10": b"\xff\xff"},
        {"relays": lambda fields: [[*relay, 0] for relay in fields["relays"]]},
        {"relays": lambda fields: [relay[:-1] for relay in fields["relays"]]},
        {"relays": lambda fields: fields["relays"][::-1]},
        {"parameters": {"usable_hours": 0}},
        {"parameters": {"usable_hours": "many"}},
        {"policies": [[]]},
        {"policies": [["accept *:80"] * 65]},
        {"fresh_until": NOW},
        {"valid_until": NOW + 1},
        {"valid_after": -1},
        {"previous": b""},
        {"previous": None},
        {"motto": "for all"},
    ],
    ids="-".join,  # the same in every process
)
def test_fields_beyond_their_limits_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_content(spoiled(**changes))


def test_flags_and_parameters_of_a_later_version_are_left_out() -> None:
    later = spoiled(flags=["teleport"], parameters={"teleport_seconds": 1})

    consensus = read_content(later)

    assert consensus.relays[0].flags == frozenset()
    assert consensus.parameters == Parameters()


def test_a_relay_is_found_by_its_id() -> None:
    peer = identity(2).peer_id

    entry = CONSENSUS.get(peer)

    assert entry is not None
    assert entry.peer_id == peer
    assert CONSENSUS.get(identity("stranger").peer_id) is None


# ---- signatures


def test_a_consensus_counts_with_as_many_signatures_as_the_threshold() -> None:
    for signers in ((0, 1), (0, 2), (1, 2), (0, 1, 2)):
        assert read_consensus(envelope_of(*signers), NETWORK) == CONSENSUS


@pytest.mark.parametrize("signers", [(0,), (0, "x"), ("x", "y"), ("x", "y", "z"), (2, "x", "y")])
def test_too_few_authorities_make_no_consensus(signers: tuple[int | str, ...]) -> None:  # T08
    with pytest.raises(DirectoryError, match="expected at least 2"):
        read_consensus(envelope_of(*signers), NETWORK)


def test_signatures_under_another_label_or_network_do_not_count() -> None:  # T08
    with pytest.raises(ProtocolError, match="signature"):
        read_consensus(envelope_of(0, 1, kind=Kind.VOTE), NETWORK)
    with pytest.raises(ProtocolError, match="signature"):
        read_consensus(envelope_of(0, 1), network_of(name="other"))


def test_a_signature_of_a_stranger_beside_enough_others_does_no_harm() -> None:
    assert read_consensus(envelope_of(0, 1, "x"), NETWORK) == CONSENSUS


def test_authorities_that_are_none_any_more_do_not_count() -> None:
    with pytest.raises(DirectoryError):
        read_consensus(envelope_of(1, 2), network_of(1))


def test_every_changed_byte_is_refused() -> None:
    document = consensus_document()

    for at in range(0, len(document), 5):
        changed = document[:at] + bytes([document[at] ^ 1]) + document[at + 1 :]
        with pytest.raises((ProtocolError, DirectoryError)):
            read_consensus(changed, NETWORK)


# ---- time


@pytest.mark.parametrize(
    ("after", "is_usable"),
    [
        (-1801, False),  # DIR-9: half an hour of tolerance
        (-1800, True),
        (0, True),
        (3 * HOUR, True),
        (27 * HOUR - 1, True),
        (27 * HOUR, False),
    ],
)
def test_it_is_usable_a_day_longer_than_it_is_valid(after: int, is_usable: bool) -> None:  # DIR-8
    assert CONSENSUS.is_usable(NOW + after) == is_usable


@pytest.mark.parametrize(
    ("now", "message"),
    [(NOW - 2 * HOUR, "begins 2.0 hours"), (NOW + 28 * HOUR, "ended 25.0 hours")],
)
def test_one_that_cannot_be_used_says_how_wrong_the_clock_is(now: int, message: str) -> None:  # T09
    document = consensus_document()

    with pytest.raises(DirectoryError, match=message):
        read_consensus(document, NETWORK, float(now))


def test_its_own_parameters_say_how_long_it_is_usable() -> None:
    short = replace(CONSENSUS, parameters=Parameters(usable_hours=1))

    assert not short.is_usable(NOW + 4 * HOUR)


@given(st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_only_a_newer_consensus_replaces_the_one_held(
    held: int, offered: int, same_digest: bool
) -> None:  # DIR-6, DIR-7, T09
    first = replace(CONSENSUS, valid_after=NOW + held)
    second = replace(CONSENSUS, valid_after=NOW + offered)
    if not same_digest:
        second = replace(second, digest=b"other" * 6)

    verdict = compare(first, second)

    assert (verdict is Verdict.NEWER) == (offered > held)
    assert (verdict is Verdict.OLDER) == (offered < held)
    assert (verdict is Verdict.SAME) == (offered == held and same_digest)
    assert compare(None, second) is Verdict.NEWER


# ---- size


def test_a_consensus_over_its_limit_is_refused_at_once() -> None:  # T52
    began = time.process_time()

    with pytest.raises(ProtocolError, match="at most"):
        read_consensus(bytes(CONSENSUS_LIMIT + 1), NETWORK)

    assert time.process_time() - began < 0.1


def test_a_hundred_thousand_relays_are_refused_before_they_are_read() -> None:  # T52
    relays = [[n.to_bytes(4, "big")] for n in range(100_000)]
    content = spoiled(relays=relays + [[0] * 11] * 60_000)
    began = time.process_time()

    with pytest.raises(ProtocolError, match="values"):
        read_consensus(signed(content), NETWORK)

    assert time.process_time() - began < 0.3


def test_ten_thousand_relays_are_read_in_a_second() -> None:
    relays = [
        entry_of(
            PeerId(n.to_bytes(32, "big")),
            address=Address(str(ipaddress.IPv4Address(n << 8 | 5)), 9001),
            policy=("accept *:80", "accept *:443") if n % 3 else (),
            country="de",
        )
        for n in range(1, 10_001)
    ]
    document = signed(content_with(relays))
    began = time.process_time()

    consensus = read_consensus(document, NETWORK, NOW)

    assert time.process_time() - began < 1.0
    assert len(consensus.relays) == 10_000
    assert len(document) < 2_000_000
