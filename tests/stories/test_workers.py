"""A relay of several processes: both carry, one may die, and none outlives the relay."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.directories import authority_hop, content_of, identity, signed
from tests.support.journeys import check_logs, read_answer, request, through, wait_until
from tests.support.labs import RunningLab, is_alive, running_lab, wait_until_dead
from tests.support.pages import status_of
from warren.addresses import Address
from warren.directory.network_file import (
    Authority,
    NetworkFile,
    create_network,
    render_network_file,
)
from warren.directory.parameters import Parameters
from warren.identity import Hop, PeerId, Suite, SystemKeys
from warren.key_files import KeyFiles
from warren.lab.origin import digest
from warren.network.circuits import Circuit, build_circuit
from warren.network.directory_http import request as request_directory
from warren.peer import Peer, running_peer
from warren.status.control import ask, find_socket
from warren.storage import DataFolder

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

WARREN = (sys.executable, "-m", "warren")
USABLE_SECONDS = 60
BACK_SECONDS = 60
FILE_BYTES = 1_000_000
MOST_CLIENTS = 8


# ---- a relay without a network: it has a consensus, and its authorities are not there


def network_without_authorities() -> NetworkFile:
    """Return a network whose authorities nobody reaches; its documents can be signed all the same.

    They stand at a port of this machine that refuses.
    """
    authorities = [
        Authority(
            f"authority {n}", replace(authority_hop(n), address=Address(f"127.0.0.{n + 1}", 1))
        )
        for n in range(3)
    ]
    founding = identity("workers").seed
    parameters = Parameters(founding_relays=1)
    return create_network("workers", founding, authorities, testing=True, parameters=parameters)


class RunningRelay:
    """Own a relay of two workers that has a consensus from the beginning."""

    def __init__(self, folder: Path) -> None:
        self.network = network_without_authorities()
        self.state = folder / "state"
        self.document = signed(
            content_of(network=self.network, valid_after=int(time.time()) - 100),
            network=self.network,
        )
        DataFolder(self.state).write("consensus", self.document)
        (folder / "network.toml").write_text(render_network_file(self.network))
        self.announced, pen = os.pipe()
        self._log = (folder / "relay.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(*WARREN, "relay", "--workers", "2", "--listen", "127.0.0.1:0"),
                *("--network", folder / "network.toml", "--state", self.state),
                *("--ready-fd", str(pen)),
            ],
            stderr=self._log,
            pass_fds=(pen,),
        )
        os.close(pen)

    def wait_until_usable(self) -> None:
        with os.fdopen(self.announced, closefd=False) as lines:
            listening, usable = (json.loads(lines.readline()) for _ in range(2))
        assert (listening["event"], usable["event"]) == ("listening", "usable")
        files = KeyFiles(DataFolder(self.state), SystemKeys())
        self.hop = Hop(
            PeerId.parse(listening["id"]),
            Address.parse(listening["addresses"][0]),
            files.load("link", time.time()).current.public,
            files.load("onion", time.time()).current.public,
            (Suite.AESGCM, Suite.CHACHAPOLY),
        )

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(find_socket(self.state))["workers"]
        return found

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.workers()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        self._log.close()
        os.close(self.announced)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RunningRelay]:
    running = RunningRelay(tmp_path)
    try:
        running.wait_until_usable()
        yield running
    finally:
        running.close()
    check_logs(tmp_path)


class Client:
    """Own a link to the relay, and a circuit of one hop on it that is made once."""

    def __init__(self, relay: RunningRelay, peer: Peer, on_break: trio.Event) -> None:
        self._relay = relay
        self._peer = peer
        self._on_break = on_break
        self._circuit: Circuit | None = None

    @property
    def is_connected(self) -> bool:
        return self._circuit is not None and self._circuit.is_open

    async def connect(self) -> None:
        """Make the circuit; its end is told by the event."""
        link = await self._peer.links.get(self._relay.hop, is_anonymous=True)
        self._circuit = await build_circuit(link, [self._relay.hop])
        self._circuit.on_closed = lambda _: self._on_break.set()

    async def ask(self) -> bytes:
        """Ask for the consensus over the circuit."""
        assert self._circuit is not None
        stream = self._circuit.open_directory()
        answer = await request_directory(stream, "GET", "/consensus", limit=1 << 20)
        await stream.aclose()
        return answer


@asynccontextmanager
async def two_clients(
    relay: RunningRelay,
) -> AsyncIterator[tuple[Client, Client, trio.Event]]:
    """Give two clients, each of which has asked once, and the end of the first circuit to break."""
    broken = trio.Event()
    with trio.fail_after(BACK_SECONDS):
        async with (
            running_peer(relay.network, None) as one,
            running_peer(relay.network, None) as two,
        ):
            first, second = Client(relay, one, broken), Client(relay, two, broken)
            for client in (first, second):
                await client.connect()
                assert await client.ask() == relay.document
            yield first, second, broken


async def test_each_worker_has_a_client_and_the_relay_has_their_sum(relay: RunningRelay) -> None:
    async with two_clients(relay):
        counts = await trio.to_thread.run_sync(ask, find_socket(relay.state))
        page = await trio.to_thread.run_sync(status_of, relay.state)

    assert [worker["connections"] for worker in counts["workers"]] == [1, 1]
    assert [worker["circuits"] for worker in counts["workers"]] == [1, 1]
    assert all(worker["cells"]["forward"] > 0 for worker in counts["workers"])
    assert counts["circuits"] == counts["created"] == counts["links"]["open"] == 2
    assert counts["pid"] == relay.process.pid
    assert "\nNot listed yet. Authorities have to reach it from outside first" in page
    for worker in counts["workers"]:
        assert f"process {worker['pid']}: 1 connection, 1 circuit, " in page


async def test_a_worker_that_is_killed_takes_its_circuits_along_and_no_others(
    relay: RunningRelay,
) -> None:
    victim, other = await trio.to_thread.run_sync(relay.pids)
    async with two_clients(relay) as (first, second, broken):
        os.kill(victim, signal.SIGKILL)
        await broken.wait()

        assert [first.is_connected, second.is_connected].count(True) == 1
        survivor, widow = (first, second) if first.is_connected else (second, first)
        assert await survivor.ask() == relay.document
        await widow.connect()
        assert await widow.ask() == relay.document

    assert relay.process.poll() is None
    wait_until(
        lambda: len([each for each in relay.workers() if "links" in each]) == 2,
        BACK_SECONDS,
        "a new worker",
    )
    assert other in relay.pids()
    assert victim not in relay.pids()
    log = (relay.state.parent / "relay.log").read_text()
    assert log.count("a worker has ended; another one takes its place") == 1


def test_a_connection_on_its_way_to_a_worker_that_dies_is_given_to_another(
    relay: RunningRelay,
) -> None:
    before = relay.pids()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    with socket.create_connection((relay.hop.address.host, relay.hop.address.port)):
        wait_until(lambda: connections(relay) == 1, BACK_SECONDS, "a handover")
        for pid in before:
            os.kill(pid, signal.SIGKILL)

        wait_until(
            lambda: set(before).isdisjoint(relay.pids()) and connections(relay) == 1,
            BACK_SECONDS,
            "a second handover",
        )


def connections(relay: RunningRelay) -> int:
    return sum(worker["connections"] for worker in relay.workers())


def test_sigterm_ends_all_of_it_with_code_0(relay: RunningRelay) -> None:
    pids = relay.pids()
    assert len([pid for pid in pids if is_alive(pid)]) == 2

    relay.process.terminate()

    assert relay.process.wait(30) == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_the_workers_of_a_killed_relay_end_too(relay: RunningRelay) -> None:
    pids = relay.pids()

    relay.process.kill()

    assert wait_until_dead(pids, 10) == []


def test_a_number_of_workers_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text(render_network_file(network_without_authorities()))
    command = [*WARREN, "relay", "--workers", "0", "--listen", "127.0.0.1:0"]

    done = subprocess.run(
        [*command, "--network", tmp_path / "network.toml", "--state", tmp_path / "state"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr == (
        "warren: workers is 0, expected how many processes carry circuits: 1 to 64\n"
    )


# ---- a lab of such relays


@contextmanager
def more_clients(lab: RunningLab, folder: Path) -> Iterator[Callable[[], str]]:
    """Give what starts one more proxy of the lab's network, and returns where it listens."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        announced, pen = os.pipe()
        state = folder / f"client{len(processes)}"
        config = Path(lab.ready["dir"]) / "proxy.toml"
        with (folder / f"{state.name}.log").open("wb") as log:
            options = ["--config", str(config), "--state", str(state), "--ready-fd", str(pen)]
            command = [*WARREN, "proxy", "--listen", "127.0.0.1:0", *options]
            processes.append(subprocess.Popen(command, stderr=log, pass_fds=(pen,)))
        os.close(pen)
        with os.fdopen(announced) as lines:
            listening, usable = (json.loads(lines.readline()) for _ in range(2))
        assert usable["event"] == "usable"
        return str(listening["addresses"][0])

    try:
        yield start
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def busy_workers(lab: RunningLab, name: str) -> int:
    """Return how many workers of the relay `name` have carried the better part of a file."""
    workers = ask(find_socket(Path(lab.ready["dir"]) / name))["workers"]
    cells = [worker.get("cells", {"backward": 0})["backward"] for worker in workers]
    return sum(count > FILE_BYTES // 4096 // 2 for count in cells)


def test_files_come_whole_through_relays_of_two_workers_and_both_carry(tmp_path: Path) -> None:
    options = ["--workers", "2", "--relays", "3", "--exits", "1", "--authorities", "1"]
    with running_lab(*options) as lab, more_clients(lab, tmp_path) as start_client:
        host, _, port = lab.ready["origin"].removeprefix("http://").strip("/").partition(":")
        relays = [each["name"] for each in lab.of_role("relay") + lab.of_role("exit")]
        proxies = [lab.proxy]
        while True:
            with through(proxies[-1], Address(host, int(port))) as sock:
                request(sock, f"/bytes/{FILE_BYTES}")
                assert read_answer(sock) == (digest(FILE_BYTES), FILE_BYTES)
            if any(busy_workers(lab, name) == 2 for name in relays):
                break
            assert len(proxies) < MOST_CLIENTS
            proxies.append(start_client())
        everything = [*lab.pids, *(pid for name in relays for pid in worker_pids(lab, name))]
        check_logs(Path(lab.ready["dir"]))

        code, _ = lab.end()

        assert code == 0
        assert wait_until_dead(everything, 0) == []


def worker_pids(lab: RunningLab, name: str) -> list[int]:
    workers = ask(find_socket(Path(lab.ready["dir"]) / name))["workers"]
    assert len(workers) == 2
    return [worker["pid"] for worker in workers]
