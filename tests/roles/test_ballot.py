import pytest

from tests.support.directories import (
    NETWORK,
    NOW,
    authority_identity,
    opinion_of,
    vote_document,
    vote_of,
)
from warren.directory.consensus import read_consensus
from warren.directory.descriptor import DescriptorReader
from warren.directory.schedule import period_of
from warren.directory.signatures import DetachedSignature, sign_consensus
from warren.errors import DirectoryError, ProtocolError
from warren.roles.ballot import Ballot

VALID_AFTER = NOW + 3600
IDS = NETWORK.authority_ids


def vote(number: int, *relays: int, valid_after: int = VALID_AFTER) -> bytes:
    opinions = [opinion_of(relay) for relay in relays]
    return vote_document(vote_of(number, opinions, valid_after=valid_after), number)


def signature(number: int, content: bytes, valid_after: int = VALID_AFTER) -> DetachedSignature:
    return sign_consensus(valid_after, content, authority_identity(number), NETWORK.network_id)


@pytest.fixture
def ballot() -> Ballot:
    return Ballot(period_of(VALID_AFTER, 3600, NETWORK.parameters), NETWORK)


@pytest.fixture
def counted(ballot: Ballot) -> Ballot:
    for number in range(3):
        ballot.add_vote(vote(number, 1, 2))
    ballot.count(DescriptorReader(NETWORK.network_id).read)
    return ballot


def test_votes_are_taken_once(ballot: Ballot) -> None:
    first = ballot.add_vote(vote(0, 1))
    again = ballot.add_vote(vote(0, 1))

    assert first is not None
    assert first.authority == IDS[0]
    assert again is None
    assert ballot.vote_of(IDS[0]) == vote(0, 1)
    assert list(ballot.without_vote()) == list(IDS[1:])


def test_of_two_votes_the_first_counts_and_the_second_is_evidence(ballot: Ballot) -> None:
    ballot.add_vote(vote(0, 1))

    for second in (vote(0, 2), vote(0, 3)):
        with pytest.raises(DirectoryError, match="second, different"):
            ballot.add_vote(second)

    assert ballot.vote_of(IDS[0]) == vote(0, 1)
    assert ballot.evidence == {IDS[0]: vote(0, 2)}


def test_votes_for_another_time_are_refused(ballot: Ballot) -> None:
    with pytest.raises(DirectoryError, match="about"):
        ballot.add_vote(vote(0, 1, valid_after=VALID_AFTER + 3600))


def test_votes_after_the_count_are_refused(counted: Ballot, ballot: Ballot) -> None:  # DIR-10
    late = Ballot(ballot.period, NETWORK)
    for number in (0, 1):
        late.add_vote(vote(number, 1))
    late.count(DescriptorReader(NETWORK.network_id).read)

    with pytest.raises(DirectoryError, match="after the count"):
        late.add_vote(vote(2, 1))
    assert counted.add_vote(vote(2, 1, 2)) is None  # a repetition does no harm


def test_a_malformed_vote_is_refused(ballot: Ballot) -> None:
    with pytest.raises(ProtocolError):
        ballot.add_vote(vote(0, 1)[:-1])

    assert list(ballot.without_vote()) == list(IDS)


def test_too_few_votes_come_to_nothing(ballot: Ballot) -> None:
    ballot.add_vote(vote(0, 1))

    with pytest.raises(DirectoryError, match="1 of 3 authorities voted"):
        ballot.count(DescriptorReader(NETWORK.network_id).read)

    assert ballot.is_closed
    with pytest.raises(DirectoryError, match="no consensus was counted"):
        ballot.document()


def test_enough_signatures_for_what_was_counted_make_the_consensus(counted: Ballot) -> None:
    assert counted.content is not None
    counted.add_signature(signature(0, counted.content))
    with pytest.raises(DirectoryError, match="1 of 3 authorities signed"):
        counted.document()

    counted.add_signature(signature(2, counted.content))

    assert read_consensus(counted.document(), NETWORK).valid_after == VALID_AFTER
    assert list(counted.without_signature()) == [IDS[1]]


def test_signatures_may_come_before_the_count(ballot: Ballot, counted: Ballot) -> None:
    assert counted.content is not None
    early = Ballot(ballot.period, NETWORK)
    early.add_signature(signature(1, counted.content))
    for number in (0, 1):
        early.add_vote(vote(number, 1, 2))

    content = early.count(DescriptorReader(NETWORK.network_id).read)
    early.add_signature(signature(0, content))

    assert content == counted.content
    assert read_consensus(early.document(), NETWORK).valid_after == VALID_AFTER


def test_a_fitting_signature_replaces_one_that_does_not_fit(counted: Ballot) -> None:
    assert counted.content is not None
    counted.add_signature(signature(0, counted.content))
    counted.add_signature(signature(1, b"something else"))
    missing = list(counted.without_signature())

    counted.add_signature(signature(1, counted.content))
    counted.add_signature(signature(1, b"something else"))

    assert missing == [IDS[1], IDS[2]]
    assert list(counted.without_signature()) == [IDS[2]]
    assert counted.document()


def test_signatures_for_another_time_are_refused(counted: Ballot) -> None:
    with pytest.raises(DirectoryError, match="another"):
        counted.add_signature(signature(0, b"content", VALID_AFTER + 1))
    assert counted.signatures() == b""
