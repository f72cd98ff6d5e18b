"""A whole network on this machine: it comes up, works, loses peers, and leaves nothing behind."""

import hashlib
import http.server
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.support.labs import RunningLab, is_alive, running_lab, wait_until_dead
from tests.support.pages import status_of
from warren.addresses import Address
from warren.lab.downloads import Way, begin_download
from warren.lab.origin import PAGE, digest
from warren.status.control import ask, find_socket

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

SITE_TEXT = b"from a site of the test"
WARREN = [sys.executable, "-m", "warren"]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(SITE_TEXT)))
        self.end_headers()
        self.wfile.write(SITE_TEXT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Address]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Address("127.0.0.1", server.server_address[1])
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def lab(site: Address) -> Iterator[RunningLab]:
    options = ["--allow-target", str(site), "--host", f"site.example.net={site.host}"]
    with running_lab(*options) as running:
        yield running


def fetch(lab: RunningLab, url: str, way: Way = "SOCKS5") -> str:
    """Fetch `url` through the lab; return the SHA-256 of the answer."""
    target, _, path = url.removeprefix("http://").partition("/")

    async def main() -> str:
        with trio.fail_after(60):
            proxy = Address.parse(lab.proxy)
            download = await begin_download(proxy, way, Address.parse(target), f"/{path}")
            found = await download.read()
            await download.aclose()
        return found

    return trio.run(main)


def origin_of(lab: RunningLab) -> str:
    return str(lab.ready["origin"])


def test_the_ready_line_names_every_process(lab: RunningLab) -> None:
    relays = lab.of_role("relay") + lab.of_role("exit")
    networks = {ipaddress.ip_interface(f"{r['address'].split(':')[0]}/24").network for r in relays}

    assert len(lab.of_role("authority")) == 3
    assert len(lab.of_role("exit")) == 3
    assert len(relays) == 9
    assert len(networks) == 9
    assert len(lab.of_role("proxy")) == 1
    assert lab.of_role("proxy")[0]["address"] == lab.proxy
    assert all(is_alive(pid) for pid in lab.pids)
    assert len(set(lab.pids)) == 13
    assert len({process["id"] for process in relays}) == 9
    assert Path(lab.ready["dir"]).is_dir()


@pytest.mark.parametrize("way", ["SOCKS5", "HTTP CONNECT"])
def test_a_file_comes_whole_through_the_proxy(lab: RunningLab, way: Way) -> None:
    assert fetch(lab, f"{origin_of(lab)}bytes/3000000", way) == digest(3_000_000)


def test_a_name_that_only_exits_can_resolve_is_reached(lab: RunningLab, site: Address) -> None:
    found = fetch(lab, f"http://site.example.net:{site.port}/")

    assert found == hashlib.sha256(SITE_TEXT).hexdigest()


@pytest.mark.needs("curl")
def test_curl_gets_the_page(lab: RunningLab) -> None:
    command = ["curl", "-sS", "--max-time", "30", "-x", f"socks5h://{lab.proxy}", origin_of(lab)]

    done = subprocess.run(command, capture_output=True, check=False)

    assert done.stdout == PAGE, done.stderr


def status(lab: RunningLab, name: str, *options: str) -> str:
    return status_of(Path(lab.ready["dir"]) / name, *options)


def test_status_prints_what_a_relay_counts_for_programs(lab: RunningLab) -> None:
    folder = Path(lab.ready["dir"]) / "relay1"

    told = json.loads(status(lab, "relay1", "--json"))

    assert told.keys() == ask(find_socket(folder)).keys()
    assert told["cells"].keys() >= {"forward", "backward"}


def test_status_tells_people_what_each_member_does(lab: RunningLab) -> None:
    fetch(lab, f"{origin_of(lab)}bytes/3000000")
    folder = Path(lab.ready["dir"])
    busy = next(each for each in ask(find_socket(folder / "proxy"))["circuits"] if each["used"])
    names = {process.get("id"): process["name"] for process in lab.ready["processes"]}
    guard, middle, last = (names[peer] for peer in busy["path"])

    proxy, authority = status(lab, "proxy"), status(lab, "authority1")
    relay, leaving = status(lab, guard), status(lab, last)

    for text in (proxy, authority, relay, leaving, status(lab, middle)):
        assert max(map(len, text.splitlines())) <= 80
        assert " of the network lab, running for " in text.splitlines()[0]
        assert re.search(r"\nNetwork     \d relays, \d exits? \(in an unknown country\)\n", text)
    assert f"\nUsable: programs can use {lab.proxy}.\n" in proxy
    assert " > ".join(f"{peer[:8]} ??" for peer in busy["path"]) in proxy
    assert re.search(r"\nServed      \d+ connections? of programs", proxy)
    assert re.search(r"\nMoved       [\d.]+ MiB received, ", proxy)
    assert "\nIn use: the network lists it as " in relay
    assert re.search(r"\nCarried     [\d.]+ .iB: [\d.]+ .iB towards clients, ", relay)
    assert "\nIn use: the network lists it as an exit, " in leaving
    assert re.search(r"\nOpened      \d+ connections?", leaving)
    assert "\nIn use: it has a consensus that counts now, " in authority
    assert re.search(r"\nRelays      9 known, \d of them reached and working\n", authority)
    # Counted before its consensus is valid; and a busy machine may be late with one of them.
    when = r"(\d+ s ago|for \d+ s from now)"
    assert re.search(rf"\nLast vote   {when}: [123] of 3 voted", authority), authority


def test_keys_and_sockets_are_for_their_owner_only(lab: RunningLab) -> None:  # T86
    folder = Path(lab.ready["dir"])
    states = [path for path in folder.iterdir() if (path / "control.sock").exists()]
    keys = [*folder.rglob("*.key"), *folder.rglob("*.keys"), *folder.rglob("control.sock")]

    assert len(states) == 13
    assert {path.stat().st_mode & 0o777 for path in states} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_a_relay_that_dies_is_an_event_and_the_lab_goes_on() -> None:
    with running_lab() as lab:
        victim = lab.of_role("relay")[0]

        os.kill(victim["pid"], signal.SIGKILL)
        event = lab.next_event()

        assert event["event"] == "died"
        assert event["name"] == victim["name"]
        assert event["pid"] == victim["pid"]
        assert event["code"] == -signal.SIGKILL
        assert fetch(lab, f"{origin_of(lab)}bytes/100000") == digest(100_000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it_within_five_seconds(number: int) -> None:
    with running_lab() as lab:
        assert lab.leftovers

        code, seconds = lab.end(number)

        assert code == 0
        assert seconds < 5
        assert wait_until_dead(lab.pids, 0) == []
        assert lab.leftovers == []


@pytest.mark.parametrize("moment", [0.2, 0.6, 1.0, 1.5, 2.5])
def test_an_interrupt_during_the_start_leaves_nothing_behind(moment: float) -> None:
    lab = RunningLab()
    try:
        time.sleep(moment)
        begun = processes_below(lab.process.pid)

        _, seconds = lab.end(signal.SIGINT)

        assert seconds < 5
        assert wait_until_dead(begun, 0) == []
        assert lab.leftovers == []
    finally:
        lab.close()


def processes_below(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in children]


def test_the_children_of_a_killed_lab_end_too() -> None:
    with running_lab() as lab:
        everything = [*lab.pids, *processes_below(lab.process.pid)]

        lab.end(signal.SIGKILL)

        assert wait_until_dead(everything) == []


def test_a_named_folder_is_kept_and_not_used_twice(tmp_path: Path) -> None:
    options = ["--relays", "3", "--exits", "1", "--authorities", "1", "--dir", str(tmp_path / "x")]
    with running_lab(*options) as lab:
        assert lab.ready["dir"] == str(tmp_path / "x")
        lab.end()

    assert (tmp_path / "x" / "network.toml").exists()
    assert (tmp_path / "x" / "log" / "relay1.log").exists()
    again = subprocess.run([*WARREN, "lab", *options], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.endswith("is not empty: name a new folder with --dir\n")


def test_three_labs_run_side_by_side() -> None:
    with ExitStack() as stack:
        labs = [RunningLab("--relays", "4", "--exits", "2") for _ in range(3)]
        for lab in labs:
            stack.callback(lab.close)
        for lab in labs:
            lab.wait_until_ready()

        assert len({lab.proxy for lab in labs}) == 3
        for lab in labs:
            assert fetch(lab, f"{origin_of(lab)}bytes/100000") == digest(100_000)


def test_the_demo_shows_three_hops_and_ends_well() -> None:
    done = subprocess.run(
        [*WARREN, "lab", "--demo"], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(digest(10_000_000)) == 2
    paths = re.findall(r"path    (\w+) > (\w+) > (exit\d)", done.stdout)
    assert len(paths) == 2
    for path in paths:
        assert len(set(path)) == 3
    assert re.search(r"The download went on over (\w+) > (\w+) > exit\d", done.stdout)
    assert digest(100_000_000) in done.stdout


@pytest.mark.needs("curl")
def test_the_line_to_copy_works() -> None:
    lab = subprocess.Popen([*WARREN, "lab"], stdout=subprocess.PIPE, text=True)
    try:
        assert lab.stdout is not None
        line = next(line for line in lab.stdout if line.strip().startswith("curl "))
        words = line.split()
        assert shutil.which(words[0]) is not None

        done = subprocess.run([*words, "-sS", "--max-time", "30"], capture_output=True, check=False)

        assert done.stdout == PAGE, done.stderr
    finally:
        lab.terminate()
        lab.communicate(timeout=10)
