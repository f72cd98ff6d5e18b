"""What is lost is never taken for what is over: exits and proxies that are killed in the middle.

A system ends the connections of a process that is killed as if it had closed them. Warren asks
it for a reset, so that half a file is half a file at either end.
"""

import contextlib
import os
import queue
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.support.journeys import statistics, through
from tests.support.labs import RunningLab, running_lab
from warren.addresses import Address

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
#: The second one leaves no proxy.
IN_ORDER = True

#: More than fits into all buffers on the way, so that nothing is ever over.
HALF = bytes(100_000)
SECONDS = 30


class _Target(socketserver.ThreadingTCPServer):
    """Send without an end to whoever begins with "down"; tell how the others end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Visit)
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.socket.getsockname()[1])


class _Visit(socketserver.BaseRequestHandler):
    server: _Target

    def handle(self) -> None:
        if self.request.recv(4) == b"down":
            with contextlib.suppress(OSError):
                while True:
                    self.request.sendall(HALF)
            return
        received, end = 0, "end"
        try:
            while chunk := self.request.recv(65536):
                received += len(chunk)
                if received == len(HALF):
                    self.server.ends.put("half")
        except ConnectionResetError:
            end = "reset"
        self.server.ends.put(end)


@pytest.fixture(scope="module")
def target() -> Iterator[_Target]:
    with _Target() as target:
        yield target
        target.shutdown()


@pytest.fixture(scope="module")
def lab(target: _Target) -> Iterator[RunningLab]:
    with running_lab("--relays", "6", "--exits", "3", "--allow-target", str(target.address)) as lab:
        yield lab


@contextlib.contextmanager
def half_way(lab: RunningLab, target: _Target) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a download and an upload of which a part has arrived."""
    with through(lab.proxy, target.address) as down, through(lab.proxy, target.address) as up:
        down.sendall(b"down")
        assert down.recv(65536)
        up.sendall(b"up  " + HALF)
        assert target.ends.get(timeout=SECONDS) == "half"
        yield down, up


def end_of(sock: socket.socket) -> str:
    sock.settimeout(SECONDS)
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return "reset"
    return "end"


def test_a_killed_exit_resets_both_ends(lab: RunningLab, target: _Target) -> None:  # SID-4
    pids = {process.get("id"): process["pid"] for process in lab.ready["processes"]}
    with half_way(lab, target) as (down, up):
        paths = [each["path"] for each in statistics(lab, "proxy")["circuits"] if each["streams"]]
        for leaving in {path[-1] for path in paths}:
            os.kill(pids[leaving], signal.SIGKILL)

        found = [end_of(down), end_of(up), target.ends.get(timeout=SECONDS)]

    assert found == ["reset"] * 3


def test_a_killed_proxy_resets_its_applications(lab: RunningLab, target: _Target) -> None:  # SID-4
    [proxy] = lab.of_role("proxy")
    with half_way(lab, target) as (down, up):
        os.kill(proxy["pid"], signal.SIGKILL)

        found = [end_of(down), end_of(up)]

    assert found == ["reset"] * 2  # and the target hears of it when its exit has waited in vain
