"""The few middles over which lost circuits to an exit are built again."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.imagined import consensus, peer, relay
from warren.directory.relays import Flag
from warren.identity import PeerId
from warren.roles.middles import MOST_EXITS, MOST_MIDDLES, REST_SECONDS, Middles

EXIT = peer(1)
LISTED = consensus([relay(1, Flag.EXIT), *(relay(number) for number in range(2, 30))])


def ids(*numbers: int) -> frozenset[PeerId]:
    return frozenset(map(peer, numbers))


def choices(
    middles: Middles, unwanted: frozenset[PeerId] = frozenset(), now: float = 0.0
) -> list[frozenset[PeerId]]:
    return list(middles.choices(EXIT, LISTED, unwanted, now))


def test_at_first_any_relay_may_be_drawn() -> None:
    assert choices(Middles(), ids(3))[1] == {entry.peer_id for entry in LISTED.relays} - ids(3)


def test_those_that_are_kept_come_first() -> None:
    middles = Middles()
    middles.keep(EXIT, ids(5))

    kept, drawn, *_ = choices(middles)

    assert kept == ids(5)
    assert peer(5) not in drawn


def test_once_all_are_drawn_nobody_else_comes_in() -> None:
    middles = Middles()
    middles.keep(EXIT, ids(*range(2, 20)))

    allowed = frozenset().union(*choices(middles))

    assert len(allowed) == MOST_MIDDLES
    assert allowed == frozenset(middles.kept(EXIT))


def test_one_that_failed_rests_and_comes_back() -> None:
    middles = Middles()
    middles.keep(EXIT, ids(2, 3, 4, 5))
    middles.failed(EXIT, peer(2), now=100.0)

    assert choices(middles, now=101.0) == [ids(3, 4, 5), ids(3, 4, 5), ids(2, 3, 4, 5)]
    assert choices(middles, now=100.0 + REST_SECONDS)[0] == ids(2, 3, 4, 5)


def test_one_that_is_unwanted_is_used_before_one_that_rests() -> None:
    middles = Middles()
    middles.keep(EXIT, ids(2, 3, 4, 5))
    for number in (3, 4, 5):
        middles.failed(EXIT, peer(number), now=0.0)

    first, second, third = choices(middles, ids(2))

    assert (first, second, third) == (ids(), ids(2), ids(2, 3, 4, 5))


def test_one_that_is_not_listed_any_more_makes_room() -> None:
    middles = Middles()
    middles.keep(EXIT, ids(2, 3, 4, 99))

    assert peer(7) in choices(middles)[1]
    assert frozenset(middles.kept(EXIT)) == ids(2, 3, 4)


def test_exits_do_not_share_their_middles() -> None:
    middles = Middles()
    middles.keep(EXIT, ids(2))
    middles.keep(peer(9), ids(3))

    assert (middles.kept(EXIT), middles.kept(peer(9))) == ((peer(2),), (peer(3),))


def test_what_is_kept_is_bounded() -> None:
    middles = Middles()

    for number in range(1000, 1000 + 2 * MOST_EXITS):
        middles.keep(peer(number), ids(2))

    assert middles.kept(peer(1000)) == ()
    assert middles.kept(peer(1000 + 2 * MOST_EXITS - 1)) == (peer(2),)


@given(st.lists(st.tuples(st.integers(2, 29), st.booleans()), max_size=100))
def test_however_middles_fail_no_more_than_a_few_are_ever_used(
    steps: list[tuple[int, bool]],
) -> None:  # RES-1
    middles, used = Middles(), set()
    now = 0.0

    for number, fails in steps:
        now += 3.0
        allowed = next(each for each in middles.choices(EXIT, LISTED, (), now) if each)
        chosen = sorted(allowed)[number % len(allowed)]
        middles.keep(EXIT, [chosen])
        used.add(chosen)
        if fails:
            middles.failed(EXIT, chosen, now)

    assert len(used) <= MOST_MIDDLES
