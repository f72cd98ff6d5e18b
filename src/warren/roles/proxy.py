"""The front door: meets an application, learns what it wants, and splices it to a stream.

One port speaks SOCKS4, 4a and 5, CONNECT and plain HTTP; the first byte decides. Each connection
is one task with one cancel scope, whose deadline moves on as the visit does: first for the
request, then until a stream is attached, then none. What no circuit may be used for is refused
before one is (FE-8). Circuits and their choice are the client's, below.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog
import trio

from warren.addresses import Address
from warren.errors import ConfigError, LinkError, ProtocolError, WarrenError
from warren.network.byte_streams import ByteStream, Listener
from warren.network.local_programs import program_at
from warren.network.splice import splice
from warren.network.streams import CircuitStream
from warren.protocol import front, http_proxy, socks
from warren.protocol.front import Command, Failure, WrongLogin
from warren.protocol.http_answers import malformed, options_answer, pac_answer
from warren.protocol.http_proxy import ForeignRequest, HttpRequest, OptionsRequest, PacRequest
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.resolution import Resolved
from warren.protocol.socks import SocksRequest
from warren.roles.datagram_desk import AssociationOpener, DatagramDesk
from warren.roles.doorstep import Doorstep, Visit
from warren.roles.gate import Gate, IPNetwork, lets_in
from warren.roles.http_carrier import carry
from warren.roles.leak_watch import UNKNOWN_PROGRAM, LeakWatch
from warren.roles.listener_rules import PLAIN, ListenerRules

logger = structlog.get_logger()

T = TypeVar("T")

Splice = Callable[[ByteStream, CircuitStream], Awaitable[None]]
FindProgram = Callable[[Address, Address], Awaitable[str | None]]

_COUNTERS = (
    "connections", "turned_away", "given_up", "broken_off", "malformed", "bugs",
    "socks4", "socks5", "http_connect", "http_plain", "opened", "resolved", "failed", "refused",
    "wrong_logins",
)  # fmt: skip
_NAME_COMMANDS = (Command.RESOLVE, Command.RESOLVE_PTR)
_LINGER_BYTES = 1024 * 1024
_SECONDS_BETWEEN_REPORTS = 60


class StreamOpener(Protocol):
    """Be the client: give streams through circuits, and answers of exits."""

    async def open_stream(
        self,
        address: Address,
        isolation: Hashable,
        early: bytes = b"",
        flags: BeginFlags = ANY_FAMILY,
    ) -> CircuitStream:
        """Return a stream that is connected to `address`; `early` went with its opening.

        Raises ExitError, CircuitError or DirectoryError.
        """

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        """Return what the name or the address `subject`, at port 0, stands for.

        Raises as above; NotFound when it stands for nothing.
        """


@dataclass(frozen=True)
class ProxyLimits:
    """Bound what applications may hold (FE-2, FE-11)."""

    connections: int = 8192
    half_done: int = 512
    half_done_per_peer: int = 64
    request_seconds: float = 10
    attach_seconds: float = 120
    idle_seconds: float = 600
    linger_seconds: float = 2


class Proxy:
    """Own the connections of applications, on all its listeners.

    `allow_clients` names the networks besides this machine that may come in, `allow_targets` the
    internal addresses that may be asked for all the same (EXT-16). What holds for one listener
    alone stands in its ``ListenerRules``; `safe_socks` is for all of them. Without `datagrams` no
    UDP is carried.
    """

    def __init__(
        self,
        client: StreamOpener,
        *,
        allow_clients: Sequence[IPNetwork] = (),
        allow_targets: Collection[Address] = (),
        safe_socks: bool = False,
        limits: ProxyLimits | None = None,
        splice: Splice = splice,
        datagrams: AssociationOpener | None = None,
        find_program: FindProgram = program_at,
    ) -> None:
        self._client = client
        self._allow_clients = tuple(allow_clients)
        self._gate = Gate(allow_targets)
        self._safe_socks = safe_socks
        self._limits = limits or ProxyLimits()
        self._splice = splice
        self._find_program = find_program
        self._doorstep = Doorstep(self._limits.half_done, self._limits.half_done_per_peer)
        self.leaks = LeakWatch()
        self._desk = None
        if datagrams is not None:
            self._desk = DatagramDesk(datagrams, self._datagram_objection)
        self._open = 0
        self._counts = Counter(dict.fromkeys(_COUNTERS, 0))
        self._next_report = 0.0

    def __repr__(self) -> str:
        return f"<Proxy {self._open} connections, {len(self._doorstep)} without a request>"

    def statistics(self) -> dict[str, int]:
        """Return counters since the start, and what is open now."""
        return {
            **self._counts,
            "connections_open": self._open,
            "half_done": len(self._doorstep),
            "literal_addresses": self.leaks.total,
            **(self._desk.statistics() if self._desk is not None else {}),
        }

    async def serve(
        self,
        listener: Listener,
        nursery: trio.Nursery,
        name: str = "",
        rules: ListenerRules = PLAIN,
    ) -> None:
        """Serve applications at `listener` until it is closed; their tasks run in `nursery`.

        Listeners with different names never share a circuit; the name is the address by default.
        Raises ConfigError when other machines can reach the listener, none is allowed and there
        is no login (FE-1).
        """
        ip = listener.local.ip
        if ip is None or not ip.is_loopback:
            if not self._allow_clients and rules.login is None:
                raise ConfigError(
                    f"the proxy would listen at {listener.local}, which other machines can reach: "
                    "say which of them may use it, set a password, or listen at 127.0.0.1"
                )
            logger.warning("other machines can use the proxy", listen=str(listener.local))
        await listener.serve(partial(self._meet, name or str(listener.local), rules), nursery)

    async def _meet(self, listener: str, rules: ListenerRules, stream: ByteStream) -> None:
        """Guard one visit: whatever happens in it ends here, with its socket (DOS-1)."""
        deadline = trio.current_time() + self._limits.request_seconds
        visit = Visit(listener, stream, trio.CancelScope(deadline=deadline), rules=rules)
        self._counts["connections"] += 1
        if not self._lets_in(visit):
            self._counts["turned_away"] += 1
            stream.reset()
            return
        self._open += 1
        try:
            with visit.scope:
                await self._receive(visit)
            if visit.scope.cancelled_caught:
                self._counts["given_up"] += 1
                _answer_late(visit)
        except LinkError:
            self._counts["broken_off"] += 1
        except Exception as error:  # noqa: BLE001  it ends with its own visit (DOS-1)
            self._report(error)
        finally:
            self._open -= 1
            self._doorstep.leave(visit)
            if visit.is_attached:
                stream.reset()  # SID-4
            else:
                stream.close()

    def _lets_in(self, visit: Visit) -> bool:
        peer = visit.peer
        if peer is None:
            return False
        # A login takes the place of a list (FE-1).
        by_login = not self._allow_clients and visit.rules.login is not None
        if not (by_login or lets_in(peer, self._allow_clients)):
            return False
        if self._open >= self._limits.connections and not self._doorstep.close_oldest():
            return False
        return self._doorstep.enter(visit)

    async def _receive(self, visit: Visit) -> None:
        """Serve requests, one after the other where refused CONNECTs keep the connection."""
        limits = self._limits
        while True:
            request = await self._read_request(visit)
            self._doorstep.leave(visit)
            if request is None:
                return
            visit.request = request
            visit.scope.deadline += limits.attach_seconds - limits.request_seconds
            failure = await self._fulfil(visit, request)
            visit.request = None
            if failure is None:
                return
            self._counts["refused"] += 1
            self._counts["wrong_logins"] += failure is front.WRONG_LOGIN
            # What came behind a refused CONNECT was meant for its tunnel: it is no request.
            if not request.keeps_alive or visit.buffer:
                await self._take_leave(visit, request.refused(failure))
                return
            visit.scope.deadline = trio.current_time() + limits.request_seconds
            await visit.stream.send_all(request.refused(failure, is_last=False))
            if not self._doorstep.enter(visit):
                return

    async def _read_request(self, visit: Visit) -> SocksRequest | HttpRequest | None:
        """Return the next request, or None when the connection is to be closed (FE-3)."""
        stream, buffer = visit.stream, visit.buffer
        first = await stream.converse(front.first_byte(), buffer)
        buffer[:0] = first
        is_http = b"A" <= first <= b"Z"
        try:
            if not is_http:
                request = await stream.converse(socks.accept(visit.rules.login), buffer)
                self._counts[f"socks{request.version}"] += 1
                return request
            asked = await stream.converse(http_proxy.accept(visit.rules.login), buffer)
        except ForeignRequest:
            self._counts["malformed"] += 1
            return None
        except ProtocolError as error:
            is_login = isinstance(error, WrongLogin)
            self._counts["wrong_logins" if is_login else "malformed"] += 1
            await self._take_leave(visit, malformed(error) if is_http else b"")
            return None
        if isinstance(asked, PacRequest):
            await self._take_leave(visit, pac_answer(stream.local))
            return None
        if isinstance(asked, OptionsRequest):
            await self._take_leave(visit, options_answer())
            return None
        self._counts["http_connect" if asked.is_tunnel else "http_plain"] += 1
        return asked

    async def _fulfil(self, visit: Visit, request: SocksRequest | HttpRequest) -> Failure | None:
        """Do what `request` asks; return None when that is over, or why it was not begun."""
        if self._watch(request):
            self.leaks.leaked(await self._program_of(visit))
        failure = request.objection or self._objection(visit, request)
        if failure is not None:
            return failure
        if request.command is Command.ASSOCIATE:
            return await self._associate(visit, request)
        if request.command is not Command.CONNECT:
            assert isinstance(request, SocksRequest), "HTTP asks for connections only"
            return await self._answer_name(visit, request)
        open_stream = partial(self._open_stream, visit, request)
        if isinstance(request, HttpRequest) and not request.is_tunnel:
            failure = await carry(visit, request, open_stream, self._limits.idle_seconds)
            if failure is None and not visit.is_attached:
                await self._take_leave(visit, b"")
            return failure
        target = await open_stream(bytes(visit.buffer))
        if isinstance(target, Failure):
            return target
        visit.is_attached = True
        visit.scope.deadline = float("inf")
        try:
            await visit.stream.send_all(request.granted())
        except BaseException:
            target.reset()
            raise
        await self._splice(visit.stream, target)
        visit.is_attached = False  # the splice has closed the socket, or reset it
        return None

    async def _associate(self, visit: Visit, request: SocksRequest | HttpRequest) -> Failure | None:
        """Carry datagrams for as long as the connection lives (FE-13)."""
        assert self._desk is not None
        assert isinstance(request, SocksRequest)
        isolation = visit.rules.isolation_of(visit.listener, visit.stream, request)
        try:
            await self._desk.serve(visit, request, isolation)
        except WarrenError as error:
            if visit.is_attached:
                raise
            self._counts["failed"] += 1
            return front.failure_of(error)
        return None

    def _datagram_objection(self, visit: Visit, address: Address) -> Failure | None:
        """Return why no datagram goes to `address`, or None."""
        is_leak = self.leaks.is_leak(address)
        self.leaks.watch(address.port, trio.current_time(), is_leak=is_leak)
        if is_leak and (self._safe_socks or visit.rules.safe_socks):
            return front.LITERAL_ADDRESS
        return self._gate.objection_to_target(address)

    def _watch(self, request: SocksRequest | HttpRequest) -> bool:
        """Note what gives the user away; return whether the program should be found out."""
        if request.command is not Command.CONNECT:
            return False
        now = trio.current_time()
        return self.leaks.watch(request.address.port, now, is_leak=self._is_leak(request))

    async def _program_of(self, visit: Visit) -> str:
        """Return the name of the program that came; it waits for its answer meanwhile."""
        if visit.peer is None or not visit.peer.is_loopback:
            return "another machine"
        found = await self._find_program(visit.stream.remote, visit.stream.local)
        return found or UNKNOWN_PROGRAM

    def _is_leak(self, request: SocksRequest | HttpRequest) -> bool:
        """Tell whether a SOCKS client shows that it has looked up a name itself (FE-9)."""
        return isinstance(request, SocksRequest) and self.leaks.is_leak(request.address)

    def _objection(self, visit: Visit, request: SocksRequest | HttpRequest) -> Failure | None:
        """Return why no circuit may be used for `request`, or None (FE-8)."""
        address = request.address
        if request.command is Command.RESOLVE and address.ip is not None:
            return None  # echoed: nobody is asked (conventions D0)
        if request.command in _NAME_COMMANDS:
            return self._gate.objection_to_subject(Address(address.host, 0))
        if request.command is Command.ASSOCIATE and self._desk is not None:
            if visit.peer is None or not visit.peer.is_loopback:
                return front.FOREIGN_DATAGRAMS
            return front.MANY_TARGETS if visit.rules.keeps_targets_apart else None
        if request.command is not Command.CONNECT:
            return front.UNSUPPORTED_COMMAND
        if (self._safe_socks or visit.rules.safe_socks) and self._is_leak(request):
            return front.LITERAL_ADDRESS
        return self._gate.objection_to_target(address)

    async def _answer_name(self, visit: Visit, request: SocksRequest) -> Failure | None:
        """Answer RESOLVE or RESOLVE_PTR, then close; return why there is no answer, or None."""
        subject = Address(request.address.host, 0)
        found: Sequence[Address] = (subject,)
        if request.command is Command.RESOLVE_PTR or subject.ip is None:
            answer = await self._resolve(visit, request, subject)
            if isinstance(answer, Failure):
                return answer
            found = answer.addresses
            self.leaks.tell(found)
        reply = request.resolved(found)
        if reply is None:
            return front.UNSUPPORTED_ADDRESS
        await self._take_leave(visit, reply)
        return None

    async def _open_stream(
        self, visit: Visit, request: SocksRequest | HttpRequest, early: bytes
    ) -> CircuitStream | Failure:
        isolation = visit.rules.isolation_of(visit.listener, visit.stream, request)
        opening = self._client.open_stream(request.address, isolation, early, request.flags)
        return await self._translated(opening, "opened")

    async def _resolve(
        self, visit: Visit, request: SocksRequest, subject: Address
    ) -> Resolved | Failure:
        isolation = visit.rules.isolation_of(visit.listener, visit.stream, request)
        return await self._translated(self._client.resolve(subject, isolation), "resolved")

    async def _translated(self, work: Awaitable[T], counter: str) -> T | Failure:
        """Return what `work`, the client's, gives, and count it; or the failure that it raised."""
        try:
            result = await work
        except WarrenError as error:
            self._counts["failed"] += 1
            return front.failure_of(error)
        except Exception as error:  # noqa: BLE001  a bug below still gets an answer (DOS-1)
            self._report(error)
            return front.BUG
        self._counts[counter] += 1
        return result

    async def _take_leave(self, visit: Visit, reply: bytes) -> None:
        """Say the last words and wait until they are read: closing on unread input drops them."""
        visit.request = None
        visit.scope.deadline = float("inf")
        stream, room, chunk = visit.stream, _LINGER_BYTES, bytearray(16 * 1024)
        with trio.move_on_after(self._limits.linger_seconds):
            await stream.send_all(reply)
            with contextlib.suppress(LinkError):  # torsocks leaves a part of the reply unread
                stream.send_eof()
                while room > 0:
                    count = stream.receive_into(chunk)
                    if count is None:
                        await stream.wait_readable()
                    elif count == 0:
                        return
                    else:
                        room -= count

    def _report(self, error: Exception) -> None:
        """Log a bug at most once a minute, without texts that may name a target (DOS-9)."""
        self._counts["bugs"] += 1
        now = trio.current_time()
        if now < self._next_report:
            return
        self._next_report = now + _SECONDS_BETWEEN_REPORTS
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        kind = type(error).__name__
        logger.error("a visit ended by a bug", error=kind, where=where, bugs=self._counts["bugs"])
        logger.debug("where the bug was", exc_info=error)


def _answer_late(visit: Visit) -> None:
    """Tell the application that its time is over, if it is owed an answer and takes it."""
    if visit.request is not None and not visit.is_attached:
        with contextlib.suppress(LinkError):
            visit.stream.send_now(visit.request.refused(visit.lateness))
