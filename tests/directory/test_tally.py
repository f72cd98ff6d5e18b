import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.directories import (
    NETWORK,
    NOW,
    document_of,
    identity,
    network_of,
    opinion_of,
    quarrelsome_votes,
    vote_of,
)
from warren.addresses import Address
from warren.directory.consensus import NO_DIGEST, Consensus, Flag, RelayEntry, read_content
from warren.directory.descriptor import DESCRIPTOR_LIMIT, DescriptorReader
from warren.directory.documents import Kind, read_envelope
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import Parameters
from warren.directory.path import choose_path
from warren.directory.tally import count_votes
from warren.directory.votes import LISTED, Opinion, Vote
from warren.errors import DirectoryError
from warren.identity import PeerId

ROOT = Path(__file__).parents[2]
FIVE = network_of(5)


def count(votes: Iterable[Vote], network: NetworkFile = NETWORK) -> Consensus:
    reader = DescriptorReader(network.network_id)
    return read_content(count_votes(votes, network, reader.read))


def agreed(opinions: Sequence[Opinion], network: NetworkFile = NETWORK) -> Consensus:
    """Count as many votes as there are authorities, all with the same `opinions`."""
    return count([vote_of(n, opinions, network) for n in range(len(network.authorities))], network)


def peer(number: int) -> PeerId:
    return identity(number).peer_id


def entry(consensus: Consensus, number: int) -> RelayEntry:
    found = consensus.get(peer(number))
    assert found is not None
    return found


def listed(consensus: Consensus) -> set[PeerId]:
    return {relay.peer_id for relay in consensus.relays}


# ---- who is in


def test_a_relay_is_in_when_most_votes_found_it_running() -> None:
    votes = [
        vote_of(0, [opinion_of(1), opinion_of(2)]),
        vote_of(1, [opinion_of(1), opinion_of(2, running=False)]),
        vote_of(2, [opinion_of(1, running=False), opinion_of(3)]),
    ]

    assert listed(count(votes)) == {peer(1)}


def test_half_of_the_votes_is_not_most_of_them() -> None:
    votes = [vote_of(0, [opinion_of(1), opinion_of(2)]), vote_of(1, [opinion_of(1)])]

    assert listed(count(votes)) == {peer(1)}


def test_fewer_votes_than_the_threshold_make_no_consensus() -> None:
    with pytest.raises(DirectoryError, match="1 of 3 authorities voted, expected at least 2"):
        count([vote_of(0, [opinion_of(1)])])
    with pytest.raises(DirectoryError, match="0 of 3 authorities voted"):
        count([])


def test_the_first_consensus_waits_for_enough_relays() -> None:
    network = network_of(parameters=Parameters(founding_relays=2))

    with pytest.raises(DirectoryError, match="1 relays are running, expected 2"):
        agreed([opinion_of(1, network)], network)
    assert listed(agreed([opinion_of(n, network) for n in (1, 2)], network))


def test_later_ones_do_not_wait() -> None:
    network = network_of(parameters=Parameters(founding_relays=2))
    votes = [vote_of(n, [], network, previous_digest=b"p" * 32) for n in range(3)]

    assert count(votes, network).relays == ()


def test_a_descriptor_that_cannot_be_read_costs_only_its_relay() -> None:
    bad = opinion_of(2, descriptor=document_of(2)[:-1] + b"\xff")

    votes = [vote_of(n, [opinion_of(1)]) for n in range(3)]
    votes = [replace(vote, opinions=(*vote.opinions, bad)) for vote in votes]

    assert listed(count(votes)) == {peer(1)}


def test_stale_and_future_descriptors_do_not_count() -> None:
    old, new = (document_of(n, published=NOW + 3600 + t) for n, t in ((1, -200_000), (2, 9999)))

    consensus = agreed(
        [opinion_of(1, descriptor=old), opinion_of(2, descriptor=new), opinion_of(3)]
    )

    assert listed(consensus) == {peer(3)}


# ---- who of a crowd is in

REAL = network_of(testing=False)


def crowd_of(*numbers: int, host: str = "9.9.9.9", **changes: Any) -> list[Opinion]:
    """Return opinions of relays that are all at `host`, in a network that is no test."""
    document_changes = {"address": Address(host, 9001), **changes.pop("document", {})}
    return [
        opinion_of(n, REAL, descriptor=document_of(n, REAL, **document_changes), **changes)
        for n in numbers
    ]


def spread_out(*numbers: int) -> list[Opinion]:
    return [opinion_of(n, REAL) for n in numbers]


def test_two_relays_of_one_address_are_in_and_all_of_a_test() -> None:  # DIR-11
    crowd = crowd_of(1, 2, 3, 4)

    assert len(listed(agreed(crowd, REAL))) == 2
    at_one_place = [
        opinion_of(n, descriptor=document_of(n, address=Address("9.9.9.9", n))) for n in range(1, 5)
    ]
    assert len(listed(agreed(at_one_place))) == 4


def test_those_that_were_listed_before_keep_their_places() -> None:
    newcomers = crowd_of(*range(1, 9), document={"bandwidth": 900_000}, flags=frozenset({"stable"}))
    known = crowd_of(9, 10, document={"bandwidth": 10}, flags=frozenset({LISTED}))

    consensus = agreed([*newcomers, *known], REAL)

    assert listed(consensus) == {peer(9), peer(10)}
    assert all("listed" not in relay.flags for relay in consensus.relays)
    assert b"listed" not in count_votes(
        [vote_of(n, known, REAL) for n in range(3)],
        REAL,
        DescriptorReader(REAL.network_id).read,
    )


def test_one_authority_cannot_give_places_away() -> None:
    known, others = crowd_of(1, 2, flags=frozenset({LISTED})), crowd_of(3, 4)
    liar = [*crowd_of(1, 2), *crowd_of(3, 4, flags=frozenset({LISTED}))]

    votes = [vote_of(n, [*known, *others], REAL) for n in range(2)]

    assert listed(count([*votes, vote_of(2, liar, REAL)], REAL)) == {peer(1), peer(2)}


def test_who_is_behind_a_gateway_takes_nobodys_place() -> None:
    """Nobody has reached it at the address that it gives."""
    behind = crowd_of(1, 2, 3, document={"gateways": (peer(8),)}, flags=frozenset({LISTED}))

    consensus = agreed([*behind, *crowd_of(4), *spread_out(8)], REAL)

    assert peer(4) in listed(consensus)
    assert len(listed(consensus)) == 3


def test_a_crowd_in_one_network_is_listed_within_the_limits() -> None:  # T73
    crowd = [
        opinion
        for n in range(1, 501)
        for opinion in crowd_of(
            n, host=f"9.9.9.{n // 2 + 1}", document={"bandwidth": 1000 * 100_000}
        )
    ]
    honest = [each for n in range(1001, 1031) for each in crowd_of(n, host=f"20.{n % 250}.0.5")]

    consensus = agreed([*crowd, *honest], REAL)

    sybils = [relay for relay in consensus.relays if relay.hop.address.host.startswith("9.9.")]
    total = sum(relay.weight for relay in consensus.relays)
    assert len(sybils) == 8
    assert max(Counter(relay.hop.address.host for relay in sybils).values()) <= 2
    assert sum(relay.weight for relay in sybils) <= 0.15 * total + len(consensus.relays)
    assert {relay.weight for relay in consensus.relays if relay not in sybils} == {
        101_001 + n for n in range(30)
    }
    rng = random.Random(1)
    drawn_middles = (
        choose_path(consensus, [peer(1002)], None, exit_id=peer(1001), rng=rng)[1]
        for _ in range(4000)
    )
    middles = Counter(middle.hop.address.host for middle in drawn_middles)
    drawn = sum(n for host, n in middles.items() if host.startswith("9.9."))
    assert 0.10 < drawn / middles.total() < 0.18


def test_a_relay_that_says_it_gives_everything_is_listed_with_its_share() -> None:  # DIR-12
    boastful = opinion_of(1, descriptor=document_of(1, bandwidth=1 << 40), measured=1 << 40)

    consensus = agreed([boastful, *(opinion_of(n) for n in range(2, 10))])

    total = sum(relay.weight for relay in consensus.relays)
    assert entry(consensus, 1).weight == pytest.approx(total / 4, rel=1e-4)


def peer_of(opinion: Opinion) -> PeerId:
    envelope = read_envelope(opinion.descriptor, Kind.DESCRIPTOR, DESCRIPTOR_LIMIT)
    return next(iter(envelope.signatures))


near_opinions = st.lists(
    st.builds(
        lambda n, host, flags, bandwidth: crowd_of(
            n, host=host, flags=flags, document={"bandwidth": bandwidth}
        )[0],
        st.integers(1, 30),
        st.sampled_from([f"9.9.{n % 2}.{n}" for n in range(8)]),
        st.frozensets(st.sampled_from(["stable", LISTED])),
        st.sampled_from([1000, 10**6, 10**9]),
    ),
    max_size=25,
    unique_by=peer_of,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(near_opinions, min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_who_of_a_crowd_stays_follows_from_the_votes_in_any_order(
    all_opinions: list[list[Opinion]], rng: random.Random
) -> None:  # DIR-10, DIR-11
    previous = b"p" * 32
    votes = [
        vote_of(n, opinions, REAL, previous_digest=previous)
        for n, opinions in enumerate(all_opinions)
    ]
    read = DescriptorReader(REAL.network_id).read
    expected = count_votes(votes, REAL, read)

    rng.shuffle(votes)

    assert count_votes(votes, REAL, read) == expected
    hosts = Counter(relay.hop.address.host for relay in read_content(expected).relays)
    assert max(hosts.values(), default=0) <= 2


# ---- what is said of it


def test_the_newest_descriptor_among_those_found_running_holds() -> None:
    documents = [document_of(1, bandwidth=10 + n, counter=n) for n in range(3)]
    votes = [
        vote_of(n, [opinion_of(1, descriptor=document, running=n < 2)])
        for n, document in enumerate(documents)
    ]

    assert entry(count(votes), 1).weight == 11


def test_of_equally_new_descriptors_the_lowest_digest_holds() -> None:
    documents = [document_of(1, bandwidth=bandwidth) for bandwidth in (10, 20, 30)]
    votes = [vote_of(n, [opinion_of(1, descriptor=d)]) for n, d in enumerate(documents)]

    lowest = min(documents, key=lambda document: hashlib.sha512(document).digest())
    assert entry(count(votes), 1).weight == (documents.index(lowest) + 1) * 10


@pytest.mark.parametrize(
    ("measured", "weight"),
    [
        ([None, None, None], 500),  # as much as the unmeasured may count for
        ([700, None, None], 700),
        ([700, 900, None], 700),
        ([700, 900, 800], 800),
        ([9999, 9999, None], 1000),  # never more than it declares (DIR-12)
    ],
)
def test_weight_is_the_lower_of_declared_and_median_measured(
    measured: list[int | None], weight: int
) -> None:
    network = network_of(parameters=Parameters(founding_relays=1, unmeasured_bandwidth=500))
    document = document_of(1, network, bandwidth=1000)
    votes = [
        vote_of(n, [opinion_of(1, network, descriptor=document, measured=value)], network)
        for n, value in enumerate(measured)
    ]

    assert entry(count(votes, network), 1).weight == weight


def test_flags_and_country_go_by_majority_of_those_who_found_it_running() -> None:
    votes = [
        vote_of(0, [opinion_of(1, flags=frozenset({"stable", "exit"}), country="de")]),
        vote_of(1, [opinion_of(1, flags=frozenset({"stable", "mirror"}), country="de")]),
        vote_of(2, [opinion_of(1, flags=frozenset({"mirror"}), country="se")]),
    ]

    found = entry(count(votes), 1)

    assert found.flags - {Flag.GUARD} == {Flag.RUNNING, Flag.STABLE, Flag.MIRROR}
    assert found.country == "de"


def test_without_majority_the_country_is_unknown() -> None:
    votes = [vote_of(n, [opinion_of(1, country=c)]) for n, c in enumerate(("de", "se", "fr"))]

    assert entry(count(votes), 1).country == "??"


def test_guards_can_be_dialled_and_are_not_in_the_weakest_quarter() -> None:
    documents = [document_of(n, bandwidth=n * 100) for n in range(1, 9)]
    documents.append(document_of(9, bandwidth=10_000, gateways=(peer(1),)))
    consensus = agreed([opinion_of(n, descriptor=d) for n, d in enumerate(documents, 1)])

    guards = {relay.peer_id for relay in consensus.relays if Flag.GUARD in relay.flags}
    assert guards == {peer(n) for n in range(3, 9)}


def test_only_families_named_by_both_sides_count() -> None:
    families = {1: (2, 3), 2: (1,), 3: (), 4: (4, 1), 5: (9,)}
    consensus = agreed(
        [
            opinion_of(n, descriptor=document_of(n, family=tuple(peer(m) for m in members)))
            for n, members in families.items()
        ]
    )

    found = {n: entry(consensus, n).family for n in families}
    assert found == {1: (peer(2),), 2: (peer(1),), 3: (), 4: (), 5: ()}


def test_a_relay_stands_behind_gateways_that_are_listed_and_can_be_dialled() -> None:
    gateways = {1: (), 2: (1, 9), 3: (9,), 4: (2,)}
    consensus = agreed(
        [
            opinion_of(n, descriptor=document_of(n, gateways=tuple(peer(m) for m in through)))
            for n, through in gateways.items()
        ]
    )

    assert listed(consensus) == {peer(1), peer(2)}
    assert entry(consensus, 2).gateways == (peer(1),)


def test_relays_with_rare_huge_policies_are_listed_as_no_exits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warren.directory.tally._MOST_POLICY_BYTES", 100)
    policies = {1: ("accept *:80",), 2: ("accept *:80",), 3: tuple(["reject *:25"] * 20)}
    consensus = agreed(
        [
            opinion_of(n, descriptor=document_of(n, policy=p), flags=frozenset({"exit"}))
            for n, p in policies.items()
        ]
    )

    exits = {relay.peer_id for relay in consensus.relays if Flag.EXIT in relay.flags}
    assert exits == {peer(1), peer(2)}
    assert entry(consensus, 3).policy == ()


def test_an_exit_whose_policy_for_datagrams_is_rare_and_huge_is_listed_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warren.directory.tally._MOST_POLICY_BYTES", 100)
    web, huge = ("accept *:443",), tuple(["reject *:25"] * 20)
    consensus = agreed(
        [
            opinion_of(
                number,
                descriptor=document_of(number, policy=web, udp_policy=policy),
                flags=frozenset({"exit"}),
            )
            for number, policy in enumerate((web, huge), 1)
        ]
    )

    assert [entry(consensus, n).udp_policy for n in (1, 2)] == [web, ()]
    assert all(entry(consensus, n).policy == web for n in (1, 2))
    assert all(Flag.EXIT in entry(consensus, n).flags for n in (1, 2))


# ---- the rest of it


def test_its_times_follow_from_valid_after_and_the_interval() -> None:
    network = network_of(parameters=Parameters(founding_relays=1, consensus_interval_seconds=10))

    consensus = agreed([opinion_of(1, network)], network)

    start = NOW + 3600
    assert (consensus.valid_after, consensus.fresh_until) == (start, start + 10)
    assert consensus.valid_until == start + 30


def test_parameters_are_the_median_of_what_most_name() -> None:
    values = [
        {"circuit_window": 10, "usable_hours": 5, "teleport_seconds": 1},
        {"circuit_window": 90, "usable_hours": 7},
        {"circuit_window": 20, "teleport_seconds": 3},
    ]
    votes = [
        vote_of(n, [opinion_of(1)], parameters={"founding_relays": 1} | v)
        for n, v in enumerate(values)
    ]

    content = count_votes(votes, NETWORK, DescriptorReader(NETWORK.network_id).read)

    parameters = read_content(content).parameters
    assert (parameters.circuit_window, parameters.usable_hours) == (20, 5)
    assert b"teleport_seconds\x01" in content  # also what only later versions know


@pytest.mark.parametrize(
    ("named", "previous"),
    [
        ("000", NO_DIGEST),
        ("a00", b"a" * 32),
        ("ab0", b"a" * 32),
        ("abb", b"b" * 32),
        ("ba0", b"a" * 32),
    ],
)
def test_the_previous_consensus_is_the_one_most_name(named: str, previous: bytes) -> None:
    digests = [NO_DIGEST if letter == "0" else letter.encode() * 32 for letter in named]
    votes = [vote_of(n, [opinion_of(1)], previous_digest=d) for n, d in enumerate(digests)]

    assert count(votes).previous_digest == previous


# ---- determinism

some_opinions = st.lists(
    st.builds(
        opinion_of,
        st.integers(1, 6),
        running=st.booleans(),
        flags=st.frozensets(st.sampled_from(["exit", "stable", "mirror", "later"])),
        measured=st.none() | st.integers(1, 5000),
        country=st.sampled_from(["??", "de", "se"]),
    ),
    max_size=6,
    unique_by=lambda opinion: opinion.descriptor,
)


@settings(max_examples=40)
@given(st.lists(some_opinions, min_size=3, max_size=5), st.randoms(use_true_random=False))
def test_votes_in_any_order_make_the_same_bytes(
    all_opinions: list[list[Any]], rng: random.Random
) -> None:  # T75
    votes = [
        vote_of(n, opinions, previous_digest=b"p" * 32) for n, opinions in enumerate(all_opinions)
    ]
    read = DescriptorReader(NETWORK.network_id).read
    expected = count_votes(votes, FIVE, read)

    for _ in range(5):
        rng.shuffle(votes)
        assert count_votes(votes, FIVE, read) == expected


SCRIPT = """
import hashlib, random
from tests.support.directories import NETWORK, quarrelsome_votes
from warren.directory.descriptor import DescriptorReader
from warren.directory.tally import count_votes
votes, read = quarrelsome_votes(), DescriptorReader(NETWORK.network_id).read
contents = set()
for seed in range(100):
    random.Random(seed).shuffle(votes)
    contents.add(count_votes(votes, NETWORK, read))
print(len(contents), hashlib.sha256(min(contents)).hexdigest())
"""


def test_every_hash_seed_makes_the_same_bytes() -> None:  # T75, DIR-10
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=environment | {"PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2, 3)
    ]

    outputs = {process.communicate(timeout=50)[0] for process in processes}

    content = count_votes(quarrelsome_votes(), NETWORK, DescriptorReader(NETWORK.network_id).read)
    assert outputs == {f"1 {hashlib.sha256(content).hexdigest()}\n"}
