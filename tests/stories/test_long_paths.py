"""A long path between real processes: an impairment stands in front of an exit.

What comes over it is whole, takes as long as the path is, and much of it is on its way at once.
How much exactly is a matter of the machine; the mock clock has the figures
(tests/network/test_long_paths.py).
"""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journeys import (
    CONNECT_SECONDS,
    check_logs,
    read_answer,
    request,
    statistics,
    through,
    wait_until,
)
from tests.support.labs import RunningLab, running_lab
from warren.addresses import Address
from warren.lab.origin import BLOCK_BYTES, content, digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

ROUND_TRIP, RATE = 0.300, 12_500_000
SIZE = 100_000_000
#: First windows of 64 cells carry a fourteenth of the rate, so this shows that they have widened,
#: on a machine that is five times too slow as well.
LEAST_RATE = RATE / 5


@pytest.fixture(scope="module")
def lab() -> Iterator[RunningLab]:
    """Run a lab whose circuits all end at the one exit, which is far away."""
    line = f"exit1={ROUND_TRIP / 2}s,{RATE}B/s"
    with running_lab("--relays", "3", "--exits", "1", "--impair", line) as running:
        yield running
        check_logs(Path(running.ready["dir"]))


def origin_of(lab: RunningLab) -> Address:
    return Address.parse(lab.ready["origin"].removeprefix("http://").rstrip("/"))


def test_the_exit_is_listed_where_its_impairment_is_and_a_round_trip_away(lab: RunningLab) -> None:
    [impairment] = lab.ready["impairments"]
    with through(lab.proxy, origin_of(lab)) as sock:
        begun = time.monotonic()
        request(sock, "/bytes/1000")
        found = read_answer(sock)
        seconds = time.monotonic() - begun

    assert statistics(lab, "exit1")["address"] == impairment["address"]
    assert found == (digest(1000), 1000)
    assert seconds >= ROUND_TRIP


def test_one_download_fills_a_long_path(lab: RunningLab) -> None:
    received, total, buffer = 0, hashlib.sha256(), memoryview(bytearray(1 << 20))
    with through(lab.proxy, origin_of(lab)) as sock:
        request(sock, f"/bytes/{SIZE}")
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        body = head.partition(b"\r\n\r\n")[2]
        total.update(body)
        received += len(body)
        half_at = 0.0
        while count := sock.recv_into(buffer):
            total.update(buffer[:count])
            received += count
            half_at = half_at or (time.monotonic() if received >= SIZE // 2 else 0.0)
    rate = SIZE // 2 / (time.monotonic() - half_at)

    assert (received, total.hexdigest()) == (SIZE, digest(SIZE))
    assert rate >= LEAST_RATE


def test_one_upload_fills_a_long_path(lab: RunningLab) -> None:
    sent, half_at = 0, 0.0
    with through(lab.proxy, origin_of(lab)) as sock:
        request(sock, "/upload", "POST", SIZE)
        for block in content(SIZE):
            sock.sendall(block)
            sent += len(block)
            half_at = half_at or (time.monotonic() if sent >= SIZE // 2 else 0.0)
        answer = sock.makefile("rb").read()
    rate = SIZE // 2 / (time.monotonic() - half_at)

    assert answer.endswith(f"{SIZE} {digest(SIZE)}\n".encode())
    assert rate >= LEAST_RATE


def test_links_that_stall_and_break_lose_nothing_that_was_whole() -> None:
    size = 100 * BLOCK_BYTES
    options = ["--relays", "4", "--exits", "1", "--impair", "all=5ms,stall=0.002:50ms"]
    with running_lab(*options) as lab:
        before, cut = download(lab, size), circuits_of(lab)
        for impairment in lab.ready["impairments"]:
            os.kill(impairment["pid"], signal.SIGUSR1)
        wait_until(lambda: not circuits_of(lab) & cut, CONNECT_SECONDS, "the end of all circuits")
        after = download(lab, size)
        check_logs(Path(lab.ready["dir"]))

    assert cut
    assert before == after == (digest(size), size)
    assert len(lab.ready["impairments"]) == 4


def download(lab: RunningLab, size: int) -> tuple[str, int]:
    with through(lab.proxy, origin_of(lab)) as sock:
        request(sock, f"/bytes/{size}")
        return read_answer(sock)


def circuits_of(lab: RunningLab) -> set[int]:
    return {circuit["id"] for circuit in statistics(lab, "proxy")["circuits"]}
