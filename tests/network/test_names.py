import ipaddress
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
import trio

from tests.support.name_servers import (
    ChosenChance,
    Script,
    ScriptedServer,
    addresses_of,
    answer,
    only_a,
    question_of,
)
from warren.addresses import Address
from warren.errors import ConfigError, EndReason, ExitError, NotFound
from warren.network import names
from warren.network.dns_server import DnsServer
from warren.network.names import Pointer, Resolver, system_servers

NAME = "site.example"
GOOD = "@ 300 A 93.184.216.34"


async def resolver_for(nursery: trio.Nursery, *scripts: Script) -> tuple[Resolver, Any]:
    """Start a server for each script; return a resolver over them and the servers."""
    servers = [ScriptedServer(script) for script in scripts]
    addresses = [await nursery.start(server.serve) for server in servers]
    return Resolver(addresses, rng=ChosenChance()), servers


def asked(server: ScriptedServer) -> list[tuple[str, str]]:
    return [(name.lower(), kind) for name, kind in map(question_of, server.queries)]


def silence(_: bytes) -> list[bytes]:
    return []


class Rebinding(DnsServer):
    """Answer each question with another address than the one before (T02)."""

    def __init__(self, *answers: str) -> None:
        super().__init__({})
        self._answers = [ipaddress.ip_address(text) for text in answers]

    def addresses_of(self, name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        return [self._answers[sum(self.asked.values()) // 2 % len(self._answers)]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers that say nothing be given up soon."""
    monkeypatch.setattr(names, "TRY_SECONDS", 0.1)
    monkeypatch.setattr(names, "TOTAL_SECONDS", 0.3)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """A clock that stands still until a test moves it: sockets need real time only."""
    return trio.testing.MockClock(rate=0)


async def test_a_name_becomes_its_addresses_of_both_families(nursery: trio.Nursery) -> None:
    server = DnsServer({NAME: [ipaddress.ip_address("2a00::1"), ipaddress.ip_address("5.5.5.5")]})
    resolver = Resolver([await nursery.start(server.serve)])

    found = await resolver.resolve(NAME)

    assert addresses_of(found.addresses) == ["5.5.5.5", "2a00::1"]
    assert set(server.asked) == {(NAME, "A"), (NAME, "AAAA")}


async def test_at_most_sixteen_addresses_are_taken(nursery: trio.Nursery) -> None:  # EXT-13
    many = [f"@ 300 A 93.184.216.{i}" for i in range(25)]
    more = [f"@ 300 AAAA 2a00::{i:x}" for i in range(1, 13)]
    resolver, _ = await resolver_for(
        nursery, lambda query: [answer(query, *(many if question_of(query)[1] == "A" else more))]
    )

    found = await resolver.resolve(NAME)

    assert len(found.addresses) == 16
    assert {ip.version for ip in found.addresses} == {4, 6}


async def test_a_name_without_addresses_fails_and_is_remembered(nursery: trio.Nursery) -> None:
    resolver, (server,) = await resolver_for(
        nursery, lambda query: [answer(query, rcode=dns.rcode.NXDOMAIN)]
    )

    for _ in range(3):
        with pytest.raises(ExitError) as caught:
            await resolver.resolve(NAME)
        assert caught.value.reason is EndReason.RESOLVE_FAILED

    assert len(server.queries) <= 2


async def test_negative_answers_are_kept_for_a_minute(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    resolver, (server,) = await resolver_for(nursery, lambda query: [answer(query)])
    for seconds, count in ((0, 2), (59, 2), (2, 4)):
        clock.jump(seconds)

        with pytest.raises(ExitError):
            await resolver.resolve(NAME)

        assert len(server.queries) == count


@pytest.mark.parametrize(
    ("ttl", "told", "kept"),
    [(0, 300, 300), (300, 300, 300), (1000, 1000, 1000), (9000, 3600, 3600)],
)
@pytest.mark.parametrize(("share", "fuzz"), [(0.0, -240), (0.5, 0), (1.0, 240)])
async def test_an_answer_is_kept_for_a_time_that_its_ttl_does_not_tell_exactly(
    nursery: trio.Nursery,
    clock: trio.testing.MockClock,
    ttl: int,
    told: int,
    kept: int,
    share: float,
    fuzz: int,
) -> None:
    server = ScriptedServer(only_a(f"@ {ttl} A 93.184.216.34"))
    resolver = Resolver([await nursery.start(server.serve)], rng=ChosenChance(share))

    ttls = [(await resolver.resolve(NAME)).ttl]
    clock.jump(kept + fuzz - 1)
    ttls.append((await resolver.resolve(NAME)).ttl)
    before = len(server.queries)
    clock.jump(2)
    ttls.append((await resolver.resolve(NAME)).ttl)

    assert (before, len(server.queries)) == (2, 4)
    assert ttls == [told] * 3  # the same from the cache, so nobody learns that it was there


async def test_rebinding_gets_one_answer_for_many_requests(nursery: trio.Nursery) -> None:  # T02
    server = Rebinding("93.184.216.34", "127.0.0.1")
    resolver = Resolver([await nursery.start(server.serve)])

    found = {(await resolver.resolve("Site.Example")).addresses for _ in range(50)}

    assert len(found) == 1
    assert sum(server.asked.values()) == 2  # A and AAAA, once
    assert resolver.statistics().from_cache == 49


async def test_the_cache_forgets_what_was_used_least_recently(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MOST_CACHED", 3)
    resolver, (server,) = await resolver_for(nursery, only_a(GOOD))
    for name in ("a.example", "b.example", "c.example", "a.example", "d.example"):
        await resolver.resolve(name)
    server.queries.clear()

    for name in ("a.example", "c.example", "d.example", "b.example"):
        await resolver.resolve(name)

    assert {name for name, _ in asked(server)} == {"b.example"}
    assert resolver.statistics().cached == 3


async def test_lookups_of_one_name_share_a_query(nursery: trio.Nursery) -> None:
    resolver, (server,) = await resolver_for(nursery, only_a(GOOD))
    found = []

    async def look_up() -> None:
        found.append(await resolver.resolve(NAME))

    async with trio.open_nursery() as lookups:
        for _ in range(20):
            lookups.start_soon(look_up)

    assert len(found) == 20
    assert len(server.queries) == 2


async def test_those_who_share_a_failed_lookup_fail_with_it(nursery: trio.Nursery) -> None:
    resolver, (server,) = await resolver_for(
        nursery, lambda query: [answer(query, rcode=dns.rcode.SERVFAIL)]
    )
    reasons = []

    async def look_up() -> None:
        try:
            await resolver.resolve(NAME)
        except ExitError as error:
            reasons.append(error.reason)

    async with trio.open_nursery() as lookups:
        for _ in range(10):
            lookups.start_soon(look_up)

    assert reasons == [EndReason.RESOLVE_FAILED] * 10
    assert len(server.queries) == 4  # one server is asked twice
    assert resolver.statistics().failed == 10


async def test_when_the_first_who_asked_gives_up_the_next_one_asks(nursery: trio.Nursery) -> None:
    answers_now = False
    resolver, (server,) = await resolver_for(
        nursery, lambda query: only_a(GOOD)(query) if answers_now else silence(query)
    )
    found = []

    async def look_up() -> None:
        found.append(await resolver.resolve(NAME))

    with trio.fail_after(3):
        async with trio.open_nursery() as second, trio.open_nursery() as first:
            first.start_soon(look_up)
            await trio.testing.wait_all_tasks_blocked(0.02)
            second.start_soon(look_up)
            await trio.testing.wait_all_tasks_blocked(0.02)
            answers_now = True
            first.cancel_scope.cancel()

    assert addresses_of(found[0].addresses) == ["93.184.216.34"]
    assert len(server.queries) == 4


async def test_a_circuit_has_four_lookups_at_a_time_and_all_have_thirty_two(  # EXT-11
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "TOTAL_SECONDS", 1.0)
    resolver, (server,) = await resolver_for(nursery, silence)

    async def look_up(name: str, key: int) -> None:
        with pytest.raises(ExitError):
            await resolver.resolve(name, key)

    async with trio.open_nursery() as lookups:
        for i in range(8):
            lookups.start_soon(look_up, f"n{i}.example", 1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        of_one_circuit = len({name for name, _ in asked(server)})
        for i in range(60):
            lookups.start_soon(look_up, f"m{i}.example", 100 + i)
        await trio.testing.wait_all_tasks_blocked(0.02)
        of_all = len({name for name, _ in asked(server)})

    assert of_one_circuit == 4
    assert of_all == 32
    assert resolver.statistics().running == 0


async def test_a_circuit_that_waits_for_its_turn_holds_up_nobody_else(
    nursery: trio.Nursery,
) -> None:
    resolver, (server,) = await resolver_for(
        nursery, lambda query: only_a(GOOD)(query) if b"slow" not in query.lower() else []
    )
    for i in range(4):
        nursery.start_soon(resolver.resolve, f"slow{i}.example", "greedy")
    await trio.testing.wait_all_tasks_blocked(0.02)
    nursery.start_soon(resolver.resolve, NAME, "greedy")
    await trio.testing.wait_all_tasks_blocked(0.02)

    with trio.fail_after(1):
        found = await resolver.resolve(NAME, "modest")

    assert addresses_of(found.addresses) == ["93.184.216.34"]
    assert len([name for name, _ in asked(server) if name == NAME]) == 2


async def test_turns_that_are_over_leave_nothing_behind(nursery: trio.Nursery) -> None:
    resolver, _ = await resolver_for(nursery, only_a(GOOD))

    for i in range(10):
        await resolver.resolve(f"n{i}.example", key=i)

    assert resolver._shares == {}


@pytest.mark.usefixtures("quick")
async def test_silent_servers_time_out(nursery: trio.Nursery) -> None:
    resolver, _ = await resolver_for(nursery, silence, silence)
    began = trio.current_time()

    with pytest.raises(ExitError) as caught:
        await resolver.resolve(NAME)

    assert caught.value.reason is EndReason.TIMEOUT
    assert trio.current_time() - began < 1


async def test_all_of_it_takes_at_most_ten_seconds(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:  # T62
    autojump_clock.autojump_threshold = 0.05
    resolver, _ = await resolver_for(nursery, silence, silence, silence)
    began = trio.current_time()

    with pytest.raises(ExitError) as caught:
        await resolver.resolve(NAME)

    assert caught.value.reason is EndReason.TIMEOUT
    assert trio.current_time() - began == pytest.approx(10)


@pytest.mark.usefixtures("quick")
async def test_another_server_is_asked_when_one_is_silent_and_stays_the_first(
    nursery: trio.Nursery,
) -> None:
    resolver, (dead, alive) = await resolver_for(nursery, silence, only_a(GOOD))

    await resolver.resolve("a.example")
    await resolver.resolve("b.example")

    assert {name for name, _ in asked(dead)} == {"a.example"}
    assert {name for name, _ in asked(alive)} == {"a.example", "b.example"}


async def test_a_broken_server_is_passed_by_at_once(nursery: trio.Nursery) -> None:
    resolver, _ = await resolver_for(
        nursery, lambda query: [answer(query, rcode=dns.rcode.REFUSED)], only_a(GOOD)
    )

    with trio.fail_after(2):
        found = await resolver.resolve(NAME)

    assert addresses_of(found.addresses) == ["93.184.216.34"]


async def test_half_an_answer_is_used_but_not_kept(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_OTHER_FAMILY_SECONDS", 0.05)
    resolver, (server,) = await resolver_for(
        nursery, lambda query: [answer(query, GOOD)] if question_of(query)[1] == "A" else []
    )

    found = await resolver.resolve(NAME)
    await resolver.resolve(NAME)

    assert addresses_of(found.addresses) == ["93.184.216.34"]
    assert len(server.queries) == 4


@pytest.mark.usefixtures("quick")
async def test_no_addresses_of_one_family_are_no_answer_without_the_other(
    nursery: trio.Nursery,
) -> None:
    resolver, _ = await resolver_for(
        nursery, lambda query: [answer(query)] if question_of(query)[1] == "AAAA" else []
    )

    with pytest.raises(ExitError) as caught:
        await resolver.resolve(NAME)

    assert caught.value.reason is EndReason.TIMEOUT


async def test_names_of_the_hosts_file_are_not_known(nursery: trio.Nursery) -> None:  # EXT-3
    resolver, (server,) = await resolver_for(
        nursery, lambda query: [answer(query, rcode=dns.rcode.NXDOMAIN)]
    )

    with pytest.raises(ExitError):
        await resolver.resolve("localhost")

    assert {name for name, _ in asked(server)} == {"localhost"}


@pytest.mark.parametrize("name", ["", "a..b", "ü.example", "a" * 300])
async def test_what_is_no_name_fails_without_a_question(nursery: trio.Nursery, name: str) -> None:
    resolver, (server,) = await resolver_for(nursery, only_a(GOOD))

    with pytest.raises(ExitError) as caught:
        await resolver.resolve(name)

    assert caught.value.reason is EndReason.RESOLVE_FAILED
    assert server.queries == []


async def test_an_address_is_looked_up_in_reverse(nursery: trio.Nursery) -> None:
    resolver, (server,) = await resolver_for(
        nursery, lambda query: [answer(query, "@ 300 PTR Host.Example.")]
    )

    found = await resolver.reverse(ipaddress.ip_address("5.5.5.5"))

    assert found == Pointer(Address("host.example", 0), 300)
    assert asked(server) == [("5.5.5.5.in-addr.arpa", "PTR")]


async def test_a_name_of_an_address_is_kept_as_long_as_addresses_are(
    nursery: trio.Nursery, clock: trio.testing.MockClock
) -> None:
    resolver, (server,) = await resolver_for(
        nursery, lambda query: [answer(query, "@ 9000 PTR host.example.")]
    )
    for seconds, count in ((0, 1), (3599, 1), (2, 2)):
        clock.jump(seconds)

        found = await resolver.reverse(ipaddress.ip_address("5.5.5.5"))

        assert (found.ttl, len(server.queries)) == (3600, count)
    assert resolver.statistics().cached == 1


async def test_a_name_in_the_reverse_tree_is_no_address_that_was_reversed(
    nursery: trio.Nursery,
) -> None:
    resolver, _ = await resolver_for(
        nursery,
        lambda query: [
            answer(
                query,
                *(["@ 300 PTR a.example."] if b"\x00\x0c" in query[-4:] else ["@ 300 A 5.5.5.5"]),
            )
        ],
    )

    pointer = await resolver.reverse(ipaddress.ip_address("5.5.5.5"))
    found = await resolver.resolve("5.5.5.5.in-addr.arpa")

    assert pointer.name == Address("a.example", 0)
    assert addresses_of(found.addresses)[0] == "5.5.5.5"


@pytest.mark.parametrize("records", [[], ["@ 300 PTR not\\032a\\032name."], ["@ 300 PTR 5.5.5.5."]])
async def test_an_address_without_a_proper_name_has_none(
    nursery: trio.Nursery, records: list[str]
) -> None:
    resolver, (server,) = await resolver_for(nursery, lambda query: [answer(query, *records)])

    for _ in range(2):
        with pytest.raises(NotFound):
            await resolver.reverse(ipaddress.ip_address("5.5.5.5"))

    assert len(server.queries) == 1


async def test_a_resolver_needs_servers_that_are_addresses() -> None:
    with pytest.raises(ConfigError, match=r"write some in exit\.resolvers"):
        Resolver([])
    with pytest.raises(ConfigError, match="expected an IP address"):
        Resolver([Address("dns.example", 53)])


def test_of_the_systems_file_only_the_servers_are_read(tmp_path: Path) -> None:  # EXT-3
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# a comment\nsearch corp.example\nnameserver 5.5.5.5\nnameserver 2a00::53 # six\n"
        "nameserver fe80::1%eth0\nnameserver\noptions ndots:5\n; nameserver 6.6.6.6\n"
    )

    assert system_servers(path) == (Address("5.5.5.5", 53), Address("2a00::53", 53))
    assert system_servers(tmp_path / "missing") == ()


# ---- when memory runs short


async def test_a_cache_that_is_cut_forgets_what_was_not_used_lately() -> None:  # DOS-5
    resolver = Resolver([Address("192.0.2.1", 53)])
    for number in range(1000):
        resolver._addresses.put(f"n{number}.example", None, 60)
        resolver._pointers.put(f"p{number}", None, 60)
    before = resolver.kept_bytes

    resolver.shrink(before // 4)

    assert resolver.kept_bytes <= before // 4
    assert len(resolver._addresses) == len(resolver._pointers) == 250
    assert next(iter(resolver._addresses._known)) == "n750.example"
    resolver.shrink(1 << 30)
    assert len(resolver._addresses) == 250
