from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import (
    NETWORK,
    NOW,
    descriptor_of,
    document_of,
    identity,
    network_of,
    public_key,
)
from warren.addresses import Address
from warren.directory.descriptor import (
    DESCRIPTOR_LIMIT,
    Descriptor,
    DescriptorReader,
    check_published,
    descriptor_lifetime,
    read_descriptor,
    sign_descriptor,
)
from warren.directory.documents import Kind, dump_cbor, seal_document
from warren.directory.parameters import Parameters
from warren.errors import DirectoryError, ProtocolError
from warren.identity import PeerId, Suite

ID = NETWORK.network_id
PEERS = [identity(number).peer_id for number in range(100, 200)]

#: X25519 keys of low order, one of them in an encoding that is not canonical (T53).
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]

peer_ids = st.sampled_from(PEERS)
descriptors = st.builds(
    descriptor_of,
    st.integers(0, 50),
    address=st.builds(
        Address,
        st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
        st.integers(1, 0xFFFF),
    ),
    suites=st.permutations(list(Suite)).map(tuple),
    bandwidth=st.integers(1, 1 << 40),
    published=st.integers(0, 1 << 39),
    policy=st.sampled_from([(), ("accept *:80,443", "reject *:*"), ("reject *:25", "accept *:*")]),
    udp_policy=st.sampled_from([(), ("accept *:443",)]),
    family=st.lists(peer_ids, unique=True, max_size=64).map(tuple),
    contact=st.text(st.characters(categories=["L", "N", "P"]), max_size=60),
    version=st.sampled_from(["", "warren 1.0"]),
    links=st.lists(st.integers(1, 0xFFFF), unique=True, min_size=1, max_size=5).map(tuple),
    gateways=st.lists(peer_ids, unique=True, max_size=3).map(tuple),
    counter=st.integers(0, (1 << 63) - 1),
)


def content_with(**changes: Any) -> bytes:
    """Return a descriptor's content with fields as no ``Descriptor`` could have them."""
    fields: dict[str, Any] = {
        "address": Address("5.0.1.5", 9001).encode(),
        "link_key": public_key("link"),
        "onion_key": public_key("onion"),
        "suites": [1, 2],
        "bandwidth": 1000,
        "published": NOW,
        "policy": [],
        "udp_policy": [],
        "family": [],
        "contact": "",
        "version": "",
        "links": [1],
        "gateways": [],
        "counter": 0,
    }
    return dump_cbor({key: v for key, v in (fields | changes).items() if v is not None})


def read_content(content: bytes) -> None:
    read_descriptor(seal_document(Kind.DESCRIPTOR, content, identity(1), ID), ID)


@given(descriptors)
def test_a_descriptor_comes_back_as_it_was(descriptor: Descriptor) -> None:
    number = next(n for n in range(51) if identity(n).peer_id == descriptor.peer_id)

    document = sign_descriptor(descriptor, identity(number), ID)

    assert read_descriptor(document, ID) == descriptor


def test_the_content_that_the_following_tests_spoil_is_good() -> None:
    read_content(content_with())


def test_every_changed_byte_is_refused() -> None:
    document = document_of(1)

    for at in range(len(document)):
        with pytest.raises(ProtocolError):
            read_descriptor(document[:at] + bytes([document[at] ^ 4]) + document[at + 1 :], ID)


@given(st.binary(max_size=400))
def test_garbage_is_refused_signed_or_not(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_descriptor(data, ID)
    with pytest.raises(ProtocolError):
        read_content(data)


def test_a_descriptor_of_another_network_is_refused() -> None:
    with pytest.raises(ProtocolError, match="signature"):
        read_descriptor(document_of(1), network_of(name="other").network_id)


def test_a_descriptor_of_8193_bytes_is_refused() -> None:  # T52
    envelope = len(seal_document(Kind.DESCRIPTOR, b"", identity(1), ID))
    document = seal_document(
        Kind.DESCRIPTOR, bytes(DESCRIPTOR_LIMIT + 1 - envelope), identity(1), ID
    )

    assert len(document) == 8193
    with pytest.raises(ProtocolError, match="at most 8192"):
        read_descriptor(document, ID)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": ["accept *:80"] * 65},  # T52
        {"policy": ["x" * 257]},
        {"policy": ["drop *:80"]},
        {"udp_policy": ["accept *:53"] * 65},
        {"udp_policy": ["drop *:53"]},
        {"policy": ["accept *:0x50"]},
        {"contact": "x" * 257},
        {"contact": "ä" * 129},
        {"contact": "line\nline"},
        {"version": "\x1b[2J"},
        {"family": [bytes(PEERS[0])] * 2},
        {"family": [bytes(peer) for peer in PEERS[:65]]},
        {"family": [b"short"]},
        {"gateways": [bytes(peer) for peer in PEERS[:4]]},
        {"gateways": [bytes(identity(1).peer_id)]},
        {"links": []},
        {"links": [0]},
        {"links": [1, 1]},
        {"suites": []},
        {"suites": [1, 1]},
        {"suites": [3]},
        {"bandwidth": 0},
        {"bandwidth": -1},
        {"bandwidth": 1 << 60},
        {"bandwidth": 1.5},
        {"published": -1},
        {"counter": -1},
        {"counter": 1 << 63},
        {"link_key": bytes(31)},
        {"address": b""},
        {"address": Address("example.org", 443).encode()},
        {"address": Address("5.0.1.5", 0).encode()},
        {"address": Address("5.0.1.5", 9001).encode() + b"\0"},
        {"counter": None},
        {"nickname": "joe"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_fields_beyond_their_limits_are_refused(changes: dict[str, Any]) -> None:  # DIR-3
    with pytest.raises(ProtocolError):
        read_content(content_with(**changes))


@pytest.mark.parametrize("key", LOW_ORDER, ids=bytes.hex)
@pytest.mark.parametrize("field", ["link_key", "onion_key"])
def test_keys_of_low_order_are_refused(field: str, key: bytes) -> None:  # T53
    with pytest.raises(ProtocolError, match="X25519"):
        read_content(content_with(**{field: key}))


def test_a_relay_behind_gateways_needs_no_port() -> None:
    address = Address("5.0.1.5", 0)

    assert descriptor_of(1, address=address, gateways=(PEERS[0],)).address == address


def test_signing_a_descriptor_that_is_too_long_says_what_to_shorten() -> None:
    policy = tuple(f"accept 5.5.5.5:{port * 10000}-{port * 10000 + 1}" for port in range(1, 5))
    long_rules = tuple("accept " + rule[7:] + " " * 200 for rule in policy) * 16
    descriptor = descriptor_of(1, policy=long_rules, family=tuple(PEERS[:64]))

    with pytest.raises(ProtocolError, match="shorten"):
        sign_descriptor(descriptor, identity(1), ID)


@given(
    held=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    offered=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_the_greater_publication_and_counter_is_newer(
    held: tuple[int, int], offered: tuple[int, int]
) -> None:  # DIR-6, T76
    old, new = (descriptor_of(1, published=NOW + p, counter=c) for p, c in (held, offered))

    assert new.supersedes(old) == (offered > held)
    assert new.supersedes(None)


def test_a_descriptor_from_the_future_or_from_long_ago_does_not_count() -> None:  # T76
    parameters = Parameters()
    lifetime = descriptor_lifetime(parameters)

    check_published(descriptor_of(1), NOW - 1800, parameters)
    check_published(descriptor_of(1), NOW + lifetime, parameters)
    for now in (NOW - 1801, NOW + lifetime + 1):
        with pytest.raises(DirectoryError):
            check_published(descriptor_of(1), now, parameters)


def test_an_identity_cannot_be_copied_without_its_key() -> None:  # T76
    victim, thief = identity(1), identity(2)
    stolen = descriptor_of(2, address=Address("9.9.9.9", 9)), thief
    document = sign_descriptor(*stolen, ID).replace(thief.peer_id, victim.peer_id)

    assert PeerId(document[10:42]) == victim.peer_id
    with pytest.raises(ProtocolError, match="signature"):
        read_descriptor(document, ID)


def test_a_reader_gives_the_same_object_again_and_forgets_the_oldest() -> None:
    reader = DescriptorReader(ID, most=2)
    first, second, third = (document_of(number) for number in (1, 2, 3))

    kept = reader.read(first)
    again = reader.read(first)
    reader.read(second)
    reader.read(third)

    assert again is kept
    assert reader.read(first) is not kept
    assert reader.read(first) == kept


def test_a_reader_forgets_what_was_not_read_for_two_periods() -> None:
    reader = DescriptorReader(ID)
    used, unused = (document_of(number) for number in (1, 2))
    kept, dropped = reader.read(used), reader.read(unused)

    for _ in range(2):
        reader.begin_period()
        reader.read(used)

    assert reader.read(used) is kept
    assert reader.read(unused) is not dropped


def test_a_reader_does_not_remember_what_is_bad() -> None:
    reader = DescriptorReader(ID)
    bad = document_of(1)[:-1] + b"\xff"

    for _ in range(2):
        with pytest.raises(ProtocolError):
            reader.read(bad)
