"""Datagrams through a real network: names by a real resolver library, and a stream like QUIC's."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest
import socks  # type: ignore[import-untyped]  # PySocks has no stubs

from tests.support.journeys import check_logs
from tests.support.labs import RunningLab, running_lab
from tests.support.udp_targets import AssociatedSocket, UdpServer, udp_server
from warren.addresses import Address
from warren.network.dns_server import DnsServer
from warren.status.control import ask, find_socket

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

NAME, FAR = "www.datagrams.example", "93.184.216.34"
RATE, QUIC_BYTES, SECONDS = 500, 1350, 4


@pytest.fixture(scope="module")
def name_server() -> Iterator[UdpServer]:
    with udp_server(DnsServer({NAME: (ip_address(FAR),)}).answer) as server:
        yield server


@pytest.fixture(scope="module")
def echo() -> Iterator[UdpServer]:
    with udp_server(lambda data: data) as server:
        yield server


@pytest.fixture(scope="module")
def canary() -> Iterator[UdpServer]:
    with udp_server(lambda data: data) as server:
        yield server


@pytest.fixture(scope="module")
def udp_lab(name_server: UdpServer, echo: UdpServer) -> Iterator[RunningLab]:
    size = ("--authorities", "1", "--relays", "4", "--exits", "2")
    targets = [
        word for each in (name_server, echo) for word in ("--allow-target", str(each.address))
    ]
    with running_lab(*size, *targets, "--host", "udp.origin.example=127.0.0.1") as running:
        yield running
        check_logs(Path(running.ready["dir"]), NAME, "udp.origin.example", FAR)


def statistics(lab: RunningLab, role: str) -> list[dict[str, Any]]:
    folder = Path(lab.ready["dir"])
    return [ask(find_socket(folder / process["name"])) for process in lab.of_role(role)]


def exits_sent(lab: RunningLab) -> int:
    return sum(each["udp"]["datagrams"].get("sent", 0) for each in statistics(lab, "exit"))


@pytest.mark.parametrize("rdns", [True, False])
def test_a_name_is_asked_for_with_dnspython_through_pysocks(
    udp_lab: RunningLab, name_server: UdpServer, rdns: bool
) -> None:
    host, _, port = udp_lab.proxy.rpartition(":")
    query = dns.message.make_query(NAME, "A")

    with socks.socksocket(type=socket.SOCK_DGRAM) as sock:
        sock.set_proxy(socks.SOCKS5, host, int(port), rdns)
        sock.settimeout(30)
        answer = dns.query.udp(
            query, name_server.address.host, 30, name_server.address.port, sock=sock
        )

    (rrset,) = answer.answer
    assert [record.address for record in rrset] == [FAR]
    assert query.id == answer.id
    assert exits_sent(udp_lab) >= 1


def test_a_remote_is_reached_by_a_name_that_only_exits_know(
    udp_lab: RunningLab, echo: UdpServer
) -> None:
    with AssociatedSocket(udp_lab.proxy) as program:
        host = b"udp.origin.example"
        head = bytes((0, 0, 0, 3, len(host))) + host + echo.address.port.to_bytes(2, "big")
        program.socket.sendto(head + b"by name", program.relay)

        assert program.receive() == (echo.address, b"by name")


def test_datagrams_of_quics_size_at_five_hundred_a_second_are_not_lost(
    udp_lab: RunningLab, echo: UdpServer
) -> None:
    count = RATE * SECONDS
    payloads = [_payload(number) for number in range(count)]
    arrived: set[bytes] = set()

    with AssociatedSocket(udp_lab.proxy, 5) as program:
        program.send(b"first", echo.address)
        program.receive()

        def receive() -> None:
            while len(arrived) < count:
                try:
                    source, data = program.receive()
                except TimeoutError:
                    return
                assert source == echo.address
                arrived.add(data)

        receiver = threading.Thread(target=receive)
        receiver.start()
        begun = time.monotonic()
        for number, payload in enumerate(payloads):
            time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            program.send(payload, echo.address)
        took = time.monotonic() - begun
        receiver.join(30)

    assert took < 1.2 * SECONDS, f"{count} datagrams took {took:.1f} s"
    assert arrived <= set(payloads)
    assert len(arrived) > 0.99 * count, f"{count - len(arrived)} of {count} were lost"


def _payload(number: int) -> bytes:
    return hashlib.shake_128(number.to_bytes(4, "big")).digest(QUIC_BYTES)


def test_nothing_goes_where_nothing_may_go(
    udp_lab: RunningLab, canary: UdpServer, echo: UdpServer
) -> None:
    before = exits_sent(udp_lab)

    with AssociatedSocket(udp_lab.proxy) as program:
        for host in ("127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.1"):
            program.send(b"never", Address(host, canary.address.port))
        program.send(b"allowed", echo.address)

        assert program.receive() == (echo.address, b"allowed")
    assert canary.seen == []
    assert exits_sent(udp_lab) == before + 1
    (proxy,) = statistics(udp_lab, "proxy")
    assert proxy["proxy"]["udp_refused"] == 4


def test_the_end_of_the_connection_ends_it_all(udp_lab: RunningLab) -> None:
    with AssociatedSocket(udp_lab.proxy) as program:
        (proxy,) = statistics(udp_lab, "proxy")
        assert proxy["proxy"]["udp_open"] >= 1
        relay = program.relay

    deadline = time.monotonic() + 10
    while statistics(udp_lab, "proxy")[0]["proxy"]["udp_open"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(relay)  # nobody has it any more
    while any(each["udp"]["open"] for each in statistics(udp_lab, "exit")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
