from typing import Any

import pytest

from tests.support.directories import (
    NETWORK,
    NOW,
    descriptor_of,
    document_of,
    identity,
    network_of,
)
from warren.addresses import Address
from warren.directory.descriptor import DescriptorReader
from warren.directory.network_file import NetworkFile
from warren.directory.relays import Flag
from warren.directory.votes import LISTED, Opinion
from warren.errors import DirectoryError, ProtocolError, TooSoon
from warren.identity import PeerId
from warren.roles.relay_book import KnownRelay, RelayBook

HOUR, DAY = 3600, 24 * 3600


def book_of(network: NetworkFile = NETWORK) -> RelayBook:
    return RelayBook(network, DescriptorReader(network.network_id))


def peer(number: int) -> PeerId:
    return identity(number).peer_id


def known(book: RelayBook, number: int) -> KnownRelay:
    relay = book.get(peer(number))
    assert relay is not None
    return relay


def check(book: RelayBook, number: int, *results: bool, now: float = NOW) -> None:
    """Note `results` of checks, one after the other, as soon as each is due."""
    relay = known(book, number)
    for reached in results:
        now = max(now, relay.check_at)
        book.due(now)
        assert relay.is_being_checked
        book.note_check(relay, relay.descriptor.hop, reached=reached, now=now)


def opinions(book: RelayBook, now: float = NOW) -> dict[PeerId, Opinion]:
    reader = DescriptorReader(NETWORK.network_id)
    return {
        reader.read(opinion.descriptor).peer_id: opinion
        for opinion in book.opinions(now, lambda ip: "de" if ip.version == 4 else "??")
    }


# ---- taking descriptors


def test_a_descriptor_is_news_once() -> None:
    book = book_of()

    news = [book.upload(document_of(1), NOW) for _ in range(3)]

    assert news == [True, False, False]


def test_a_newer_descriptor_replaces_the_one_held() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)

    book.upload(document_of(1, counter=1), NOW + 601)

    assert known(book, 1).descriptor.counter == 1


@pytest.mark.parametrize("changes", [{"counter": 4}, {"counter": 5, "bandwidth": 7}])
def test_an_older_or_equally_old_one_is_refused(changes: dict[str, Any]) -> None:  # T76, DIR-6
    book = book_of()
    listed = document_of(1, counter=5)
    book.upload(listed, NOW)

    with pytest.raises(DirectoryError, match="not newer"):
        book.upload(document_of(1, **changes), NOW + 601)
    with pytest.raises(DirectoryError, match="not newer"):
        book.learn(document_of(1, **changes), NOW)

    assert known(book, 1).document == listed


@pytest.mark.parametrize("published", [NOW + 1801, NOW - 40 * HOUR])
def test_one_from_the_future_or_from_long_ago_is_refused(published: int) -> None:  # T76
    book = book_of()

    with pytest.raises(DirectoryError, match="published"):
        book.upload(document_of(1, published=published), NOW)

    assert list(book) == []


def test_a_second_one_within_ten_minutes_is_refused() -> None:  # DIR-17
    book = book_of()
    book.upload(document_of(1), NOW)
    newer = document_of(1, counter=1)

    for seconds in (0, 1, 599):
        with pytest.raises(TooSoon, match="too soon") as told:
            book.upload(newer, NOW + seconds)
        assert told.value.seconds == 600 - seconds

    assert book.upload(newer, NOW + 600)


def test_what_others_vote_for_does_not_count_as_an_upload() -> None:
    book = book_of()
    book.learn(document_of(1), NOW)

    book.upload(document_of(1, counter=1), NOW)
    book.learn(document_of(1, counter=2), NOW)

    assert known(book, 1).descriptor.counter == 2


def test_a_clock_that_went_back_locks_nobody_out() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)

    assert book.upload(document_of(1, counter=1), NOW - 1000)


def test_a_descriptor_with_a_wrong_signature_is_refused() -> None:
    book = book_of()

    with pytest.raises(ProtocolError):
        book.upload(document_of(1)[:-1] + b"\xff", NOW)

    assert list(book) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"])
def test_no_relay_of_a_real_network_is_inside_somebodys_own(host: str) -> None:
    real = network_of(testing=False)
    document = document_of(1, real, address=Address(host, 9001))

    with pytest.raises(DirectoryError, match="no relay can be at"):
        book_of(real).upload(document, NOW)
    assert book_of().upload(document_of(1, address=Address(host, 9001)), NOW)


def test_there_is_an_end_to_the_relays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warren.roles.relay_book.MOST_RELAYS", 2)
    book = book_of()
    for number in (1, 2):
        book.upload(document_of(number), NOW)

    with pytest.raises(DirectoryError, match="as many relays"):
        book.upload(document_of(3), NOW)
    assert book.upload(document_of(1, counter=1), NOW + 601)


# ---- checking


def test_a_new_relay_is_due_at_once_and_only_once() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)

    due = book.due(NOW)

    assert due == [known(book, 1)]
    assert book.due(NOW + DAY) == []


def test_a_relay_runs_when_it_was_reached_and_is_looked_at_again_in_a_while() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)

    check(book, 1, True)

    assert known(book, 1).is_running
    assert known(book, 1).check_at == NOW + 1200


def test_a_relay_runs_for_as_long_as_it_was_reached_within_45_minutes() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)
    check(book, 1, True)

    running = {}
    while (at := known(book, 1).check_at) < NOW + HOUR:
        check(book, 1, False)
        running[at - NOW] = opinions(book)[peer(1)].running

    assert {seconds for seconds, is_running in running.items() if is_running} == {
        1200 + 120 * n for n in range(13)
    }
    assert not running[2760]


def test_a_relay_that_was_reached_again_has_all_of_the_time_again() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)

    check(book, 1, True, *[False] * 12, True, *[False] * 12)

    assert known(book, 1).check_at > NOW + 2700
    assert known(book, 1).is_running


def test_a_relay_that_was_never_reached_does_not_run() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)

    check(book, 1, False)

    assert not known(book, 1).is_running


def test_one_failure_is_no_proof_however_long_ago_the_relay_was_reached() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)
    check(book, 1, True)

    check(book, 1, False, now=NOW + DAY)  # the authority slept meanwhile
    after_one = known(book, 1).is_running
    check(book, 1, False)

    assert after_one
    assert not known(book, 1).is_running


def test_who_failed_twice_in_a_row_begins_anew_to_be_stable() -> None:
    book = book_of()
    for number in (1, 2, 3):
        book.upload(document_of(number), NOW)
        check(book, number, True)
    check(book, 1, False, False, True)

    found = opinions(book, NOW + 5000)

    assert found[peer(1)].running
    assert Flag.STABLE not in found[peer(1)].flags
    assert Flag.STABLE in found[peer(2)].flags


def test_the_next_look_comes_soon_after_a_failure_until_the_relay_is_down() -> None:
    book = book_of()
    for number in (1, 2):
        book.upload(document_of(number), NOW)
    check(book, 2, True)

    waits: dict[int, list[float]] = {1: [], 2: []}
    for number, count in ((1, 4), (2, 16)):
        for _ in range(count):
            began = known(book, number).check_at
            check(book, number, False)
            waits[number].append(known(book, number).check_at - began)

    assert waits[1] == [120, 120, 1200, 1200]
    assert waits[2] == [120] * 13 + [1200] * 3


@pytest.mark.parametrize(
    ("changes", "is_running"),
    [
        ({"counter": 1}, True),
        ({"counter": 1, "address": Address("5.5.5.5", 1)}, False),
        ({"counter": 1, "link_key": b"l" * 32}, False),
        ({"counter": 1, "gateways": (peer(9),)}, False),
    ],
    ids=["nothing", "address", "link key", "gateways"],
)
def test_a_relay_that_moved_must_be_reached_again(
    changes: dict[str, Any], is_running: bool
) -> None:
    book = book_of()
    book.upload(document_of(1), NOW)
    check(book, 1, True)

    book.upload(document_of(1, **changes), NOW + 601)

    assert known(book, 1).is_running is is_running
    assert book.due(NOW + 601) == [known(book, 1)]


def test_a_check_of_where_the_relay_was_says_nothing_of_where_it_is() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)
    (relay,) = book.due(NOW)
    hop = relay.descriptor.hop
    book.learn(document_of(1, counter=1, address=Address("5.5.5.5", 1)), NOW)

    book.note_check(relay, hop, reached=True, now=NOW)

    assert not relay.is_running
    assert book.due(NOW) == [relay]


# ---- forgetting


def test_relays_that_stop_publishing_are_forgotten() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)
    book.upload(document_of(2, published=NOW + 1000), NOW)

    book.forget_stale(NOW + 37 * HOUR + 1)

    assert [relay.descriptor.peer_id for relay in book] == [peer(2)]


def test_relays_never_reached_are_forgotten_after_an_interval() -> None:
    book = book_of()
    for number in (1, 2, 3):
        book.upload(document_of(number), NOW)
    check(book, 1, False, False, False)
    check(book, 2, True)

    book.forget_stale(NOW + HOUR)
    kept = len(list(book))
    book.forget_stale(NOW + HOUR + 1)

    assert kept == 3
    assert {relay.descriptor.peer_id for relay in book} == {peer(2), peer(3)}


def test_a_relay_that_was_reached_once_is_looked_for_as_long_as_its_descriptor_holds() -> None:
    book = book_of()
    book.upload(document_of(1), NOW)
    check(book, 1, True, *[False] * 30)
    book.forget_stale(known(book, 1).check_at)

    check(book, 1, True)

    assert known(book, 1).is_running


# ---- opinions


def test_opinions_are_in_order_and_have_countries_and_flags() -> None:
    book = book_of()
    book.upload(document_of(1, policy=("accept *:80",)), NOW)
    book.upload(document_of(2, address=Address("2600::1", 1)), NOW)
    book.upload(document_of(3, gateways=(peer(1),)), NOW)

    found = opinions(book)

    assert list(found) == sorted(found)
    assert found[peer(1)].flags == {Flag.EXIT, Flag.MIRROR}
    assert found[peer(2)].flags == {Flag.MIRROR}
    assert found[peer(3)].flags == set()
    assert [found[peer(n)].country for n in (1, 2)] == ["de", "??"]


def test_those_that_the_newest_consensus_lists_are_said_to_be() -> None:  # DIR-11
    book = book_of()
    for number in (1, 2):
        book.upload(document_of(number), NOW)

    found = book.opinions(NOW, lambda ip: "??", {peer(2)}.__contains__)

    assert {each.descriptor for each in found if LISTED in each.flags} == {document_of(2)}


def test_the_longer_half_of_those_up_is_stable() -> None:
    book = book_of()
    for number in (1, 2, 3, 4):
        book.upload(document_of(number), NOW)
    for number, since in ((1, 0), (2, 1000), (3, 2000)):
        check(book, number, True, now=NOW + since)

    found = opinions(book, NOW + 5000)

    stable = {peer for peer, opinion in found.items() if Flag.STABLE in opinion.flags}
    assert stable == {peer(1), peer(2)}


def test_five_days_are_stable_whatever_the_others_are() -> None:
    book = book_of()
    for number in (1, 2, 3):
        book.learn(document_of(number), NOW)
    for number, days in ((1, 90), (2, 80), (3, 5)):
        check(book, number, True)
        known(book, number).reached_since = NOW - days * DAY

    found = opinions(book)

    assert all(Flag.STABLE in opinion.flags for opinion in found.values())


def test_statistics_count_relays() -> None:
    book = book_of()
    for number in (1, 2):
        book.upload(document_of(number), NOW)
    check(book, 1, True)

    assert book.statistics() == {"relays_known": 2, "relays_running": 1}
    assert descriptor_of(1).hop == known(book, 1).descriptor.hop
