"""What peers survive: relays that come and go, a network that goes, sleep, and a full disk.

One lab in a network namespace of its own serves all of it. For its first half minute it is in
chaos; after that it is left in peace. A proxy outside of it, at the other end of a cable, sleeps
from the beginning, for as long as the other stories take.
"""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.handmade import WARREN
from tests.support.journeys import check_logs, wait_until
from tests.support.labs import RunningLab, running_lab
from tests.support.namespaces import INSIDE, THERE, Namespace, joined_namespaces, plug_in, unplug
from warren.directory.consensus import read_consensus
from warren.directory.guards import PRIMARY_GUARDS
from warren.directory.network_file import parse_network_file
from warren.errors import ConfigError
from warren.lab.origin import digest
from warren.status.control import ask, find_socket

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(240),
    pytest.mark.needs("curl", "ip", "namespaces", "nsenter", "unshare"),
]

CHAOS = (
    "kill middle every 4s; stop guard 3s once at 5s; kill exit once at 9s; kill exit once at 15s; "
    "cut any relay once at 13s; stop any authority for 8s once at 6s"
)
#: The last rule but the first one is over by then.
CHAOS_SECONDS = 20
#: T42: a tenth of its ten minutes.
SLEEP_SECONDS = 60
#: A promise in seconds is tested with real parts at five times the figure.
SLACK = 5


@dataclass
class Proxy:
    """Hold a proxy that a test started: its state folder, seen from here, and its process."""

    name: str
    process: subprocess.Popen[bytes]
    state: Path
    address: str
    url: str
    namespace: Namespace
    log: Path

    def statistics(self) -> dict[str, Any]:
        return ask(find_socket(self.state))

    def get(self, seconds: float = 90) -> float:
        """Fetch a page with curl; return the seconds it took, or fail."""
        begun = time.monotonic()
        self.namespace.output(
            ["curl", "-sSf", "-m", str(seconds), "-x", f"socks5h://{self.address}", self.url]
        )
        return time.monotonic() - begun

    def try_get(self, seconds: float) -> bool:
        try:
            self.get(seconds)
        except subprocess.CalledProcessError:
            return False
        return True

    @property
    def guards(self) -> list[str]:
        return [
            guard["peer"]
            for guard in json.loads((self.state / "guards.json").read_text())["guards"]
        ]

    @property
    def first_hops(self) -> set[str]:
        return {circuit["path"][0] for circuit in self.statistics()["circuits"]}

    def is_usable(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(ConfigError):
            return bool(self.statistics()["circuits"])
        return False

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    with joined_namespaces() as both:
        yield both


@pytest.fixture(scope="module")
def lab(namespaces: tuple[Namespace, Namespace]) -> Iterator[RunningLab]:
    near, _ = namespaces
    with running_lab("--relays", "8", "--exits", "3", "--chaos", CHAOS, prefix=near.prefix) as lab:
        yield lab
        check_logs(Path(lab.ready["dir"]))


def start_proxy(
    lab: RunningLab, namespace: Namespace, name: str, host: str, port: int, *prefix: str
) -> Proxy:
    """Start a proxy at `host` in `namespace`, configured like the lab's own."""
    folder = Path(lab.ready["dir"])
    state = folder / name
    lines = (folder / "proxy.toml").read_text().splitlines()
    changed = {
        "state": f'state = "{state}"',
        "listen": f'listen = ["{host}:{port}"]\nallow_clients = ["{host}/32"]',
    }
    text = "\n".join(changed.get(line.partition(" ")[0], line) for line in lines)
    config = folder / f"{name}.toml"
    config.write_text(text + "\n")
    log = folder / "log" / f"{name}.log"
    with log.open("wb") as output:
        command = [*namespace.prefix, *prefix, *WARREN, "proxy", "--config", str(config)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    return Proxy(name, process, state, f"{host}:{port}", lab.ready["origin"], namespace, log)


@pytest.fixture(scope="module")
def sleeper(
    lab: RunningLab, namespaces: tuple[Namespace, Namespace]
) -> Iterator[tuple[Proxy, float, set[int]]]:
    """Give a proxy that was stopped when it had circuits, since when, and their numbers."""
    proxy = start_proxy(lab, namespaces[0], "sleeper", "127.0.0.1", 19101)
    try:
        wait_until(proxy.is_usable, 60, "a circuit of the proxy")
        proxy.get()
        before = proxy.statistics()
        proxy.process.send_signal(signal.SIGSTOP)
        yield proxy, time.monotonic(), {circuit["id"] for circuit in before["circuits"]}
        assert before["interruptions"]["slept"] == 0
    finally:
        proxy.close()


@pytest.fixture(scope="module")
def summary(lab: RunningLab, sleeper: tuple[Proxy, float, set[int]]) -> list[dict[str, Any]]:
    """Return all that was told of the chaos, when it is over."""
    events = []
    while True:
        event = lab.next_event(60)
        events.append(event)
        if event["event"] == "chaos-summary" and event["seconds"] > CHAOS_SECONDS + 9:
            return events


def test_no_request_fails_while_relays_and_authorities_come_and_go(
    summary: list[dict[str, Any]],
) -> None:  # T10, T33, T34
    told = [event for event in summary if event["event"] == "chaos"]
    killed = [event["name"] for event in told if event["what"] == "killed"]
    back = [event["name"] for event in told if event["what"] == "back"]
    last = summary[-1]

    assert last["done"]["killed"] >= 6
    assert {"stopped", "cut"} <= {event["what"] for event in told}
    assert set(killed[:-1]) <= set(back)
    # What an exit had begun when it died is reset, and never begun twice (SID-4).
    assert last["failed"] <= sum(name.startswith("exit") for name in killed), last["failures"]
    assert all("reset" in failure for failure in last["failures"])
    assert last["served"] > 40
    assert last["slowest"] <= 25  # T32: a guard that says nothing; it was for 3 s


def test_consensuses_were_made_all_the_while(
    lab: RunningLab, summary: list[dict[str, Any]]
) -> None:  # T34
    folder = Path(lab.ready["dir"])
    made = {}
    for number in (1, 2, 3):
        with contextlib.suppress(ConfigError):
            made[number] = ask(find_socket(folder / f"authority{number}"))["consensuses_made"]

    assert max(made.values()) >= summary[-1]["seconds"] // 10


@pytest.fixture
def outsider(
    lab: RunningLab, namespaces: tuple[Namespace, Namespace], summary: list[dict[str, Any]]
) -> Iterator[Proxy]:
    """Give a proxy at the other end of the cable."""
    proxy = start_proxy(lab, namespaces[1], "outsider", INSIDE, 19102)
    try:
        wait_until(proxy.is_usable, 60, "a circuit of the proxy")
        yield proxy
    finally:
        proxy.close()


def test_a_network_that_goes_and_comes_back_elsewhere_burns_no_guard(
    outsider: Proxy, namespaces: tuple[Namespace, Namespace]
) -> None:  # T43
    _, far = namespaces
    outsider.get()
    guards, first_hops = outsider.guards, outsider.first_hops

    unplug(far, THERE)
    came_through = outsider.try_get(6)
    plug_in(far, "10.9.0.77")
    seconds = outsider.get()

    sys.stdout.write(f"T43: the first GET took {seconds:.2f} s\n")
    assert not came_through
    assert seconds <= 5 * SLACK
    assert outsider.guards == guards
    # Another primary one may be asked when the first is slow to answer (decision 28), none else.
    assert max(map(guards.index, first_hops | outsider.first_hops)) < PRIMARY_GUARDS
    assert outsider.statistics()["interruptions"]["network_changed"] == 1
    unplug(far, "10.9.0.77")
    plug_in(far, THERE)


def test_a_download_outlives_an_outage_and_a_new_address(
    outsider: Proxy, namespaces: tuple[Namespace, Namespace]
) -> None:
    _, far = namespaces
    size = 60_000_000  # more than fits into all buffers on the way
    curl = ["curl", "-sSf", "-m", "120", "-x", f"socks5h://{outsider.address}"]
    command = [*far.prefix, *curl, f"{outsider.url}bytes/{size}"]

    with subprocess.Popen(command, stdout=subprocess.PIPE) as download:
        assert download.stdout is not None
        total = hashlib.sha256(download.stdout.read(10_000_000))
        unplug(far, THERE)
        time.sleep(5)
        plug_in(far, "10.9.0.78")
        while chunk := download.stdout.read(1_000_000):
            total.update(chunk)

    assert download.returncode == 0
    assert total.hexdigest() == digest(size)
    resuming = outsider.statistics()["resuming"]
    assert resuming["resumed"] >= 1
    assert resuming["streams_lost"] == 0
    unplug(far, "10.9.0.78")
    plug_in(far, THERE)


# ---- state


def test_a_proxy_goes_on_from_memory_while_its_disk_is_full(
    lab: RunningLab, namespaces: tuple[Namespace, Namespace], summary: list[dict[str, Any]]
) -> None:
    mount = 'mkdir -p "$0" && mount -t tmpfs -o size=256k,mode=700 tmpfs "$0" && exec "$@"'
    folder = Path(lab.ready["dir"])
    place = str(folder / "full")
    prefix = ("unshare", "-m", "sh", "-c", mount, place)
    proxy = start_proxy(lab, namespaces[0], "full", "127.0.0.1", 19103, *prefix)
    inside = Path(f"/proc/{proxy.process.pid}/root")
    proxy.state = inside / proxy.state.relative_to("/")
    network = parse_network_file((folder / "network.toml").read_text())
    try:
        wait_until((proxy.state / "consensus").exists, 60, "a consensus on the disk")
        wait_until(lambda: "usable" in proxy.log.read_text(), 60, "a circuit")
        with contextlib.suppress(OSError), (proxy.state / "filler").open("wb", 0) as filler:
            while True:
                filler.write(bytes(4096))
        before = (proxy.state / "consensus").read_bytes()

        wait_until(
            lambda: "going on from memory" in proxy.log.read_text(), 60, "a write that failed"
        )
        proxy.get()
        while_full = (proxy.state / "consensus").read_bytes()
        leftovers = list(proxy.state.glob("*.tmp"))
        (proxy.state / "filler").unlink()
        wait_until(
            lambda: (proxy.state / "consensus").read_bytes() != before, 60, "a write that succeeds"
        )
        written = (proxy.state / "consensus").read_bytes()
    finally:
        proxy.close()

    assert while_full == before
    assert not leftovers
    newer, older = read_consensus(written, network), read_consensus(before, network)
    assert newer.valid_after > older.valid_after
    assert proxy.log.read_text().count("going on from memory") == 1


def start_and_end(*arguments: str) -> tuple[int, str]:
    """Run a command that should end at once; return its exit code and its last line."""
    ended = subprocess.run(
        [*WARREN, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    return ended.returncode, ended.stderr.strip().splitlines()[-1]


def test_a_second_process_on_a_folder_is_told_of_the_first(lab: RunningLab) -> None:
    [proxy] = lab.of_role("proxy")
    config = Path(lab.ready["dir"]) / "proxy.toml"

    code, line = start_and_end("proxy", "--config", str(config))

    assert code == 2
    assert f"process {proxy['pid']} uses" in line
    assert "--state" in line


@pytest.mark.parametrize("role", ["relay", "authority"])
def test_a_damaged_identity_or_record_is_exit_code_2(
    role: str, lab: RunningLab, tmp_path: Path
) -> None:  # T40
    folder = Path(lab.ready["dir"])
    if role == "relay":
        (tmp_path / "identity.key").write_bytes(b'{"seed": "00')
        arguments = ["relay", "--network", str(folder / "network.toml"), "--listen", "127.0.0.1:0"]
    else:
        (tmp_path / "signed").write_bytes((folder / "authority1" / "signed").read_bytes()[:-9])
        arguments = ["authority", "--config", str(folder / "authority1.toml")]

    code, line = start_and_end(*arguments, "--state", str(tmp_path))

    assert code == 2
    assert "damaged" in line


# ---- sleep; last, because it had to sleep meanwhile


def test_after_a_sleep_nothing_from_before_is_used(
    sleeper: tuple[Proxy, float, set[int]], summary: list[dict[str, Any]]
) -> None:  # T42
    proxy, since, before = sleeper
    time.sleep(max(0.0, SLEEP_SECONDS - (time.monotonic() - since)))

    check_that_it_wakes(proxy, before)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_after_ten_minutes_of_sleep_nothing_from_before_is_used(
    sleeper: tuple[Proxy, float, set[int]], summary: list[dict[str, Any]]
) -> None:  # T42
    proxy, _, _ = sleeper
    proxy.process.send_signal(signal.SIGCONT)  # in whichever order they are told
    before = {circuit["id"] for circuit in proxy.statistics()["circuits"]}
    proxy.process.send_signal(signal.SIGSTOP)
    time.sleep(600)

    check_that_it_wakes(proxy, before)


def check_that_it_wakes(proxy: Proxy, before: set[int]) -> None:
    """Wake the proxy; its first page must come soon, and over circuits that are new."""
    proxy.process.send_signal(signal.SIGCONT)
    seconds = proxy.get()
    after = proxy.statistics()

    sys.stdout.write(f"T42: the first GET took {seconds:.2f} s\n")
    assert seconds <= 10 * SLACK
    assert after["interruptions"]["slept"] >= 1
    assert after["circuits"]
    assert not before & {circuit["id"] for circuit in after["circuits"]}


# ---- the whole of it


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "chaos",
    [
        "kill any relay every 5s",  # T10
        "kill exit every 10s",  # T33
        "stop guard 10s every 20s",  # T31, T32
        "kill any authority for 20s every 30s; stop any authority 15s once at 40s",  # T34
    ],
)
def test_two_minutes_of_trouble_cost_no_request(chaos: str) -> None:
    with running_lab("--relays", "12", "--exits", "4", "--chaos", chaos) as lab:
        while True:
            event = lab.next_event(60)
            if event["event"] == "chaos-summary" and event["seconds"] > 120:
                break
        guards = json.loads((Path(lab.ready["dir"]) / "proxy" / "guards.json").read_text())
        check_logs(Path(lab.ready["dir"]))

    sys.stdout.write(f"{chaos}: {event}\n")
    assert event["failed"] == 0, event["failures"]
    assert event["served"] >= 100
    assert sum(guard["contacted"] is not None for guard in guards["guards"]) <= 3
