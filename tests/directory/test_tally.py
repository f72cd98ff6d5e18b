import hashlib
import os
import random
import subprocess
import sys
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
from warren.directory.consensus import NO_DIGEST, Consensus, Flag, RelayEntry, read_content
from warren.directory.descriptor import DescriptorReader
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import Parameters
from warren.directory.tally import count_votes
from warren.directory.votes import Opinion, Vote
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
