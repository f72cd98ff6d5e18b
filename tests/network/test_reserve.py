"""The reserve: what is counted, when somebody has to go, and whose."""

import errno
import resource
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import reserve
from warren.network.bucket import REPORT_SECONDS
from warren.network.byte_streams import ByteStream
from warren.network.datagram_sockets import UdpSocket
from warren.network.dialling import SocketNetwork
from warren.network.listening import SocketListener, listening_socket
from warren.network.readiness import Act
from warren.network.reserve import (
    LEAST_RESERVED,
    MOST_RESERVED,
    RETRY_SECONDS,
    Reserve,
    Share,
)

HERE = Address("127.0.0.1", 0)


class Process:
    """Stand for a process: its reserve, the time, and the end of its steps."""

    def __init__(self, files: int = 512) -> None:
        self.now = 1000.0
        self.acts: list[Act] = []
        self.reserve = Reserve(files, soon=self.acts.append, now=lambda: self.now)

    def open(self, links: int = 0, leaving: int = 0, front: int = 0) -> None:
        """Open so many sockets in one step."""
        kinds = (
            (self.reserve.links, links),
            (self.reserve.exit, leaving),
            (self.reserve.front, front),
        )
        for share, count in kinds:
            for _ in range(count):
                share.take()

    def end_step(self) -> None:
        while self.acts:
            self.acts.pop(0)()


def closing(
    share: Share, asked: list[int], most: int = 1 << 30
) -> Callable[[int], Mapping[str, int]]:
    """Return an owner of sockets who closes as many as is asked, or `most`."""

    def make_room(count: int) -> Mapping[str, int]:
        asked.append(count)
        done = min(count, most)
        for _ in range(done):
            share.give_back()
        return {"for a test": done} if done else {}

    return make_room


# ---- what there is


@pytest.mark.parametrize(
    ("files", "kept"),
    [(64, 32), (128, 32), (256, 64), (512, 128), (1024, 256), (65536, 256), (1 << 30, 256)],
)
def test_a_part_of_the_files_is_nobodys(files: int, kept: int) -> None:
    reserve = Process(files).reserve

    assert reserve.files - reserve.most == kept
    assert LEAST_RESERVED <= kept <= MOST_RESERVED


def test_links_may_have_what_others_leave_and_others_not_what_is_the_links() -> None:
    reserve = Process().reserve

    assert [each.target for each in (reserve.links, reserve.exit, reserve.front)] == [153, 192, 19]
    assert [each.most for each in (reserve.links, reserve.exit, reserve.front)] == [384, 230, 230]


def test_an_exit_is_full_while_there_is_room_for_links() -> None:  # EXT-11, EXT-12
    process = Process()

    process.open(leaving=230)

    assert not process.reserve.exit.has_room
    assert process.reserve.links.has_room


def test_nothing_more_is_opened_than_there_is() -> None:
    process = Process()

    process.open(links=284, leaving=100)

    assert process.reserve.is_full
    assert not process.reserve.links.has_room
    assert not process.reserve.exit.has_room


# ---- who has to go


def test_nobody_has_to_go_at_ninety_percent() -> None:
    process = Process()

    process.open(links=345)
    process.end_step()

    assert process.reserve.due() == {}
    assert process.acts == []


def test_one_more_brings_it_down_to_eighty_five() -> None:
    process, asked = Process(), list[int]()
    links = process.reserve.links
    links.make_room = closing(links, asked)

    process.open(links=346)
    process.end_step()

    assert asked == [20]
    assert links.open == process.reserve.low == 326


def test_who_uses_what_is_others_gives_back_when_they_come() -> None:
    process, asked = Process(), list[int]()
    links, leaving = process.reserve.links, process.reserve.exit
    links.make_room, leaving.make_room = closing(links, asked), closing(leaving, [])

    process.open(links=300, leaving=46)
    process.end_step()

    assert asked == [20]
    assert leaving.open == 46


def test_a_kind_within_its_target_loses_nothing() -> None:
    process = Process()

    process.open(links=153, leaving=192, front=19)

    assert process.reserve.due() == {}


def test_an_exit_gives_back_before_it_is_full_though_links_have_room() -> None:
    process = Process()

    process.open(links=5, leaving=208)

    assert process.reserve.due() == {process.reserve.exit: 208 - 195}


def test_programs_never_take_a_guards_place() -> None:
    process = Process()

    process.open(links=3, front=230)

    assert process.reserve.links.has_room
    assert process.reserve.links not in process.reserve.due()


@given(st.integers(0, 400), st.integers(0, 250), st.integers(0, 250))
def test_what_is_due_relieves_and_takes_from_nobodys_target(
    links: int, leaving: int, front: int
) -> None:
    process = Process()
    process.open(links, leaving, front)

    due = process.reserve.due()

    for share, count in due.items():
        assert 0 < count <= share.open
        assert share.open - count >= min(share.target, share.low)
        for _ in range(count):
            share.give_back()
    over_target = [each for each in process.reserve._shares if each.open > each.target]
    assert process.reserve.open <= process.reserve.line or not over_target
    assert all(each.open <= each.line for each in process.reserve._shares)


# ---- when


def test_many_in_one_step_are_one_look() -> None:
    process, asked = Process(), list[int]()
    links = process.reserve.links
    links.make_room = closing(links, asked)

    process.open(links=380)
    process.end_step()

    assert asked == [380 - 326]


def test_a_look_in_vain_is_not_made_again_at_once() -> None:
    process, asked = Process(), list[int]()
    links = process.reserve.links
    links.make_room = closing(links, asked, most=0)

    process.open(links=346)
    process.end_step()
    process.open(links=1)
    process.end_step()
    process.now += RETRY_SECONDS
    process.open(links=1)
    process.end_step()

    assert asked == [20, 22]


def test_without_an_owner_nothing_is_closed_and_nothing_breaks() -> None:
    process = Process()

    process.open(links=384)
    process.end_step()

    assert process.reserve.links.open == 384


# ---- what is told


def test_the_status_says_what_is_open_and_what_became_of_others() -> None:
    process = Process()
    links = process.reserve.links
    links.make_room = closing(links, [])

    process.open(links=346, leaving=2)
    process.reserve.front.refuse()
    process.end_step()

    assert process.reserve.statistics() == {
        "most": 384,
        "open": {"links": 326, "exit": 2, "front": 0},
        "refused": {"links": 0, "exit": 0, "front": 1},
        "closed": {"for a test": 20},
    }


def test_the_log_has_a_line_a_minute_with_what_happened_in_it() -> None:  # DOS-9
    process = Process()
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            process.reserve.exit.refuse()
            process.end_step()
        process.now += REPORT_SECONDS
        process.reserve.exit.refuse()
        process.end_step()

    assert [line["refused"] for line in logs] == [1, 1001]
    assert {line["log_level"] for line in logs} == {"warning"}


# ---- the sockets


def files_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reserve of this test be that of a process with 128 files."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))


async def storm(count: int, listener: SocketListener) -> None:
    """Serve whoever dials, open so many connections from here, and close them in every way."""
    served: list[ByteStream] = []
    network = SocketNetwork().for_exit()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve_with, served.append, nursery)
        dialled = [network.begin_dial(listener.local) for _ in range(count)]
        while len(served) < count:
            await trio.lowlevel.checkpoint()
        here = reserve.here()
        assert (here.links.open, here.exit.open) == (count, count)
        assert here.open == 2 * count
        for number, dialling in enumerate(dialled):
            assert dialling.stream is not None
            (dialling.close, dialling.stream.close, dialling.stream.reset)[number % 3]()
            dialling.close()
            dialling.stream.close()  # twice is fine
        for stream in served:
            stream.reset()
            stream.close()
        listener.close()


async def test_a_storm_comes_back_to_nothing() -> None:
    await storm(3, SocketNetwork().listen(HERE))  # what is opened once is open by now
    before = files_open()

    await storm(500, SocketNetwork().listen(HERE))

    assert reserve.here().open == 0
    assert files_open() <= before


async def test_dials_that_fail_or_are_given_up_are_counted_back() -> None:
    network = SocketNetwork()
    closed = network.listen(HERE)
    closed.close()

    for _ in range(20):
        with pytest.raises(LinkError):
            await network.dial(closed.local)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as crowded:
        place = Address("127.0.0.1", crowded.getsockname()[1])
        for _ in range(5):  # the first ones are in its queue, the others are not answered
            with trio.move_on_after(0.01):
                (await network.dial(place)).close()
        dialling = network.begin_dial(place)
        assert dialling.stream is None
        assert reserve.here().open == 1
        dialling.close()

    assert reserve.here().open == 0


async def test_a_dial_without_room_fails_as_the_system_would(few: None) -> None:
    network, listener = SocketNetwork(), SocketNetwork().listen(HERE)
    for _ in range(reserve.here().most):
        reserve.here().links.take()

    with pytest.raises(LinkError) as caught:
        await network.dial(listener.local)

    listener.close()
    assert caught.value.is_local  # no peer is to blame
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EMFILE
    assert reserve.here().links.refused == 1


async def test_a_udp_socket_is_counted_and_refused_too(few: None) -> None:
    share = reserve.here().exit

    socks = [UdpSocket("127.0.0.1", share) for _ in range(share.most)]
    with pytest.raises(LinkError) as caught:
        UdpSocket("127.0.0.1", share)
    for sock in socks:
        sock.close()
        sock.close()

    assert caught.value.is_local
    assert share.refused == 1
    assert share.open == reserve.here().open == 0


@pytest.mark.parametrize("with_tasks", [True, False])
async def test_a_full_process_accepts_nobody_until_there_is_room(
    few: None, with_tasks: bool
) -> None:
    """The listening socket keeps whoever comes, and has a descriptor for him later."""
    here, listener = reserve.here(), SocketNetwork().listen(HERE)
    met, has_met = list[ByteStream](), trio.Event()

    def meet(stream: ByteStream) -> None:
        met.append(stream)
        has_met.set()

    async def accept(stream: ByteStream) -> None:
        meet(stream)

    for _ in range(here.most):
        here.links.take()
    async with trio.open_nursery() as nursery:
        if with_tasks:
            nursery.start_soon(listener.serve, accept, nursery)
        else:
            nursery.start_soon(listener.serve_with, meet, nursery)
        with socket.create_connection((listener.local.host, listener.local.port)):
            await trio.sleep(0.05)
            kept_waiting = not met
            here.links.give_back()
            with trio.fail_after(5):
                await has_met.wait()
            listener.close()

    assert kept_waiting
    met[0].close()
    assert here.open == here.most - 1


async def test_a_burst_of_connections_is_met_one_by_one() -> None:
    """Each of them may make room for itself before the next is accepted (DOS-2, DOS-8)."""
    listener = SocketListener(listening_socket(HERE))
    most_at_once = Counter[str]()
    waiting: list[ByteStream] = []

    async def accept(stream: ByteStream) -> None:
        waiting.append(stream)
        for old in waiting[:-1]:
            old.close()
        del waiting[:-1]
        most_at_once["open"] = max(most_at_once["open"], reserve.here().open)

    place = (listener.local.host, listener.local.port)
    burst = [socket.create_connection(place) for _ in range(100)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, accept, nursery)
        await trio.sleep(0.1)
        listener.close()
    for sock in burst:
        sock.close()
    waiting[0].close()

    assert most_at_once["open"] <= 4
    assert reserve.here().open == 0
