"""The exit: what it refuses, in which order, and how it reaches the rest."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.memory_network import MemoryNetwork, MemoryStream, receive
from tests.support.small_network import Origin, RelayPeer, SmallNetwork, pattern, small_network
from warren.addresses import Address, IPAddress
from warren.directory.address_tables import NAT64_NAME
from warren.directory.exit_policy import ExitPolicy
from warren.errors import CircuitError, EndReason, ExitError, LinkError, NotFound
from warren.network.circuits import Circuit
from warren.network.names import Answer, Pointer, Resolver, ResolverStatistics
from warren.network.own_addresses import OwnAddresses
from warren.network.streams import CircuitStream
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.stream import StreamState
from warren.roles.exit import Exit
from warren.roles.exit_dial import ATTEMPT_DELAY_SECONDS
from warren.roles.exit_limits import ExitLimits
from warren.roles.idleness import LOOK_SECONDS

V4, OTHER_V4, V6 = "93.184.216.34", "93.184.216.35", "2606:2800:220::1"
OWN = "93.184.216.99"
OPEN = ("accept *:*",)


@dataclass
class FakeResolver:
    """Be a resolver that knows a few names, and remembers what it was asked."""

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failure: EndReason = EndReason.RESOLVE_FAILED
    seconds: float = 0.0
    running: int = 0

    def statistics(self) -> ResolverStatistics:
        return ResolverStatistics(len(self.asked), 0, 0, 0, 0)

    async def resolve(self, host: str, key: Hashable = None) -> Answer:
        found = await self._find(host)
        return Answer(tuple(ip_address(text) for text in found), 300)

    async def reverse(self, ip: IPAddress, key: Hashable = None) -> Pointer:
        found = await self._find(str(ip))
        return Pointer(Address(found[0], 0), 300)

    async def _find(self, subject: str) -> tuple[str, ...]:
        self.asked.append(subject)
        self.running += 1
        try:
            await trio.sleep(self.seconds)
        finally:
            self.running -= 1
        if subject not in self.names:
            raise ExitError(self.failure)
        if not self.names[subject]:
            raise NotFound
        return self.names[subject]


class FakeOwn:
    """Be an exit's own places: one address."""

    def contains(self, ip: IPAddress) -> str | None:
        return "an address of this host" if str(ip) == OWN else None


@dataclass
class Scene:
    """Hold a circuit of three hops whose last one is the exit under test."""

    net: SmallNetwork
    origin: Origin
    circuit: Circuit
    exit: Exit
    resolver: FakeResolver

    @property
    def relay(self) -> RelayPeer:
        return self.net.relays[-1]

    @property
    def dialled(self) -> list[str]:
        """Return what the exit has dialled."""
        relays = {hop.address for hop in self.net.hops}
        return [str(each) for each in self.net.memory.dialled if each not in relays]

    async def connect(
        self, host: str, port: int = 80, flags: BeginFlags = ANY_FAMILY
    ) -> CircuitStream:
        """Open a stream; raise ExitError when the exit refuses."""
        stream = self.circuit.open_stream(Address(host, port), flags)
        await stream.wait_connected()
        return stream

    async def refuse(self, host: str, port: int = 80) -> EndReason:
        """Return why the exit refuses."""
        with pytest.raises(ExitError) as caught:
            await self.connect(host, port)
        return caught.value.reason

    async def resolve(self, subject: str) -> list[str]:
        """Return what the exit says of a name or an address; raise what it says instead."""
        answer = await self.circuit.resolve(Address(subject, 0))
        return [address.host for address in answer.addresses]

    def listen(self, host: str, port: int = 80) -> "Target":
        return Target(self.net, host, port)


class Target:
    """Be a target that accepts everybody; ``streams`` are its ends."""

    def __init__(self, net: SmallNetwork, host: str, port: int) -> None:
        self.streams: list[MemoryStream] = []
        self.listener = net.memory.listen(Address(host, port))
        net.nursery.start_soon(self.listener.serve, self._accept, net.nursery)

    async def _accept(self, stream: Any) -> None:
        self.streams.append(stream)


@asynccontextmanager
async def exit_scene(
    policy: tuple[str, ...] = OPEN,
    *,
    limits: ExitLimits | None = None,
    allow_targets: tuple[Address, ...] = (),
    is_relay: Callable[[bytes], bool] = lambda _: True,
    view: Callable[[MemoryNetwork], MemoryNetwork] = lambda network: network,
) -> AsyncIterator[Scene]:
    async with small_network(relays=2) as net:
        resolver = FakeResolver()
        leaving = Exit(
            view(net.memory.at("5.5.3.5")),
            ExitPolicy.parse(policy),
            cast(Resolver, resolver),
            cast(OwnAddresses, FakeOwn()),
            is_relay=is_relay,
            network_places=lambda: {hop.address for hop in net.hops},
            allow_targets=allow_targets,
            limits=limits,
        )
        relay = await net.add_relay(serve_exit=leaving.serve, serve_names=leaving.resolve)
        relay.nursery.start_soon(leaving.watch)
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)
        await wait_all_tasks_blocked()
        assert resolver.asked == [NAT64_NAME]
        resolver.asked.clear()
        yield Scene(net, origin, circuit, leaving, resolver)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with exit_scene() as scene:
        yield scene


# ---- reaching a target


async def test_an_address_is_connected_to_and_named(
    scene: Scene, autojump_clock: MockClock
) -> None:
    target = scene.listen(V4)

    stream = await scene.connect(V4)
    await stream.send_all(b"hello")
    await wait_all_tasks_blocked()

    assert stream.protocol.connected is not None
    assert str(stream.protocol.connected.address) == f"{V4}:80"
    assert stream.protocol.connected.ttl == 0
    assert await receive(target.streams[0], 5) == b"hello"


async def test_a_name_is_resolved_once_and_its_address_is_told(
    scene: Scene, autojump_clock: MockClock
) -> None:
    """EXT-4, T02: the address that was checked is the one connected to."""
    scene.listen(V4)
    scene.resolver.names["a.example"] = (V4,)

    stream = await scene.connect("a.example")

    assert scene.resolver.asked == ["a.example"]
    assert stream.protocol.connected is not None
    assert str(stream.protocol.connected.address) == f"{V4}:80"
    assert stream.protocol.connected.ttl == 300


async def test_bytes_go_both_ways_and_end_cleanly(scene: Scene, autojump_clock: MockClock) -> None:
    address = scene.net.source(100_000)
    stream = await scene.connect(address.host, address.port)

    received = b"".join([part async for part in stream])
    await stream.aclose()
    await stream.wait_ended()

    assert received == pattern(100_000)
    assert stream.reason is EndReason.DONE


# ---- refusals, in their order


async def test_what_a_quiet_stream_brought_is_acknowledged_within_two_looks(
    scene: Scene, autojump_clock: MockClock
) -> None:  # DOS-5
    target = scene.listen(V4)
    stream = await scene.connect(V4)
    await stream.send_all(b"a little")
    await wait_all_tasks_blocked()
    before = stream.protocol.kept_bytes

    await trio.sleep(2 * LOOK_SECONDS + 1)

    assert (before, stream.protocol.kept_bytes) == (8, 0)
    assert target.streams[0].unread == 8


async def test_a_circuit_from_nobody_we_know_is_destroyed(autojump_clock: MockClock) -> None:
    """EXT-8: anyone can sign an identity for himself, and be the one hop before the exit."""
    async with exit_scene(is_relay=lambda _: False) as scene:
        scene.resolver.names["a.example"] = (V4,)

        reason = await scene.refuse("a.example")
        await wait_all_tasks_blocked()

        # The DESTROY may overtake the END at a hop between.
        assert reason in (EndReason.EXIT_POLICY, EndReason.DESTROY)
        assert not scene.circuit.is_open
        assert (scene.resolver.asked, scene.dialled) == ([], [])


@pytest.mark.parametrize("host", ["localhost", "printer", "nas.local", "x.onion", "a.internal"])
async def test_a_name_that_means_somebodys_own_network_is_not_asked(
    host: str, scene: Scene, autojump_clock: MockClock
) -> None:
    assert await scene.refuse(host) is EndReason.EXIT_POLICY  # EXT-2

    assert scene.resolver.asked == []


async def test_a_name_at_a_closed_port_is_not_asked(autojump_clock: MockClock) -> None:
    async with exit_scene(("accept *:80,443",)) as scene:
        scene.resolver.names["a.example"] = (V4,)

        assert await scene.refuse("a.example", 25) is EndReason.EXIT_POLICY

        assert scene.resolver.asked == []


@pytest.mark.parametrize("failure", [EndReason.RESOLVE_FAILED, EndReason.TIMEOUT])
async def test_a_name_without_an_address_says_so(
    failure: EndReason, scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.failure = failure

    assert await scene.refuse("no.example") is failure


INTERNAL = [
    "127.0.0.1",
    "10.0.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fe80::1",
    "fd00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    OWN,
]


@pytest.mark.parametrize("host", INTERNAL)
async def test_nothing_internal_is_dialled(
    host: str, scene: Scene, autojump_clock: MockClock
) -> None:
    """T01, T02: neither written as an address nor behind a name."""
    scene.resolver.names["rebound.example"] = (host,)

    reasons = [await scene.refuse(host), await scene.refuse("rebound.example")]

    assert reasons == [EndReason.EXIT_POLICY] * 2
    assert scene.dialled == []


async def test_of_a_mixed_answer_only_the_allowed_part_is_dialled(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.listen(OTHER_V4)
    scene.resolver.names["mixed.example"] = ("127.0.0.1", OTHER_V4, "10.0.0.1", "::1")

    await scene.connect("mixed.example")

    assert scene.dialled == [f"{OTHER_V4}:80"]
    assert scene.resolver.asked == ["mixed.example"]


async def test_the_policy_has_the_last_word_on_public_addresses(
    autojump_clock: MockClock,
) -> None:
    async with exit_scene((f"reject {V4}:*", "accept *:80")) as scene:
        scene.listen(OTHER_V4)

        assert await scene.refuse(V4) is EndReason.EXIT_POLICY
        assert await scene.refuse(OTHER_V4, 81) is EndReason.EXIT_POLICY
        await scene.connect(OTHER_V4)

        assert scene.dialled == [f"{OTHER_V4}:80"]


@pytest.mark.parametrize("by_name", [False, True])
async def test_the_network_is_no_target_of_its_own(
    by_name: bool, scene: Scene, autojump_clock: MockClock
) -> None:
    """EXT-9, T14: and the reason is none after which a client tries elsewhere."""
    guard = scene.net.hops[0].address
    scene.resolver.names["relay.example"] = (V4, guard.host)
    before = len(scene.net.memory.dialled)

    reason = await scene.refuse("relay.example" if by_name else guard.host, guard.port)

    assert reason is EndReason.PROTOCOL
    assert len(scene.net.memory.dialled) == before


async def test_the_network_behind_a_nat64_is_the_network_too(autojump_clock: MockClock) -> None:
    async with exit_scene() as scene:
        scene.exit._nat64 = learned_nat64()

        reason = await scene.refuse("64:ff9b::505:105", 9000)  # 5.5.1.5

        assert reason is EndReason.PROTOCOL


def learned_nat64() -> Any:
    from warren.directory.address_tables import learn_nat64

    return learn_nat64([ip_address("64:ff9b::c000:aa"), ip_address("64:ff9b::c000:ab")])


async def test_an_exempt_target_is_one_address_and_one_port(autojump_clock: MockClock) -> None:
    """EXT-16."""
    exempt = Address("127.0.0.1", 8080)
    async with exit_scene(("reject *:*",), allow_targets=(exempt,)) as scene:
        scene.listen("127.0.0.1", 8080)

        await scene.connect("127.0.0.1", 8080)

        assert await scene.refuse("127.0.0.1", 8081) is EndReason.EXIT_POLICY
        assert await scene.refuse("127.0.0.2", 8080) is EndReason.EXIT_POLICY
        assert scene.dialled == [str(exempt)]


async def test_a_connection_to_itself_is_no_target(autojump_clock: MockClock) -> None:
    """EXT-4: TCP may connect a port to itself."""

    class Mirror(MemoryNetwork):
        async def dial(self, address: Address) -> MemoryStream:
            stream = await super().dial(address)
            stream.local = stream.remote
            return stream

    async with exit_scene(view=lambda network: as_kind(Mirror, network)) as scene:
        scene.listen(V4)

        assert await scene.refuse(V4) is EndReason.EXIT_POLICY


def as_kind(kind: type[MemoryNetwork], network: MemoryNetwork) -> MemoryNetwork:
    """Return a view of `network` that dials as `kind` does."""
    view = network.at(network.host)
    view.__class__ = kind
    return view


# ---- connecting


async def test_a_target_that_does_not_answer_takes_eight_seconds(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.net.memory.stall(V4)
    start = trio.current_time()

    reason = await scene.refuse(V4)

    assert reason is EndReason.TIMEOUT
    assert trio.current_time() - start == 8  # EXT-10


async def test_a_target_that_refuses_is_reported(scene: Scene, autojump_clock: MockClock) -> None:
    assert await scene.refuse(V4) is EndReason.CONNECT_REFUSED


@pytest.mark.parametrize(
    ("flags", "order"),
    [
        (ANY_FAMILY, [V4, V6]),
        (BeginFlags.PREFER_IPV6, [V6, V4]),
        (BeginFlags.NO_IPV4, [V6]),
        (BeginFlags.NO_IPV6, [V4]),
    ],
)
async def test_the_client_chooses_the_family(
    flags: BeginFlags, order: list[str], scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["both.example"] = (V6, V4)

    with pytest.raises(ExitError):
        await scene.connect("both.example", flags=flags)

    assert scene.dialled == [str(Address(host, 80)) for host in order]


async def test_without_an_address_of_the_family_there_is_none(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["four.example"] = (V4,)

    with pytest.raises(ExitError) as caught:
        await scene.connect("four.example", flags=BeginFlags.NO_IPV4)

    assert caught.value.reason is EndReason.RESOLVE_FAILED


@pytest.mark.parametrize(
    ("first", "second", "winner", "seconds"),
    [
        (0.1, 0.1, V4, 0.1),
        (1.0, 0.1, V6, ATTEMPT_DELAY_SECONDS + 0.1),
        (0.3, 0.1, V4, 0.3),
        (100.0, 0.1, V6, ATTEMPT_DELAY_SECONDS + 0.1),
    ],
)
async def test_two_addresses_race_with_a_head_start(
    first: float,
    second: float,
    winner: str,
    seconds: float,
    scene: Scene,
    autojump_clock: MockClock,
) -> None:
    targets = {V4: scene.listen(V4), V6: scene.listen(V6)}
    scene.net.memory.dial_seconds.update({V4: first, V6: second})
    scene.resolver.names["both.example"] = (V4, V6)
    start = trio.current_time()

    stream = await scene.connect("both.example")
    await wait_all_tasks_blocked()

    assert stream.protocol.connected is not None
    assert stream.protocol.connected.address.host == winner
    assert trio.current_time() - start == pytest.approx(seconds)
    loser = targets[V6 if winner == V4 else V4]
    assert all(each.peer and each.peer.is_closed for each in loser.streams)


async def test_of_two_that_answer_in_one_moment_one_is_kept(
    scene: Scene, autojump_clock: MockClock
) -> None:
    targets = [scene.listen(V4), scene.listen(V6)]
    scene.resolver.names["both.example"] = (V4, V6)
    scene.net.memory.stalled |= {V4, V6}
    stream = scene.circuit.open_stream(Address("both.example", 80))
    await trio.sleep(1)

    scene.net.memory.stalled.discard(V6)
    scene.net.memory.resume(V4)
    await stream.wait_connected()
    await wait_all_tasks_blocked()

    ends = [each for target in targets for each in target.streams]
    assert sorted(bool(each.peer and each.peer.is_closed) for each in ends) == [False, True]


async def test_a_quick_refusal_lets_the_second_begin_at_once(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.listen(V6)
    scene.resolver.names["both.example"] = (V4, V6)
    start = trio.current_time()

    await scene.connect("both.example")

    assert trio.current_time() == start


async def test_only_two_addresses_are_tried(scene: Scene, autojump_clock: MockClock) -> None:
    many = tuple(f"93.184.216.{last}" for last in range(1, 17))
    scene.resolver.names["many.example"] = many

    assert await scene.refuse("many.example") is EndReason.CONNECT_REFUSED

    assert scene.dialled == [f"{host}:80" for host in many[:2]]


async def test_two_addresses_that_hang_share_the_eight_seconds(
    scene: Scene, autojump_clock: MockClock
) -> None:
    for host in (V4, V6):
        scene.net.memory.stall(host)
    scene.resolver.names["both.example"] = (V4, V6)
    start = trio.current_time()

    assert await scene.refuse("both.example") is EndReason.TIMEOUT

    assert trio.current_time() - start == 8


async def test_a_connection_won_too_late_is_closed(autojump_clock: MockClock) -> None:
    """T82: the node is told to stop in the very moment in which the target answers."""

    class Stopping(MemoryNetwork):
        async def dial(self, address: Address) -> MemoryStream:
            stream = await super().dial(address)
            stop()
            return stream

    def stop() -> None:
        running.relay.nursery.cancel_scope.cancel()

    async with exit_scene(view=lambda network: as_kind(Stopping, network)) as running:
        target = running.listen(V4)
        running.resolver.names["both.example"] = (V4, V6)

        with pytest.raises(ExitError):
            await running.connect("both.example")
        await wait_all_tasks_blocked()

        assert [each.peer and each.peer.is_closed for each in target.streams] == [True]


# ---- leaving


async def test_an_exit_that_leaves_opens_nothing_more_and_keeps_what_is_open(
    scene: Scene, autojump_clock: MockClock
) -> None:  # security F, SIGTERM
    target = scene.listen(V4)
    stream = await scene.connect(V4)

    scene.exit.is_leaving = True

    assert await scene.refuse(V4) is EndReason.HIBERNATING
    await target.streams[0].send_all(b"still here")
    assert await stream.receive_some() == b"still here"
    assert scene.exit.statistics()["open"] == 1


# ---- limits


async def test_some_streams_of_a_circuit_wait_for_their_turn_to_connect(
    autojump_clock: MockClock,
) -> None:
    """EXT-11: what is pending is bounded, for one circuit and for all."""
    async with exit_scene(limits=ExitLimits(pending_connects_per_circuit=3)) as scene:
        target = scene.listen(V4)
        scene.net.memory.dial_seconds[V4] = 1
        start = trio.current_time()

        streams = [scene.circuit.open_stream(Address(V4, 80)) for _ in range(9)]
        await trio.sleep(0.5)
        dialled = len(scene.dialled)
        for stream in streams:
            await stream.wait_connected()

        assert dialled == 3
        assert trio.current_time() - start == 3
        assert len(target.streams) == 9


async def test_only_so_many_streams_of_a_circuit_wait_for_their_turn(
    autojump_clock: MockClock,
) -> None:
    """DOS-7: a page with a hundred hosts is served, and a flood is refused."""
    async with exit_scene() as scene:
        scene.listen(V4)
        scene.net.memory.dial_seconds[V4] = 0.1
        page = [scene.circuit.open_stream(Address(V4, 80)) for _ in range(180)]
        of_page = [(await settle(stream)).reason for stream in page]
        for stream in page:
            stream.reset()
        await trio.sleep(1)
        flood = [scene.circuit.open_stream(Address(V4, 80)) for _ in range(300)]

        of_flood = Counter([(await settle(stream)).reason for stream in flood])

        assert of_page == [None] * 180
        assert of_flood == {None: 16 + 240, EndReason.RESOURCE_LIMIT: 44}
        assert not scene.exit.admission._queued


async def test_an_exit_that_is_full_refuses(autojump_clock: MockClock) -> None:
    async with exit_scene(limits=ExitLimits(pending_connects=2)) as scene:
        scene.net.memory.stall(V4)
        for _ in range(2):
            scene.circuit.open_stream(Address(V4, 80))
        await wait_all_tasks_blocked()

        assert await scene.refuse(V4) is EndReason.RESOURCE_LIMIT

        await trio.sleep(10)
        assert scene.exit.statistics()["connecting"] == 0


async def test_one_address_takes_so_many_streams(autojump_clock: MockClock) -> None:
    async with exit_scene(limits=ExitLimits(streams_per_address=2)) as scene:
        scene.listen(V4)
        streams = [await scene.connect(V4) for _ in range(2)]

        reason = await scene.refuse(V4)
        streams[0].reset()
        await wait_all_tasks_blocked()
        await scene.connect(V4)

        assert reason is EndReason.RESOURCE_LIMIT


async def test_a_circuit_begins_streams_no_faster_than_it_may(autojump_clock: MockClock) -> None:
    """T60."""
    async with exit_scene(limits=ExitLimits(begins_per_second=2, begin_burst=5)) as scene:
        scene.listen(V4)
        reasons = [
            (await settle(scene.circuit.open_stream(Address(V4, 80)))).reason for _ in range(7)
        ]
        await trio.sleep(1)
        later = [
            (await settle(scene.circuit.open_stream(Address(V4, 80)))).reason for _ in range(3)
        ]

        limit = EndReason.RESOURCE_LIMIT
        assert reasons == [None] * 5 + [limit] * 2
        assert later == [None] * 2 + [limit]


async def settle(stream: CircuitStream) -> CircuitStream:
    """Wait until `stream` is connected or refused."""
    while stream.protocol.state is StreamState.OPENING:
        await stream.wait_news()
    return stream


async def test_the_streams_of_a_circuit_that_died_take_no_place(
    autojump_clock: MockClock,
) -> None:
    """T61: a circuit begins many streams to where nobody answers, and goes away."""
    async with exit_scene(limits=ExitLimits(pending_connects_per_circuit=4)) as scene:
        scene.resolver.names["slow.example"] = (V4,)
        scene.resolver.seconds = 3
        for _ in range(100):
            scene.circuit.open_stream(Address("slow.example", 80))
        await wait_all_tasks_blocked()

        scene.circuit.close()
        await trio.sleep(4)

        assert scene.exit.statistics()["connecting"] == 0
        assert (len(scene.resolver.asked), scene.dialled) == (4, [])


async def test_a_stream_that_ended_while_its_name_was_asked_is_not_connected(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.listen(V4)
    scene.resolver.names["slow.example"] = (V4,)
    scene.resolver.seconds = 3
    stream = scene.circuit.open_stream(Address("slow.example", 80))
    await trio.sleep(1)

    stream.reset()
    await trio.sleep(5)

    assert scene.resolver.asked == ["slow.example"]
    assert scene.dialled == []


async def test_a_stream_that_ended_while_connecting_resets_the_connection(  # SID-4
    scene: Scene, autojump_clock: MockClock
) -> None:
    target = scene.listen(V4)
    scene.net.memory.dial_seconds[V4] = 3
    stream = scene.circuit.open_stream(Address(V4, 80))
    await trio.sleep(1)

    stream.reset()
    await trio.sleep(5)

    [accepted] = target.streams
    assert accepted.peer is not None
    assert accepted.peer.is_closed
    with pytest.raises(LinkError):  # an end would look like all there was to say
        await receive(accepted)
    assert scene.exit.statistics()["open"] == 0


# ---- while it is open


async def test_a_stream_on_which_nothing_moves_is_reset(
    scene: Scene, autojump_clock: MockClock
) -> None:
    """EXT-10: and one on which something does, however little, is not."""
    target = scene.listen(V4)
    quiet, busy = await scene.connect(V4), await scene.connect(V4)

    for _ in range(15):
        await trio.sleep(60)
        if not busy.is_ended:
            await busy.send_all(b"x")

    assert quiet.reason is EndReason.TIMEOUT
    assert not busy.is_ended
    with pytest.raises(LinkError):
        await receive(target.streams[0])


async def test_a_stream_that_is_half_open_for_an_hour_is_reset(
    scene: Scene, autojump_clock: MockClock
) -> None:
    """EXT-10: though the side that has not ended still talks; one that is open both ways lives."""
    target = scene.listen(V4)
    asked, answered, open_both_ways = [await scene.connect(V4) for _ in range(3)]
    await asked.send_eof()
    target.streams[1].send_eof()
    reasons = []

    for _ in range(63):
        await trio.sleep(60)
        reasons.append([each.reason for each in (asked, answered, open_both_ways)])
        with contextlib.suppress(LinkError, trio.BrokenResourceError):
            await target.streams[0].send_all(b"x")
        with contextlib.suppress(trio.BrokenResourceError):
            await answered.send_all(b"x")
        await open_both_ways.send_all(b"x")

    assert reasons[59] == [None] * 3
    assert reasons[-1] == [EndReason.TIMEOUT, EndReason.TIMEOUT, None]


async def test_the_numbers_name_no_target(scene: Scene, autojump_clock: MockClock) -> None:
    scene.listen(V4)
    await scene.connect(V4)
    await scene.refuse("10.0.0.1")
    await scene.refuse(OTHER_V4)

    numbers = scene.exit.statistics()

    assert numbers == {
        "connected": 1,
        "resolved": 0,
        "open": 1,
        "connecting": 0,
        "refused": {"exit_policy": 1, "connect_refused": 1},
        "names": {"lookups": 0, "from_cache": 0, "failed": 0, "cached": 0, "running": 0},
    }


# ---- questions


async def test_names_and_addresses_are_resolved_without_connecting(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names = {"a.example": (V4, V6), V4: ("host.example",)}

    assert await scene.resolve("a.example") == [V4, V6]
    assert await scene.resolve(V4) == ["host.example"]

    assert scene.dialled == []
    assert scene.exit.statistics()["resolved"] == 2


async def test_a_question_without_an_answer_says_so(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["b.example"] = ()
    scene.resolver.failure = EndReason.TIMEOUT

    with pytest.raises(NotFound):
        await scene.resolve("b.example")
    with pytest.raises(ExitError) as caught:
        await scene.resolve("c.example")

    assert caught.value.reason is EndReason.TIMEOUT


@pytest.mark.parametrize(
    "inside", ["10.0.0.1", "127.0.0.1", "169.254.169.254", OWN, "fd00::1", "64:ff9b::7f00:1"]
)
async def test_what_a_name_means_inside_is_not_told(
    inside: str, scene: Scene, autojump_clock: MockClock
) -> None:  # EXT-6
    scene.resolver.names = {"a.example": (inside,), "b.example": (inside, V4)}

    with pytest.raises(ExitError) as caught:
        await scene.resolve("a.example")
    mixed = await scene.resolve("b.example")
    with pytest.raises(ExitError) as reverse:
        await scene.resolve(inside)

    assert caught.value.reason is reverse.value.reason is EndReason.EXIT_POLICY
    assert mixed == [V4]
    assert inside not in scene.resolver.asked


@pytest.mark.parametrize("name", ["printer", "printer.local", "a.onion", "router.home.arpa"])
async def test_local_names_are_not_asked_for(
    name: str, scene: Scene, autojump_clock: MockClock
) -> None:  # EXT-2
    with pytest.raises(ExitError) as caught:
        await scene.resolve(name)

    assert caught.value.reason is EndReason.EXIT_POLICY
    assert scene.resolver.asked == []


async def test_the_host_of_an_exempt_target_is_told(autojump_clock: MockClock) -> None:  # EXT-16
    async with exit_scene(allow_targets=(Address("127.0.0.1", 8000),)) as scene:
        scene.resolver.names = {"a.example": ("127.0.0.1", "127.0.0.2"), "127.0.0.1": ("a.b",)}

        assert await scene.resolve("a.example") == ["127.0.0.1"]
        assert await scene.resolve("127.0.0.1") == ["a.b"]


async def test_a_question_that_waits_holds_up_no_stream(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.listen(V4)
    scene.resolver.names["a.example"] = (V4,)
    scene.resolver.seconds = 9.0
    answers: list[list[str]] = []

    async def ask() -> None:
        answers.append(await scene.resolve("a.example"))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await scene.connect(V4)
        assert trio.current_time() - began < 1

    assert answers == [[V4]] * 100


async def test_the_questions_of_a_circuit_that_died_are_settled(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.seconds = 9.0

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(ExitError) as caught:
                await scene.resolve("a.example")
            assert caught.value.reason is EndReason.DESTROY

        await wait_all_tasks_blocked()
        assert scene.resolver.running == 1
        scene.circuit.machine.destroy()
        scene.circuit.turn.run()
    with pytest.raises(CircuitError):
        await scene.resolve("a.example")
    await wait_all_tasks_blocked()
    assert scene.resolver.running == 0


async def test_a_circuit_asks_no_faster_than_it_may(autojump_clock: MockClock) -> None:  # EXT-11
    limits = ExitLimits(begins_per_second=1, begin_burst=2)
    async with exit_scene(limits=limits) as scene:
        scene.resolver.names["a.example"] = (V4,)
        await scene.resolve("a.example")
        await scene.resolve("a.example")

        with pytest.raises(ExitError) as caught:
            await scene.resolve("a.example")

        assert caught.value.reason is EndReason.RESOURCE_LIMIT


async def test_nobody_we_know_gets_no_answer(autojump_clock: MockClock) -> None:  # T13
    async with exit_scene(is_relay=lambda _: False) as scene:
        with pytest.raises(ExitError) as caught:
            await scene.resolve("a.example")
        await wait_all_tasks_blocked()

        assert caught.value.reason is EndReason.DESTROY
        assert scene.resolver.asked == []
        assert scene.circuit.machine.is_closed


async def test_a_circuit_of_one_hop_gets_no_answer(autojump_clock: MockClock) -> None:  # T13
    async with exit_scene() as scene:
        circuit = await scene.origin.build([scene.relay.hop])

        with pytest.raises(ExitError):
            await circuit.resolve(Address("a.example", 0))

        assert scene.resolver.asked == []
        assert circuit.machine.is_closed


async def test_a_relay_that_is_no_exit_resolves_nothing(
    scene: Scene, autojump_clock: MockClock
) -> None:
    circuit = await scene.origin.build(scene.net.hops[:2])

    with pytest.raises(ExitError) as caught:
        await circuit.resolve(Address("a.example", 0))

    assert caught.value.reason is EndReason.EXIT_POLICY
