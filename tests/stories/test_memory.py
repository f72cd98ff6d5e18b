"""Circuits whose clients do not read, by the hundred, at relays that may keep 64 MiB (T16, T59).

The network is a lab's, and so are its processes; the circuits are built by clients of this test's
own that leave on them what they are sent. What is measured is what the system says: how much memory
a process has, and the most that it had.
"""

import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.journeys import MIB, check_logs, statistics, through, watching_memory
from tests.support.labs import RunningLab, running_lab
from tests.support.pages import status_of
from tests.support.web_origin import NAME
from warren.addresses import Address
from warren.errors import CircuitError, ExitError
from warren.identity import Hop
from warren.network.circuits import Circuit, build_circuit
from warren.network.dialling import SocketNetwork
from warren.network.link import LinkSettings
from warren.network.links import Links
from warren.network.quota import STALE_SECONDS
from warren.network.streams import CircuitStream
from warren.network.turn import Turn
from warren.protocol.messages import Message, encode_message, encode_stream_credit
from warren.protocol.stream import FIRST_WINDOW

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

QUOTA = 64 * MIB
#: What a process may take beyond its quota and what it took when nothing waited.
MOST_BEYOND = 60 * MIB
CIRCUITS, STREAMS_EACH = 200, 3
#: Links that nobody reads, with so many circuits each, and the first window of each.
SNIPERS, AIMS, WINDOW_BYTES = 5, 60, 64 * 4096
DOWNLOADS, MOST_GROWTH = 50, 64 * MIB
#: It should take no longer beside them than it does alone, by a tenth. A machine that does other
#: things, too, may not show that in so many rounds; then it must not take so many times as long.
ROUNDS, MOST_LONGER = 3, 3
SAMPLE = 32 * MIB
#: What an honest echo may take meanwhile, and what a machine may take that does other things.
SLACK = 5
ANSWER_SECONDS = 0.5 * SLACK
#: Circuits that may begin between two looks, and are equally old then.
SAME_LOOK = 10
PATH = ("relay1", "relay2", "exit1")


@dataclass
class Town:
    """Hold a lab whose relays may keep 64 MiB, and targets: one that floods, one that echoes."""

    lab: RunningLab
    flooding: socket.socket
    echoing: socket.socket
    sharing: socket.socket

    @property
    def flood(self) -> Address:
        return Address(*self.flooding.getsockname())

    @property
    def echo(self) -> Address:
        return Address(*self.echoing.getsockname())

    @property
    def shares(self) -> Address:
        return Address(*self.sharing.getsockname())

    def pid(self, name: str) -> int:
        [pid] = [each["pid"] for each in self.lab.ready["processes"] if each["name"] == name]
        return int(pid)

    def page(self, name: str) -> str:
        return status_of(Path(self.lab.ready["dir"]) / name)

    def memory(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = statistics(self.lab, name)["memory"]
        return found

    def hop(self, name: str) -> Hop:
        return self.lab.entry_of(name).hop


@pytest.fixture(scope="module")
def town(lab_options: list[str]) -> Iterator[Town]:
    servers = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(3)]
    with servers[0], servers[1], servers[2]:
        places = [Address(*each.getsockname()) for each in servers]
        targets = [word for place in places for word in ("--allow-target", str(place))]
        sizes = ("--relays", "3", "--exits", "1", "--memory", str(QUOTA // MIB))
        with running_lab(*sizes, *targets, *lab_options[:-4]) as lab:
            yield Town(lab, *servers)
            check_logs(Path(lab.ready["dir"]), NAME)


@asynccontextmanager
async def client_in(town: Town) -> AsyncIterator["Client"]:
    """Give a client of its own, while the targets are served."""
    async with trio.open_nursery() as nursery:
        targets = ((town.flooding, flood), (town.echoing, echo), (town.sharing, share))
        for listening, serve in targets:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
            nursery.start_soon(trio.serve_listeners, serve, [listener])
        links = Links(SocketNetwork(), LinkSettings(town.lab.network.network_id), Turn(nursery))
        yield Client(town, links, nursery)
        links.close()
        nursery.cancel_scope.cancel()


async def flood(stream: trio.SocketStream) -> None:
    """Send for ever, with little of it in the kernel."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    async with stream:
        try:
            while True:
                await stream.send_all(bytes(64 * 1024))
        except trio.BrokenResourceError:
            pass


async def share(stream: trio.SocketStream) -> None:
    """Send as much as the first window of a stream lets through, once somebody has said something.

    It is over when the other side says so.
    """
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            if await stream.receive_some(1):
                await stream.send_all(bytes(FIRST_WINDOW))
                await stream.receive_some(1)


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            while data := await stream.receive_some(1024):
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass


@dataclass
class Client:
    """Hold a client that builds circuits over all three relays."""

    town: Town
    links: Links
    nursery: trio.Nursery

    async def build(self) -> Circuit:
        path = [self.town.hop(name) for name in PATH]
        return await build_circuit(await self.links.get(path[0], is_anonymous=True), path)

    async def connect(self, circuit: Circuit, target: Address) -> CircuitStream:
        stream = circuit.open_stream(target)
        await stream.wait_connected()
        return stream

    async def wait_until_calm(self, name: str) -> None:
        """Wait until the pressure at the relay `name` is over."""
        with trio.fail_after(SLACK * STALE_SECONDS):
            while (await self.ask(name))["pressed"]:  # noqa: ASYNC110  another process is asked
                await trio.sleep(0.2)

    async def wait_until_still(self, name: str) -> None:
        """Wait until no more comes to lie at `name`: an echo beside it is some bytes."""
        before = -MIB
        with trio.fail_after(60):
            while abs((now := (await self.ask(name))["kept"]) - before) > 16 * 1024:
                before = now
                await trio.sleep(1)

    async def ask(self, name: str) -> dict[str, Any]:
        """Return what the relay `name` says of its memory."""
        return await trio.to_thread.run_sync(self.town.memory, name)

    async def aim(self, circuits: Sequence[Circuit]) -> None:
        """Fill `circuits` with cells, read none of them, and acknowledge what is in them."""
        streams = [
            await self.connect(circuit, self.town.shares)
            for circuit in circuits
            for _ in range(WINDOW_BYTES // FIRST_WINDOW)
        ]
        for link in self.links:
            link._stream.stop_reading()
        self.nursery.start_soon(self._keep_alive, streams[0])
        for stream in streams:
            stream.protocol.write(b"x")
        self.links.turn.run()
        await trio.sleep(1)
        credit = encode_stream_credit(FIRST_WINDOW, 2 * FIRST_WINDOW)
        for stream in streams:
            protocol = stream.protocol
            protocol.push(encode_message(Message.CREDIT, protocol.number, credit))
        self.links.turn.run()
        await trio.sleep(1)

    async def _keep_alive(self, stream: CircuitStream) -> None:
        """Say something for ever, or who answers no PING is given up."""
        while True:
            stream.protocol.push(encode_message(Message.DROP, 0, b""))
            self.links.turn.run()
            await trio.sleep(1)

    def read_again(self) -> None:
        for link in self.links:
            link._stream.read_with(link._readable, self.nursery)

    async def leave_lying(self, circuits: Sequence[Circuit]) -> None:
        """Open streams on each of `circuits` that are flooded, and read nothing of them."""
        for circuit in circuits:
            for _ in range(STREAMS_EACH):
                with contextlib.suppress(CircuitError, ExitError):  # it had to go already
                    await self.connect(circuit, self.town.flood)


def resident(pid: int) -> int:
    return memory_of(pid, "VmRSS")


def watched(pid: int) -> Callable[[], int]:
    """Return what tells the most memory that the process had from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the most is what it is now
    return lambda: memory_of(pid, "VmHWM")


def memory_of(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = next(line.split() for line in lines if line.startswith(f"{key}:"))
    return int(words[1]) * 1024


def complaints(town: Town, name: str) -> list[str]:
    """Return the lines in which `name` has logged that memory runs short."""
    path = Path(town.lab.ready["dir"]) / "log" / f"{name}.log"
    return [line for line in path.read_text().splitlines() if "memory runs short" in line]


async def say(stream: CircuitStream) -> float:
    """Say something; return how long the echo took."""
    began = trio.current_time()
    await stream.send_all(b"honest")
    said = b""
    while len(said) < 6:
        said += await stream.receive_some()
    assert said == b"honest"
    return trio.current_time() - began


async def talk(stream: CircuitStream, waits: list[float]) -> None:
    """Say something every now and then for ever, and note how long the echo took."""
    while True:
        waits.append(await say(stream))
        await trio.sleep(0.05)


async def test_those_go_who_leave_most_lying_for_longest_and_nobody_else(
    town: Town,
) -> None:  # T59
    waits: list[float] = []
    exit_pid = town.pid("exit1")
    async with client_in(town) as client:
        crowd = [await client.build() for _ in range(CIRCUITS)]
        idle = [await client.build() for _ in range(10)]
        quiet = [await client.connect(circuit, town.echo) for circuit in idle[:5]]
        talking = await client.connect(await client.build(), town.echo)
        client.nursery.start_soon(talk, talking, waits)
        first, second = crowd[: CIRCUITS // 2], crowd[CIRCUITS // 2 :]
        before, most = resident(exit_pid), watched(exit_pid)

        await client.leave_lying(first)
        await client.wait_until_still("exit1")
        await trio.sleep(1)
        await client.leave_lying(second)
        await client.wait_until_still("exit1")
        seen = await client.ask("exit1")
        gone = [number for number, circuit in enumerate(crowd) if not circuit.is_open]
        for stream in quiet:
            assert await say(stream) < ANSWER_SECONDS

        assert most() - before <= QUOTA + MOST_BEYOND
        assert seen["pressures"] > 0
        assert seen["kept"] <= seen["limit"] == QUOTA
        assert CIRCUITS // 4 < len(gone) < CIRCUITS
        assert max(gone) < len(gone) + SAME_LOOK  # the oldest, and none of the others
        assert all(circuit.is_open for circuit in idle)
        await client.wait_until_calm("exit1")
        assert await say(await client.connect(await client.build(), town.echo)) < ANSWER_SECONDS
        assert all(circuit.is_open for circuit in idle)
    assert len(waits) > 20
    assert max(waits) < ANSWER_SECONDS
    assert 1 <= len(complaints(town, "exit1")) <= 2  # DOS-9: once a minute
    page = await trio.to_thread.run_sync(town.page, "exit1")
    assert re.search(r"Memory +\d+ MiB kept for others, 64 MiB at most", page), page


async def test_who_takes_everything_and_acknowledges_nothing_is_kept_within_the_quota(
    town: Town,
) -> None:  # T59
    """An exit keeps 4 MiB of each of his streams, as fast as he takes them."""
    exit_pid = town.pid("exit1")
    async with client_in(town) as client:
        talking = await client.connect(await client.build(), town.echo)
        circuits = [await client.build() for _ in range(3)]
        before, most = resident(exit_pid), watched(exit_pid)
        closed = (await client.ask("exit1"))["closed"].get("circuits", 0)

        for circuit in circuits:
            for _ in range(40):
                with contextlib.suppress(CircuitError, ExitError):
                    take_all(await client.connect(circuit, town.flood))
        with trio.fail_after(60):
            while any(circuit.is_open for circuit in circuits):
                await trio.sleep(0.1)
                assert await say(talking) < ANSWER_SECONDS

        assert most() - before <= QUOTA + MOST_BEYOND
        assert (await client.ask("exit1"))["closed"]["circuits"] == closed + len(circuits)
        await client.wait_until_calm("exit1")


def take_all(stream: CircuitStream) -> None:
    """Let a stream send as much as it likes, throw that away, and acknowledge nothing."""
    protocol = stream.protocol
    protocol.allowed = 1 << 60
    protocol.push(encode_message(Message.CREDIT, protocol.number, encode_stream_credit(0, 1 << 60)))
    protocol.on_news = protocol.incoming.clear
    stream.turn.run()


async def test_at_a_guard_the_circuits_go_whose_cells_nobody_reads(town: Town) -> None:  # T59
    """Snipers read nothing of their links, and say that they have, so that exits keep nothing."""
    guard_pid = town.pid("relay1")
    async with client_in(town) as client, contextlib.AsyncExitStack() as stack:
        talking = await client.connect(await client.build(), town.echo)
        snipers = [await stack.enter_async_context(client_in(town)) for _ in range(SNIPERS)]
        aims = [[await each.build() for _ in range(AIMS)] for each in snipers]
        before, most = resident(guard_pid), watched(guard_pid)

        for sniper, circuits in zip(snipers, aims, strict=True):
            await sniper.aim(circuits)
            await client.wait_until_still("relay1")
            assert await say(talking) < ANSWER_SECONDS
        seen = await client.ask("relay1")
        for sniper in (snipers[0], snipers[-1]):
            sniper.read_again()
        await trio.sleep(1)

        assert most() - before <= QUOTA + MOST_BEYOND
        assert seen["kept"] <= QUOTA
        assert seen["closed"]["circuits"] >= AIMS // 2
        is_open = [[circuit.is_open for circuit in circuits] for circuits in aims]
        assert is_open[0].count(False) >= AIMS // 2
        assert is_open[-1].count(False) == 0
        assert await say(talking) < ANSWER_SECONDS
        await client.wait_until_calm("relay1")


@pytest.mark.parametrize("reads_first", [False, True])
async def test_fifty_downloads_that_stand_take_little_memory_and_hold_up_nobody(
    town: Town, *, reads_first: bool
) -> None:  # T16
    """What is kept of them is bounded by their windows, far below the quota."""
    size = 2 * MIB if reads_first else 1
    alone, beside = [], []
    async with client_in(town):
        await download(town, SAMPLE, "other")  # its circuit is there
        with watching_memory(town.lab) as growth:
            for number in range(ROUNDS):
                alone.append(await download(town, SAMPLE, "other"))
                async with standing(town, size, f"sniper {number}"):
                    beside.append(await download(town, SAMPLE, "other"))
                if min(beside) <= min(alone) / 0.9:
                    break

    assert min(beside) <= MOST_LONGER * min(alone), (alone, beside)
    assert growth.most <= MOST_GROWTH, growth
    assert statistics(town.lab, "exit1")["memory"]["pressed"] == 0


@asynccontextmanager
async def standing(town: Town, size: int, user: str) -> AsyncIterator[None]:
    """Have fifty downloads of one circuit while inside, that are read no further than `size`."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin() -> None:
            await read(await stack.enter_async_context(await tunnel(town, user)), size)

        async with trio.open_nursery() as nursery:
            for _ in range(DOWNLOADS):
                nursery.start_soon(begin)
        cells = -1
        while cells != (now := statistics(town.lab, "exit1")["cells"]["backward"]):
            cells = now  # what sockets and windows take is still on its way
            await trio.sleep(0.5)
        yield


async def download(town: Town, size: int, user: str) -> float:
    """Read `size` bytes; return the seconds that took from the first one on."""
    async with await tunnel(town, user) as stream:
        await read(stream, 1)
        began = trio.current_time()
        await read(stream, size)
        return trio.current_time() - began


async def tunnel(town: Town, user: str) -> trio.SocketStream:
    """Connect through the proxy to what floods."""
    sock = await trio.to_thread.run_sync(partial(through, town.lab.proxy, town.flood, user=user))
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def read(stream: trio.SocketStream, size: int) -> None:
    while size > 0:
        data = await stream.receive_some(min(size, MIB))
        assert data
        size -= len(data)
