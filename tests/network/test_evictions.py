"""Evictions: which links and circuits go, decided on paper."""

from collections import Counter
from ipaddress import ip_address
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from warren.network.evictions import (
    FRESH_SECONDS,
    SPARED_PER_BLOCK,
    Candidate,
    Kept,
    Reason,
    choose_circuits,
    choose_links,
    choose_oldest,
)

NOW = 5000.0

ips = st.one_of(
    st.none(),
    st.integers(0, 2**10).map(lambda n: ip_address(0x05050000 + n)),
    st.integers(0, 2**10).map(lambda n: ip_address((0x20010DB8 << 96) + (n << 36))),
)
candidates = st.lists(
    st.builds(Candidate, st.integers(0, 3), ips, st.booleans(), st.floats(NOW - 1000, NOW)),
    max_size=40,
)


def link(
    ip: str = "5.5.5.5", *, circuits: int = 1, is_relay: bool = False, last_used: float = 0.0
) -> Candidate:
    return Candidate(circuits, ip_address(ip), is_relay, last_used)


def apart(count: int, *, is_relay: bool = False, circuits: int = 1) -> list[Candidate]:
    """Return links whose addresses have nothing in common."""
    return [link(f"5.{n}.0.1", is_relay=is_relay, circuits=circuits) for n in range(count)]


def places(chosen: list[tuple[int, Reason]]) -> list[int]:
    return [place for place, _ in chosen]


# ---- links


def test_links_without_circuits_go_first_however_many_others_there_are() -> None:
    links = [*apart(50), link("9.9.9.9", circuits=0), *apart(50, is_relay=True)]

    chosen = choose_links(links, 1, NOW, Random(1))

    assert chosen == [(50, Reason.NO_CIRCUITS)]


def test_of_links_without_circuits_the_one_used_longest_ago_goes_first() -> None:
    links = [link(circuits=0, last_used=seconds) for seconds in (30, 10, 20)]

    chosen = choose_links(links, 2, NOW, Random(1))

    assert places(chosen) == [1, 2]


def test_the_link_of_a_relay_without_circuits_goes_before_anybody_who_has_one() -> None:
    links = [link("5.1.0.1"), link("5.2.0.1", is_relay=True, circuits=0)]

    assert places(choose_links(links, 1, NOW, Random(1))) == [1]


def test_a_link_that_was_just_opened_has_a_moment_to_ask_for_a_circuit() -> None:
    """Or a crowd of links with a circuit each would keep every newcomer out."""
    crowd = [link(f"6.6.6.{n % 4}") for n in range(10)]
    newcomer = link("5.1.0.1", circuits=0, last_used=NOW - FRESH_SECONDS / 2)

    chosen = choose_links([*crowd, newcomer], 8, NOW, Random(1))

    assert sorted(chosen) == [(place, Reason.SIMILAR) for place in range(8)]


def test_a_crowd_of_newcomers_is_one_of_similar_addresses() -> None:
    crowd = [link(f"6.6.6.{n % 4}", circuits=0, last_used=NOW) for n in range(10)]

    chosen = choose_links([*apart(20), *crowd], 8, NOW, Random(1))

    assert sorted(chosen) == [(place, Reason.SIMILAR) for place in range(20, 28)]


def test_similar_addresses_keep_their_two_newest_links() -> None:
    crowd = [link(f"6.6.6.{n % 4}") for n in range(10)]  # one /30
    links = [*apart(20), *crowd]

    chosen = choose_links(links, 8, NOW, Random(1))

    assert sorted(chosen) == [(place, Reason.SIMILAR) for place in range(20, 28)]


def test_addresses_of_two_blocks_are_not_similar() -> None:
    links = [link(f"6.6.6.{n}") for n in (3, 4, 3, 4)]

    reasons = {reason for _, reason in choose_links(links, 4, NOW, Random(1))}

    assert reasons == {Reason.NO_RELAY}


def test_a_block_of_ipv6_is_a_90() -> None:
    same = [link(f"2001:db8::{n:x}:0") for n in (1, 2, 3)]
    others = [link(f"2001:db8::{n:x}:0:0:0") for n in (1, 2, 3)]

    assert places(choose_links([*same, *others], 1, NOW, Random(1))) == [0]


def test_an_ipv4_address_inside_an_ipv6_one_is_that_ipv4_address() -> None:
    links = [link("6.6.6.1"), link("::ffff:6.6.6.2"), link("6.6.6.3"), *apart(5)]

    assert choose_links(links, 1, NOW, Random(1)) == [(0, Reason.SIMILAR)]


def test_the_links_of_relays_are_the_last_to_go() -> None:
    links = [*apart(5, is_relay=True), *(link(f"7.{n}.0.1") for n in range(5))]

    chosen = choose_links(links, 7, NOW, Random(1))

    assert set(places(chosen[:5])) == set(range(5, 10))
    assert [reason for _, reason in chosen] == [Reason.NO_RELAY] * 5 + [Reason.ANY] * 2


def test_among_equals_it_is_chance_and_the_seed_decides() -> None:
    links = apart(100)

    drawn = {tuple(places(choose_links(links, 3, NOW, Random(seed)))) for seed in range(20)}

    assert len(drawn) == 20
    assert choose_links(links, 3, NOW, Random(7)) == choose_links(links, 3, NOW, Random(7))


def test_the_number_of_circuits_saves_nobody_who_has_one() -> None:
    """Circuits cost little, so that who makes thousands must not push the others out."""
    links = [*apart(10), *(link(f"7.{n}.0.1", circuits=4000) for n in range(10))]

    lost = Counter(
        place >= 10 for seed in range(200) for place, _ in choose_links(links, 5, NOW, Random(seed))
    )

    assert 400 < lost[True] < 600


@given(candidates, st.integers(0, 50), st.integers())
def test_as_many_go_as_have_to_and_nobody_twice(
    links: list[Candidate], count: int, seed: int
) -> None:
    chosen = places(choose_links(links, count, NOW, Random(seed)))

    assert len(chosen) == len(set(chosen)) == min(count, len(links))


@given(candidates, st.integers(0, 50), st.integers())
def test_no_reason_is_used_while_an_earlier_one_has_candidates(
    links: list[Candidate], count: int, seed: int
) -> None:
    chosen = choose_links(links, count, NOW, Random(seed))
    everybody = dict(choose_links(links, len(links), NOW, Random(seed)))

    order = [list(Reason).index(reason) for _, reason in chosen]
    left = [each for each in everybody if each not in places(chosen)]

    assert order == sorted(order)
    assert all(order[-1] <= list(Reason).index(everybody[each]) for each in left if order)
    for place, reason in everybody.items():
        is_idle = not links[place].circuits and links[place].last_used <= NOW - FRESH_SECONDS
        assert (reason is Reason.NO_CIRCUITS) == is_idle


@given(candidates, st.integers())
def test_two_links_of_a_block_are_never_called_similar(links: list[Candidate], seed: int) -> None:
    chosen = dict(choose_links(links, len(links), NOW, Random(seed)))

    spared = Counter(
        int(each.ip) >> (2 if each.ip.version == 4 else 38)
        for place, each in enumerate(links)
        if each.ip is not None and chosen[place] not in (Reason.SIMILAR, Reason.NO_CIRCUITS)
    )
    assert all(count <= SPARED_PER_BLOCK for count in spared.values())


# ---- circuits


def test_a_socket_is_drawn_and_its_circuit_goes_whole() -> None:
    assert choose_circuits([0, 30, 0], 1, Random(1)) == [1]


def test_circuits_go_until_enough_sockets_are_free() -> None:
    assert len(choose_circuits([3] * 20, 10, Random(1))) == 4


def test_who_holds_most_sockets_loses_most() -> None:
    """One circuit of 90 streams beside ten of one: nine times of ten it is the one that goes."""
    sockets = [1] * 10 + [90]

    first = Counter(choose_circuits(sockets, 1, Random(seed))[0] for seed in range(500))

    assert 420 < first[10] < 480


def test_streams_on_circuits_of_their_own_are_no_safer() -> None:
    """EXT-12: never the circuits with fewest streams first, nor last."""
    spread, honest = [1] * 190, [10]

    lost = sum(190 in choose_circuits([*spread, *honest], 10, Random(seed)) for seed in range(500))

    assert lost < 500 * 0.5  # of its ten streams each is as likely as any other of two hundred


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(0, 300), st.integers())
def test_what_goes_is_enough_and_not_one_circuit_more(
    sockets: list[int], count: int, seed: int
) -> None:
    chosen = choose_circuits(sockets, count, Random(seed))

    assert len(chosen) == len(set(chosen))
    assert sum(sockets[place] for place in chosen) >= min(count, sum(sockets))
    assert sum(sockets[place] for place in chosen[:-1]) < max(count, 1)
    assert all(sockets[place] for place in chosen)


# ---- memory


def test_whose_data_has_waited_longest_goes_first_and_no_more_than_has_to() -> None:
    kept = [Kept(10, 30.0), Kept(10, 10.0), Kept(10, 20.0), Kept(10, 40.0)]

    assert choose_oldest(kept, 15) == [1, 2]
    assert choose_oldest(kept, 0) == []
    assert choose_oldest(kept, 1000) == [1, 2, 0, 3]


def test_of_those_equally_old_the_one_goes_that_keeps_most() -> None:
    assert choose_oldest([Kept(1, 5.0), Kept(9, 5.0), Kept(5, 5.0)], 12) == [1, 2]


def test_who_keeps_nothing_or_has_not_waited_long_enough_is_left_alone() -> None:
    kept = [Kept(0, 1.0), Kept(5, 8.0), Kept(5, 2.0)]

    assert choose_oldest(kept, 1000, until=4.0) == [2]


@given(
    st.lists(st.builds(Kept, st.integers(0, 100), st.floats(0, 100)), max_size=30),
    st.integers(0, 2000),
)
def test_enough_goes_and_nobody_younger_than_who_stays(kept: list[Kept], excess: int) -> None:
    chosen = choose_oldest(kept, excess)

    free = sum(kept[place].size for place in chosen)
    assert free >= min(excess, sum(each.size for each in kept))
    assert not chosen or free - kept[chosen[-1]].size < excess
    stay = [each.since for n, each in enumerate(kept) if n not in chosen and each.size]
    assert all(kept[place].since <= since for place in chosen for since in stay)
