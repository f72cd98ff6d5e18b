"""The applications: what people do all day, little of it, and all of it checked.

Every client has some, which open connections to its proxy by SOCKS5. For a client and an hour,
times the scenario's ``traffic``:

    60 pages      1 to 40 KB, SHA-256 compared
    12 downloads  50 to 500 KB, SHA-256 compared; a third is given up in the middle
     6 uploads    50 to 300 KB, whose SHA-256 the target tells; a third is given up as well
     9 talks      20 messages of 1 to 200 bytes that come back, a second or so apart
     4 vigils     a stream that is silent for minutes, with a message back and forth between

A stream may be refused, and it may be reset, where what goes wrong can cost one; that is counted.
It must not deliver a byte that was not sent, end cleanly before all of it came, or leave its
application waiting beyond a deadline.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from random import Random

import trio

from simulation.chance import dice
from simulation.nodes import PROXY_PORT, ClientNode
from simulation.scenario import HOUR
from simulation.targets import Complain, pattern, receive_some
from simulation.wire import LOOPBACK, WireStream
from warren.addresses import Address
from warren.errors import LinkError

#: The proxy answers within 10 s for the request and 120 s for the stream (FE-11).
OPEN_SECONDS = 135.0
#: A stream that owes something gives a byte of it within this time, or is reset: the links of
#: its circuit notice a silence of 25 s, it may be resumed for 60 s, and so a few times over.
SILENCE_SECONDS = 300.0
_PIECE = 16 * 1024

#: How many of each a client begins in an hour.
RATES = {"page": 60.0, "download": 12.0, "upload": 6.0, "talk": 9.0, "vigil": 4.0}


@dataclass(frozen=True)
class Visit:
    """Hold what an application is going to do, and when: seconds from the beginning."""

    at: float
    kind: str
    number: int


def plan_visits(seed: int, client: str, seconds: float, traffic: float) -> list[Visit]:
    """Return what the applications of `client` do within `seconds`, in order."""
    visits = []
    for kind, rate in RATES.items():
        rng, at = dice(seed, client, kind), 0.0
        while rate * traffic > 0:
            at += rng.expovariate(rate * traffic / HOUR)
            if at >= seconds:
                break
            visits.append((at, kind))
    return [Visit(at, kind, number) for number, (at, kind) in enumerate(sorted(visits))]


class Refused(Exception):
    """The proxy opened no stream; the number is SOCKS5's."""


class Abandoned(Exception):
    """The process at the other end of the application's connection was killed."""


class Applications:
    """Own what happens at one client's proxy; `tell` hears of every outcome."""

    def __init__(
        self,
        node: ClientNode,
        seed: int,
        names: Sequence[str],
        *,
        complain: Complain,
        tell: Callable[[str], None],
    ) -> None:
        self.node = node
        self.open = 0
        self.until = float("inf")  # no vigil goes on after that time
        self.is_spared = False  # whether nothing goes wrong that may cost a stream
        self.outcomes: Counter[str] = Counter()
        self._seed = seed
        self._names = tuple(names)
        self._complain = complain
        self._tell = tell

    async def run(self, visits: Sequence[Visit], nursery: trio.Nursery) -> None:
        """Begin every visit at its time, each in a task of its own."""
        begin = trio.current_time()
        for visit in visits:
            await trio.sleep_until(begin + visit.at)
            nursery.start_soon(self.make, visit)

    async def make(self, visit: Visit) -> str:
        """Make one visit; return how it ended."""
        rng = dice(self._seed, self.node.name, visit.number, visit.kind)
        begin = trio.current_time()
        self.open += 1
        try:
            outcome = await self._make(visit.kind, rng)
        except Refused as error:
            outcome = f"refused ({error})"
        except Abandoned:
            outcome = "killed"
        except LinkError as error:
            outcome = "reset" if "broke" in str(error) else "no proxy"
        finally:
            self.open -= 1
        self.outcomes[f"{visit.kind} {outcome.partition(' (')[0]}"] += 1
        seconds = trio.current_time() - begin
        if self.is_spared and outcome.startswith(("refused", "reset")):
            what = f"{self.node.name}'s {visit.kind} {visit.number} was {outcome}"
            self._complain("lost", f"{what}, and nothing happened that may cost a stream")
        self._tell(f"{self.node.name} {visit.kind} {visit.number}: {outcome} after {seconds:.3f} s")
        return outcome

    async def _make(self, kind: str, rng: Random) -> str:
        stream = await self.node.network.dial(Address(LOOPBACK, PROXY_PORT))
        what = f"{self.node.name}'s {kind} (connection {stream.number})"
        try:
            if kind in ("page", "download"):
                return await self._get(stream, kind, rng, what)
            if kind == "upload":
                return await self._put(stream, rng, what)
            return await self._echo(stream, kind, rng, what)
        except trio.TooSlowError:
            return "hanging"
        finally:
            stream.reset()

    async def _get(self, stream: WireStream, kind: str, rng: Random, what: str) -> str:
        size = rng.randint(1000, 40_000) if kind == "page" else rng.randint(50_000, 500_000)
        seed = rng.getrandbits(32)
        gives_up_at = rng.randrange(size) if kind == "download" and rng.random() < 1 / 3 else None
        await self._open(stream, rng, b"GET %d %d\n" % (size, seed), what)
        if rng.random() < 0.5:
            stream.send_eof()
        wanted, taken, digest = pattern(size, seed), 0, sha256()
        while more := await self._receive(stream, what, f"{taken} of {size} bytes"):
            self._compare(more, wanted[taken : taken + len(more)], taken, what)
            digest.update(more)
            taken += len(more)
            if gives_up_at is not None and taken > gives_up_at:
                if rng.random() < 0.5:
                    stream.close()
                return "given up"
        self._expect_whole(stream, taken, size, what)
        if taken == size and digest.digest() != sha256(wanted).digest():
            self._complain("wrong byte", f"{what}: another SHA-256")
        return "done"

    async def _put(self, stream: WireStream, rng: Random, what: str) -> str:
        size, seed = rng.randint(50_000, 300_000), rng.getrandbits(32)
        gives_up_at = rng.randrange(size) if rng.random() < 1 / 3 else size
        data = pattern(size, seed)
        await self._open(stream, rng, b"PUT %d %d\n" % (size, seed), what)
        for at in range(0, size, _PIECE):
            if at > gives_up_at:
                return "given up"  # by a reset, which must not look like an end at the target
            await self._send(stream, data[at : at + _PIECE], what, f"{at} of {size} bytes sent")
        stream.send_eof()
        answer = b""
        while more := await self._receive(stream, what, "the SHA-256 of its upload"):
            answer += more
        self._expect_whole(stream, len(answer), 64, what)
        if answer != sha256(data).hexdigest().encode():
            self._complain("wrong byte", f"{what}: another SHA-256")
        return "done"

    async def _echo(self, stream: WireStream, kind: str, rng: Random, what: str) -> str:
        is_talk = kind == "talk"
        await self._open(stream, rng, b"ECHO 0 0\n", what)
        for number in range(20 if is_talk else rng.randint(3, 10)):
            seconds = rng.uniform(0.1, 2) if is_talk else rng.uniform(20, 200)
            if trio.current_time() + seconds > self.until:
                break
            await trio.sleep(seconds)
            message = rng.randbytes(rng.randint(1, 200))
            await self._send(stream, message, what, f"message {number}")
            back = b""
            while len(back) < len(message):
                more = await self._receive(stream, what, f"the echo of message {number}")
                self._expect_whole(stream, len(more) or 0, 1, what, is_least=True)
                self._compare(more, message[len(back) : len(back) + len(more)], len(back), what)
                back += more
        stream.send_eof()
        if await self._receive(stream, what, "the end of an echo"):
            self._complain("wrong byte", f"{what}: bytes that nobody sent")
        return "done"

    # ---- one connection

    async def _open(self, stream: WireStream, rng: Random, request: bytes, what: str) -> None:
        """Ask the proxy for a target, and the target for something; raise Refused when it is."""
        name = rng.choice(self._names).encode()
        login = b"user%d" % rng.randrange(2)
        greeting = b"\x05\x01\x02" + b"\x01%c%b\x01x" % (len(login), login)
        asked = b"\x05\x01\x00\x03%c%b\x00\x50" % (len(name), name)
        is_hasty = rng.random() < 0.5  # the request goes before the proxy has answered
        await self._send(stream, greeting + asked + request * is_hasty, what, "its request")
        reply = b""
        with self._deadline(OPEN_SECONDS, what, "the proxy's answer"):
            while len(reply) < 14:
                more = await receive_some(stream, 14 - len(reply))
                if not more and stream.other.was_killed:
                    raise Abandoned
                if not more:
                    raise Refused("closed")
                reply += more
                if len(reply) >= 6 and reply[5]:
                    raise Refused(reply[5])
        if not is_hasty:
            await self._send(stream, request, what, "its request")

    async def _send(self, stream: WireStream, data: bytes, what: str, which: str) -> None:
        with self._deadline(SILENCE_SECONDS, what, f"room for {which}"):
            await stream.send_all(data)

    async def _receive(self, stream: WireStream, what: str, which: str) -> bytes:
        with self._deadline(SILENCE_SECONDS, what, which):
            return await receive_some(stream)
        raise AssertionError("unreachable")

    @contextmanager
    def _deadline(self, seconds: float, what: str, which: str) -> Iterator[None]:
        """Complain of a hanging stream when the inside takes longer."""
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError:
            self._complain("hanging", f"{what} has waited {seconds:g} s for {which}")
            raise

    def _compare(self, found: bytes, expected: bytes, at: int, what: str) -> None:
        if found != expected:
            where = next(
                (i for i, (one, other) in enumerate(zip(found, expected, strict=False))
                 if one != other),
                len(expected),
            )  # fmt: skip
            self._complain("wrong byte", f"{what}: byte {at + where} is wrong")
            raise LinkError("the connection broke: it is of no use")

    def _expect_whole(
        self, stream: WireStream, taken: int, size: int, what: str, *, is_least: bool = False
    ) -> None:
        """Complain when a stream ended cleanly with less, or more, than it had to deliver."""
        if taken == size or (is_least and taken >= size):
            return
        if stream.other.was_killed:
            raise Abandoned
        self._complain("truncated", f"{what} ended cleanly after {taken} of {size} bytes")
        raise LinkError("the connection broke: it is of no use")
