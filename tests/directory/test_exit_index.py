import random

import pytest

from tests.support.imagined import WEB, random_rule, relay
from warren.addresses import Address
from warren.directory import exit_index
from warren.directory.exit_index import ExitIndex, fits, read_policy
from warren.directory.relays import Flag, RelayEntry
from warren.identity import PeerId


def random_exits(rng: random.Random, count: int) -> list[RelayEntry]:
    """Return exits some of which share a policy; one in ten has none that can be read."""
    policies = [
        tuple(random_rule(rng) for _ in range(rng.randint(0, 4))) for _ in range(count // 2)
    ]
    policies += [("accept everything",)] * (count // 20)
    return [relay(number, Flag.EXIT, policy=rng.choice(policies)) for number in range(count)]


def random_target(rng: random.Random) -> Address | None:
    hosts = (f"{rng.randint(1, 223)}.9.9.9", f"[2{rng.randint(0, 0xFFF):03x}::1]", "site.example")
    return rng.choice([None, Address.parse(f"{rng.choice(hosts)}:{rng.randint(0, 50)}")])


def one_by_one(exits: list[RelayEntry], target: Address | None) -> set[PeerId]:
    """Ask every relay by itself."""
    return {
        entry.peer_id
        for entry in exits
        if (policy := read_policy(entry.policy)) is not None and fits(policy, target)
    }


def test_all_at_once_is_the_same_as_one_by_one() -> None:
    rng = random.Random(16)
    for _ in range(40):
        exits = random_exits(rng, 40)
        index = ExitIndex(exits)
        for _ in range(50):
            target = random_target(rng)
            found = index.find(target).relays
            assert {entry.peer_id for entry in found} == one_by_one(exits, target)
            assert len(set(found)) == len(found)


def test_ports_that_the_same_exits_open_have_one_answer() -> None:
    index = ExitIndex([relay(1, Flag.EXIT), relay(2, Flag.EXIT, policy=("accept *:443",))])

    secure, literal, plain = (
        index.find(Address(host, port))
        for host, port in (("a.example", 443), ("8.8.8.8", 443), ("a.example", 80))
    )

    assert secure is literal is index.find(None)
    assert plain is not secure


def test_the_exits_of_a_country_are_found_without_looking_at_the_others() -> None:
    exits = ExitIndex(
        relay(n, Flag.EXIT, country=("de", "fr", "??")[n % 3]) for n in range(30)
    ).find(None)

    assert [entry.country for entry in exits.within("de")] == ["de"] * 10
    assert exits.within("de") is exits.within("de")
    assert len(exits.within("xy")) == 0
    assert exits.within(None) is exits.relays


def test_what_is_kept_is_bounded_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_index, "_MOST_PORTS", 4)
    monkeypatch.setattr(exit_index, "_MOST_SETS", 3)
    rng = random.Random(4)
    exits = random_exits(rng, 40)
    index = ExitIndex(exits)

    for _ in range(500):
        target = random_target(rng)
        found = {entry.peer_id for entry in index.find(target).relays}
        assert found == one_by_one(exits, target)

    assert len(index._ports) <= 4
    assert len(index._sets) <= 3
    assert all(len(port.found) <= 3 for port in index._ports.values())


def test_datagrams_have_an_index_of_their_own() -> None:
    both = relay(1, Flag.EXIT, policy=WEB, udp_policy=("accept *:443,3478",))
    exits = [both, relay(2, Flag.EXIT, policy=WEB)]
    index = ExitIndex(exits, by_udp=True)

    found = [index.find(target).relays for target in (None, Address("a.example", 3478))]

    assert found == [(both,), (both,)]
    assert index.find(Address("a.example", 80)).relays == ()


def test_without_exits_there_is_nothing() -> None:
    assert not ExitIndex([relay(1, Flag.EXIT, policy=("accept everything",))])
    assert ExitIndex([relay(1, Flag.EXIT, policy=WEB)])
