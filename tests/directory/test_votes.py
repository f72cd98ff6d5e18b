from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.directories import (
    NETWORK,
    authority_identity,
    document_of,
    identity,
    network_of,
    opinion_of,
    vote_document,
    vote_of,
)
from warren.directory.documents import Kind, dump_cbor, seal_document
from warren.directory.votes import VOTE_LIMIT, Vote, read_vote, sign_vote
from warren.errors import ProtocolError

opinions = st.builds(
    opinion_of,
    st.integers(1, 8),
    running=st.booleans(),
    flags=st.frozensets(st.sampled_from(["guard", "stable", "of_a_later_version"])),
    measured=st.none() | st.integers(1, 1 << 40),
    country=st.sampled_from(["??", "de", "se"]),
)
DOCUMENTS = sorted((document_of(n) for n in (1, 2)), key=lambda document: document[10:42])


def content_with(**changes: Any) -> bytes:
    """Return a vote's content with fields as ``sign_vote`` would not write them."""
    relays = changes.pop("relays", [])
    fields = {"valid_after": 1, "parameters": {}, "previous": bytes(32), "relays": relays}
    return dump_cbor({key: v for key, v in (fields | changes).items() if v is not None})


def read_content(content: bytes) -> Vote:
    authority = authority_identity(0)
    return read_vote(seal_document(Kind.VOTE, content, authority, NETWORK.network_id), NETWORK)


@given(st.lists(opinions, max_size=5, unique_by=lambda opinion: opinion.descriptor))
def test_a_vote_comes_back_as_it_was(chosen: list[Any]) -> None:
    vote = vote_of(1, chosen)

    assert read_vote(vote_document(vote, 1), NETWORK) == vote


def test_every_changed_byte_is_refused() -> None:
    document = vote_document(vote_of(0, [opinion_of(1)]), 0)

    for at in range(0, len(document), 3):
        with pytest.raises(ProtocolError):
            read_vote(document[:at] + bytes([document[at] ^ 2]) + document[at + 1 :], NETWORK)


@given(st.binary(max_size=300))
def test_garbage_is_refused_signed_or_not(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_vote(data, NETWORK)
    with pytest.raises(ProtocolError):
        read_content(data)


def test_only_an_authority_votes() -> None:
    vote = Vote(identity(1).peer_id, 1, {}, bytes(32), ())
    document = sign_vote(vote, identity(1), NETWORK.network_id)

    with pytest.raises(ProtocolError, match="may not"):
        read_vote(document, NETWORK)


def test_a_vote_of_another_network_is_refused() -> None:
    with pytest.raises(ProtocolError, match="signature"):
        read_vote(vote_document(vote_of(0, []), 0), network_of(name="other"))


def test_a_vote_over_its_limit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        read_vote(bytes(VOTE_LIMIT + 1), NETWORK)


def test_the_content_that_the_following_tests_spoil_is_good() -> None:
    relays = [[document, True, ["guard"], 7, "de"] for document in DOCUMENTS]

    assert len(read_content(content_with(relays=relays)).opinions) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"relays": [[document, True, [], None, "??"] for document in reversed(DOCUMENTS)]},
        {"relays": [[DOCUMENTS[0], True, [], None, "??"]] * 2},
        {"relays": [[b"rubbish", True, [], None, "??"]]},
        {"relays": [[DOCUMENTS[0], True, [], None, "DE"]]},
        {"relays": [[DOCUMENTS[0], True, [], None, "deu"]]},
        {"relays": [[DOCUMENTS[0], True, [], 0, "de"]]},
        {"relays": [[DOCUMENTS[0], 1, [], None, "de"]]},
        {"relays": [[DOCUMENTS[0], True, ["x"] * 17, None, "de"]]},
        {"relays": [[DOCUMENTS[0], True, ["No Name"], None, "de"]]},
        {"relays": [[DOCUMENTS[0], True, [], None, "de", 1]]},
        {"relays": [[DOCUMENTS[0], True, [], None]]},
        {"parameters": {"usable_hours": 0}},
        {"parameters": {"usable_hours": "1"}},
        {"parameters": {f"p{n}": n for n in range(129)}},
        {"previous": bytes(31)},
        {"valid_after": -1},
        {"valid_after": None},
        {"motto": "for all"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_fields_beyond_their_limits_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_content(content_with(**changes))


def test_parameters_of_a_later_version_stay_in_a_vote() -> None:
    vote = vote_of(0, [], parameters={"teleport_seconds": 5})

    assert read_vote(vote_document(vote, 0), NETWORK).parameters == {"teleport_seconds": 5}
