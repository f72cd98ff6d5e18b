"""Rude programs at a real proxy's port: nothing they say or break off is a bug, or stays.

Each visit says a request, whole, cut short, damaged or with another behind it, in pieces or not,
and then reads, closes one half or both, or resets. What answer each is owed is tested in
``protocol`` and ``roles``; here it is the moments that count.
"""

import random
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.journeys import statistics, wait_until
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME, PAGE, Origin
from warren.addresses import Address

pytestmark = pytest.mark.processes

PROGRAMS, VISITS = 8, 60
SECONDS = 1.0


def socks5(port: int, command: int = 1, user: bytes | None = None) -> bytes:
    login = b"\1\0" if user is None else b"\1\2\1%c%b\1x" % (len(user), user)
    place = b"\3%c%b" % (len(NAME), NAME.encode()) + port.to_bytes(2, "big")
    return b"\5%b\5%c\0%b" % (login, command, place)


def sayings(origin: Origin) -> list[bytes]:
    """Return what polite programs say."""
    port = origin.http.port
    server = f"{NAME}:{port}".encode()
    host = b"Host: %b\r\n" % server
    get = b"GET / HTTP/1.0\r\n%b\r\n" % host
    tunnel = b"CONNECT %b HTTP/1.1\r\n\r\n" % server
    put = b"PUT http://%b/sink HTTP/1.1\r\n%b" % (server, host)
    return [
        socks5(port) + get,
        socks5(port, user=b"me") + get,
        socks5(port, user=b"me+hops=2") + get,
        socks5(port, command=0xF0),
        socks5(port, command=3),
        socks5(9),
        b"\4\1%b\0\0\0\1me\0%b\0%b" % (port.to_bytes(2, "big"), NAME.encode(), get),
        tunnel + get,
        b"CONNECT nowhere.example:80 HTTP/1.1\r\n\r\n" + tunnel + get,
        b"GET http://%b/ HTTP/1.1\r\n%b\r\n" % (server, host),
        b"GET http://%b/bytes/3000000 HTTP/1.1\r\n%b\r\n" % (server, host),
        put + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        put + b"Content-Length: 50000\r\n\r\n" + bytes(50_000),
        b"GET /proxy.pac HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(300),
    ]


class Program:
    """Own one rude program; all it does is drawn with its seed, but for how fast it goes."""

    def __init__(self, proxy: Address, polite: list[bytes], seed: int) -> None:
        self._proxy = proxy
        self._polite = polite
        self._rng = random.Random(seed)

    def run(self) -> None:
        for _ in range(VISITS):
            words = self._damaged(self._rng.choice(self._polite))
            leave = self._rng.choice([self._read, self._end, self._close, self._break, self._wait])
            with socket.create_connection((self._proxy.host, self._proxy.port)) as sock:
                sock.settimeout(SECONDS)
                try:
                    self._say(sock, words)
                    leave(sock)
                except OSError:  # closed or reset, as it may be
                    pass

    def _damaged(self, words: bytes) -> bytes:
        rng = self._rng
        match rng.randrange(5):
            case 0:
                return words[: rng.randrange(len(words))]
            case 1:
                place = rng.randrange(min(len(words), 80))
                return words[:place] + rng.randbytes(1) + words[place + 1 :]
            case 2:
                return words + rng.choice(self._polite)
            case _:
                return words

    def _say(self, sock: socket.socket, words: bytes) -> None:
        cuts = sorted(self._rng.randrange(len(words) + 1) for _ in range(self._rng.choice([0, 4])))
        for start, end in zip([0, *cuts], [*cuts, len(words)], strict=True):
            sock.sendall(words[start:end])
            time.sleep(self._rng.random() * 0.005 if cuts else 0)

    def _read(self, sock: socket.socket) -> None:
        end = time.monotonic() + SECONDS
        while sock.recv(65536) and time.monotonic() < end:
            pass

    def _end(self, sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        self._read(sock)

    def _close(self, sock: socket.socket) -> None:
        sock.close()

    def _break(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def _wait(self, sock: socket.socket) -> None:
        sock.recv(self._rng.choice([1, 12, 5000]))
        self._break(sock)


def together(programs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=run) for run in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_nothing_that_rude_programs_do_is_a_bug_or_stays(lab: RunningLab, origin: Origin) -> None:
    before = statistics(lab, "proxy")["proxy"]
    proxy, polite = Address.parse(lab.proxy), sayings(origin)

    together([Program(proxy, polite, seed).run for seed in range(PROGRAMS)])

    def is_over() -> bool:
        now = statistics(lab, "proxy")["proxy"]
        return bool(now["connections_open"] <= before["connections_open"])

    wait_until(is_over, 30, "the end of all visits")
    after = statistics(lab, "proxy")["proxy"]
    assert after["connections"] - before["connections"] >= PROGRAMS * VISITS
    assert after["opened"] > before["opened"] + 50
    assert (after["bugs"], after["udp_open"]) == (0, before["udp_open"])
    with socket.create_connection((proxy.host, proxy.port)) as sock:
        sock.sendall(polite[0])
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.endswith(PAGE)
