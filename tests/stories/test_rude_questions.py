"""Nonsense at a real proxy's DNS port and control socket: those who ask properly are answered."""

import contextlib
import random
import socket
import time
from pathlib import Path

import dns.message
import dns.resolver
import pytest

from tests.support.handmade import HandmadeNetwork
from tests.support.journeys import wait_until
from tests.support.web_origin import NAME
from warren.addresses import Address
from warren.status.control import find_socket

pytestmark = pytest.mark.processes

QUERIES, VISITORS = 3000, 200
#: What an answer may take meanwhile: a second, and five times as long on a busy machine.
ANSWER_SECONDS = 1 * 5
KINDS = ("A", "AAAA", "PTR", "TXT", "ANY", "HTTPS", "AXFR")


def damaged(rng: random.Random) -> bytes:
    """Return a query with a bit flipped, cut short, of an odd kind, or no query."""
    query = bytearray(dns.message.make_query(NAME, rng.choice(KINDS)).to_wire())
    place = rng.randrange(len(query))
    match rng.randrange(4):
        case 0:
            query[place] ^= 1 << rng.randrange(8)
        case 1:
            del query[place:]
        case 2:
            return rng.randbytes(rng.choice([0, 1, 12, 40, 512, 4000]))
    return bytes(query)


def seconds_for_an_answer(place: Address) -> float:
    """Ask as a library does; return how many seconds the answer took."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = [place.host], place.port, 60
    begun = time.monotonic()
    assert resolver.resolve(NAME, "A")[0].to_text() == "127.0.0.1"
    assert resolver.resolve(NAME, "A", tcp=True)[0].to_text() == "127.0.0.1"
    return time.monotonic() - begun


def open_files(network: HandmadeNetwork) -> int:
    pid = network.statistics("proxy")["pid"]
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_nonsense_at_the_dns_port_keeps_no_answer_away(handmade: HandmadeNetwork) -> None:  # T11
    place, rng = Address(handmade.addresses["proxy"].host, 1053), random.Random(1)
    files, before = open_files(handmade), handmade.statistics("proxy")["dns"]

    with contextlib.ExitStack() as visits, socket.socket(type=socket.SOCK_DGRAM) as sock:
        for number in range(VISITORS):
            visit = socket.create_connection((place.host, place.port))
            visits.enter_context(visit)
            words = rng.choice([b"", b"\0", b"\xff\xff" + damaged(rng), b"\0\x20" + damaged(rng)])
            with contextlib.suppress(ConnectionError):
                visit.sendall(words)
            if number % 50 == 0:
                assert seconds_for_an_answer(place) < ANSWER_SECONDS
        for number in range(QUERIES):
            sock.sendto(damaged(rng), (place.host, place.port))
            if number % 20 == 0:
                time.sleep(0.002)  # or most would be lost before anybody reads them
            if number % 1000 == 0:
                assert seconds_for_an_answer(place) < ANSWER_SECONDS

    wait_until(lambda: open_files(handmade) <= files + 5, 30, "the end of all visits")
    after = handmade.statistics("proxy")["dns"]
    assert after["malformed"] > before["malformed"] + QUERIES / 10
    assert after["bugs"] == 0


def test_nonsense_at_the_control_socket_keeps_no_answer_away(
    handmade: HandmadeNetwork,
) -> None:  # T11
    path, rng = find_socket(handmade.folder / "state" / "proxy"), random.Random(2)
    files = open_files(handmade)

    with contextlib.ExitStack() as visits:
        for _ in range(VISITORS):
            visit = visits.enter_context(socket.socket(socket.AF_UNIX))
            visit.settimeout(ANSWER_SECONDS)
            visit.connect(str(path))
            with contextlib.suppress(ConnectionError):
                visit.sendall(rng.choice([b"", b"statistics", rng.randbytes(300), b"x\n"]))
        assert handmade.statistics("proxy")["role"] == "proxy"

    wait_until(lambda: open_files(handmade) <= files + 5, 30, "the end of all visits")
