import itertools
import random
import string
import time
from collections import Counter
from collections.abc import Sequence, Set

import pytest

from tests.support.imagined import consensus, peer, random_consensus, relay
from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.exit_index import Datagrams
from warren.directory.path import PathIndex, choose_path, index_of
from warren.directory.path_search import MOST_HOPS, Closeness
from warren.directory.relays import Flag, RelayEntry
from warren.errors import DirectoryError, NoPathError
from warren.identity import PeerId

GUARD, EXIT = Flag.GUARD, Flag.EXIT
SITE = Address("site.example", 443)


def roomy_network() -> Consensus:
    """Four guards, four middles, four exits, each in a network of its own."""
    kinds: list[list[Flag]] = [[GUARD]] * 4 + [[]] * 4 + [[EXIT]] * 4
    return consensus(relay(number, *flags) for number, flags in enumerate(kinds, 1))


def guards_of(network: Consensus) -> list[PeerId]:
    return [entry.peer_id for entry in network.relays if GUARD in entry.flags]


def numbers(path: Sequence[RelayEntry]) -> list[int]:
    return [int.from_bytes(entry.peer_id, "big") for entry in path]


def subnet(entry: RelayEntry) -> str:
    """Return the /16 or /32 of a relay, by its text: another way than the one under test."""
    host = entry.hop.address.host
    return ":".join(host.split(":")[:2]) if ":" in host else ".".join(host.split(".")[:2])


def are_of_one_hand(a: RelayEntry, b: RelayEntry) -> bool:
    """Tell what PATH-1 says of two relays in different positions."""
    return (
        subnet(a) == subnet(b)
        or (a.peer_id in b.family and b.peer_id in a.family)
        or a.peer_id in b.gateways
        or b.peer_id in a.gateways
        or not set(a.gateways).isdisjoint(b.gateways)
    )


class Referee:
    """Check paths against PATH-1 and protocol §8; remembers which relays may not meet."""

    def __init__(self, network: Consensus, own: Set[PeerId], avoid: set[PeerId]) -> None:
        usable = [entry for entry in network.relays if Flag.RUNNING in entry.flags]
        self.usable = {entry.peer_id for entry in usable} - own - avoid
        self.bad_pairs = {
            (a.peer_id, b.peer_id) for a in usable for b in usable if are_of_one_hand(a, b)
        }

    def check(self, path: Sequence[RelayEntry], length: int) -> None:
        ids = [entry.peer_id for entry in path]
        before_volunteer = {i for i, entry in enumerate(path[1:]) if entry.gateways}

        assert not path[0].gateways
        assert len(path) == length + len(before_volunteer)
        assert len(path) <= MOST_HOPS
        assert len(set(ids)) == len(ids)
        assert self.usable.issuperset(ids)
        for i in before_volunteer:
            assert ids[i] in path[i + 1].gateways
            assert not path[i].gateways
        for i, one in enumerate(ids):
            for k in range(i + 1, len(ids)):
                if not (k == i + 1 and i in before_volunteer):
                    assert (one, ids[k]) not in self.bad_pairs


def test_a_hundred_thousand_paths_break_no_rule() -> None:  # T71
    rng = random.Random(71)
    paths = refusals = 0
    while paths < 100_000:
        network = random_consensus(rng, rng.choice((12, 30, 60)))
        index = PathIndex(network)
        own, avoid = {peer(rng.randint(1, 9))}, {peer(rng.randint(1, 12))}
        referee = Referee(network, own, avoid)
        guards, length = guards_of(network)[:5], rng.choice((2, 3, 3, 4, 5))
        for _ in range(2000):
            try:
                path = index.choose(guards, SITE, length=length, rng=rng, own=own, avoid=avoid)
            except DirectoryError:
                refusals += 1
                break
            referee.check(path, length)
            paths += 1
    assert refusals < 50


def test_relays_clash_exactly_when_one_hand_may_hold_both() -> None:
    rng, closeness = random.Random(72), Closeness(v4_bits=16, v6_bits=32)
    for _ in range(10):
        for a, b in itertools.combinations(random_consensus(rng, 60).relays, 2):
            assert closeness.clash(a, b) == closeness.clash(b, a) == are_of_one_hand(a, b)
            assert closeness.clash(a, a)


def test_a_path_begins_with_the_first_guard_and_ends_with_an_exit() -> None:
    network = roomy_network()

    path = choose_path(network, [peer(2), peer(1)], SITE, rng=random.Random(1))

    guard, _, last = numbers(path)
    assert guard == 2
    assert last in {9, 10, 11, 12}


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_a_path_has_the_length_asked_for(length: int) -> None:
    path = choose_path(roomy_network(), [peer(1)], SITE, rng=random.Random(1), length=length)

    assert len(path) == length


def test_a_guard_in_the_exits_network_gives_way_to_the_next_one() -> None:
    network = consensus(
        [
            relay(1, GUARD, host="30.1.0.1"),
            relay(2, GUARD, host="31.1.0.1"),
            relay(3, EXIT, host="30.1.9.9"),
            relay(4),
        ]
    )

    path = choose_path(network, [peer(1), peer(2)], SITE, rng=random.Random(1))

    assert numbers(path) == [2, 4, 3]


def test_a_family_counts_only_when_both_sides_declare_it() -> None:
    def network(family_of_guard: tuple[int, ...]) -> Consensus:
        guard = relay(1, GUARD, family=family_of_guard)
        return consensus([guard, relay(2), relay(3, EXIT, family=[1])])

    path = choose_path(network(()), [peer(1)], SITE, rng=random.Random(1))

    assert numbers(path) == [1, 2, 3]
    with pytest.raises(DirectoryError, match="too few in different networks and families"):
        choose_path(network((3,)), [peer(1)], SITE, rng=random.Random(1))


def test_a_small_network_may_narrow_its_subnets() -> None:
    relays = [
        relay(1, GUARD, host="30.1.1.1"), relay(2, host="30.1.2.1"),
        relay(3, EXIT, host="30.1.3.1"), relay(4, host="30.1.3.2"),
    ]  # fmt: skip

    path = choose_path(
        consensus(relays, subnet_v4_prefix=24), [peer(1)], SITE, rng=random.Random(1)
    )

    assert numbers(path) == [1, 2, 3]
    with pytest.raises(DirectoryError, match="too few"):
        choose_path(consensus(relays), [peer(1)], SITE, rng=random.Random(1))


def test_a_volunteer_behind_nat_comes_after_its_gateway() -> None:
    network = consensus([relay(1, GUARD), relay(2), relay(3, EXIT, gateways=[4]), relay(4)])

    path = choose_path(network, [peer(1)], SITE, rng=random.Random(1))

    assert numbers(path) == [1, 2, 4, 3]


def test_a_gateway_is_never_the_guard_of_its_own_volunteer() -> None:
    network = consensus([relay(1, GUARD), relay(2), relay(3, EXIT, gateways=[1])])

    with pytest.raises(DirectoryError, match="too few"):
        choose_path(network, [peer(1)], SITE, rng=random.Random(1))


def test_a_literal_target_is_held_against_the_rules_of_each_exit() -> None:
    network = consensus(
        [
            relay(1, GUARD), relay(2),
            relay(3, EXIT, policy=("reject 8.8.8.0/24:*", "accept *:53")),
            relay(4, EXIT, policy=("accept 8.8.8.8:53",)),
        ]
    )  # fmt: skip

    to_literal = choose_path(network, [peer(1)], Address("8.8.8.8", 53), rng=random.Random(1))
    to_name = choose_path(network, [peer(1)], Address("dns.example", 53), rng=random.Random(1))

    assert numbers(to_literal)[-1] == 4
    assert numbers(to_name)[-1] == 3


def test_datagrams_leave_where_they_are_sent_and_nowhere_else() -> None:
    voice = ("accept *:3478",)
    network = consensus(
        [
            relay(1, GUARD), relay(2),
            relay(3, EXIT, policy=("accept *:*",)),
            relay(4, EXIT, udp_policy=voice),
            relay(5, udp_policy=voice),
        ]
    )  # fmt: skip
    rng = random.Random(1)

    for target in (Datagrams(), Datagrams(Address("stun.example", 3478))):
        for _ in range(20):
            assert numbers(choose_path(network, [peer(1)], target, rng=rng))[-1] == 4
    with pytest.raises(DirectoryError, match="no exit allows datagrams to port 443"):
        choose_path(network, [peer(1)], Datagrams(SITE), rng=rng)
    with pytest.raises(DirectoryError, match="does not allow datagrams"):
        choose_path(network, [peer(1)], Datagrams(), rng=rng, exit_id=peer(3))


@pytest.mark.parametrize(
    ("target", "country", "message"),
    [
        (Address("mail.example", 25), None, "no exit allows port 25"),
        (Address("93.184.216.34", 25), None, r"no exit allows 93\.184\.216\.34:25"),
        (SITE, "xy", "no exit in country 'xy' allows port 443"),
    ],
)
def test_a_target_that_no_exit_takes_is_named(
    target: Address, country: str | None, message: str
) -> None:
    with pytest.raises(DirectoryError, match=message):
        choose_path(roomy_network(), [peer(1)], target, rng=random.Random(1), country=country)


def test_without_a_listed_guard_there_is_no_path() -> None:
    with pytest.raises(DirectoryError, match="no guard"):
        choose_path(roomy_network(), [peer(99)], SITE, rng=random.Random(1))


def test_without_any_exit_there_is_no_path() -> None:
    network = consensus([relay(1, GUARD), relay(2), relay(3)])

    with pytest.raises(DirectoryError, match="no exit is listed"):
        choose_path(network, [peer(1)], None, rng=random.Random(1))


def test_an_exit_whose_policy_cannot_be_read_opens_nothing() -> None:
    network = consensus([relay(1, GUARD), relay(2), relay(3, EXIT, policy=("accept everything",))])

    with pytest.raises(DirectoryError, match="no exit"):
        choose_path(network, [peer(1)], SITE, rng=random.Random(1))


def test_a_country_is_strict() -> None:
    exits = [relay(3, EXIT, country="de"), relay(4, EXIT, country="fr")]
    network = consensus([relay(1, GUARD), relay(2), *exits])
    rng = random.Random(1)

    lasts = {
        numbers(choose_path(network, [peer(1)], SITE, rng=rng, country="fr"))[-1] for _ in range(20)
    }

    assert lasts == {4}


def test_a_named_exit_is_taken_even_where_it_is_none() -> None:
    path = choose_path(roomy_network(), [peer(1)], None, rng=random.Random(1), exit_id=peer(6))

    assert numbers(path)[-1] == 6


@pytest.mark.parametrize(("number", "message"), [(6, "does not allow port 443"), (99, "listed")])
def test_a_named_exit_that_cannot_help_is_refused(number: int, message: str) -> None:
    with pytest.raises(DirectoryError, match=message):
        choose_path(roomy_network(), [peer(1)], SITE, rng=random.Random(1), exit_id=peer(number))


def test_a_named_exit_in_another_country_is_refused() -> None:
    network = consensus([relay(1, GUARD), relay(2), relay(3, EXIT, country="de")])

    with pytest.raises(NoPathError, match="is not in country 'fr'"):
        choose_path(network, [peer(1)], SITE, rng=random.Random(1), exit_id=peer(3), country="fr")


def test_a_bridge_is_a_guard_without_being_listed() -> None:
    bridge = relay(99, host="40.0.0.1")

    path = choose_path(roomy_network(), [bridge], SITE, rng=random.Random(1))

    assert path[0] is bridge


def test_exits_are_drawn_by_their_weight() -> None:
    exits = [relay(3, EXIT, weight=900), relay(4, EXIT, weight=100), relay(5, EXIT, weight=0)]
    network = consensus([relay(1, GUARD), relay(2), *exits])
    rng = random.Random(1)

    drawn = Counter(
        numbers(choose_path(network, [peer(1)], SITE, rng=rng))[-1] for _ in range(2000)
    )

    assert 1700 < drawn[3] < 1890
    assert drawn[5] == 0


def test_guards_are_spared_as_exits_and_exits_as_middles() -> None:
    others = [relay(20, GUARD, EXIT, weight=50), relay(21, EXIT)]
    network = consensus([*roomy_network().relays, *others])
    rng = random.Random(1)

    paths = [numbers(choose_path(network, [peer(1)], SITE, rng=rng)) for _ in range(300)]

    assert {path[-1] for path in paths} == {9, 10, 11, 12, 21}
    assert {path[1] for path in paths} == {2, 3, 4, 5, 6, 7, 8}


def test_where_exits_are_scarce_a_guard_is_one_too() -> None:
    network = consensus(
        [relay(1, GUARD), relay(2), relay(3, GUARD, EXIT), relay(4, EXIT, weight=1)]
    )
    rng = random.Random(1)

    lasts = {numbers(choose_path(network, [peer(1)], SITE, rng=rng))[-1] for _ in range(50)}

    assert 3 in lasts


def test_one_way_through_a_crowded_network_is_found() -> None:
    crowd = [relay(number, host=f"50.0.0.{number}") for number in range(10, 60)]
    way = [relay(1, GUARD), relay(2, weight=1), relay(3, weight=1), relay(4, EXIT)]
    network = consensus([*crowd, *way, relay(5, EXIT, host="50.0.0.5", weight=10**6)])

    path = choose_path(network, [peer(1)], SITE, rng=random.Random(1), length=5)

    assert len({subnet(entry) for entry in path}) == 5


def test_a_search_without_hope_ends_soon() -> None:
    hosts = (f"50.0.{number // 250}.{number % 250}" for number in range(5000))
    network = consensus(
        [
            relay(number, GUARD, EXIT, host=host) if number else relay(0, GUARD)
            for number, host in enumerate(hosts)
        ]
    )
    began = time.perf_counter()

    with pytest.raises(DirectoryError, match="too few"):
        choose_path(network, [peer(0)], SITE, rng=random.Random(1))

    assert time.perf_counter() - began < 2


def test_ten_thousand_relays_are_indexed_once() -> None:
    kinds = [(GUARD,), (), (EXIT,)]
    network = consensus(
        relay(number, *kinds[number % 3], host=f"{20 + number % 200}.{number // 200}.0.1")
        for number in range(10_000)
    )
    rng = random.Random(1)
    index = index_of(network)
    began = time.perf_counter()

    for _ in range(200):
        choose_path(network, [peer(3)], SITE, rng=rng)

    assert index_of(network) is index
    assert (time.perf_counter() - began) / 200 < 0.002


def test_two_hundred_countries_of_ten_thousand_relays_are_indexed_once_each() -> None:
    kinds = [(GUARD,), (), (EXIT,)]
    codes = [a + b for a in string.ascii_lowercase for b in "abcdefgh"]
    network = consensus(
        relay(
            number,
            *kinds[number % 3],
            host=f"{20 + number % 200}.{number // 200}.0.1",
            country=codes[number % len(codes)],
        )
        for number in range(10_000)
    )
    rng = random.Random(1)
    index_of(network)
    for code in codes:
        choose_path(network, [peer(3)], SITE, rng=rng, country=code)
    began = time.perf_counter()

    paths = [choose_path(network, [peer(3)], SITE, rng=rng, country=code) for code in codes]

    assert [path[-1].country for path in paths] == codes
    assert (time.perf_counter() - began) / len(codes) < 0.002


def test_relays_of_ones_own_are_left_out_of_an_error_that_says_so() -> None:  # P2P-2
    network, rng = roomy_network(), random.Random(6)
    everyone = {entry.peer_id for entry in network.relays}
    exits = {entry.peer_id for entry in network.relays if EXIT in entry.flags}
    own_exit = min(exits)

    with pytest.raises(NoPathError, match="without the 12 of your own or of their families"):
        choose_path(network, guards_of(network), SITE, rng=rng, own=everyone)
    with pytest.raises(NoPathError, match="networks and families, without the 4 of your own"):
        choose_path(network, guards_of(network), SITE, rng=rng, own=exits)
    with pytest.raises(NoPathError, match="which should be the exit, is one of your own"):
        choose_path(network, guards_of(network), SITE, rng=rng, own={own_exit}, exit_id=own_exit)


def test_the_same_chance_gives_the_same_path() -> None:
    network = random_consensus(random.Random(5), 60)

    one, two = (
        choose_path(network, guards_of(network), SITE, rng=random.Random(9), own={peer(1)})
        for _ in range(2)
    )

    assert one == two
