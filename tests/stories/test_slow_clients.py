"""Two thousand slow sockets at the proxy's port, and programs that want to work meanwhile (T47).

The sockets speak a byte every now and then, in every protocol of the port, or send a head that
never ends. All of it is real: the lab's proxy process, its exits, and the pages.
"""

import itertools
import time
from dataclasses import dataclass, field

import pytest
import trio

from tests.support.journeys import Scheme, read_answer, request, statistics, through
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME, Origin
from warren.addresses import Address
from warren.lab.origin import digest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

SLOW_SOCKETS = 2000
#: What is promised, and what a machine may take that does other things: five times as long.
CONNECT_SECONDS, CLOSED_SECONDS, SLACK = 1, 15, 5
WAYS: list[Scheme] = ["socks5", "socks4", "http"]
#: What slow programs begin with: each takes its time for the next byte.
WORDS = (
    b"",
    b"\x05\x02\x00\x02",
    b"\x05\x01\x02\x01\xff" + b"a" * 200,
    b"\x04\x01\x00\x50\x00\x00\x00\x01" + b"u" * 255,
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nX: " + b"x" * 200,
    b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n" + b"X: y\r\n" * 60,
)
HUGE = b"GET http://a.example/ HTTP/1.1\r\nX: " + b"x" * 64 * 1024


@dataclass
class Crowd:
    """Own the slow sockets; ``lives`` are the seconds that each was left open."""

    proxy: Address
    lives: list[float] = field(default_factory=list)

    async def loiter(self, words: bytes) -> None:
        """Connect and say `words` slowly, until the proxy has had enough."""
        begun = trio.current_time()
        stream = await trio.open_tcp_stream(self.proxy.host, self.proxy.port)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._dribble, stream, words)
            try:
                while await stream.receive_some(1024):
                    pass
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
        self.lives.append(trio.current_time() - begun)

    async def _dribble(self, stream: trio.SocketStream, words: bytes) -> None:
        try:
            if len(words) > 1024:
                await stream.send_all(words)
            else:
                for byte in words:
                    await stream.send_all(bytes((byte,)))
                    await trio.sleep(5)
            await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass


def fetch(lab: RunningLab, origin: Origin, way: Scheme) -> float:
    """Fetch a page as programs do; return how many seconds the connection took."""
    begun = time.monotonic()
    with through(lab.proxy, Address(NAME, origin.http.port), scheme=way) as sock:
        seconds = time.monotonic() - begun
        request(sock, "/bytes/10000")
        assert read_answer(sock)[0] == digest(10_000)
    return seconds


async def test_two_thousand_slow_sockets_keep_nobody_waiting(
    lab: RunningLab, origin: Origin
) -> None:  # T47
    crowd = Crowd(Address.parse(lab.proxy))
    kinds = itertools.cycle((*WORDS, HUGE))
    waited: list[float] = []

    async with trio.open_nursery() as nursery:
        for _ in range(SLOW_SOCKETS):
            nursery.start_soon(crowd.loiter, next(kinds))
        await trio.sleep(1)
        for way in itertools.islice(itertools.cycle(WAYS), 9):
            waited.append(await trio.to_thread.run_sync(fetch, lab, origin, way))
            await trio.sleep(0.5)
        half_done = statistics(lab, "proxy")["proxy"]["half_done"]

    assert max(waited) < CONNECT_SECONDS * SLACK
    assert max(crowd.lives) < CLOSED_SECONDS * SLACK
    assert len(crowd.lives) == SLOW_SOCKETS
    assert 0 < half_done <= 512
    assert statistics(lab, "proxy")["proxy"]["half_done"] == 0
