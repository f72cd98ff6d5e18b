"""Sites that mean ill, two hundred visits at once: programs see what they see without the proxy.

Through a tunnel the bytes and their end are those of the site, whatever it does. As a plain request
the answer is read on the way, so one that is no answer becomes a refusal in words, and one that
breaks off later is never taken for a whole one (T84).
"""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from python_socks import ProxyError

from tests.support.hostile_site import HOSTILE_NAME, MANNERS, HostileSite
from tests.support.journeys import (
    Scheme,
    read_answer,
    request,
    statistics,
    through,
    wait_until,
)
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address
from warren.lab.origin import digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

#: How long a visitor stays, at what never ends.
STAY_SECONDS = 4
#: What a page may take meanwhile: a second, and five times as long on a busy machine.
PAGE_SECONDS = 1 * 5
WAYS = ("direct", "socks5", "http", "plain")
CROWD = 2
#: How each answer to a plain request begins and ends, where it is not the site's own, whole.
REFUSED = b"HTTP/1.1 502 "
BROKEN_OFF = b"HTTP/1.1 503 "
PLAIN = {
    "drip": (b"HTTP/1.1 200 ", "open"),
    "reset": (BROKEN_OFF, "end"),
    "reset-in-head": (BROKEN_OFF, "end"),
    "reset-in-body": (b"HTTP/1.1 200 ", "reset"),
    "silent": (b"", "open"),
    "nothing": (REFUSED, "end"),
    "half-a-head": (REFUSED, "end"),
    "short-body": (b"HTTP/1.1 200 ", "reset"),
    "ten-gigabytes": (b"HTTP/1.1 200 ", "open"),
    "head-of-90k": (REFUSED, "end"),
    "endless-head": (REFUSED, "end"),
    "endless-line": (REFUSED, "end"),
    "endless-early": (b"HTTP/1.1 103 ", "end"),
    "endless-crumbs": (b"HTTP/1.1 200 ", "open"),
    "endless-trailers": (b"HTTP/1.1 200 ", "reset"),
    "no-chunks": (b"HTTP/1.1 200 ", "reset"),
    "chunk-cut": (b"HTTP/1.1 200 ", "reset"),
    "huge-chunk": (b"HTTP/1.1 200 ", "reset"),
    "two-lengths": (REFUSED, "end"),
    "no-http": (REFUSED, "end"),
    "zeros": (REFUSED, "end"),
}


@dataclass
class Seen:
    """Hold what a visitor read, at most so much, and how it ended: end, reset, or not at all."""

    words: bytes = b""
    end: str = "open"


@dataclass
class Visitor:
    """Own one visit to a site in one of its manners."""

    site: HostileSite
    proxy: Address
    way: str
    manner: str

    def go(self) -> Seen:
        """Ask, and read until the end or for so long as visitors stay."""
        seen, place = Seen(), f"{HOSTILE_NAME}:{self.site.web.port}"
        url = f"http://{place}/{self.manner}" if self.way == "plain" else f"/{self.manner}"
        with self._connect() as sock:
            begun = time.monotonic()
            sock.settimeout(STAY_SECONDS)
            try:
                sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
                while time.monotonic() < begun + STAY_SECONDS:
                    piece = sock.recv(65536)
                    if not piece:
                        seen.end = "end"
                        break
                    seen.words += piece[: 200_000 - len(seen.words)]
                    time.sleep(0.02)
            except TimeoutError:
                pass
            except ConnectionError:
                seen.end = "reset"
        return seen

    def _connect(self) -> socket.socket:
        if self.way in ("socks5", "http"):
            target = Address(HOSTILE_NAME, self.site.web.port)
            return through(str(self.proxy), target, scheme=cast(Scheme, self.way))
        place = self.site.web if self.way == "direct" else self.proxy
        return socket.create_connection((place.host, place.port), 60)


def visit_all(visitors: list[Visitor]) -> Iterator[tuple[Visitor, Seen]]:
    """Let all go at once; yields what each has seen, when the last is back."""
    seen: dict[int, Seen] = {}

    def go(number: int) -> None:
        seen[number] = visitors[number].go()

    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(visitors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ((visitor, seen[number]) for number, visitor in enumerate(visitors))


def fetch(lab: RunningLab, origin: Origin) -> float:
    """Fetch a page as others do; return how many seconds it took."""
    begun = time.monotonic()
    with through(lab.proxy, Address(NAME, origin.http.port)) as sock:
        request(sock, "/bytes/10000")
        assert read_answer(sock)[0] == digest(10_000)
    return time.monotonic() - begun


def open_files(lab: RunningLab) -> int:
    pids = [p["pid"] for p in lab.ready["processes"] if p["role"] in ("proxy", "exit")]
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def log_lines(lab: RunningLab) -> int:
    return sum(path.read_bytes().count(b"\n") for path in Path(lab.ready["dir"]).rglob("*.log"))


def test_hostile_sites_harm_nobody_and_are_seen_as_they_are(
    lab: RunningLab, origin: Origin, hostile: HostileSite
) -> None:  # T84
    proxy = Address.parse(lab.proxy)
    visitors = [Visitor(hostile, proxy, way, manner) for way in WAYS for manner in MANNERS] * CROWD
    fetch(lab, origin)
    files, lines = open_files(lab), log_lines(lab)
    waited: list[float] = []
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            waited.append(fetch(lab, origin))
            time.sleep(0.1)

    worker = threading.Thread(target=work)
    worker.start()
    seen = list(visit_all(visitors))
    is_over.set()
    worker.join()

    assert len(waited) >= 5
    assert max(waited) < PAGE_SECONDS
    truth = {visitor.manner: each for visitor, each in seen if visitor.way == "direct"}
    for visitor, each in seen:
        what = f"{visitor.way} {visitor.manner}: {each.end} after {each.words[:200]!r}"
        direct = truth[visitor.manner]
        if visitor.way == "plain":
            words, end = PLAIN.get(visitor.manner, (b"HTTP/1.1 200 ", "end"))
            assert each.words.startswith(words), what
            assert each.end == end, what
        else:
            assert each.end == direct.end, what
            shorter = sorted((each.words, direct.words), key=len)[0]
            assert each.words[: len(shorter)] == direct.words[: len(shorter)], what
            assert each.end != "end" or each.words == direct.words, what
    wait_until(lambda: open_files(lab) <= files + 10, 60, "the end of all that was opened")
    assert log_lines(lab) <= lines + 20
    assert statistics(lab, "proxy")["proxy"]["bugs"] == 0


def first_word(lab: RunningLab, hostile: HostileSite, way: Scheme) -> bytes | int | None:
    """Return what the rude port says, the proxy's code, or None for a reset."""
    try:
        with through(lab.proxy, Address(HOSTILE_NAME, hostile.rude.port), scheme=way) as sock:
            return sock.recv(1)
    except ProxyError as error:  # it was there before the exit could say that it is connected
        return error.error_code
    except ConnectionResetError:
        return None


@pytest.mark.parametrize(("way", "code"), [("socks5", 5), ("http", 503)])
def test_a_site_that_resets_everybody_is_a_reset(
    lab: RunningLab, hostile: HostileSite, way: Scheme, code: int
) -> None:  # T84
    words = {first_word(lab, hostile, way) for _ in range(50)}

    assert words <= {None, code}
