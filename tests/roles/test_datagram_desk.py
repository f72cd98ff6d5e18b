"""UDP ASSOCIATE at the proxy: real sockets on this side, a circuit in memory on the other."""

import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from tests.roles.test_proxy import Door, RenamedListener, everything, exactly, listen, open_door
from tests.roles.test_udp_exit import Scene, echo, udp_scene
from warren.addresses import Address
from warren.errors import DirectoryError, EndReason, ExitError, WarrenError
from warren.network.associations import CircuitAssociation
from warren.protocol.socks_datagrams import read_datagram, write_datagram
from warren.roles.listener_rules import ListenerRules

REMOTE = Address("93.184.216.34", 443)
OTHER = Address("93.184.216.35", 3478)
ASK = b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6)
LOGIN = b"\x05\x01\x02\x01\x02me\x01x\x05\x03\x00\x01" + bytes(6)


@dataclass
class Opener:
    """Be the client: give associations of one circuit, and remember for what."""

    scene: Scene
    asked: list[tuple[Address | None, Hashable]] = field(default_factory=list)
    given: list[CircuitAssociation] = field(default_factory=list)
    failure: WarrenError | None = None
    gate: trio.Event | None = None
    fits: Callable[[Address | None], Callable[[Address], bool]] = lambda _: lambda _: True

    async def open_association(
        self, address: Address | None, isolation: Hashable
    ) -> tuple[CircuitAssociation, Callable[[Address], bool]]:
        self.asked.append((address, isolation))
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            await self.gate.wait()
        association = self.scene.circuit.open_association()
        await association.wait_connected()
        self.given.append(association)
        return association, self.fits(address)


@dataclass
class Program:
    """Be a program: its connection, its socket, and where its datagrams go."""

    connection: trio.SocketStream
    socket: trio.socket.SocketType
    relay: tuple[str, int]

    async def send(self, remote: Address, data: bytes) -> None:
        head = write_datagram(remote, b"") if remote.ip else named(remote)
        await self.socket.sendto(head + data, self.relay)

    async def receive(self) -> tuple[Address, bytes]:
        data, source = await self.socket.recvfrom(4096)
        assert source == self.relay
        return read_datagram(data)

    async def is_silent(self) -> bool:
        """Tell whether nothing more comes within a tenth of a second."""
        with trio.move_on_after(0.1):
            await self.socket.recvfrom(4096)
            return False
        return True


def named(remote: Address) -> bytes:
    host = remote.host.encode()
    return bytes((0, 0, 0, 3, len(host))) + host + remote.port.to_bytes(2, "big")


@dataclass
class Desk:
    """Hold a proxy, the circuit behind it and what the exit of that sends to."""

    door: Door
    opener: Opener
    scene: Scene
    sockets: list[trio.socket.SocketType] = field(default_factory=list)

    async def open_socket(self, host: str = "127.0.0.1") -> trio.socket.SocketType:
        sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        self.sockets.append(sock)
        await sock.bind((host, 0))
        return sock

    async def associate(self, words: bytes = ASK, answer: bytes = b"\x05\x00") -> Program:
        connection = await self.door.say(words)
        assert await exactly(connection, len(answer)) == answer
        reply = await exactly(connection, 10)
        assert reply[:4] == b"\x05\x00\x00\x01"
        relay = (".".join(map(str, reply[4:8])), int.from_bytes(reply[8:], "big"))
        return Program(connection, await self.open_socket(), relay)

    def counted(self, name: str) -> int:
        return self.door.proxy.statistics()[f"udp_{name}"]

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110  what it looks at has no event
                await trio.sleep(0.005)


@asynccontextmanager
async def open_desk(
    policy: tuple[str, ...] = ("accept *:*",), listener: Any = None, **options: Any
) -> AsyncIterator[Desk]:
    async with udp_scene(policy) as scene:
        opener = Opener(scene)
        async with open_door(listener, datagrams=opener, **options) as door:
            desk = Desk(door, opener, scene)
            yield desk
            for sock in desk.sockets:
                sock.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk() as opened:
        yield opened


# ---- carrying datagrams


async def test_datagrams_go_out_and_answers_come_back(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo, OTHER: lambda _: [b"", b"two"]}
    program = await desk.associate()

    await program.send(REMOTE, b"hello")
    first = await program.receive()
    await program.send(OTHER, b"x" * 1472)
    rest = [await program.receive() for _ in range(2)]

    assert first == (REMOTE, b"echo of hello")
    assert rest == [(OTHER, b""), (OTHER, b"two")]
    assert desk.scene.world.sent == [(b"hello", REMOTE), (b"x" * 1472, OTHER)]


async def test_the_socket_is_on_loopback_where_the_connection_is(desk: Desk) -> None:
    program = await desk.associate()

    assert program.relay[0] == "127.0.0.1"


async def test_names_are_left_to_the_exit(desk: Desk) -> None:
    desk.scene.resolver.names["dns.example"] = (REMOTE.host,)
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate()

    await program.send(Address("dns.example", 443), b"?")

    assert await program.receive() == (REMOTE, b"echo of ?")
    assert desk.scene.resolver.asked == ["dns.example"]


async def test_logins_isolate_datagrams_as_they_do_streams(desk: Desk) -> None:
    await desk.associate()
    await desk.associate(LOGIN, b"\x05\x02\x01\x00")

    isolations = [isolation for _, isolation in desk.opener.asked]
    assert isolations[0] != isolations[1]


@pytest.mark.parametrize(
    "hint",
    [
        b"\x01" + bytes(6),
        b"\x01\x7f\x00\x00\x01\xff\xff",
        b"\x03\x05a.net\x01\xbb",
        b"\x03\x010\xff\xff",  # PySocks, with rdns
        b"\x03\x00\x00\x00",
    ],
)
async def test_where_a_program_says_it_is_does_not_matter(hint: bytes, desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate(b"\x05\x01\x00\x05\x03\x00" + hint)

    await program.send(REMOTE, b"?")

    assert await program.receive() == (REMOTE, b"echo of ?")


# ---- which exit


def by_port(address: Address | None) -> Callable[[Address], bool]:
    """Be a network in which every exit sends to one port only, 443 unless asked for another."""
    port = 443 if address is None else address.port
    return lambda other: other.port == port


async def test_what_one_exit_does_not_send_goes_through_another(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo, OTHER: echo}
    desk.opener.fits = by_port
    program = await desk.associate()

    for remote in (REMOTE, OTHER, REMOTE, OTHER):
        await program.send(remote, b"?")
        assert await program.receive() == (remote, b"echo of ?")

    assert [address for address, _ in desk.opener.asked] == [None, OTHER]


async def test_an_exit_that_ended_is_followed_by_another(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate()
    await program.send(REMOTE, b"1")
    await program.receive()

    desk.opener.given[0].end(EndReason.TIMEOUT)
    await program.send(REMOTE, b"2")

    assert await program.receive() == (REMOTE, b"echo of 2")
    assert [address for address, _ in desk.opener.asked] == [None, REMOTE]


async def test_a_program_has_eight_associations_at_a_time(desk: Desk) -> None:
    desk.opener.fits = by_port
    program = await desk.associate()

    for port in range(1000, 1012):
        await program.send(Address(f"93.184.216.{port - 900}", port), b"?")
        await desk.until(lambda port=port: len(desk.opener.given) == port - 998)  # type: ignore[misc]

    assert sum(not each.is_ended for each in desk.opener.given) == 8


async def test_what_no_exit_sends_is_dropped_and_does_not_hold_up_the_rest(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    desk.opener.fits = by_port
    program = await desk.associate()
    desk.opener.failure = DirectoryError("no exit allows it")

    for _ in range(3):
        await program.send(OTHER, b"?")
    await program.send(REMOTE, b"?")

    assert await program.receive() == (REMOTE, b"echo of ?")
    await desk.until(lambda: desk.counted("unsent") == 3)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (DirectoryError("no exit allows datagrams"), 3),
        (ExitError(EndReason.EXIT_POLICY), 2),
        (ExitError(EndReason.RESOURCE_LIMIT), 1),
        (ExitError(EndReason.TIMEOUT), 6),
    ],
)
async def test_without_an_exit_the_program_is_told(
    failure: WarrenError, code: int, desk: Desk
) -> None:
    desk.opener.failure = failure

    answer = await desk.door.ask(ASK)

    assert answer == bytes((5, 0, 5, code, 0, 1)) + bytes(6)


async def test_without_a_client_for_datagrams_there_are_none() -> None:
    async with open_door() as door:
        assert await door.ask(ASK) == b"\x05\x00\x05\x07\x00\x01" + bytes(6)


# ---- FE-13 and T65: who may send, and how long


async def test_only_the_first_port_of_the_owners_address_is_heard(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate()
    foreign = Program(program.connection, await desk.open_socket(), program.relay)
    elsewhere = Program(program.connection, await desk.open_socket("127.0.0.2"), program.relay)
    await elsewhere.send(REMOTE, b"from another address, first")
    await desk.until(lambda: desk.counted("foreign") == 1)
    await program.send(REMOTE, b"mine")
    await program.receive()

    await foreign.send(REMOTE, b"from another port")
    await elsewhere.send(REMOTE, b"from another address")
    await desk.until(lambda: desk.counted("foreign") == 3)

    assert desk.scene.world.sent == [(b"mine", REMOTE)]
    assert await foreign.is_silent()


async def test_a_bad_header_claims_no_port(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate()
    foreign = await desk.open_socket()
    await foreign.sendto(b"garbage", program.relay)
    await desk.until(lambda: desk.counted("malformed") == 1)

    await program.send(REMOTE, b"?")

    assert await program.receive() == (REMOTE, b"echo of ?")


async def test_fragments_and_bad_headers_are_dropped_and_counted(desk: Desk) -> None:
    program = await desk.associate()
    whole = write_datagram(REMOTE, b"data")

    for datagram in (b"\0\0\1" + whole[3:], b"\0\0\x81" + whole[3:], whole[:7], b"\1" + whole[1:]):
        await program.socket.sendto(datagram, program.relay)
    await desk.until(lambda: desk.counted("malformed") == 4)
    await program.send(REMOTE, bytes(1473))
    await desk.until(lambda: desk.counted("too_long") == 1)

    assert desk.scene.world.sent == []


INTERNAL = ("127.0.0.1", "10.0.0.1", "224.0.0.251", "255.255.255.255", "::1", "printer", "a.onion")


async def test_what_no_circuit_may_be_used_for_is_dropped_here(desk: Desk) -> None:
    """FE-8."""
    program = await desk.associate()

    for host in INTERNAL:
        for _ in range(2):
            await program.send(Address(host, 443), b"?")
    await program.send(Address("93.184.216.34", 0), b"?")
    await desk.until(lambda: desk.counted("refused") == 2 * len(INTERNAL) + 1)

    assert desk.opener.given[0].protocol.sent == 0


async def test_safe_socks_takes_names_only() -> None:
    """FE-9."""
    async with open_desk(safe_socks=True) as desk:
        desk.scene.resolver.names["dns.example"] = (REMOTE.host,)
        desk.scene.world.answers = {REMOTE: echo}
        program = await desk.associate()

        await program.send(REMOTE, b"literal")
        await program.send(Address("dns.example", 443), b"name")

        assert await program.receive() == (REMOTE, b"echo of name")
        assert desk.counted("refused") == 1


async def test_an_exempt_target_is_one_address_and_one_port() -> None:
    """EXT-16."""
    async with open_desk(allow_targets=(Address("127.0.0.1", 5300),)) as desk:
        program = await desk.associate()

        await program.send(Address("127.0.0.1", 5300), b"?")
        await program.send(Address("127.0.0.1", 5301), b"?")
        await desk.until(lambda: desk.counted("refused") == 1)

        assert desk.counted("sent") == 1


async def test_with_the_connection_all_of_it_ends(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate()
    await program.send(REMOTE, b"?")
    await program.receive()

    await program.connection.aclose()
    await desk.until(lambda: desk.counted("open") == 0)

    assert desk.opener.given[0].is_ended
    probe = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await probe.bind(program.relay)  # nobody has it any more
    probe.close()


async def test_a_program_that_is_gone_before_its_answer_is_no_bug(desk: Desk) -> None:
    desk.opener.gate = trio.Event()
    connection = await desk.door.say(ASK)
    assert await exactly(connection, 2) == b"\x05\x00"
    await desk.until(lambda: bool(desk.opener.asked))

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await connection.aclose()
    desk.opener.gate.set()
    await desk.until(lambda: desk.door.proxy.statistics()["connections_open"] == 0)

    assert desk.door.proxy.statistics()["bugs"] == 0
    assert (desk.counted("associations"), desk.counted("open")) == (1, 0)
    assert desk.opener.given[0].is_ended


async def test_the_last_datagram_before_the_end_still_goes(desk: Desk) -> None:
    program = await desk.associate()

    await program.send(REMOTE, b"last")
    await program.connection.aclose()
    await desk.until(lambda: desk.counted("open") == 0)

    await desk.until(lambda: desk.scene.world.sent == [(b"last", REMOTE)])


async def test_what_the_connection_says_meanwhile_means_nothing(desk: Desk) -> None:
    desk.scene.world.answers = {REMOTE: echo}
    program = await desk.associate()

    await program.connection.send_all(b"x" * 100_000)
    await program.send(REMOTE, b"?")

    assert await program.receive() == (REMOTE, b"echo of ?")


@pytest.mark.parametrize("apart", ["destination_host", "destination_port"])
async def test_a_listener_that_keeps_targets_apart_carries_no_datagrams(apart: str) -> None:
    """FE-10: an association has many targets, and one circuit."""
    async with open_desk(rules=ListenerRules(isolate=("client_address", apart))) as desk:
        assert await desk.door.ask(ASK) == b"\x05\x00\x05\x02\x00\x01" + bytes(6)
        assert desk.opener.asked == []


async def test_programs_on_other_machines_are_refused() -> None:
    """FE-13: the socket is on loopback, where they cannot reach it."""
    lan = (ipaddress.ip_network("192.168.0.0/16"),)
    outside = RenamedListener(listen(), "192.168.1.1", "192.168.1.7")
    async with open_desk(listener=outside, allow_clients=lan) as desk:
        connection = await desk.door.say(ASK)

        assert await everything(connection) == b"\x05\x00\x05\x02\x00\x01" + bytes(6)
        assert desk.opener.asked == []
