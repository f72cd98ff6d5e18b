"""The DNS door, asked by real resolvers over real sockets; below it is a fake client."""

from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
import structlog.testing
import trio
import trio.testing

from warren.addresses import Address
from warren.errors import (
    CircuitError,
    ConfigError,
    DirectoryError,
    EndReason,
    ExitError,
    NotFound,
)
from warren.network.dns_port import DnsLimits, DnsPort
from warren.protocol.resolution import Resolved
from warren.roles.dns_door import ANSWER_SECONDS, DnsDoor

HERE = Address("127.0.0.1", 0)
NAME = Address("a.example", 0)


@dataclass
class FakeClient:
    """Be the client: know a few names, be slow, or fail; ``asked`` has every question."""

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    error: Exception | None = None
    seconds: float = 0.0
    asked: list[Address] = field(default_factory=list)
    isolations: set[Hashable] = field(default_factory=set)

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        self.asked.append(subject)
        self.isolations.add(isolation)
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        if subject.host not in self.names:
            raise NotFound
        return Resolved(tuple(Address(host, 0) for host in self.names[subject.host]), 300)


@dataclass
class Scene:
    """Hold a door at work."""

    client: FakeClient
    door: DnsDoor
    port: DnsPort
    told: list[Address]
    streams: list[trio.SocketStream] = field(default_factory=list)

    async def ask(
        self, name: str, rdtype: str = "A", *, by_tcp: bool = False, seconds: float = 10
    ) -> dns.message.Message:
        ask = dns.asyncquery.tcp if by_tcp else dns.asyncquery.udp
        query = dns.message.make_query(name, rdtype)
        here = self.port.local
        return await ask(query, here.host, port=here.port, timeout=seconds)

    async def send(self, data: bytes) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(self.port.local.host, self.port.local.port)
        self.streams.append(stream)
        await stream.send_all(data)
        return stream


@asynccontextmanager
async def open_door(**options: Any) -> AsyncIterator[Scene]:
    client, told = FakeClient({"a.example": ("5.5.5.5", "2a00::1")}), list[Address]()

    def tell(addresses: Iterable[Address]) -> None:
        told.extend(addresses)

    door = DnsDoor(client, tell=tell, **options)
    async with trio.open_nursery() as nursery:
        port = door.listen(HERE)
        nursery.start_soon(port.serve)
        scene = Scene(client, door, port, told)
        yield scene
        nursery.cancel_scope.cancel()
    for stream in scene.streams:
        stream.socket.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with open_door() as scene:
        yield scene


def records_of(response: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in response.answer for record in rrset]


def framed(query: dns.message.Message) -> bytes:
    data = query.to_wire()
    return len(data).to_bytes(2, "big") + data


# ---- answers


@pytest.mark.parametrize("by_tcp", [False, True])
async def test_names_and_addresses_are_answered(scene: Scene, by_tcp: bool) -> None:
    scene.client.names["5.5.5.5"] = ("host.example",)

    four = await scene.ask("A.Example", "A", by_tcp=by_tcp)
    six = await scene.ask("a.example", "AAAA", by_tcp=by_tcp)
    pointer = await scene.ask("5.5.5.5.in-addr.arpa", "PTR", by_tcp=by_tcp)

    assert records_of(four) == ["5.5.5.5"]
    assert records_of(six) == ["2a00::1"]
    assert records_of(pointer) == ["host.example."]
    assert four.answer[0].ttl == 300
    assert len(scene.client.isolations) == 1


async def test_what_was_told_is_known_to_the_proxy(scene: Scene) -> None:  # T49
    await scene.ask("a.example")

    assert scene.told == [Address("5.5.5.5", 0), Address("2a00::1", 0)]


async def test_a_name_of_which_nobody_knows_does_not_exist(scene: Scene) -> None:
    response = await scene.ask("b.example")

    assert response.rcode() == dns.rcode.NXDOMAIN
    assert records_of(response) == []


async def test_other_kinds_have_no_records_and_nobody_is_asked(scene: Scene) -> None:
    response = await scene.ask("a.example", "MX")

    assert response.rcode() == dns.rcode.NOERROR
    assert records_of(response) == []
    assert scene.client.asked == []


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("printer", "A"),
        ("printer.local", "A"),
        ("localhost", "AAAA"),
        ("x.onion", "A"),
        ("router.home.arpa", "A"),
        ("1.0.0.10.in-addr.arpa", "PTR"),
        ("1.0.0.127.in-addr.arpa", "PTR"),
    ],
)
async def test_nobody_is_asked_for_what_is_internal(
    scene: Scene, name: str, rdtype: str
) -> None:  # FE-8
    response = await scene.ask(name, rdtype)

    assert response.rcode() == dns.rcode.NXDOMAIN
    assert scene.client.asked == []


@pytest.mark.parametrize(
    ("error", "rcode"),
    [
        (ExitError(EndReason.EXIT_POLICY), dns.rcode.NXDOMAIN),
        (ExitError(EndReason.TIMEOUT), dns.rcode.SERVFAIL),
        (ExitError(EndReason.RESOLVE_FAILED), dns.rcode.SERVFAIL),
        (CircuitError("x"), dns.rcode.SERVFAIL),
        (DirectoryError("x"), dns.rcode.SERVFAIL),
    ],
)
async def test_a_failure_is_no_statement_about_the_name(
    scene: Scene, error: Exception, rcode: dns.rcode.Rcode
) -> None:
    scene.client.error = error

    assert (await scene.ask("a.example")).rcode() == rcode


async def test_the_host_of_an_exempt_target_may_be_asked_for() -> None:  # EXT-16
    async with open_door(allow_targets=[Address("127.0.0.1", 8000)]) as scene:
        scene.client.names["127.0.0.1"] = ("host.example",)

        response = await scene.ask("1.0.0.127.in-addr.arpa", "PTR")

        assert records_of(response) == ["host.example."]


async def test_a_long_answer_is_cut_and_fetched_by_tcp(scene: Scene) -> None:
    label = "a" * 60
    name = f"{label}.{label}.{label}.{label}"
    scene.client.names[name] = tuple(f"2a00::{n}" for n in range(1, 17))

    cut = await scene.ask(name, "AAAA")
    whole = await scene.ask(name, "AAAA", by_tcp=True)

    assert cut.flags & dns.flags.TC
    assert records_of(cut) == []
    assert len(records_of(whole)) == 16


# ---- many at a time


async def test_those_who_ask_the_same_share_a_question(scene: Scene) -> None:
    scene.client.seconds = 0.2
    answers: list[list[str]] = []

    async def ask(rdtype: str, by_tcp: bool) -> None:
        answers.append(records_of(await scene.ask("a.example", rdtype, by_tcp=by_tcp)))

    async with trio.open_nursery() as nursery:
        for rdtype in ("A", "AAAA"):
            for by_tcp in (False, True):
                nursery.start_soon(ask, rdtype, by_tcp)

    assert sorted(answers) == [["2a00::1"]] * 2 + [["5.5.5.5"]] * 2
    assert scene.client.asked == [NAME]


async def test_nothing_is_remembered(scene: Scene) -> None:
    for _ in range(2):
        await scene.ask("a.example")

    assert len(scene.client.asked) == 2


async def test_those_who_share_a_question_fail_with_it(scene: Scene) -> None:
    scene.client.seconds, scene.client.error = 0.2, CircuitError("x")
    rcodes = []

    async def ask() -> None:
        rcodes.append((await scene.ask("a.example")).rcode())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)

    assert rcodes == [dns.rcode.SERVFAIL] * 5
    assert len(scene.client.asked) == 1


async def test_a_question_that_waits_holds_up_no_other(scene: Scene) -> None:
    scene.client.seconds = 30
    slow = await scene.send(framed(dns.message.make_query("slow.example", "A")))
    datagram = dns.message.make_query("slower.example", "A").to_wire()
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.sendto(datagram, (scene.port.local.host, scene.port.local.port))
        while len(scene.client.asked) < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
    scene.client.seconds = 0

    with trio.fail_after(5):
        by_udp = await scene.ask("a.example")
        await slow.send_all(framed(dns.message.make_query("a.example", "A")))
        assert len(await slow.receive_some(4096)) > 12

    assert records_of(by_udp) == ["5.5.5.5"]


async def test_nobody_waits_longer_than_twenty_seconds(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    scene.client.seconds = 1000

    response = await scene.ask("a.example", seconds=60)

    assert response.rcode() == dns.rcode.SERVFAIL
    assert ANSWER_SECONDS <= trio.current_time() < ANSWER_SECONDS + 2


async def test_queries_beyond_the_limit_are_dropped_and_others_answered_after(
    autojump_clock: trio.testing.MockClock,
) -> None:  # FE-11
    autojump_clock.autojump_threshold = 0.05
    async with open_door(limits=DnsLimits(queries=2)) as scene:
        scene.client.seconds = 5
        async with trio.open_nursery() as nursery:
            for name in ("a.example", "b.example"):
                nursery.start_soon(scene.ask, name)
            while len(scene.client.asked) < 2:
                await trio.testing.wait_all_tasks_blocked(0.001)
            with pytest.raises(dns.exception.Timeout):
                await scene.ask("c.example", seconds=1)

        assert scene.door.statistics()["turned_away"] == 1
        assert records_of(await scene.ask("a.example")) == ["5.5.5.5"]


# ---- nonsense, and slow programs


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"nonsense",
        bytes(12),
        b"\xff" * 512,
        b"\0" * 4096,
        b"\x01\x02\x81\x00" + bytes(20),
    ],
)
async def test_nonsense_stops_nothing(scene: Scene, data: bytes) -> None:
    here = scene.port.local
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.sendto(data, (here.host, here.port))
    await scene.send(len(data).to_bytes(2, "big") + data)

    assert records_of(await scene.ask("a.example")) == ["5.5.5.5"]
    assert scene.door.statistics()["bugs"] == 0


async def test_an_answer_is_never_answered(scene: Scene) -> None:
    response = dns.message.make_response(dns.message.make_query("a.example", "A"))
    here = scene.port.local

    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.sendto(response.to_wire(), (here.host, here.port))
        with trio.move_on_after(0.1) as waiting:
            await sock.recv(512)

    assert waiting.cancelled_caught


async def test_a_connection_that_says_nothing_is_closed(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    stream = await scene.send(b"\0")
    for _ in range(4):
        await trio.sleep(3)  # a byte now and then is no query
        if trio.current_time() < 9:
            await stream.send_all(b"\x40")

    assert await stream.receive_some(1) == b""
    assert 10 <= trio.current_time() < 15


async def test_the_oldest_connection_makes_room() -> None:
    async with open_door(limits=DnsLimits(connections=2)) as scene:
        oldest = await scene.send(b"\0")
        for _ in range(2):
            await scene.send(b"\0")

        with trio.fail_after(5):
            assert await oldest.receive_some(1) == b""
        assert records_of(await scene.ask("a.example", by_tcp=True)) == ["5.5.5.5"]


async def test_a_connection_answers_what_is_ready_first(scene: Scene) -> None:  # RFC 7766 §6.2.1.1
    scene.client.seconds = 0.3
    slow = dns.message.make_query("a.example", "A")
    quick = dns.message.make_query("a.example", "MX")
    stream = await scene.send(framed(slow) + framed(quick))
    await stream.send_eof()

    data = b"".join([part async for part in stream])

    first = dns.message.from_wire(data[2 : 2 + int.from_bytes(data[:2], "big")])
    second = dns.message.from_wire(data[4 + int.from_bytes(data[:2], "big") :])
    assert quick.is_response(first)
    assert slow.is_response(second)
    assert records_of(second) == ["5.5.5.5"]


async def test_a_bug_costs_one_answer_only(scene: Scene) -> None:  # DOS-1
    scene.client.error = RuntimeError("a bug that names a.example")
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(dns.exception.Timeout):
                await scene.ask("a.example", seconds=0.2)
    scene.client.error = None

    (told,) = [log for log in logs if log["log_level"] != "debug"]
    assert "a.example" not in str(told)
    assert records_of(await scene.ask("a.example")) == ["5.5.5.5"]
    assert scene.door.statistics()["bugs"] == 2


# ---- where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_other_machines_need_an_allow_list(host: str) -> None:  # T48
    with pytest.raises(ConfigError, match="other machines can reach"):
        DnsDoor(FakeClient()).listen(Address(host, 0))


async def test_who_is_not_allowed_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:  # FE-1
    async with open_door(allow_clients=[ip_network("192.168.1.0/24")]) as scene:
        monkeypatch.setattr(scene.port, "_allows", lambda ip: False)

        with pytest.raises(dns.exception.Timeout):
            await scene.ask("a.example", seconds=0.2)
        stream = await scene.send(b"")

        assert await stream.receive_some(1) == b""
        assert scene.door.statistics()["turned_away"] == 2


async def test_a_port_that_is_taken_is_told(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="choose another address or port"):
        scene.door.listen(scene.port.local)


async def test_the_numbers_name_nobody(scene: Scene) -> None:
    await scene.ask("a.example")
    await scene.ask("b.example")
    await scene.ask("printer")

    assert scene.door.statistics() == {
        "queries": 3,
        "answered": 1,
        "not_found": 1,
        "failed": 0,
        "refused": 1,
        "malformed": 0,
        "turned_away": 0,
        "bugs": 0,
        "asking": 0,
    }
