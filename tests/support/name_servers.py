"""DNS servers for tests that say what they are told to: wrong, late, twice, or nothing.

A ``ScriptedServer`` gives each query to a function, which returns the datagrams to send back.
"""

import random
from collections.abc import Callable, Iterable, Sequence

import dns.message
import dns.rcode
import dns.rrset
import trio

from warren.addresses import Address

Script = Callable[[bytes], Iterable[bytes]]
LOOPBACK = "127.0.0.1"


def answer(query: bytes, *records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """Answer `query` with `records` of zone file lines; `@` is the name in question."""
    question = dns.message.from_wire(query)
    response = dns.message.make_response(question)
    response.set_rcode(rcode)
    name = question.question[0].name.to_text()
    for record in records:
        owner, ttl, rdtype, value = record.replace("@", name).split()
        response.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, value))
    return response.to_wire()


def question_of(query: bytes) -> tuple[str, str]:
    """Return the name in its case, and the type, that `query` asks for."""
    question = dns.message.from_wire(query).question[0]
    return question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)


def only_a(*records: str) -> Script:
    """Answer A with `records`, AAAA with nothing."""
    return lambda query: [answer(query, *(records if question_of(query)[1] == "A" else ()))]


class ScriptedServer:
    """Own what was asked (``queries``) and from which ports; TCP answers ``by_tcp``, raw."""

    def __init__(self, script: Script, by_tcp: Callable[[bytes], bytes] | None = None) -> None:
        self._script = script
        self._by_tcp = by_tcp
        self.queries: list[bytes] = []
        self.ports: list[int] = []

    async def serve(
        self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
        port = listener.socket.getsockname()[1]
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            await sock.bind((LOOPBACK, port))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, sock)
                nursery.start_soon(trio.serve_listeners, self._serve_tcp, [listener])
                task_status.started(Address(LOOPBACK, port))

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            query, asker = await sock.recvfrom(4096)
            self.queries.append(query)
            self.ports.append(asker[1])
            for data in self._script(query):
                try:
                    await sock.sendto(data, asker)
                except OSError:  # the asker has heard enough
                    break

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        try:
            query = await stream.receive_some(4096)
            if self._by_tcp is not None:
                await stream.send_all(self._by_tcp(query[2:]))
        except trio.BrokenResourceError:
            pass


class ChosenChance:
    """Give random bits, and always the same number between two others."""

    def __init__(self, share: float = 0.5, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._share = share

    def getrandbits(self, bits: int, /) -> int:
        return self._rng.getrandbits(bits)

    def uniform(self, low: float, high: float, /) -> float:
        return low + self._share * (high - low)


def with_length(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def addresses_of(answers: Sequence[object]) -> list[str]:
    return [str(ip) for ip in answers]
