import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import (
    NETWORK,
    NOW,
    authority_identity,
    content_of,
    identity,
    network_of,
)
from warren.directory.consensus import read_consensus
from warren.directory.signatures import (
    SIGNATURE_SIZE,
    DetachedSignature,
    combine,
    read_signatures,
    sign_consensus,
)
from warren.errors import DirectoryError, ProtocolError

CONTENT = content_of()


def signature_of(number: int, content: bytes = CONTENT) -> DetachedSignature:
    return sign_consensus(NOW, content, authority_identity(number), NETWORK.network_id)


def test_signatures_come_back_as_they_were() -> None:
    signatures = (signature_of(0), signature_of(2))

    data = b"".join(signature.encode() for signature in signatures)

    assert len(data) == 2 * SIGNATURE_SIZE == 336
    assert read_signatures(data, NETWORK) == signatures
    assert read_signatures(b"", NETWORK) == ()


def test_every_changed_byte_but_the_hint_of_the_time_is_refused() -> None:
    data = signature_of(0).encode()

    for at in range(8, len(data)):
        with pytest.raises(ProtocolError):
            read_signatures(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], NETWORK)


@given(st.binary(min_size=1, max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_signatures(data, NETWORK)


def test_more_signatures_than_authorities_are_refused() -> None:
    with pytest.raises(ProtocolError, match="0 to 3"):
        read_signatures(signature_of(0).encode() * 4, NETWORK)


def test_strangers_and_other_networks_do_not_sign() -> None:  # T08
    stranger = sign_consensus(NOW, CONTENT, identity("stranger"), NETWORK.network_id)

    with pytest.raises(ProtocolError, match="no authority"):
        read_signatures(stranger.encode(), NETWORK)
    with pytest.raises(ProtocolError, match="is wrong"):
        read_signatures(signature_of(0).encode(), network_of(name="other"))


def test_enough_signatures_make_a_consensus() -> None:
    document = combine(CONTENT, [signature_of(0), signature_of(1)], NETWORK)

    assert read_consensus(document, NETWORK, NOW).valid_after == NOW


def test_the_same_signatures_in_any_order_make_the_same_document() -> None:
    signatures = [signature_of(number) for number in range(3)]

    assert combine(CONTENT, signatures, NETWORK) == combine(CONTENT, signatures[::-1], NETWORK)


@pytest.mark.parametrize(
    "signatures",
    [
        [],
        [signature_of(0)],
        [signature_of(0), signature_of(0)],
        [signature_of(0), signature_of(1, content_of((1, 2)))],
    ],
    ids=["none", "one", "one twice", "one for something else"],
)
def test_too_few_make_none(signatures: list[DetachedSignature]) -> None:
    with pytest.raises(DirectoryError, match="expected at least 2"):
        combine(CONTENT, signatures, NETWORK)
