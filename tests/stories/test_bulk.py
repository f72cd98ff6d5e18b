"""Much data: it arrives whole, in little memory, and who does not read keeps nobody else waiting.

Everything goes through real peers, so what is bounded here is the whole chain: the windows of
streams and circuits, the queues of links, and the sockets at both ends (DOS-12).
"""

import contextlib
import hashlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.journeys import (
    MIB,
    Scheme,
    read_answer,
    read_rest,
    request,
    statistics,
    through,
    wait_until,
    watching_memory,
)
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address
from warren.lab.origin import BLOCK_BYTES, content, digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

GIGABYTE = 1_000_000_000
MOST_GROWTH = 64 * MIB
STREAM_WINDOW = 4 * MIB  # protocol §6
WAYS: list[Scheme] = ["socks5", "http"]
#: A machine that does other things, too, may need more than one to show the true times.
ROUNDS = 12
ESTABLISHED = "01"  # in /proc/net/tcp


def web(origin: Origin) -> Address:
    return Address(NAME, origin.http.port)


def download(lab: RunningLab, origin: Origin, size: int, user: str | None = None) -> str:
    with through(lab.proxy, web(origin), user=user) as sock:
        request(sock, f"/bytes/{size}")
        found, length = read_answer(sock)
    assert length == size
    return found


def upload(lab: RunningLab, origin: Origin, size: int) -> bytes:
    with through(lab.proxy, web(origin)) as sock:
        request(sock, "/sink", "PUT", size)
        for block in content(size):
            sock.sendall(block)
        return sock.makefile("rb").read()[-64:]


# ---- a gigabyte


def test_a_gigabyte_comes_down_whole_and_leaves_no_memory_behind(
    lab: RunningLab, origin: Origin
) -> None:
    with watching_memory(lab) as growth:
        found = download(lab, origin, GIGABYTE)

    assert found == digest(GIGABYTE)
    assert growth.most <= MOST_GROWTH, growth


def test_a_gigabyte_goes_up_whole_and_leaves_no_memory_behind(
    lab: RunningLab, origin: Origin
) -> None:
    with watching_memory(lab) as growth:
        found = upload(lab, origin, GIGABYTE)

    assert found.decode() == digest(GIGABYTE)
    assert growth.most <= MOST_GROWTH, growth


def test_ten_streams_at_once_are_not_mixed_up(lab: RunningLab, origin: Origin) -> None:
    sizes = [9_000_000 + number for number in range(10)]

    with ThreadPoolExecutor(20) as pool:
        down = pool.map(lambda size: download(lab, origin, size), sizes)
        up = pool.map(lambda size: upload(lab, origin, size).decode(), sizes)

    assert list(down) == list(up) == [digest(size) for size in sizes]


# ---- half-close


@pytest.mark.parametrize("way", WAYS)
def test_an_application_may_end_first_and_then_read(
    lab: RunningLab, origin: Origin, way: Scheme
) -> None:  # T30
    for number in range(50):
        size, name = size_of(number), f"first-{way}-{number}"
        with through(lab.proxy, origin_raw(origin), scheme=way) as sock:
            sock.sendall(f"drain {size} {name}\n".encode() + b"x" * number)
            sock.shutdown(socket.SHUT_WR)
            found = read_rest(sock)

        assert found == (digest(size), size)
        assert drained(origin, name) == hashlib.sha256(b"x" * number).hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_a_target_may_end_first_and_then_read(
    lab: RunningLab, origin: Origin, way: Scheme
) -> None:  # T30
    for number in range(50):
        size, name = size_of(number), f"second-{way}-{number}"
        with through(lab.proxy, origin_raw(origin), scheme=way) as sock:
            sock.sendall(f"send {size} {name}\n".encode())
            found = read_rest(sock)
            for block in content(size):
                sock.sendall(block)

        assert found == (digest(size), size)
        assert drained(origin, name) == digest(size)


def drained(origin: Origin, name: str) -> str:
    wait_until(lambda: name in origin.drained, 20, "the end of the other half")
    return origin.drained[name]


def size_of(number: int) -> int:
    return 10_000_000 if number == 0 else 1000 * number


def origin_raw(origin: Origin) -> Address:
    return Address(NAME, origin.raw.port)


# ---- who does not read keeps nobody else waiting


def test_an_upload_to_a_target_that_does_not_read_waits(
    lab: RunningLab, origin: Origin
) -> None:  # T18
    body = memoryview(b"".join(content(100_000_000)))
    origin.gate.clear()
    with through(lab.proxy, web(origin)) as sock:
        with watching_memory(lab) as growth:
            request(sock, "/stalled", "PUT", len(body))
            sent = send_until_blocked(sock, body)
            in_sockets = bytes_in_sockets(sock, origin.http)
        origin.gate.set()
        sock.settimeout(60)
        sock.sendall(body[sent:])
        answer = sock.makefile("rb").read()

    assert sent - in_sockets <= STREAM_WINDOW + BLOCK_BYTES
    assert growth.most <= 16 * MIB, growth
    assert answer[-64:].decode() == digest(len(body))


def send_until_blocked(sock: socket.socket, body: memoryview) -> int:
    """Send until nothing was taken for three seconds; return how many bytes were."""
    sent = 0
    sock.settimeout(3)
    with contextlib.suppress(TimeoutError):
        while sent < len(body):
            sent += sock.send(body[sent : sent + MIB])
    return sent


def bytes_in_sockets(application: socket.socket, target: Address) -> int:
    """Return how many bytes the kernel holds between application and proxy, exit and target.

    Every connection on this machine is a line in /proc/net/tcp, for each of its ends; the fifth
    column has what was not acknowledged yet and what was not read yet (proc(5)).
    """
    ports = {application.getsockname()[1], target.port}
    held = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        ends = {int(end.partition(":")[2], 16) for end in (local, remote)}
        if state == ESTABLISHED and ends & ports:
            held += sum(int(queue, 16) for queue in queues.split(":"))
    return held


def test_a_stream_that_nobody_reads_does_not_hold_up_its_siblings(
    lab: RunningLab, origin: Origin
) -> None:  # T17
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(seconds_for_seven(lab, origin))
        with through(lab.proxy, web(origin), user="one circuit") as stalled:
            request(stalled, f"/bytes/{GIGABYTE}")
            beside.append(seconds_for_seven(lab, origin, others=1))
        if sum(beside) <= sum(alone) / 0.9:
            return
    pytest.fail(f"seven streams took {alone} s alone and {beside} s beside a stalled one")


def seconds_for_seven(lab: RunningLab, origin: Origin, others: int = 0) -> float:
    """Download over seven streams of one circuit that has so many `others`; return the time."""
    size = 10_000_000
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(through(lab.proxy, web(origin), user="one circuit"))
            for _ in range(7)
        ]
        with contextlib.suppress(AssertionError):  # what there is instead is told below
            wait_until(lambda: 7 + others in circuits_with_streams(lab), 10, "one circuit")
        assert 7 + others in circuits_with_streams(lab)  # those of other stories may be ending
        begun = time.monotonic()
        for sock in streams:
            request(sock, f"/bytes/{size}")
        with ThreadPoolExecutor(7) as pool:
            assert set(pool.map(read_answer, streams)) == {(digest(size), size)}
        return time.monotonic() - begun


def circuits_with_streams(lab: RunningLab) -> list[int]:
    """Return the numbers of streams of the proxy's circuits that have any."""
    circuits = statistics(lab, "proxy")["circuits"]
    return [circuit["streams"] for circuit in circuits if circuit["streams"]]
