"""The network on paper: real documents, and the shape that is promised."""

from collections import Counter
from pathlib import Path

from benchmarks.growth_network import (
    AUTHORITIES,
    HOURS,
    RARE_PORT,
    VALID_AFTER,
    PaperRelays,
    paper_network,
    signed_consensus,
    write_files,
)
from warren.directory.consensus import Verdict, compare, read_consensus
from warren.directory.descriptor import read_descriptor
from warren.directory.exit_index import read_policy
from warren.directory.network_file import parse_network_file
from warren.directory.relays import Flag
from warren.directory.tally import count_votes
from warren.directory.votes import read_vote

NETWORK = paper_network()


def test_a_count_gives_one_network() -> None:
    one, two = (signed_consensus(PaperRelays(40).entries, NETWORK) for _ in range(2))

    consensus = read_consensus(one, NETWORK, VALID_AFTER)

    assert one == two
    assert len(consensus.relays) == 40


def test_families_are_mutual() -> None:
    relays = {entry.peer_id: entry for entry in PaperRelays(200).entries}

    for peer_id, entry in relays.items():
        assert all(peer_id in relays[other].family for other in entry.family)
    assert 0 < sum(not entry.family for entry in relays.values()) < 200


def test_a_larger_network_has_more_policies_and_a_few_exits_open_the_rare_port() -> None:
    small, large = (
        [entry for entry in PaperRelays(count).entries if Flag.EXIT in entry.flags]
        for count in (200, 1000)
    )
    rare = [
        entry
        for entry in large
        if (policy := read_policy(entry.policy)) and policy.might_allow(RARE_PORT)
    ]

    assert len({entry.policy for entry in small}) < len({entry.policy for entry in large})
    assert 0 < len(rare) < len(large) / 20


def test_a_crowded_network_has_few_subnets() -> None:
    def subnets(entries: PaperRelays) -> int:
        hosts = (entry.hop.address.host for entry in entries.entries)
        return len(Counter(".".join(host.split(".")[:2]) for host in hosts if "." in host))

    assert 4 * subnets(PaperRelays(1000, is_crowded=True)) < subnets(PaperRelays(1000))


def test_the_files_are_what_measuring_needs(tmp_path: Path) -> None:
    write_files(30, tmp_path)

    network = parse_network_file((tmp_path / "network.toml").read_text())
    hours = [
        read_consensus((tmp_path / f"consensus{hour}").read_bytes(), network)
        for hour in range(HOURS)
    ]
    votes = [
        read_vote((tmp_path / f"vote{number}").read_bytes(), network)
        for number in range(AUTHORITIES)
    ]
    counted = count_votes(votes, network, lambda d: read_descriptor(d, network.network_id))

    assert compare(hours[0], hours[1]) is Verdict.NEWER
    assert hours[0].relays != hours[1].relays
    assert counted
