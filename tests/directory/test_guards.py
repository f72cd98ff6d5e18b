import json
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.imagined import NOON, consensus, peer, relay
from warren.directory.consensus import Consensus
from warren.directory.guards import GuardSet
from warren.directory.relays import Flag
from warren.identity import PeerId

MINUTE, HOUR, DAY = 60, 3600, 24 * 3600


def network(count: int, *, without: Iterable[int] = ()) -> Consensus:
    """Make a network of guards 1 to `count` and a few relays that are none."""
    listed = [number for number in range(1, count + 1) if number not in set(without)]
    guards = [relay(number, Flag.GUARD, weight=number) for number in listed]
    return consensus([*guards, relay(900), relay(901, Flag.EXIT)])


def fresh_guards(count: int, *, seed: int = 1) -> GuardSet:
    guards = GuardSet()
    guards.update(network(count), NOON, random.Random(seed))
    return guards


def fail_all(guards: GuardSet, peers: Iterable[PeerId], now: float) -> None:
    for peer_id in peers:
        guards.failed(peer_id, now)


def endure(guards: GuardSet, known: Consensus, start: float, seconds: float) -> float:
    """Let every guard fail that is offered, every ten seconds for so long; return the end."""
    now, rng = start, random.Random(4)
    while now < start + seconds:
        fail_all(guards, guards.choose(now), now)
        if guards.needs_update(now):
            guards.update(known, now, rng)
        now += 10
    return now


def test_a_new_client_in_a_small_network_samples_three_guards() -> None:
    guards = fresh_guards(30)

    assert len(guards.sample) == len(guards.primary) == 3
    assert guards.choose(NOON) == guards.primary


def test_a_large_network_gives_a_sample_of_twenty() -> None:
    guards = fresh_guards(150)

    assert len(guards.sample) == 20
    assert guards.choose(NOON)[:3] == guards.primary


def test_a_network_of_two_guards_gives_both() -> None:
    guards = fresh_guards(2)

    assert sorted(guards.sample) == [peer(1), peer(2)]
    assert not guards.needs_update(NOON)


def test_only_running_guards_that_can_be_dialled_are_drawn_and_never_oneself() -> None:
    relays = [
        relay(1, Flag.GUARD),
        relay(2, Flag.GUARD, is_running=False),
        relay(3, Flag.GUARD, gateways=[1]),
        relay(4),
        relay(5, Flag.GUARD),
    ]
    guards = GuardSet()

    guards.update(consensus(relays), NOON, random.Random(1), {peer(5)})

    assert guards.sample == [peer(1)]


def test_a_guard_that_turns_out_to_be_ones_own_is_none_any_more() -> None:  # P2P-2
    guards = fresh_guards(30)
    first, second, third = guards.primary

    guards.update(network(30), NOON, random.Random(1), {first})
    restored = GuardSet.load(guards.dump())

    assert restored.primary[:2] == guards.primary[:2] == [second, third]
    assert first not in restored.sample
    assert len(restored.primary) == 3


def test_heavier_guards_are_drawn_more_often() -> None:
    firsts = [fresh_guards(30, seed=seed).primary[0] for seed in range(200)]

    heavier = sum(first > peer(15) for first in firsts)

    assert heavier > 120


def test_a_failed_guard_waits_and_stays_primary() -> None:  # PATH-3
    guards = fresh_guards(30)
    first, second, third = guards.primary

    guards.failed(first, NOON)

    assert guards.primary == [first, second, third]
    assert guards.choose(NOON + 29) == [second, third]
    assert guards.choose(NOON + 30) == [first, second, third]


def test_the_waits_of_a_primary_grow_from_half_a_minute_to_an_hour() -> None:
    guards = fresh_guards(30)
    first, second, _ = guards.primary
    waits = []

    now = float(NOON)
    for _ in range(45):
        guards.failed(first, now)
        guards.succeeded(second, now)
        before = now
        while first not in guards.choose(now):
            now += 10
        waits.append(now - before)

    assert waits[:5] == [30, 60, 120, 600, 600]
    assert waits[-1] == 3600


def test_a_success_ends_all_waiting() -> None:
    guards = fresh_guards(30)
    first = guards.primary[0]
    guards.failed(first, NOON)
    guards.failed(first, NOON + 30)

    guards.succeeded(first, NOON + 90)

    assert guards.choose(NOON + 90)[0] == first


def test_with_no_guard_ready_a_primary_may_be_tried_again_soon() -> None:  # T43
    guards = fresh_guards(30)
    fail_all(guards, guards.primary, NOON)

    assert guards.choose(NOON + 0.2) == []
    assert guards.next_need(NOON + 0.2) == NOON + 0.25
    assert guards.choose(NOON + 0.25) == guards.primary
    assert guards.next_need(NOON + 0.25) is None


def test_where_the_ready_ones_are_of_no_use_a_primary_may_be_tried_again_soon() -> None:
    guards = fresh_guards(30)
    first, second, third = guards.primary
    guards.failed(first, NOON)
    guards.failed(second, NOON + 2)

    found = [guards.in_need(NOON + seconds) for seconds in (0.2, 0.25, 2.6, 2.7)]

    assert found == [[], [first], [first], [first, second]]
    assert guards.choose(NOON + 5) == [third]


def test_the_longer_nothing_answers_the_longer_a_guard_is_left_alone_up_to_three_seconds() -> None:
    guards = fresh_guards(30)
    first, *others = guards.primary
    fail_all(guards, others, NOON)
    waits = []

    for seconds in (0, 0.3, 3, 9, 300):
        guards.failed(first, NOON + seconds)
        needed = guards.next_need(NOON + seconds)
        assert needed is not None
        waits.append(round(needed - NOON - seconds, 6))

    assert waits == [0.25, 0.25, 1, 3, 3]


def test_beside_a_guard_that_works_one_that_failed_is_left_alone_for_three_seconds() -> None:
    guards = fresh_guards(30)
    first, second, _ = guards.primary
    guards.failed(first, NOON)
    guards.succeeded(second, NOON)

    assert guards.in_need(NOON + 2.9) == []
    assert guards.in_need(NOON + 3) == [first]


def test_a_short_outage_costs_no_guard() -> None:  # T43
    guards, known = fresh_guards(30), network(30)
    before = guards.sample

    endure(guards, known, NOON, 50)

    assert guards.sample == before


def test_a_sample_that_stays_silent_grows_one_by_one_to_five() -> None:  # PATH-2
    guards, known = fresh_guards(25), network(25)
    first = guards.primary

    end = endure(guards, known, NOON, 8 * MINUTE)

    assert len(guards.sample) == 5
    assert guards.primary == first
    assert not guards.needs_update(end)


def test_a_later_guard_serves_until_a_primary_is_back() -> None:  # T31
    guards, known = fresh_guards(25), network(25)
    first = guards.primary[0]
    now = endure(guards, known, NOON, 100)
    (later,) = set(guards.sample) - set(guards.primary)

    guards.succeeded(later, now)

    assert later in guards.choose(now)
    assert guards.choose(now + 2 * MINUTE)[0] == first


def test_when_everything_fails_for_ten_minutes_it_is_not_the_guards() -> None:  # PATH-3
    guards, known = fresh_guards(30), network(30)
    for minute in range(11):
        fail_all(guards, guards.primary, NOON + minute * MINUTE)

    now = NOON + 10 * MINUTE
    guards.update(known, now, random.Random(2))

    assert guards.is_internet_down(now)
    assert len(guards.sample) == 3


def test_the_first_success_after_an_outage_clears_everybody() -> None:
    guards = fresh_guards(30)
    for minute in range(11):
        fail_all(guards, guards.primary, NOON + minute * MINUTE)
    now = NOON + 10 * MINUTE + 1

    guards.succeeded(guards.primary[2], now)

    assert not guards.is_internet_down(now)
    assert guards.choose(now) == guards.primary


def test_after_a_pause_old_failures_do_not_mean_that_the_internet_is_down() -> None:
    guards = fresh_guards(30)
    fail_all(guards, guards.primary, NOON)

    fail_all(guards, guards.primary, NOON + HOUR)

    assert not guards.is_internet_down(NOON + HOUR)


def test_a_changed_network_ends_all_waiting() -> None:  # T42
    guards = fresh_guards(30)
    fail_all(guards, guards.primary, NOON)

    guards.network_changed()

    assert guards.choose(NOON) == guards.primary


def test_a_clock_that_goes_back_ends_all_waiting() -> None:
    guards = fresh_guards(30)
    fail_all(guards, guards.primary, NOON)

    assert guards.choose(NOON - DAY) == guards.primary


def test_an_unlisted_guard_gives_its_place_and_gets_it_back() -> None:
    guards, rng = fresh_guards(30), random.Random(3)
    first, second, third = guards.primary
    gone = int.from_bytes(first, "big")

    guards.update(network(30, without=[gone]), NOON + HOUR, rng)
    meanwhile = guards.primary
    guards.update(network(30), NOON + 2 * HOUR, rng)

    assert meanwhile[:2] == [second, third]
    assert guards.primary == [first, second, third]


def test_a_guard_unlisted_for_twenty_days_is_forgotten() -> None:
    guards, rng = fresh_guards(30), random.Random(3)
    first = guards.primary[0]
    without_it = network(30, without=[int.from_bytes(first, "big")])

    guards.update(without_it, NOON, rng)
    guards.update(without_it, NOON + 15 * DAY, rng)
    kept = first in guards.sample
    guards.update(without_it, NOON + 20 * DAY, rng)

    assert kept
    assert first not in guards.sample


def test_guards_are_changed_after_their_lifetime() -> None:
    guards, rng = fresh_guards(30), random.Random(3)
    used, *unused = guards.primary
    guards.succeeded(used, NOON + 80 * DAY)
    guards.update(network(30), NOON + 80 * DAY, rng)

    guards.update(network(30), NOON + 121 * DAY, rng)
    after_the_first_term = guards.sample
    guards.update(network(30), NOON + 141 * DAY, rng)

    assert used in after_the_first_term
    assert not set(unused) & set(after_the_first_term)
    assert used not in guards.sample


def test_a_guard_contacted_within_the_hour_is_not_forgotten_yet() -> None:  # PATH-2
    guards, rng = fresh_guards(30), random.Random(3)
    first = guards.sample[0]
    end = NOON + 125 * DAY
    guards.contacted(first, end - 60)

    guards.update(network(30), end, rng)
    now = guards.sample
    guards.update(network(30), end + HOUR, rng)

    assert now[0] == first
    assert guards.sample[0] != first


def test_the_sample_never_passes_sixty() -> None:
    guards, rng = GuardSet(), random.Random(3)

    for day in range(100):
        gone = range(1 + day, 250 + day)
        guards.update(network(400, without=gone), NOON + day * HOUR, rng)

    assert len(guards.sample) <= 60


def test_words_about_strangers_are_ignored() -> None:
    guards = fresh_guards(30)
    before = guards.dump()

    guards.failed(peer(77), NOON)
    guards.succeeded(peer(77), NOON)
    guards.contacted(peer(77), NOON)

    assert guards.dump() == before


def test_a_repr_tells_the_state() -> None:
    guards = fresh_guards(30)
    guards.failed(guards.primary[0], NOON)

    assert repr(guards) == "<GuardSet of 3, 3 listed, 1 failing>"


def simulate(rng: random.Random, *, guards_known: int, churn: float) -> tuple[set[PeerId], int]:
    """Live through 30 days with 1000 restarts; return who was contacted, and the most in an hour.

    Guards fail and recover as `rng` says, and leave the consensus and return with `churn`.
    """
    guards = GuardSet()
    away: set[int] = set()
    dead: set[PeerId] = set()
    contacts: list[tuple[float, PeerId]] = []
    most_in_an_hour = 0
    now = float(NOON)
    for _ in range(1000):
        now += 30 * DAY / 1000
        away ^= {number for number in range(1, guards_known + 1) if rng.random() < churn}
        known = network(guards_known, without=away)
        dead = {entry.peer_id for entry in known.relays if rng.random() < rng.choice((0.1, 0.9))}
        guards = GuardSet.load(json.loads(json.dumps(guards.dump())))
        guards.update(known, now, rng)
        for step in range(rng.randint(0, 12)):
            moment = now + step * 20
            for peer_id in guards.choose(moment):
                contacts.append((moment, peer_id))
                guards.contacted(peer_id, moment)
                if peer_id not in dead:
                    guards.succeeded(peer_id, moment)
                    break
                guards.failed(peer_id, moment)
            if guards.needs_update(moment):
                guards.update(known, moment, rng)
            recent = {peer_id for at, peer_id in contacts[-100:] if at > moment - HOUR}
            most_in_an_hour = max(most_in_an_hour, len(recent))
    assert GuardSet.load(json.loads(json.dumps(guards.dump()))).sample == guards.sample
    return {peer_id for _, peer_id in contacts}, most_in_an_hour


@settings(max_examples=5)
@given(st.integers(), st.integers(4, 40))
def test_a_thousand_restarts_in_a_month_meet_few_guards(seed: int, count: int) -> None:  # T72
    met, most_in_an_hour = simulate(random.Random(seed), guards_known=count, churn=0.0)

    assert len(met) <= max(5, count // 5)
    assert most_in_an_hour <= 5


@pytest.mark.parametrize("seed", [1, 2])
def test_a_restless_small_network_never_shows_us_to_more_than_five_guards_an_hour(
    seed: int,
) -> None:  # T72
    met, most_in_an_hour = simulate(random.Random(seed), guards_known=40, churn=0.02)

    assert most_in_an_hour <= 5
    assert len(met) <= 20
