"""Rows of the security plan that only real peers can show: what an exit refuses, and deaths.

What can be shown on paper, in memory or against a single role is tested there.
"""

import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from python_socks import ProxyError

from tests.support.handmade import AUTHORITIES, HandmadeNetwork
from tests.support.journeys import (
    MIB,
    Scheme,
    read_answer,
    read_rest,
    request,
    statistics,
    through,
)
from tests.support.labs import RunningLab, running_lab
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address
from warren.errors import EndReason, ExitError
from warren.lab.origin import digest
from warren.network.circuits import Circuit, build_circuit
from warren.network.dialling import SocketNetwork
from warren.network.link import LinkSettings
from warren.network.links import Links
from warren.network.turn import Turn

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

TRIES = 20
WAYS: list[Scheme] = ["socks5", "http"]
REFUSED = {EndReason.EXIT_POLICY, EndReason.DESTROY}


# ---- T13: an exit is no proxy of one hop


@asynccontextmanager
async def links_of_a_client(lab: RunningLab) -> AsyncIterator[Links]:
    """Give the links of a client that knows the network file and keeps no rule."""
    async with trio.open_nursery() as nursery:
        yield Links(SocketNetwork(), LinkSettings(lab.network.network_id), Turn(nursery))
        nursery.cancel_scope.cancel()


async def refusal_of(circuit: Circuit, target: Address) -> EndReason:
    """Ask for `target` on `circuit`; return why the exit refuses."""
    stream = circuit.open_stream(target)
    with pytest.raises(ExitError) as refusal:
        await stream.wait_connected()
    return refusal.value.reason


async def test_a_client_that_links_straight_to_an_exit_reaches_nothing(
    lab: RunningLab, origin: Origin
) -> None:  # T13
    last = lab.of_role("exit")[0]
    hop = lab.entry_of(last["name"]).hop
    targets = [origin.raw, Address(NAME, origin.raw.port)]
    with through(lab.proxy, targets[1]) as sock:  # over three hops it is reached
        sock.sendall(b"send 3 way\n")
        assert len(sock.recv(3, socket.MSG_WAITALL)) == 3
    before = origin.accepted
    connected = statistics(lab, last["name"])["exit"]["connected"]

    with trio.fail_after(60):
        async with links_of_a_client(lab) as links:
            for target in targets * TRIES:
                link = await links.get(hop, is_anonymous=True)
                circuit = await build_circuit(link, [hop])
                closed = trio.Event()
                circuit.on_closed = lambda _, closed=closed: closed.set()
                # The circuit goes at once, and on a busy link the END goes with it.
                assert await refusal_of(circuit, target) in REFUSED
                await closed.wait()

    assert origin.accepted == before
    assert statistics(lab, last["name"])["exit"]["connected"] == connected


async def test_a_client_that_links_straight_to_an_exit_is_told_no_names(
    lab: RunningLab,
) -> None:  # T13
    last = lab.of_role("exit")[0]
    hop = lab.entry_of(last["name"]).hop
    asked = statistics(lab, last["name"])["exit"]["names"]["lookups"]

    with trio.fail_after(60):
        async with links_of_a_client(lab) as links:
            for subject in [Address(NAME, 0), Address("127.0.0.1", 0)] * 5:
                link = await links.get(hop, is_anonymous=True)
                circuit = await build_circuit(link, [hop])
                with pytest.raises(ExitError) as refusal:
                    await circuit.resolve(subject)
                assert refusal.value.reason is EndReason.DESTROY

    assert statistics(lab, last["name"])["exit"]["names"]["lookups"] == asked


# ---- T14: no way back into the network


def test_no_stream_leads_back_into_the_network(handmade: HandmadeNetwork) -> None:  # T14
    peers = [*AUTHORITIES, "relay1", "relay2", "relay3", "exit"]
    literals = [handmade.addresses[name] for name in peers]
    names = [Address(f"{name}.peer.example", handmade.addresses[name].port) for name in peers]
    proxy = str(handmade.addresses["proxy"])
    with through(proxy, Address(NAME, handmade.origin.raw.port)):
        pass  # the exit is well, and so is its resolver
    before = {name: handmade.statistics(name) for name in [*peers, "proxy"]}

    for target in (*literals, *names):
        with pytest.raises(ProxyError) as refusal:
            through(proxy, target)
        assert refusal.value.error_code == 1

    after = {name: handmade.statistics(name) for name in [*peers, "proxy"]}
    asked = len(literals) + len(names)
    assert after["exit"]["exit"]["refused"]["protocol"] == asked
    assert after["exit"]["exit"]["connected"] == before["exit"]["exit"]["connected"]
    # Once each: the exit gives a reason for which nobody tries another one (EXT-9).
    assert after["proxy"]["retried"] == before["proxy"]["retried"]
    for name in peers:  # whoever connects and is no peer fails the handshake
        assert after[name]["links"]["refused"] == before[name]["links"]["refused"]


# ---- T29 and friends: the death of a relay is never a clean end


def begin_unending(
    lab: RunningLab, origin: Origin, user: str, way: Scheme = "socks5"
) -> socket.socket:
    """Begin a download whose end only the end of the connection tells; over plain HTTP, too."""
    if way == "http":
        host, _, port = lab.proxy.partition(":")
        sock = socket.create_connection((host, int(port)), 60)
        head = f"GET {origin.url('/unending')} HTTP/1.0\r\nTor-Stream-Isolation: {user}\r\n\r\n"
        sock.sendall(head.encode())
    else:
        sock = through(lab.proxy, Address(NAME, origin.http.port), scheme=way, user=user)
        request(sock, "/unending")
    assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    return sock


def read_until_reset(sock: socket.socket) -> None:
    """Read on; fail if what comes is a clean end."""
    with sock, pytest.raises(ConnectionResetError):
        read_rest(sock)


def paths_in_use(lab: RunningLab) -> list[list[str]]:
    """Return the paths of the circuits with streams, as the names of their relays."""
    names = {each["id"]: each["name"] for each in lab.of_role("relay") + lab.of_role("exit")}
    circuits = statistics(lab, "proxy")["circuits"]
    return [
        [names[peer_id] for peer_id in circuit["path"]]
        for circuit in circuits
        if circuit["streams"]
    ]


def kill(lab: RunningLab, name: str) -> None:
    [pid] = [each["pid"] for each in lab.ready["processes"] if each["name"] == name]
    os.kill(pid, signal.SIGKILL)


def fetch(lab: RunningLab, origin: Origin, user: str) -> str:
    with through(lab.proxy, Address(NAME, origin.http.port), user=user) as sock:
        request(sock, "/bytes/100000")
        return read_answer(sock)[0]


def test_the_death_of_an_exit_is_a_reset_for_the_application(
    origin: Origin, lab_options: list[str]
) -> None:  # T29
    with running_lab("--relays", "6", "--exits", "3", *lab_options) as lab:
        downloads = [
            begin_unending(lab, origin, f"user {number}", way)
            for number in range(3)
            for way in WAYS
        ]
        paths = paths_in_use(lab)

        for name in {path[-1] for path in paths}:
            kill(lab, name)

        assert len(paths) == len(downloads)
        for sock in downloads:
            read_until_reset(sock)


def test_the_next_page_comes_when_a_middle_dies(origin: Origin, lab_options: list[str]) -> None:
    with running_lab("--relays", "6", "--exits", "2", *lab_options) as lab:
        download = begin_unending(lab, origin, "user")
        [[_, middle, _]] = paths_in_use(lab)

        kill(lab, middle)

        begun = time.monotonic()
        assert fetch(lab, origin, "user") == digest(100_000)
        assert time.monotonic() - begun < 10
        with download:  # and what was under way goes on: more than all buffers can hold
            left = 50 * MIB
            while left > 0:
                part = download.recv(MIB)
                assert part, "the download ended"
                left -= len(part)
        assert [path for path in paths_in_use(lab) if middle in path] == []
