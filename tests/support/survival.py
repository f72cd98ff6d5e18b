"""Applications at work while the relays that carry them are killed, with what they notice of it.

A ``Town`` is a lab with a line in front of every relay, so that links can be cut, in which killed
relays come back after two seconds. A ``Run`` moves a file down and one up, each slowly, and keeps
two talks open, one that types and one that sends frames, all on one circuit; meanwhile that
circuit's own middle is killed again and again, and its guard once.

    python -m tests.support.survival --runs 20 --seconds 60 --megabytes 500 --every 10

prints what became of each run, and the pauses of all.
"""

import argparse
import contextlib
import os
import signal
import socket
import socketserver
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from python_socks import ProxyError

from tests.support.journeys import read_answer, request, through, wait_until
from tests.support.journeys import statistics as ask_statistics
from tests.support.labs import RunningLab, running_lab
from warren.addresses import Address
from warren.errors import ConfigError
from warren.lab.origin import content, digest

RELAYS, EXITS = 12, 4
BACK_SECONDS = 2.0
_LINE = "2ms"  # a circuit costs round trips, as it does elsewhere
MEGABYTE = 1_000_000


class _Echo(socketserver.ThreadingTCPServer):
    """Say everything back, as long as anybody talks."""

    daemon_threads = True
    request_queue_size = 64

    class RequestHandlerClass(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while data := self.request.recv(65536):
                    self.request.sendall(data)


@contextlib.contextmanager
def running_echo() -> Iterator[Address]:
    """Give the address of a server that says everything back while inside."""
    with _Echo(("127.0.0.1", 0), _Echo.RequestHandlerClass) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Address("127.0.0.1", server.server_address[1])
        server.shutdown()


class Town:
    """Own a lab whose relays are killed and come back."""

    def __init__(self, lab: RunningLab, echo: Address) -> None:
        self.lab, self.echo = lab, echo
        self.folder = Path(lab.ready["dir"])
        self.kills: list[str] = []
        peers = lab.ready["processes"]
        self._names = {peer["id"]: peer["name"] for peer in peers if "id" in peer}
        self._pids = {peer["name"]: peer["pid"] for peer in peers}
        self._lines = {line["name"]: line["pid"] for line in lab.ready["impairments"]}
        self._reborn: dict[str, subprocess.Popen[bytes]] = {}
        self._lifeline, self._leash = os.pipe()  # who comes back ends with this process
        self._timers: list[threading.Timer] = []

    def circuits(self, proxy: str = "proxy") -> list[dict[str, Any]]:
        """Return the circuits of `proxy` that carry streams, with the names of their relays."""
        found = ask_statistics(self.lab, proxy)["circuits"]
        return [
            {**each, "path": [self._names[peer] for peer in each["path"]]}
            for each in found
            if each["streams"]
        ]

    def path(self) -> list[str]:
        """Wait until a circuit carries streams; return the relays of the one with most of them.

        Where an exit refused a stream, what began together may be on two circuits.
        """
        found: list[dict[str, Any]] = []

        def is_in_use() -> bool:
            found[:] = self.circuits()
            return bool(found)

        wait_until(is_in_use, 30, "a circuit in use")
        path: list[str] = max(found, key=lambda each: int(each["streams"]))["path"]
        return path

    def kill(self, name: str) -> None:
        """Kill a relay (-9); it comes back after ``BACK_SECONDS``."""
        pid = self._pids[name]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        command = [word.decode() for word in words]
        for option in ("--while-open", "--ready-fd"):  # of the lab; it knows of the first life only
            if option in command:
                at = command.index(option)
                del command[at : at + 2]
        os.kill(pid, signal.SIGKILL)
        if name in self._reborn:
            self._reborn[name].wait()
        self.kills.append(name)
        timer = threading.Timer(BACK_SECONDS, self._bring_back, (name, command))
        self._timers.append(timer)
        timer.start()

    def _bring_back(self, name: str, command: list[str]) -> None:
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--while-open", str(self._lifeline)],
                pass_fds=[self._lifeline],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._reborn[name] = process
        self._pids[name] = process.pid

    def wait_back(self) -> None:
        """Wait until all that were killed run again."""
        for timer in self._timers:
            timer.join()
        self._timers.clear()
        for name in self._reborn:
            wait_until(partial(self._answers, name), 30, f"the second life of {name}")

    def _answers(self, name: str) -> bool:
        with contextlib.suppress(ConfigError):
            return bool(ask_statistics(self.lab, name))
        return False

    def cut(self, name: str) -> None:
        """Cut all links that were dialled to a relay."""
        os.kill(self._lines[f"to-{name}"], signal.SIGUSR1)

    def close(self) -> None:
        self.wait_back()
        for process in self._reborn.values():
            process.terminate()
        for process in self._reborn.values():
            process.wait(10)
        os.close(self._lifeline)
        os.close(self._leash)


@contextlib.contextmanager
def running_town() -> Iterator[Town]:
    """Run a town while inside."""
    middles = [f"relay{number}" for number in range(1, RELAYS - EXITS + 1)]
    exits = [f"exit{number}" for number in range(1, EXITS + 1)]
    lines = [word for name in (*middles, *exits) for word in ("--impair", f"{name}={_LINE}")]
    with running_echo() as echo:
        size = ["--relays", str(RELAYS), "--exits", str(EXITS)]
        with running_lab(*size, *lines, "--allow-target", str(echo)) as lab:
            town = Town(lab, echo)
            try:
                yield town
            finally:
                town.close()


@dataclass
class Run:
    """Hold one run: what was wrong (nothing, if all went well), and the longest silences."""

    faults: list[str] = field(default_factory=list)
    deaths: int = 0
    #: Seconds between two circuits, as the client counts them, one for each death.
    pauses: list[float] = field(default_factory=list)
    #: The longest time a key or a frame took to come back.
    slowest: dict[str, float] = field(default_factory=dict)


class _Work:
    """Own the applications of one run, each in a thread."""

    def __init__(self, town: Town, user: str, size: int, seconds: float) -> None:
        self.run = Run()
        self._town, self._user, self._size, self._seconds = town, user, size, seconds
        self._is_over = threading.Event()
        web = Address.parse(town.lab.ready["origin"].removeprefix("http://").rstrip("/"))
        self._transfers = [
            self._thread(self._download, web),
            self._thread(self._upload, web),
        ]
        self._talks = [
            self._thread(self._talk, "keys", 1, 0.05),
            self._thread(self._talk, "frames", 3000, 0.25),
        ]

    def _thread(self, work: Any, *arguments: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*arguments)
            except Exception as error:  # noqa: BLE001  whatever it is, the run has failed
                self.run.faults.append(f"{work.__name__} {arguments[:1]}: {error!r}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def wait(self) -> Run:
        for thread in self._transfers:
            thread.join(self._seconds * 5 + 60)
            if thread.is_alive():
                self.run.faults.append("a transfer does not end")
        self._is_over.set()
        for thread in self._talks:
            thread.join(60)
        return self.run

    def _connect(self, target: Address) -> socket.socket:
        sock = through(self._town.lab.proxy, target, user=self._user)
        sock.settimeout(60)
        return sock

    def _pace(self, began: float, done: int) -> None:
        """Wait until so much may have been moved."""
        ahead = began + self._seconds * done / self._size - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)

    def _download(self, web: Address) -> None:
        with self._connect(web) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
            request(sock, f"/bytes/{self._size}")
            found, length = read_answer(_Paced(sock, self._pace))  # type: ignore[arg-type]
        if (found, length) != (digest(self._size), self._size):
            self.run.faults.append(f"the download: {length} bytes, {found}")

    def _upload(self, web: Address) -> None:
        with self._connect(web) as sock:
            request(sock, "/upload", "POST", self._size)
            began, done = time.monotonic(), 0
            for block in content(self._size):
                sock.sendall(block)
                done += len(block)
                self._pace(began, done)
            answer = sock.makefile("rb").read()
        if digest(self._size).encode() not in answer:
            self.run.faults.append(f"the upload: {answer[-200:]!r}")

    def _talk(self, name: str, size: int, seconds: float) -> None:
        slowest, number = 0.0, 0
        with self._connect(self._town.echo) as sock:
            while not self._is_over.is_set():
                said = bytes([number % 256]) * size
                began = time.monotonic()
                sock.sendall(said)
                heard = b""
                while len(heard) < size:
                    part = sock.recv(65536)
                    if not part:
                        raise ConnectionError("the connection ended")
                    heard += part
                if heard != said:
                    raise ValueError("another answer than was sent")
                slowest = max(slowest, time.monotonic() - began)
                number += 1
                time.sleep(seconds)
        self.run.slowest[name] = slowest


class _Paced:
    """Be a socket that is read no faster than its pace."""

    def __init__(self, sock: socket.socket, pace: Any) -> None:
        self._sock, self._pace = sock, pace
        self._began, self._done = time.monotonic(), 0

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        self._done += len(data)
        return data

    def recv_into(self, buffer: memoryview) -> int:
        count = self._sock.recv_into(buffer[: 256 * 1024])
        self._done += count
        self._pace(self._began, self._done)
        return count


def run_once(
    town: Town, user: str, *, size: int, seconds: float, every: float, cuts: bool = False
) -> Run:
    """Move `size` bytes each way in `seconds`; kill the middle `every` seconds, the guard once.

    With `cuts` the guard's links are cut instead.
    """
    before = ask_statistics(town.lab, "proxy")["resuming"]
    work = _Work(town, user, size, seconds)
    time.sleep(every / 2)
    began, kills = time.monotonic(), 0
    while time.monotonic() - began < seconds - every / 2:
        path = town.path()
        town.kill(path[1])
        kills += 1
        if kills == max(1, int(seconds / every) // 2):
            time.sleep(every / 2)
            guard = town.path()[0]
            (town.cut if cuts else town.kill)(guard)
        ahead = began + kills * every - time.monotonic()
        time.sleep(max(0.0, ahead))
    run = work.wait()
    town.wait_back()
    after = ask_statistics(town.lab, "proxy")["resuming"]
    run.deaths = after["deaths"] - before["deaths"]
    resumed = after["resumed"] - before["resumed"]
    run.pauses = after["pause_seconds"][-resumed:] if resumed else []
    if after["streams_lost"] != before["streams_lost"]:
        run.faults.append(f"{after['streams_lost'] - before['streams_lost']} streams were lost")
    return run


@dataclass
class Churn:
    """Count what short requests met while relays died: what never began, and what broke off."""

    good: int = 0
    not_begun: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def churn(
    town: Town, *, seconds: float, every: float, kill: Callable[[], str], loops: int
) -> Churn:
    """Fetch 10 KB again and again in `loops` threads; every so often kill what `kill` names."""
    found, end = Churn(), time.monotonic() + seconds
    web = Address.parse(town.lab.ready["origin"].removeprefix("http://").rstrip("/"))

    def fetch(number: int) -> None:
        while time.monotonic() < end:
            try:
                sock = through(town.lab.proxy, web, user=f"loop{number}")
            except ProxyError as error:
                found.not_begun.append(repr(error))
                continue
            with sock:
                try:
                    request(sock, "/bytes/10000")
                    assert read_answer(sock) == (digest(10_000), 10_000)
                    found.good += 1
                except OSError as error:
                    found.broken.append(repr(error))

    threads = [threading.Thread(target=fetch, args=(n,), daemon=True) for n in range(loops)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end - every:
        time.sleep(every)
        town.kill(kill())
    for thread in threads:
        thread.join(seconds + 90)
        assert not thread.is_alive(), "a request that does not end"
    town.wait_back()
    return found


def quantiles(values: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    if len(values) < 2:
        return (values or [0.0])[0], (values or [0.0])[0]
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]


def main() -> int:
    """Run the acceptance run and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--every", type=float, default=10)
    parser.add_argument("--cuts", action="store_true", help="cut the guard's links, do not kill it")
    wanted = parser.parse_args()
    good = 0
    pauses: list[float] = []
    slowest: list[float] = []
    with running_town() as town:
        for number in range(wanted.runs):
            began = time.monotonic()
            try:
                run = run_once(
                    town,
                    f"run{number}",
                    size=wanted.megabytes * MEGABYTE,
                    seconds=wanted.seconds,
                    every=wanted.every,
                    cuts=wanted.cuts,
                )
            except Exception as error:  # noqa: BLE001  it has failed, and the others are still to come
                traceback.print_exc()
                run = Run([f"it was given up: {error!r}"])
            good += not run.faults
            pauses += run.pauses
            slowest += run.slowest.values()
            middle, late = quantiles(run.pauses)
            print(
                f"run {number + 1:2}: {'good' if not run.faults else run.faults}; "
                f"{time.monotonic() - began:.0f} s, "
                f"{run.deaths} deaths, pauses p50 {middle:.3f} s, p95 {late:.3f} s; "
                + ", ".join(f"{name} {worst:.2f} s" for name, worst in run.slowest.items()),
                flush=True,
            )
    middle, late = quantiles(pauses)
    print(
        f"{good} of {wanted.runs} runs good; {len(pauses)} pauses, p50 {middle:.3f} s, "
        f"p95 {late:.3f} s, worst {max(pauses, default=0.0):.3f} s; "
        f"the longest a talk waited: {max(slowest, default=0.0):.2f} s"
    )
    return 0 if good == wanted.runs else 1


if __name__ == "__main__":
    sys.exit(main())
