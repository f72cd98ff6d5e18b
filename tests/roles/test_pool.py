"""The pool: which stream may use which circuit, on paper."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.directory.exit_index import Datagrams
from warren.directory.exit_policy import ExitPolicy
from warren.directory.relays import Flag, RelayEntry
from warren.identity import Hop, PeerId, Suite
from warren.protocol.choice import ANYTHING, Choice
from warren.protocol.front import Authentication, Credentials, Isolation
from warren.roles.pool import (
    DIRTY_SECONDS,
    IDLE_SECONDS,
    IN_USE_SECONDS,
    SPARE_SECONDS,
    SPARES,
    Pool,
    Slot,
)

WEB = Address("a.example", 443)
MAIL = Address("93.184.216.34", 25)
EXEMPT = Address("127.0.0.1", 8080)


@dataclass
class FakeCircuit:
    """Be what the pool sees of a circuit."""

    is_open: bool = True
    has_room: bool = True
    stream_count: int = 0
    is_wanted: bool = True


def slot(
    *,
    exit_number: int = 3,
    policy: str = "accept *:80,443",
    made_at: float = 0.0,
    country: str = "??",
) -> Slot:
    """Return a slot with a circuit of its own."""
    path = (entry(1), entry(2), entry(exit_number, country))
    return Slot(FakeCircuit(), path, ExitPolicy.parse((policy,)), made_at)


def entry(number: int, country: str = "??") -> RelayEntry:
    raw = bytes([number]) * 32
    hop = Hop(PeerId(raw), Address(f"5.5.{number}.5", 9000), raw, raw, (Suite.AESGCM,))
    return RelayEntry(hop, frozenset((Flag.RUNNING,)), weight=1, country=country)


def pool_of(*slots: Slot) -> Pool:
    pool = Pool(exempt=lambda address: address == EXEMPT)
    for each in slots:
        pool.add(each)
    return pool


def circuit_of(slot: Slot) -> FakeCircuit:
    assert isinstance(slot.circuit, FakeCircuit)
    return slot.circuit


# ---- picking


def test_datagrams_take_only_a_circuit_whose_exit_sends_them() -> None:
    streams, both = slot(), slot()
    both.udp_policy = ExitPolicy.parse(("accept *:443",))
    pool = pool_of(streams, both)

    assert pool.pick("me", Datagrams(MAIL), 0) is None
    assert pool.pick("me", Datagrams(WEB), 0) is both
    assert pool.pick("me", Datagrams(), 0) is both
    assert pool.pick("me", WEB, 0) is both
    assert pool.pick("you", WEB, 0) is streams


def test_an_empty_pool_has_nothing_to_give() -> None:
    assert pool_of().pick("me", WEB, 0) is None


def test_a_spare_belongs_to_the_first_who_uses_it() -> None:
    spare = slot()
    pool = pool_of(spare)

    assert pool.pick("me", WEB, 5) is spare

    assert (spare.isolation, spare.first_used, spare.last_used) == ("me", 5, 5)
    assert pool.pick("you", WEB, 6) is None
    assert pool.pick("me", WEB, 7) is spare
    assert spare.last_used == 7


def test_ones_own_circuit_comes_before_a_spare() -> None:
    spare, own = slot(), slot()
    pool = pool_of(spare, own)
    pool.claim(own, "me", 0)

    assert pool.pick("me", WEB, 1) is own

    assert spare.isolation is None


@pytest.mark.parametrize(
    ("attribute", "value"), [("is_open", False), ("has_room", False)], ids=["closed", "full"]
)
def test_a_circuit_that_takes_no_stream_is_passed_over(attribute: str, value: bool) -> None:
    first, second = slot(), slot()
    setattr(first.circuit, attribute, value)

    assert pool_of(first, second).pick("me", WEB, 0) is second


def test_the_exits_policy_decides() -> None:
    web, mail = slot(policy="accept *:443"), slot(policy="accept *:25")
    pool = pool_of(web, mail)

    assert pool.pick("me", MAIL, 0) is mail
    assert pool.pick("me", WEB, 0) is web
    assert pool.pick("me", Address("a.example", 22), 0) is None


def test_no_policy_is_asked_about_an_exempt_target() -> None:
    closed = slot(policy="reject *:*")

    assert pool_of(closed).pick("me", EXEMPT, 0) is closed  # EXT-16


def test_an_exit_to_avoid_is_avoided() -> None:
    bad, good = slot(exit_number=4), slot(exit_number=5)
    pool = pool_of(bad, good)
    pool.claim(bad, "me", 0)

    assert pool.pick("me", WEB, 1, avoid={bad.exit_id}) is good
    assert pool.pick("me", WEB, 2, avoid={bad.exit_id, good.exit_id}) is None


def test_a_circuit_takes_streams_for_ten_minutes() -> None:
    own = slot()
    pool = pool_of(own)
    pool.claim(own, "me", 100)

    assert pool.pick("me", WEB, 100 + DIRTY_SECONDS - 1) is own
    assert pool.pick("me", WEB, 100 + DIRTY_SECONDS) is None


# ---- wishes


def test_a_spare_that_is_not_what_was_asked_for_is_left_alone() -> None:
    german, french = slot(country="de"), slot(country="fr", exit_number=4)
    pool = pool_of(german, french)

    assert pool.pick("me", WEB, 0, choice=Choice("se")) is None
    assert pool.pick("me", WEB, 0, choice=Choice(hops=2)) is None
    assert pool.pick("me", WEB, 0, choice=Choice("de", french.exit_id)) is None
    assert pool.pick("me", WEB, 0, choice=Choice("fr", hops=3)) is french
    assert pool.pick("you", WEB, 0, choice=Choice(exit_id=german.exit_id)) is german


def test_a_circuit_of_ones_own_must_be_what_is_asked_for_now() -> None:
    before = slot(exit_number=4)
    pool = pool_of(before)
    pool.claim(before, "session", 0)

    assert pool.pick("session", WEB, 1, choice=Choice(exit_id=PeerId(bytes(32)))) is None
    assert pool.pick("session", WEB, 1, choice=Choice(exit_id=before.exit_id)) is before


def test_a_circuit_that_is_retired_takes_no_streams_and_is_over_when_it_is_empty() -> None:
    own = slot()
    pool = pool_of(own)
    pool.claim(own, "me", 0)
    circuit_of(own).stream_count = 1

    own.retire()

    assert pool.pick("me", WEB, 1) is None
    assert pool.over(1) == []
    circuit_of(own).stream_count = 0
    assert pool.over(1) == [own]


# ---- keeping


def test_two_spares_are_kept_ready() -> None:
    first, second = slot(), slot()
    pool = pool_of(first, second)
    before = pool.spares_missing(0)

    pool.claim(first, "me", 0)
    circuit_of(second).is_open = False

    assert (before, pool.spares_missing(0)) == ([], [None] * SPARES)


@pytest.mark.parametrize(("isolations", "spares"), [(0, 2), (1, 2), (2, 4), (4, 8), (40, 8)])
def test_there_are_two_spares_for_each_isolation_in_use(
    isolations: int, spares: int
) -> None:  # REL-2
    used = [slot() for _ in range(isolations)]
    pool = pool_of(*used)
    for number, each in enumerate(used):
        pool.claim(each, number, 0)

    missing = pool.spares_missing(0)

    assert missing == [None] * spares


def test_an_isolation_is_in_use_as_long_as_it_has_streams_and_a_minute_more() -> None:  # REL-2
    busy, idle = slot(), slot()
    circuit_of(busy).stream_count = 1
    pool = pool_of(busy, idle)
    pool.claim(busy, "busy", 0)
    pool.claim(idle, "idle", 0)

    missing = [len(pool.spares_missing(now)) for now in (IN_USE_SECONDS - 1, 300)]

    assert missing == [2 * SPARES, SPARES]


def chooser(choice: Choice) -> Isolation:
    return Isolation("", Credentials(Authentication.NONE), (), choice)


def test_who_chooses_has_spares_that_are_nobody_elses() -> None:  # REL-2
    german = chooser(Choice(country="de"))
    chosen, spare = slot(country="de"), slot(country="de")
    spare.wish = german.choice
    pool = pool_of(chosen, spare)
    pool.claim(chosen, german, 0)

    missing = pool.spares_missing(0)
    for_another = pool.pick("somebody", WEB, 0)
    circuit_of(chosen).is_open = False

    assert missing == [None, None, german]
    assert for_another is None
    assert pool.pick(german, WEB, 0, choice=german.choice) is spare


def test_a_session_has_no_spares_of_its_own() -> None:
    first = slot()
    pool = pool_of(first)
    pool.claim(first, chooser(Choice(keeps_exit=True)), 0)

    missing = pool.spares_missing(0)

    assert missing == [None] * SPARES


def test_spares_of_isolations_that_are_idle_are_closed_after_a_while() -> None:
    used = [slot(), slot()]
    spares = [slot(), slot(), slot(), slot()]
    pool = pool_of(*used, *spares)
    for number, each in enumerate(used):
        pool.claim(each, number, 0)

    over = [pool.over(now) for now in (IN_USE_SECONDS + 1, IDLE_SECONDS, IDLE_SECONDS + 1)]

    assert over == [[], [], [*used, *spares[SPARES:]]]


@pytest.mark.parametrize(
    ("first_used", "last_used", "lives_until"),
    [
        (None, 0, SPARE_SECONDS),
        (10, 20, 20 + IDLE_SECONDS),
        (10, 550, 10 + DIRTY_SECONDS),
    ],
    ids=["spare", "idle", "dirty"],
)
def test_a_circuit_without_streams_is_over_in_time(
    first_used: float | None, last_used: float, lives_until: float
) -> None:
    old = slot()
    old.first_used, old.last_used = first_used, last_used
    pool = pool_of(old)

    assert pool.over(lives_until) == []
    assert pool.over(lives_until + 1) == [old]
    assert len(pool) == 0


def test_a_circuit_whose_streams_we_have_ended_waits_for_five_minutes() -> None:
    owed = slot()
    pool = pool_of(owed)
    pool.claim(owed, "me", 0)
    circuit_of(owed).stream_count = 3
    circuit_of(owed).is_wanted = False

    over = [pool.over(now) for now in (IDLE_SECONDS, IDLE_SECONDS + 1)]

    assert over == [[], [owed]]


def test_a_circuit_with_streams_is_never_over_while_it_lives() -> None:
    busy = slot()
    pool = pool_of(busy)
    pool.claim(busy, "me", 0)
    circuit_of(busy).stream_count = 1

    assert pool.over(1e9) == []
    circuit_of(busy).is_open = False

    assert pool.over(0) == [busy]


def test_removing_a_circuit_twice_is_fine() -> None:
    first, second = slot(), slot()
    pool = pool_of(first, second)

    pool.remove(first)
    pool.remove(first)

    assert list(pool) == [second]


# ---- laws


shown = st.sampled_from([None, b"", b"me", b"you"])
isolations = st.builds(
    Isolation,
    st.sampled_from(["127.0.0.1:9150", "127.0.0.1:9151", "[::1]:9150"]),
    st.builds(Credentials, st.sampled_from(Authentication), st.tuples(shown, shown)),
    st.tuples(st.sampled_from([80, 443])),
    st.sampled_from([ANYTHING, Choice("de")]),
)
requests = st.lists(
    st.tuples(
        isolations,
        st.sampled_from([WEB, MAIL, EXEMPT]),
        st.floats(0, 400),
    ),
    max_size=25,
)


@given(requests, st.randoms(use_true_random=False))
def test_only_equal_isolation_ever_shares(
    requests: list[tuple[Hashable, Address, float]], rng: Random
) -> None:
    """FE-10, T50: whatever else happens to the pool meanwhile."""
    pool, users, now = pool_of(), defaultdict[Slot, set[Hashable]](set), 0.0
    for isolation, address, pause in requests:
        now += pause
        for _ in range(rng.randrange(3)):
            pool.add(slot(policy=rng.choice(["accept *:443", "accept *:*"]), made_at=now))
        picked = pool.pick(isolation, address, now)
        if picked is not None:
            users[picked].add(isolation)
            circuit_of(picked).stream_count = rng.randrange(2)
        pool.over(now)

    assert all(len(each) == 1 for each in users.values())


@given(requests, st.randoms(use_true_random=False))
def test_what_is_picked_may_be_used(
    requests: list[tuple[Hashable, Address, float]], rng: Random
) -> None:
    exits = [entry(number).peer_id for number in range(4, 8)]
    pool, now = pool_of(), 0.0
    for isolation, address, pause in requests:
        now += pause
        fresh = slot(
            exit_number=rng.randrange(4, 8),
            policy=rng.choice(["accept *:443", "accept *:25", "reject *:*"]),
            made_at=now,
        )
        fresh.circuit = FakeCircuit(rng.random() < 0.8, rng.random() < 0.8)
        pool.add(fresh)
        avoid = rng.sample(exits, rng.randrange(3))

        picked = pool.pick(isolation, address, now, avoid)

        if picked is not None:
            assert picked.exit_id not in avoid
            assert picked.circuit.is_open
            assert picked.circuit.has_room
            assert picked.allows(address) or address == EXEMPT
            assert picked.isolation == isolation
            assert picked.first_used is not None
            assert now - picked.first_used < DIRTY_SECONDS


@given(requests)
def test_a_second_stream_of_the_same_kind_needs_no_second_circuit(
    requests: list[tuple[Hashable, Address, float]],
) -> None:
    pool = pool_of(*(slot(policy="accept *:*") for _ in requests))

    first = [pool.pick(isolation, address, 0) for isolation, address, _ in requests]
    second = [pool.pick(isolation, address, 1) for isolation, address, _ in requests]

    assert None not in first
    assert first == second
