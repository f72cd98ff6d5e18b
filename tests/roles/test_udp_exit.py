"""The exit for datagrams: whom it writes to, how often, and who may write back (EXT-15, T65)."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.roles.test_exit import INTERNAL, OPEN, OWN, V4, V6, FakeOwn, FakeResolver
from tests.support.memory_datagrams import MemoryDatagrams, MemorySocket
from tests.support.small_network import Origin, SmallNetwork, small_network
from warren.addresses import Address
from warren.directory.address_tables import NAT64_NAME, REFUSED_NETWORKS
from warren.directory.exit_policy import UDP_PROFILES, ExitPolicy
from warren.errors import EndReason, ExitError, LinkError
from warren.network.associations import CircuitAssociation
from warren.network.circuits import Circuit
from warren.network.names import Resolver
from warren.network.own_addresses import OwnAddresses
from warren.protocol.datagrams import MOST_DATAGRAM
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.roles.exit import Exit
from warren.roles.udp_exit import UdpExit, UdpLimits

REMOTE = Address(V4, 443)


@dataclass
class Scene:
    """Hold a circuit of three hops whose last one sends datagrams into a world in memory."""

    net: SmallNetwork
    origin: Origin
    circuit: Circuit
    exit: UdpExit
    resolver: FakeResolver
    world: MemoryDatagrams

    async def associate(self, flags: BeginFlags = ANY_FAMILY) -> CircuitAssociation:
        """Open an association; raise ExitError when the exit refuses."""
        association = self.circuit.open_association(flags)
        await association.wait_connected()
        return association

    async def send(
        self, association: CircuitAssociation, *datagrams: tuple[Address, bytes]
    ) -> list[tuple[Address, bytes]]:
        """Send `datagrams`; return what has come back when all is quiet."""
        for address, data in datagrams:
            association.send(address, data)
        await wait_all_tasks_blocked()
        return association.take()

    @property
    def socket(self) -> MemorySocket:
        """Return the exit's one socket."""
        (sock,) = self.world.sockets
        return sock


@asynccontextmanager
async def udp_scene(
    policy: tuple[str, ...] = OPEN,
    *,
    limits: UdpLimits | None = None,
    allow_targets: tuple[Address, ...] = (),
    is_relay: Callable[[bytes], bool] = lambda _: True,
) -> AsyncIterator[Scene]:
    async with small_network(relays=2) as net:
        resolver, world = FakeResolver(), MemoryDatagrams()
        leaving = Exit(
            net.memory.at("5.5.3.5"),
            ExitPolicy.parse(OPEN),
            cast(Resolver, resolver),
            cast(OwnAddresses, FakeOwn()),
            is_relay=is_relay,
            network_places=lambda: {hop.address for hop in net.hops},
            allow_targets=allow_targets,
        )
        udp = UdpExit(leaving, ExitPolicy.parse(policy), open_socket=world.open, limits=limits)
        relay = await net.add_relay(serve_exit=leaving.serve, serve_datagrams=udp.serve)
        relay.nursery.start_soon(leaving.watch)
        relay.nursery.start_soon(udp.watch)
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)
        await wait_all_tasks_blocked()
        assert resolver.asked == [NAT64_NAME]
        resolver.asked.clear()
        yield Scene(net, origin, circuit, udp, resolver, world)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with udp_scene() as scene:
        yield scene


def echo(data: bytes) -> list[bytes]:
    return [b"echo of " + data]


# ---- reaching remotes


async def test_datagrams_go_to_their_remotes_and_answers_come_back(
    scene: Scene, autojump_clock: MockClock
) -> None:
    far_v6 = Address(V6, 3478)
    scene.world.answers = {REMOTE: echo, far_v6: lambda _: [b"", b"x" * MOST_DATAGRAM]}
    association = await scene.associate()

    came = await scene.send(association, (REMOTE, b"one"), (far_v6, b"two"))

    assert scene.world.sent == [(b"one", REMOTE), (b"two", far_v6)]
    assert came == [(REMOTE, b"echo of one"), (far_v6, b""), (far_v6, b"x" * MOST_DATAGRAM)]
    assert [sock.local.host for sock in scene.world.sockets] == ["0.0.0.0", "::"]


async def test_an_association_is_there_without_waiting(
    scene: Scene, autojump_clock: MockClock
) -> None:
    before = trio.current_time()

    await scene.associate()

    assert trio.current_time() == before


async def test_datagrams_need_not_wait_for_an_answer_to_their_opening(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = scene.circuit.open_association()

    await scene.send(association, (REMOTE, b"at once"))

    assert scene.world.sent == [(b"at once", REMOTE)]


async def test_a_name_is_resolved_once_and_its_answers_come_from_the_address(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["dns.example"] = ("10.0.0.1", V4)
    scene.resolver.seconds = 1
    scene.world.answers = {Address(V4, 53): echo}
    association = await scene.associate()
    name = Address("dns.example", 53)

    await scene.send(association, (name, b"1"), (name, b"2"))
    await trio.sleep(2)
    await scene.send(association, (name, b"3"))

    assert scene.resolver.asked == ["dns.example"]
    assert [data for data, _ in scene.world.sent] == [b"1", b"2", b"3"]
    assert scene.world.remotes == {f"{V4}:53": 3}


async def test_a_name_is_asked_again_when_its_time_is_over(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["dns.example"] = (V4,)
    name = Address("dns.example", 53)
    scene.world.answers = {Address(V4, 53): echo}
    association = await scene.associate()

    for _ in range(8):
        await scene.send(association, (name, b"?"))
        await trio.sleep(50)

    assert scene.resolver.asked == ["dns.example"] * 2


@pytest.mark.parametrize(
    ("flags", "host"), [(ANY_FAMILY, V4), (BeginFlags.NO_IPV4, V6), (BeginFlags.PREFER_IPV6, V6)]
)
async def test_the_flags_choose_among_the_addresses_of_a_name(
    flags: BeginFlags, host: str, scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["dns.example"] = (V4, V6)
    association = await scene.associate(flags)

    await scene.send(association, (Address("dns.example", 53), b"?"))

    assert [remote.host for _, remote in scene.world.sent] == [host]


async def test_a_name_that_is_not_found_is_dropped_and_counted(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()

    await scene.send(association, (Address("no.example", 53), b"?"))

    assert scene.exit.counts == {"not resolved": 1}
    assert not association.is_ended


async def test_names_that_take_long_are_few_and_what_waits_for_them_too(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.seconds = 5
    names = [Address(f"n{number}.example", 53) for number in range(20)]
    scene.resolver.names = {name.host: (V4,) for name in names}
    association = await scene.associate()

    await scene.send(association, *((name, b"?") for name in names))
    await scene.send(association, *((names[0], b"again") for _ in range(40)))
    await trio.sleep(6)

    assert len(scene.resolver.asked) == 4
    assert len(scene.world.sent) <= 10  # to one address that does not answer


async def test_an_association_for_which_there_is_no_socket_is_told_so(
    scene: Scene, autojump_clock: MockClock
) -> None:  # EXT-12
    def open_none(host: str) -> MemorySocket:
        raise LinkError("too many are open", is_local=True)

    scene.exit.open_socket = open_none
    association = await scene.associate()

    await scene.send(association, (REMOTE, b"hello"))

    assert association.reason is EndReason.RESOURCE_LIMIT
    assert scene.net.logs == []


async def test_a_family_that_this_machine_lacks_is_no_bug(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.world.missing_families = {"::"}
    association = await scene.associate()

    await scene.send(association, (Address(V6, 443), b"6"), (REMOTE, b"4"))

    assert scene.world.sent == [(b"4", REMOTE)]
    assert scene.exit.counts == {"not sent": 1, "sent": 1}


# ---- T65: what is never sent


@pytest.mark.parametrize(
    "host", [*INTERNAL, "255.255.255.255", "224.0.0.251", "239.255.255.250", "ff02::fb", "ff0e::1"]
)
async def test_nothing_goes_to_denied_addresses(
    host: str, scene: Scene, autojump_clock: MockClock
) -> None:
    scene.resolver.names["rebound.example"] = (host,)
    association = await scene.associate()

    await scene.send(
        association, (Address(host, 443), b"literal"), (Address("rebound.example", 443), b"name")
    )

    assert scene.world.sent == []
    assert scene.exit.counts == {"not allowed": 2}


async def test_an_address_out_of_every_denied_network_is_left_alone(
    scene: Scene, autojump_clock: MockClock
) -> None:
    rng = random.Random(15)
    association = await scene.associate()
    hosts = [str(n[rng.randrange(min(n.num_addresses, 1 << 30))]) for n in REFUSED_NETWORKS]

    await scene.send(association, *((Address(host, 443), b"x") for host in hosts))

    assert scene.world.sent == []
    assert scene.exit.counts == {"not allowed": len(hosts)}


async def test_no_exemption_opens_multicast_or_broadcast(autojump_clock: MockClock) -> None:
    hosts = ("224.0.0.251", "255.255.255.255", "ff02::fb", "127.0.0.1")
    exempt = tuple(Address(host, 5353) for host in hosts)
    async with udp_scene(("reject *:*",), allow_targets=exempt) as scene:
        association = await scene.associate()

        await scene.send(association, *((target, b"x") for target in exempt))

        assert scene.world.sent == [(b"x", Address("127.0.0.1", 5353))]


@pytest.mark.parametrize("host", ["localhost", "printer", "nas.local", "x.onion"])
async def test_names_of_somebodys_own_network_are_not_asked_for(
    host: str, scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()

    await scene.send(association, (Address(host, 53), b"?"))

    assert (scene.resolver.asked, scene.world.sent) == ([], [])


async def test_ports_that_reflect_are_closed_under_the_open_profile(
    autojump_clock: MockClock,
) -> None:
    async with udp_scene(UDP_PROFILES["open"]) as scene:
        scene.resolver.names["dns.example"] = (V4,)
        association = await scene.associate()

        for host in (V4, V6, "dns.example"):
            for port in (53, 123, 161, 389, 1900, 11211):
                await scene.send(association, (Address(host, port), b"x"))

        assert (scene.resolver.asked, scene.world.sent) == ([], [])
        assert scene.exit.counts == {"not allowed": 18}


async def test_the_network_is_no_remote_of_its_own(scene: Scene, autojump_clock: MockClock) -> None:
    """EXT-9."""
    association = await scene.associate()

    await scene.send(association, *((hop.address, b"x") for hop in scene.net.hops))

    assert scene.world.sent == []


async def test_own_addresses_that_are_learnt_later_count_within_a_minute(
    scene: Scene, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.world.answers = {REMOTE: echo}
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"before"))

    monkeypatch.setattr(
        FakeOwn, "contains", lambda self, ip: "mine" if str(ip) in (V4, OWN) else None
    )
    await trio.sleep(59)
    await scene.send(association, (REMOTE, b"still"))
    await trio.sleep(2)
    await scene.send(association, (REMOTE, b"after"))

    assert [data for data, _ in scene.world.sent] == [b"before", b"still"]


# ---- T65: how often


async def test_who_does_not_answer_gets_ten(scene: Scene, autojump_clock: MockClock) -> None:
    association = await scene.associate()

    await scene.send(association, *((REMOTE, b"?") for _ in range(100)))

    assert scene.world.remotes == {str(REMOTE): 10}
    assert scene.exit.counts == {"sent": 10, "unanswered": 90}


async def test_the_ports_of_one_address_share_the_ten(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()

    await scene.send(association, *((Address(V4, port), b"?") for port in range(1, 101)))

    assert len(scene.world.sent) == 10


async def test_each_answer_is_worth_ten_more(scene: Scene, autojump_clock: MockClock) -> None:
    association = await scene.associate()
    await scene.send(association, *((REMOTE, b"?") for _ in range(20)))

    counts = []
    for _ in range(3):
        scene.socket.arrive(b"!", REMOTE)
        await scene.send(association, *((REMOTE, b"?") for _ in range(50)))
        counts.append(len(scene.world.sent))

    assert counts == [10, 20, 30]


async def test_who_is_silent_gets_no_more_from_many_associations(
    scene: Scene, autojump_clock: MockClock
) -> None:
    associations = [scene.circuit.open_association() for _ in range(16)]
    for association in associations:
        for _ in range(20):
            association.send(REMOTE, b"?")

    await wait_all_tasks_blocked()
    at_once = len(scene.world.sent)
    await trio.sleep(61)
    await scene.send(await scene.associate(), *((REMOTE, b"?") for _ in range(20)))

    assert at_once == UdpLimits().unanswered_by_all == 100
    assert len(scene.world.sent) == 110


async def test_ten_thousand_remotes_are_sixty_four(scene: Scene, autojump_clock: MockClock) -> None:
    association = await scene.associate()
    rng = random.Random(65)
    remotes = {f"93.184.{rng.randrange(256)}.{rng.randrange(256)}" for _ in range(12_000)}

    for host in remotes:
        association.send(Address(host, 443), b"x")
        if rng.random() < 0.02:
            await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()

    assert len(remotes) > 10_000
    assert len({remote for _, remote in scene.world.sent}) == 64


async def test_a_remote_that_is_idle_for_a_minute_makes_room(autojump_clock: MockClock) -> None:
    async with udp_scene(limits=UdpLimits(remotes=2)) as scene:
        busy, idle, new = (Address(f"93.184.216.{n}", 443) for n in (1, 2, 3))
        scene.world.answers = {busy: echo}
        association = await scene.associate()
        await scene.send(association, (busy, b"1"), (idle, b"1"), (new, b"1"))
        assert str(new) not in scene.world.remotes

        for _ in range(7):
            await scene.send(association, (busy, b"2"))
            await trio.sleep(10)
        await scene.send(association, (new, b"2"), (idle, b"2"))

        assert scene.world.remotes == {str(busy): 8, str(idle): 1, str(new): 1}


# ---- T65: who may write back


async def test_only_who_was_written_to_may_write_back(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"?"))

    scene.socket.arrive(b"from another port", Address(V4, 9))
    scene.socket.arrive(b"unsolicited", Address("93.184.216.35", 443))
    scene.socket.arrive(b"unsolicited", Address("127.0.0.1", 443))
    came = await scene.send(association)

    assert came == [(Address(V4, 9), b"from another port")]
    assert scene.exit.counts["unsolicited"] == 2


async def test_who_was_refused_may_not_write_back(scene: Scene, autojump_clock: MockClock) -> None:
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"?"), (Address("10.0.0.1", 443), b"?"))

    scene.socket.arrive(b"hello from your LAN", Address("10.0.0.1", 443))

    assert await scene.send(association) == []


async def test_after_a_minute_of_silence_nobody_may_write_back(
    scene: Scene, autojump_clock: MockClock
) -> None:
    other = Address("93.184.216.35", 443)
    scene.world.answers = {other: echo}
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"?"))
    for _ in range(7):
        await scene.send(association, (other, b"?"))
        await trio.sleep(10)

    scene.socket.arrive(b"late", REMOTE)

    assert await scene.send(association) == []
    assert scene.exit.counts["unsolicited"] == 1


async def test_longer_datagrams_than_may_be_are_dropped(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"?"))

    scene.socket.arrive(bytes(MOST_DATAGRAM + 1), REMOTE)
    scene.socket.arrive(bytes(MOST_DATAGRAM), REMOTE)

    assert [len(data) for _, data in await scene.send(association)] == [MOST_DATAGRAM]


# ---- its life


async def test_an_idle_association_ends_after_a_minute(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"?"))

    await trio.sleep(59)
    assert not association.is_ended
    await trio.sleep(7)

    assert association.reason is EndReason.TIMEOUT
    assert scene.socket.is_closed
    assert scene.exit.statistics()["open"] == 0


async def test_what_is_refused_keeps_no_association_alive(
    scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()

    for _ in range(9):
        await scene.send(association, (Address("10.0.0.1", 443), b"x"))
        await trio.sleep(8)

    assert association.reason is EndReason.TIMEOUT


@pytest.mark.parametrize("how", ["END", "the circuit"])
async def test_its_sockets_are_closed_with_it(
    how: str, scene: Scene, autojump_clock: MockClock
) -> None:
    association = await scene.associate()
    await scene.send(association, (REMOTE, b"4"), (Address(V6, 443), b"6"))

    if how == "END":
        association.end()
    else:
        scene.circuit.close()
    await trio.sleep(1)

    assert [sock.is_closed for sock in scene.world.sockets] == [True, True]
    assert scene.exit.statistics() == {
        "associated": 1, "open": 0, "remotes": 0, "datagrams": {"sent": 2}
    }  # fmt: skip


async def test_an_exit_that_leaves_begins_no_association_and_keeps_those_there_are(
    autojump_clock: MockClock,
) -> None:  # security F, SIGTERM
    async with udp_scene() as scene:
        there = await scene.associate()

        scene.exit.exit.is_leaving = True
        with pytest.raises(ExitError) as caught:
            await scene.associate()

        assert caught.value.reason is EndReason.HIBERNATING
        assert not there.is_ended


async def test_a_circuit_has_few_associations_and_an_exit_not_too_many(
    autojump_clock: MockClock,
) -> None:
    async with udp_scene(limits=UdpLimits(associations=3, associations_per_circuit=2)) as scene:
        other = await scene.origin.build(scene.net.hops)
        first = [await scene.associate() for _ in range(2)]
        with pytest.raises(ExitError) as of_circuit:
            await scene.associate()
        await other.open_association().wait_connected()
        with pytest.raises(ExitError) as of_all:
            await other.open_association().wait_connected()
        first[0].end()
        await wait_all_tasks_blocked()
        await scene.associate()

        reasons = [caught.value.reason for caught in (of_circuit, of_all)]
        assert reasons == [EndReason.RESOURCE_LIMIT] * 2


async def test_a_circuit_from_nobody_we_know_is_destroyed(autojump_clock: MockClock) -> None:
    """EXT-8."""
    async with udp_scene(is_relay=lambda _: False) as scene:
        association = scene.circuit.open_association()
        await scene.send(association, (REMOTE, b"?"))

        assert association.reason in (EndReason.EXIT_POLICY, EndReason.DESTROY)
        assert not scene.circuit.is_open
        assert scene.world.sockets == []


async def test_a_circuit_of_one_hop_is_destroyed(scene: Scene, autojump_clock: MockClock) -> None:
    """EXT-8, T13."""
    short = await scene.origin.build(scene.net.hops[-1:])
    association = short.open_association()

    await scene.send(association, (REMOTE, b"?"))

    assert association.reason is EndReason.EXIT_POLICY
    assert not short.is_open
    assert scene.world.sockets == []


async def test_a_relay_that_sends_no_datagrams_says_so(autojump_clock: MockClock) -> None:
    async with small_network() as net:
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)

        with pytest.raises(ExitError) as caught:
            await circuit.open_association().wait_connected()

        assert caught.value.reason is EndReason.EXIT_POLICY
        assert circuit.is_open
