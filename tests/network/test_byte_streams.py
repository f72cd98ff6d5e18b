"""Byte streams: sockets of the system and streams in memory keep one contract."""

import contextlib
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.memory_network import (
    Line,
    MemoryNetwork,
    MemoryStream,
    connected_pair,
    receive,
)
from warren.addresses import Address
from warren.errors import LinkError, ProtocolError
from warren.network.byte_streams import ByteStream, Network
from warren.network.dialling import SocketNetwork
from warren.network.sockets import SocketStream
from warren.protocol.exchange import Exchange, Receive, ReceiveUntil, Send


@dataclass
class World:
    """Hold a network and the address that one can listen at."""

    network: Network
    address: Address

    async def pair(self) -> tuple[ByteStream, ByteStream]:
        """Return both ends of a connection: who dialled, and who was dialled."""
        accepted: list[ByteStream] = []
        arrived = trio.Event()

        async def accept(stream: ByteStream) -> None:
            accepted.append(stream)
            arrived.set()

        listener = self.network.listen(self.address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, accept, nursery)
            near = await self.network.dial(listener.local)
            await arrived.wait()
            listener.close()
        return near, accepted[0]


@pytest.fixture(params=["sockets", "memory"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        return World(MemoryNetwork(), Address("5.5.0.2", 0))
    return World(SocketNetwork(), Address("127.0.0.1", 0))


@pytest.fixture
async def pair(world: World) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    near, far = await world.pair()
    yield near, far
    near.close()
    far.close()


Pair = tuple[ByteStream, ByteStream]


def fill(stream: ByteStream) -> int:
    """Send until nothing more fits; return how much did."""
    total = 0
    while count := stream.send_now(bytes(64 * 1024)):
        total += count
    return total


# ---- bytes


async def test_bytes_arrive_in_order(pair: Pair) -> None:
    near, far = pair
    data = bytes(range(256)) * 4000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, data)
        received = await receive(far, len(data))

    assert received == data


async def test_several_parts_arrive_as_one(pair: Pair) -> None:
    near, far = pair

    assert near.send_parts_now([b"a", bytearray(b"bc"), memoryview(b"def")]) == 6

    assert await receive(far, 6) == b"abcdef"


async def test_nothing_there_is_none_and_not_the_end(pair: Pair) -> None:
    near, _ = pair

    assert near.receive_into(bytearray(10)) is None


async def test_both_ends_know_each_other(pair: Pair) -> None:
    near, far = pair

    assert near.local == far.remote
    assert near.remote == far.local


async def test_what_does_not_fit_is_not_taken_and_room_wakes_the_sender(pair: Pair) -> None:
    near, far = pair
    sent = fill(near)

    assert near.send_now(b"one more") == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.wait_writable)
        assert await receive(far, sent) == bytes(sent)

    assert near.send_now(b"one more") == 8


async def test_wait_readable_wakes_when_something_comes(pair: Pair) -> None:
    near, far = pair

    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.wait_readable)
        await wait_all_tasks_blocked()
        near.send_now(b"x")

    assert far.receive_into(bytearray(10)) == 1


# ---- ends


async def test_an_end_comes_behind_the_bytes_and_the_other_direction_lives_on(pair: Pair) -> None:
    near, far = pair

    near.send_now(b"question")
    near.send_eof()
    question = await receive(far)
    far.send_now(b"answer")

    assert question == b"question"
    assert await receive(near, 6) == b"answer"


async def test_nothing_can_be_sent_behind_the_end(pair: Pair) -> None:
    near, _ = pair

    near.send_eof()

    with pytest.raises(LinkError):
        near.send_now(b"too late")


async def test_what_was_sent_before_a_close_is_read(pair: Pair) -> None:
    near, far = pair

    near.send_now(b"goodbye")
    near.close()

    assert await receive(far) == b"goodbye"


async def test_a_reset_is_an_error_and_never_an_end(pair: Pair) -> None:  # T29
    near, far = pair

    near.send_now(b"half a")
    near.reset()

    with pytest.raises(LinkError):
        await receive(far)


@pytest.mark.parametrize("is_killed", [True, False])
async def test_only_who_is_killed_resets_what_it_had_begun(*, is_killed: bool) -> None:  # SID-4
    near, far = await World(SocketNetwork(), Address("127.0.0.1", 0)).pair()
    near.reset_if_killed()
    near.send_now(b"half")

    if is_killed:
        assert isinstance(near, SocketStream)
        near._socket.close()  # as the system does
    else:
        near.close()

    with pytest.raises(LinkError) if is_killed else contextlib.nullcontext():
        assert [await receive(far), await receive(far)] == [b"half", b""]
    far.close()


async def test_a_side_that_lives_and_does_not_read_is_not_taken_for_gone() -> None:  # T84
    near, far = await World(SocketNetwork(), Address("127.0.0.1", 0)).pair()
    near.keep_alive(1)
    waiting = fill(near)

    await trio.sleep(4)
    chunk, read = bytearray(1 << 20), 0
    while read < waiting:
        await far.wait_readable()
        read += far.receive_into(chunk) or 0

    assert near.send_now(b"x") == 1
    near.close()
    far.close()


async def test_closing_with_bytes_unread_is_a_reset(pair: Pair) -> None:
    near, far = pair
    far.send_now(b"not read")
    await near.wait_readable()

    near.close()

    with pytest.raises(LinkError):
        await receive(far)


async def test_sending_to_an_end_that_was_closed_fails_before_long(pair: Pair) -> None:
    near, far = pair
    far.close()

    async def send_for_ever() -> None:
        while True:
            await near.send_all(bytes(1000))
            await trio.lowlevel.checkpoint()

    with pytest.raises(LinkError), trio.fail_after(5):
        await send_for_ever()


@pytest.mark.parametrize("wait", ["wait_readable", "wait_writable"])
async def test_closing_wakes_whoever_waits(pair: Pair, wait: str) -> None:
    near, _ = pair
    fill(near)
    outcome: list[str] = []

    async def waiter() -> None:
        with pytest.raises(LinkError):
            await getattr(near, wait)()
        outcome.append("woken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await wait_all_tasks_blocked()
        near.close()

    assert outcome == ["woken"]


async def test_the_other_sides_reset_wakes_whoever_waits(pair: Pair) -> None:
    near, far = pair

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.wait_readable)
        await wait_all_tasks_blocked()
        far.reset()

    with pytest.raises(LinkError):
        near.receive_into(bytearray(10))


async def test_a_closed_stream_refuses_everything_but_another_end(pair: Pair) -> None:
    near, _ = pair
    near.close()

    with pytest.raises(LinkError):
        near.receive_into(bytearray(10))
    with pytest.raises(LinkError):
        near.send_now(b"x")
    with pytest.raises(LinkError):
        await near.wait_readable()
    near.send_eof()
    near.close()
    near.reset()


# ---- dialling and listening


async def test_two_closed_streams_can_be_waited_for_one_after_the_other(world: World) -> None:
    for _ in range(2):  # a closed socket's number is the same for all of them
        near, far = await world.pair()
        near.close()
        far.close()

        for wait in (near.wait_readable, near.wait_writable):
            with pytest.raises(LinkError):
                await wait()


async def test_a_port_nobody_listens_at_refuses(world: World) -> None:
    listener = world.network.listen(world.address)
    listener.close()

    with pytest.raises(LinkError) as caught:
        await world.network.dial(listener.local)

    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ECONNREFUSED
    assert str(caught.value) == f"{listener.local} cannot be reached: Connection refused"


async def test_what_is_dialled_at_once_is_there_or_comes(world: World) -> None:
    listener = world.network.listen(world.address)
    met: list[ByteStream] = []
    has_met = trio.Event()

    def meet(stream: ByteStream) -> None:
        met.append(stream)
        has_met.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve_with, meet, nursery)
        near = await world.network.begin_dial(listener.local).wait()
        near.send_now(b"hello")
        await has_met.wait()
        listener.close()

    assert await receive(met[0], 5) == b"hello"
    for stream in (near, *met):
        stream.close()


async def test_a_dial_that_is_given_up_leaves_no_socket() -> None:
    network = SocketNetwork()
    listener = network.listen(Address("127.0.0.1", 0))

    dialling = network.begin_dial(listener.local)
    dialling.close()

    assert dialling.stream is not None
    with pytest.raises(LinkError):
        await dialling.stream.wait_readable()
    listener.close()


async def test_a_refusal_is_told_at_once_too() -> None:
    network = SocketNetwork()
    listener = network.listen(Address("127.0.0.1", 0))
    listener.close()

    with pytest.raises(LinkError) as caught:
        network.begin_dial(listener.local)

    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ECONNREFUSED


async def test_a_listener_without_descriptors_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # DOS-8
    listener = SocketNetwork().listen(Address("127.0.0.1", 0))
    met: list[ByteStream] = []
    accept, failures = listener._socket.accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    class Scarce:
        """Be the listening socket of a process that is out of descriptors for a while."""

        def accept(self) -> object:
            if failures:
                raise OSError(failures.pop(0), "no descriptors")
            return accept()

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

    def meet(stream: ByteStream) -> None:
        met.append(stream)
        has_met.set()

    inner, has_met = listener._socket, trio.Event()
    monkeypatch.setattr(listener, "_socket", Scarce())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve_with, meet, nursery)
        near = await SocketNetwork().dial(listener.local)
        with trio.fail_after(5):
            await has_met.wait()
        monkeypatch.undo()
        listener.close()

    assert not failures
    for stream in (near, *met):
        stream.close()


async def test_a_port_can_be_listened_at_once(world: World) -> None:
    listener = world.network.listen(world.address)

    with pytest.raises(LinkError, match="cannot listen"):
        world.network.listen(listener.local)

    listener.close()


@pytest.mark.parametrize("with_tasks", [True, False])
async def test_a_listener_serves_until_it_is_closed(world: World, with_tasks: bool) -> None:
    listener = world.network.listen(world.address)
    served: list[Address] = []

    async def accept(stream: ByteStream) -> None:
        served.append(stream.remote)
        stream.close()

    def meet(stream: ByteStream) -> None:
        served.append(stream.remote)
        stream.close()

    async with trio.open_nursery() as nursery:
        if with_tasks:
            nursery.start_soon(listener.serve, accept, nursery)
        else:
            nursery.start_soon(listener.serve_with, meet, nursery)
        dialled = [await world.network.dial(listener.local) for _ in range(3)]
        for stream in dialled:
            assert await receive(stream) == b""
        listener.close()

    assert sorted(map(str, served)) == sorted(str(stream.local) for stream in dialled)
    for stream in dialled:
        stream.close()


# ---- opening exchanges


def ask_name() -> Exchange[bytes]:
    """Read a length, then a name up to a NUL, and greet it."""
    (limit,) = yield Receive(1)
    name = yield ReceiveUntil(b"\0", limit)
    yield Send(b"hello " + name)
    return name


async def test_an_exchange_leaves_what_comes_behind_it(pair: Pair) -> None:
    near, far = pair
    rest = bytearray()
    near.send_now(b"\x10bilbo\0early data")

    name = await far.converse(ask_name(), rest)

    assert name == b"bilbo\0"
    assert rest == b"early data"
    assert await receive(near, 12) == b"hello bilbo\0"


async def test_an_exchange_takes_its_bytes_one_by_one(pair: Pair) -> None:
    near, far = pair

    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.converse, ask_name(), bytearray())
        for byte in b"\x10bilbo\0":
            near.send_now(bytes((byte,)))
            await wait_all_tasks_blocked()

    assert await receive(near, 12) == b"hello bilbo\0"


async def test_an_end_in_the_middle_of_an_exchange_is_a_link_error(pair: Pair) -> None:
    near, far = pair
    near.send_now(b"\x10bil")
    near.send_eof()

    with pytest.raises(LinkError, match="in the middle"):
        await far.converse(ask_name(), bytearray())


async def test_what_an_exchange_raises_comes_through(pair: Pair) -> None:
    near, far = pair
    near.send_now(b"\x04bilbo\0")

    with pytest.raises(ProtocolError, match="within 4 bytes"):
        await far.converse(ask_name(), bytearray())


# ---- what memory adds: time, and things that go wrong


async def test_a_byte_takes_the_lines_latency(autojump_clock: MockClock) -> None:
    near, far = await connected_pair(MemoryNetwork(line=Line(latency=0.25)))
    start = trio.current_time()

    near.send_now(b"x")
    await receive(far, 1)

    assert trio.current_time() - start == 0.25


async def test_bytes_come_at_the_lines_rate(autojump_clock: MockClock) -> None:
    near, far = await connected_pair(MemoryNetwork(line=Line(rate=1000)))

    near.send_now(bytes(2000))
    near.send_eof()
    await receive(far)

    assert trio.current_time() == 2


async def test_a_line_holds_no_more_than_its_capacity(autojump_clock: MockClock) -> None:
    near, far = await connected_pair(MemoryNetwork(line=Line(capacity=1000)))

    assert fill(near) == 1000
    assert isinstance(far, MemoryStream)
    assert far.unread == 1000


async def test_a_stalled_host_is_silent_until_it_is_resumed(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    near, far = await connected_pair(network)
    network.stall(near.local.host)
    near.send_now(b"held back")

    with trio.move_on_after(100) as waited:
        await far.wait_readable()
    network.resume(near.local.host)

    assert waited.cancelled_caught
    assert await receive(far, 9) == b"held back"


async def test_a_stalled_host_answers_no_dial(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    listener = network.listen(Address("5.5.0.2", 1))
    network.stall("5.5.0.2")

    with pytest.raises(trio.TooSlowError), trio.fail_after(100):
        await network.dial(listener.local)


@pytest.mark.parametrize("hosts", [("5.5.0.1", "5.5.0.2"), ("5.5.0.2",)])
async def test_a_cut_connection_breaks_at_both_ends(
    hosts: tuple[str, ...], autojump_clock: MockClock
) -> None:
    network = MemoryNetwork()
    near, far = await connected_pair(network)

    network.cut(*hosts)

    for stream in (near, far):
        with pytest.raises(LinkError):
            await receive(stream)


async def test_two_tasks_cannot_wait_for_the_same_thing(autojump_clock: MockClock) -> None:
    near, _ = await connected_pair(MemoryNetwork())

    with pytest.RaisesGroup(trio.BusyResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_readable)
            nursery.start_soon(near.wait_readable)


async def test_the_network_knows_every_stream_that_is_open() -> None:
    network = MemoryNetwork()
    near, far = await connected_pair(network)
    before = len(network.streams)

    near.close()
    far.reset()

    assert (before, len(network.streams)) == (2, 0)
