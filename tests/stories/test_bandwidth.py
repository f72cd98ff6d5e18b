"""What a relay gives away is what it says, and a line that is full keeps nobody else waiting."""

import socket
import socketserver
import statistics as numbers
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.journeys import read_answer, request, statistics, through
from tests.support.labs import RunningLab, running_lab
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address
from warren.lab.origin import content, digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

RATE = 2_000_000
SIZE = 6_000_000
#: Without the burst of a relay and what goes beyond it, for a machine that does nothing else.
LEAST_SECONDS = (SIZE - 0.3 * RATE) / RATE
MOST_SECONDS = 5 * SIZE / RATE


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


@pytest.fixture(scope="module")
def echo() -> Iterator[Address]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        yield Address("127.0.0.1", server.socket.getsockname()[1])
        server.shutdown()


@pytest.fixture(scope="module")
def lab(origin: Origin, echo: Address) -> Iterator[RunningLab]:
    targets = [word for each in (*origin.addresses, echo) for word in ("--allow-target", str(each))]
    names = ["--host", f"{NAME}=127.0.0.1"]
    sizes = ["--relays", "4", "--exits", "1", "--bandwidth", str(RATE)]
    with running_lab(*sizes, *targets, *names) as lab:
        yield lab


def web(origin: Origin) -> Address:
    return Address(NAME, origin.http.port)


def download(lab: RunningLab, origin: Origin, user: str) -> float:
    """Return the seconds that it took."""
    begun = time.monotonic()
    with through(lab.proxy, web(origin), user=user) as sock:
        request(sock, f"/bytes/{SIZE}")
        assert read_answer(sock) == (digest(SIZE), SIZE)
    return time.monotonic() - begun


def upload(lab: RunningLab, origin: Origin, user: str) -> float:
    """Return the seconds that it took."""
    begun = time.monotonic()
    with through(lab.proxy, web(origin), user=user) as sock:
        request(sock, "/sink", "PUT", SIZE)
        for block in content(SIZE):
            sock.sendall(block)
        assert sock.makefile("rb").read()[-64:].decode() == digest(SIZE)
    return time.monotonic() - begun


def seconds_waited(lab: RunningLab) -> float:
    """Return how long somebody had to wait at a relay, whichever of them is the narrowest."""
    names = [each["name"] for role in ("relay", "exit") for each in lab.of_role(role)]
    return sum(float(statistics(lab, name)["bandwidth"]["waited_seconds"]) for name in names)


def round_trip(sock: socket.socket) -> float:
    begun = time.monotonic()
    sock.sendall(b"a key")
    assert sock.recv(5, socket.MSG_WAITALL) == b"a key"
    return time.monotonic() - begun


def test_a_download_takes_the_time_that_the_bandwidth_says(lab: RunningLab, origin: Origin) -> None:
    assert LEAST_SECONDS <= download(lab, origin, "down") <= MOST_SECONDS


def test_an_upload_takes_the_time_that_the_bandwidth_says(lab: RunningLab, origin: Origin) -> None:
    assert LEAST_SECONDS <= upload(lab, origin, "up") <= MOST_SECONDS


def test_beside_full_lines_keys_are_answered_and_nothing_breaks(
    lab: RunningLab, origin: Origin, echo: Address
) -> None:
    with through(lab.proxy, echo, user="keys") as sock, ThreadPoolExecutor() as pool:
        before = seconds_waited(lab)
        work = [
            pool.submit(what, lab, origin, f"{what.__name__}{n}")
            for what in (download, upload)
            for n in range(2)
        ]
        trips = []
        while not all(each.done() for each in work):
            trips.append(round_trip(sock))
            time.sleep(0.02)
        took = [each.result() for each in work]

    # All of it passes the exit: down to the relay before it, and up to the target.
    assert max(took) >= (4 * SIZE - 0.3 * RATE) / RATE
    assert seconds_waited(lab) > before
    assert numbers.median(trips) < 0.25  # five times the 50 ms that were measured
    proxy = statistics(lab, "proxy")
    assert proxy["retried"] == proxy["given_up"] == 0
