"""A network without the lab: founded, configured and run by hand, as the README tells it."""

import itertools

import pytest

from tests.support.handmade import HandmadeNetwork
from tests.support.journeys import read_answer, request, through
from tests.support.web_origin import NAME
from warren.addresses import Address
from warren.directory.consensus import Consensus, read_consensus
from warren.directory.network_file import parse_network_file
from warren.identity import PeerId
from warren.lab.origin import digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


def fetch(network: HandmadeNetwork, user: str) -> str:
    target = Address(NAME, network.origin.http.port)
    with through(str(network.addresses["proxy"]), target, user=user) as sock:
        request(sock, "/bytes/100000")
        return read_answer(sock)[0]


def paths(network: HandmadeNetwork) -> list[list[str]]:
    return [circuit["path"] for circuit in network.statistics("proxy")["circuits"]]


def consensus_of(network: HandmadeNetwork, name: str) -> Consensus:
    network_file = parse_network_file((network.folder / "network.toml").read_text())
    document = (network.folder / "state" / name / "consensus").read_bytes()
    return read_consensus(document, network_file)


def test_a_page_comes_through_a_network_made_by_hand(handmade: HandmadeNetwork) -> None:
    assert fetch(handmade, "first") == digest(100_000)

    last = handmade.peer_id("exit")
    assert paths(handmade)
    for path in paths(handmade):
        assert len(set(path)) == 3
        assert path[-1] == last


def test_a_relay_that_joins_later_is_listed_and_used(handmade: HandmadeNetwork) -> None:
    handmade.add_relay("latecomer")
    handmade.wait_until_known(relays=5)
    joined = handmade.peer_id("latecomer")

    for number in itertools.count():
        assert number < 60
        assert fetch(handmade, f"user {number}") == digest(100_000)
        if any(joined in path for path in paths(handmade)):
            break

    entry = consensus_of(handmade, "proxy").get(PeerId.parse(joined))
    assert entry is not None
    assert entry.hop.address == handmade.addresses["latecomer"]
