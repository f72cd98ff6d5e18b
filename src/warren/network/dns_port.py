"""A port at which DNS is spoken, by UDP and by TCP: queries in, answers out, within limits.

Each query is a task, so one that waits for its answer holds up no other. What stands in a query
is for whoever answers; here is only how many there may be, how long a connection may say nothing,
and that a failure of one hurts no other (DOS-1).
"""

import socket
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from warren.addresses import Address, IPAddress
from warren.network import reserve

logger = structlog.get_logger()

#: The longest datagram that is taken; a query is one name, and what resolvers add to it.
MOST_QUERY_BYTES = 4096
_PORT_ATTEMPTS = 20
_SECONDS_BETWEEN_REPORTS = 60
_READ_BYTES = 4096

#: Takes a query and whether it came as a datagram; returns the answer, or None for silence.
AnswerQuery = Callable[[bytes, bool], Awaitable[bytes | None]]


@dataclass(frozen=True)
class DnsLimits:
    """Bound what programs may hold at a port (FE-2, FE-11)."""

    queries: int = 512
    connections: int = 64
    queries_per_connection: int = 16
    idle_seconds: float = 10


def bind_dns(host: str, port: int = 0) -> tuple[socket.socket, socket.socket]:
    """Return a socket for datagrams and one that listens, at one port of the literal `host`.

    With `port` 0 it is one that is free for both. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempt in range(_PORT_ATTEMPTS):
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        connections = socket.socket(family, socket.SOCK_STREAM)
        try:
            connections.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            datagrams.bind((host, port))
            connections.bind((host, datagrams.getsockname()[1]))
            connections.listen(64)
        except OSError:
            datagrams.close()
            connections.close()
            if port != 0 or attempt + 1 == _PORT_ATTEMPTS:
                raise
        else:
            return datagrams, connections
    raise AssertionError("the loop returns or raises")


async def serve_connection(answer: AnswerQuery, stream: trio.SocketStream) -> None:
    """Give every query that comes over `stream` its `answer`; return when it is closed."""
    await _Talk(answer, stream, DnsLimits()).run()


class DnsPort:
    """Own one port: its two sockets, the queries under way and the connections.

    `allows` tells who may ask. ``serve`` closes the sockets.
    """

    def __init__(
        self,
        answer: AnswerQuery,
        sockets: tuple[socket.socket, socket.socket],
        *,
        allows: Callable[[IPAddress], bool] = lambda _: True,
        limits: DnsLimits | None = None,
    ) -> None:
        self._answer = answer
        self._datagrams, self._listening = map(trio.socket.from_stdlib_socket, sockets)
        self._allows = allows
        self._limits = limits or DnsLimits()
        self._connections: OrderedDict[trio.CancelScope, None] = OrderedDict()  # oldest first
        self._open = 0
        self._next_report = 0.0
        self.counts = Counter({"turned_away": 0, "bugs": 0})
        host, port = self._datagrams.getsockname()[:2]
        self.local = Address(host, port)

    def __repr__(self) -> str:
        return f"<DnsPort {self._open} queries, {len(self._connections)} connections>"

    async def serve(self) -> None:
        """Serve until cancelled."""
        with self._datagrams, self._listening:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_datagrams, nursery)
                nursery.start_soon(self._accept, nursery)

    # ---- datagrams

    async def _serve_datagrams(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                query, asker = await self._datagrams.recvfrom(MOST_QUERY_BYTES + 1)
            except OSError as error:  # an answer before this found nobody
                logger.debug("a DNS answer was not taken", why=str(error))
                continue
            ip = Address(asker[0].partition("%")[0], 0).ip
            is_full = self._open >= self._limits.queries
            if ip is None or is_full or len(query) > MOST_QUERY_BYTES or not self._allows(ip):
                self.counts["turned_away"] += 1  # it asks again, or somebody else
                continue
            nursery.start_soon(self._answer_datagram, query, asker)

    async def _answer_datagram(self, query: bytes, asker: tuple[str, int]) -> None:
        answer = await self._answer_safely(query, True)
        if answer is not None:
            try:
                await self._datagrams.sendto(answer, asker)
            except OSError as error:
                logger.debug("a DNS answer was not sent", why=str(error))

    # ---- connections

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, asker = await self._listening.accept()
            except OSError as error:  # no file descriptor left, or gone before it was accepted
                logger.debug("a DNS connection was not accepted", why=str(error))
                await trio.sleep(0.1)
                continue
            ip = Address(asker[0].partition("%")[0], 0).ip
            if ip is None or not self._allows(ip):
                self.counts["turned_away"] += 1
                sock.close()
                continue
            nursery.start_soon(self._serve_connection, trio.SocketStream(sock))

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        """Answer what comes over `stream`; one more than there may be ends the oldest."""
        share = reserve.here().front
        share.take()
        is_full = len(self._connections) >= self._limits.connections or share.is_exceeded
        if is_full and self._connections:
            self._connections.popitem(last=False)[0].cancel()
        talk = _Talk(self._answer_safely, stream, self._limits)
        self._connections[talk.scope] = None
        try:
            await talk.run()
        finally:
            self._connections.pop(talk.scope, None)
            share.give_back()

    async def _answer_safely(self, query: bytes, is_datagram: bool) -> bytes | None:
        """Answer a query; a bug costs that answer and is told once a minute (DOS-1, DOS-9)."""
        self._open += 1
        try:
            return await self._answer(query, is_datagram)
        except Exception as error:
            self.counts["bugs"] += 1
            now = trio.current_time()
            if now >= self._next_report:
                self._next_report = now + _SECONDS_BETWEEN_REPORTS
                logger.error("a DNS query ended by a bug", error=type(error).__name__)
                logger.debug("where the bug was", exc_info=error)
            return None
        finally:
            self._open -= 1


class _Talk:
    """Own one connection: what has arrived, and the queries that are being answered.

    Its deadline is that of its silence: nothing asked, and nothing owed.
    """

    def __init__(self, answer: AnswerQuery, stream: trio.SocketStream, limits: DnsLimits) -> None:
        self.scope = trio.CancelScope()
        self._answer = answer
        self._stream = stream
        self._idle_seconds = limits.idle_seconds
        self._room = trio.Semaphore(limits.queries_per_connection)
        self._owed = 0
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Return when the connection is over, and closed."""
        self._put_off_deadline()
        try:
            async with self._stream:
                with self.scope:
                    async with trio.open_nursery() as nursery:
                        await self._read(nursery)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as group:
            logger.debug("a DNS connection broke", why=str(group))

    def _put_off_deadline(self) -> None:
        now = trio.current_time()
        self.scope.deadline = float("inf") if self._owed else now + self._idle_seconds

    async def _read(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        while data := await self._stream.receive_some(_READ_BYTES):
            buffer += data
            while len(buffer) >= 2:
                end = 2 + int.from_bytes(buffer[:2], "big")
                if len(buffer) < end:
                    break
                query = bytes(buffer[2:end])
                del buffer[:end]
                await self._room.acquire()
                self._owed += 1
                self._put_off_deadline()
                nursery.start_soon(self._serve, query)

    async def _serve(self, query: bytes) -> None:
        answer = await self._answer(query, False)
        if answer is None:  # no DNS, so no more of it
            self.scope.cancel()
            return
        async with self._sending:
            await self._stream.send_all(len(answer).to_bytes(2, "big") + answer)
        self._room.release()
        self._owed -= 1
        self._put_off_deadline()
