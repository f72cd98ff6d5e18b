"""Downloads outlive the relays that carry them, between real processes that are really killed."""

import contextlib
import itertools
import random
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.journeys import (
    ask_socks,
    check_logs,
    read_answer,
    request,
    statistics,
    through,
    wait_until,
)
from tests.support.labs import running_proxy
from tests.support.survival import MEGABYTE, Town, churn, run_once, running_town
from tests.support.udp_targets import AssociatedSocket, udp_server
from warren.addresses import Address
from warren.lab.origin import digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with running_town() as town:
        yield town
        check_logs(town.folder, "origin.warren-lab.net")


def web(town: Town) -> Address:
    return Address.parse(town.lab.ready["origin"].removeprefix("http://").rstrip("/"))


def any_relay(town: Town) -> str:
    """Return a relay that is a middle now, and nobody's exit: streams do not outlive that."""
    paths = [circuit["path"] for circuit in town.circuits()]
    exits = {path[2] for path in paths}
    return str(random.choice([path[1] for path in paths if path[1] not in exits] or ["relay1"]))


def test_transfers_and_talks_outlive_middles_and_a_cut_guard(town: Town) -> None:
    run = run_once(town, "cut", size=20 * MEGABYTE, seconds=12, every=3, cuts=True)

    assert run.faults == []
    assert run.deaths >= 4
    assert max(run.pauses) < 10  # five times the promise (security F)


def test_requests_and_downloads_outlive_any_middle(town: Town) -> None:  # T10
    with ThreadPoolExecutor(4) as pool:
        downloads = [pool.submit(download, town, 30 * MEGABYTE, f"d{n}") for n in range(4)]
        found = churn(town, seconds=9, every=2, kill=lambda: any_relay(town), loops=8)

        assert [each.result() for each in downloads] == [digest(30 * MEGABYTE)] * 4
    assert found.not_begun == []
    assert found.broken == []
    assert found.good > 50


def download(town: Town, size: int, user: str) -> str:
    with through(town.lab.proxy, web(town), user=user) as sock:
        request(sock, f"/bytes/{size}")
        return read_answer(sock)[0]


def test_requests_begin_again_when_their_exit_dies(town: Town) -> None:  # T33
    def leaving() -> str:
        paths = [circuit["path"] for circuit in town.circuits()]
        return str(random.choice(paths)[2]) if paths else "exit1"

    found = churn(town, seconds=9, every=3, kill=leaving, loops=8)

    assert found.not_begun == []
    assert found.good > 50


@pytest.mark.parametrize("position", [1, 2])
def test_names_are_found_while_middles_and_exits_die(town: Town, position: int) -> None:
    right, found = ask_socks(town.lab.proxy, 0xF0, web(town).host), list[bytes]()
    end = time.monotonic() + 6

    def ask() -> None:
        while time.monotonic() < end:
            found.append(ask_socks(town.lab.proxy, 0xF0, web(town).host))

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(ask) for _ in range(8)]
        while time.monotonic() < end - 2:
            time.sleep(1.5)
            town.kill(town.path()[position])
    town.wait_back()

    assert [loop.result() for loop in loops] == [None] * 8
    assert right.startswith(b"\x05\x00\x00\x01\x7f")  # found, and on loopback
    assert len(found) > 50
    assert set(found) == {right}


def test_datagrams_go_on_when_relays_on_their_way_die(town: Town) -> None:
    echo = udp_server(lambda data: data, town.echo.port)
    with echo as server, AssociatedSocket(town.lab.proxy) as program:
        program.socket.settimeout(0.2)
        numbers = itertools.count()

        def is_echoed() -> bool:
            data = next(numbers).to_bytes(4, "big")
            program.send(data, server.address)
            with contextlib.suppress(TimeoutError):
                while program.receive() != (server.address, data):
                    pass
                return True
            return False

        pauses = []
        for position in (1, 0, 2):
            assert is_echoed()
            town.kill(town.path()[position])
            began = time.monotonic()
            wait_until(is_echoed, 15, "an answer")  # five times what a dead guard may cost
            pauses.append(time.monotonic() - began)
            town.wait_back()
        sys.stdout.write(f"datagrams: {pauses} s after a middle, a guard and an exit died\n")
        program.connection.setblocking(False)
        with pytest.raises(BlockingIOError):  # which a program has for as long as it likes
            program.connection.recv(1)

    def is_over() -> bool:
        exits = [statistics(town.lab, f"exit{number}") for number in range(1, 5)]
        open_here = statistics(town.lab, "proxy")["proxy"]["udp_open"]
        return not open_here and not any(each["udp"]["open"] for each in exits)

    wait_until(is_over, 10, "the end of every association")


@contextlib.contextmanager
def proxy_without_resuming(town: Town) -> Iterator[str]:
    """Run one more proxy, called ``stern``, that resets streams when their circuit dies."""
    folder = town.folder / "stern"
    folder.mkdir(mode=0o700, exist_ok=True)
    config = folder / "proxy.toml"
    usual = tomllib.loads((town.folder / "proxy.toml").read_text())["proxy"]
    config.write_text(
        f'network = "{town.folder}/network.toml"\nstate = "{folder}"\n[proxy]\n'
        f'listen = ["127.0.0.1:0"]\nallow_targets = {usual["allow_targets"]}\nresume = false\n'
    )
    with running_proxy(config) as [address]:
        yield address


def cut_short(
    town: Town,
    trials: int,
    at_once: int,
    deaths: Sequence[tuple[int, ...]] = ((2,), (1, 2)),
    proxy: tuple[str, str] | None = None,
) -> list[str]:
    """Kill relays of so many downloads `at_once`, `trials` in all; return what was no reset.

    `deaths` are the positions of those that die, in turns: the exit, or the middle before it, so
    that the client looks for the streams where none are left. The downloads go through `proxy`,
    its name and address, or the town's own.
    """
    wrong = []
    name, address = proxy or ("proxy", town.lab.proxy)
    for number in range(0, trials, at_once):
        with contextlib.ExitStack() as stack:
            downloads = []
            for each in range(number, number + at_once):
                sock = stack.enter_context(through(address, web(town), user=f"cut{each}"))
                request(sock, f"/bytes/{100 * MEGABYTE}")
                sock.recv(65536)
                downloads.append(sock)
            paths = [each["path"] for each in town.circuits(name)]
            assert len(paths) == at_once
            positions = deaths[number // at_once % len(deaths)]
            for relay in dict.fromkeys(path[at] for at in positions for path in paths):
                town.kill(relay)
            for each, sock in enumerate(downloads, number):
                try:
                    while sock.recv(1 << 20):
                        pass
                    wrong.append(f"trial {each}: a clean end")
                except ConnectionResetError:
                    pass
        town.wait_back()
    return wrong


def test_a_dead_exit_is_a_reset_and_never_an_end(town: Town) -> None:  # T29
    assert cut_short(town, 6, at_once=3) == []


def test_nothing_is_held_when_all_is_over(town: Town) -> None:
    def held() -> int:
        exits = (statistics(town.lab, f"exit{number}") for number in range(1, 5))
        return sum(each["held"]["streams"] for each in exits)

    # What a client without resuming has left is held for 60 s.
    wait_until(lambda: held() == 0, 90, "the end of all that exits held")


def test_with_resuming_off_a_dead_middle_is_a_reset_and_never_an_end(town: Town) -> None:  # T29
    with proxy_without_resuming(town) as address:
        assert cut_short(town, 6, 3, deaths=[(1,), (0,)], proxy=("stern", address)) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_downloads_of_a_hundred_dead_exits_are_reset(town: Town) -> None:  # T29
    assert cut_short(town, 200, at_once=5) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_with_resuming_off_two_hundred_downloads_of_dead_middles_are_reset(  # T29
    town: Town,
) -> None:
    with proxy_without_resuming(town) as address:
        assert cut_short(town, 200, 5, deaths=[(1,)], proxy=("stern", address)) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_minutes_of_dying_middles_cost_no_request(town: Town) -> None:  # T10
    with ThreadPoolExecutor(4) as pool:
        downloads = [pool.submit(download, town, 400 * MEGABYTE, f"D{n}") for n in range(4)]
        found = churn(town, seconds=120, every=5, kill=lambda: any_relay(town), loops=8)

        assert [each.result() for each in downloads] == [digest(400 * MEGABYTE)] * 4
    assert (found.not_begun, found.broken) == ([], [])
    assert found.good >= 1000


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_half_a_gigabyte_each_way_outlives_its_middles_twenty_times(town: Town) -> None:
    for number in range(20):
        run = run_once(town, f"long{number}", size=500 * MEGABYTE, seconds=60, every=10)

        assert run.faults == [], f"run {number}"
        assert run.deaths >= 5
