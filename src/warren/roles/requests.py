"""Requests: what applications ask at the front door is done, or refused with a reason.

What no circuit may be used for is refused before one is (FE-8). A connection for which a circuit
is ready is begun without waiting; everything else takes a task, in which requests follow one
another where refused CONNECTs keep the connection. Circuits and their choice are the client's,
below; who is let in at all is decided in ``roles.proxy``, above.
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
from warren.errors import LinkError, WarrenError
from warren.network.byte_streams import ByteStream
from warren.network.local_programs import program_at
from warren.network.splice import splice
from warren.network.streams import CircuitStream
from warren.protocol import front
from warren.protocol.front import Command, Failure
from warren.protocol.http_answers import options_answer, pac_answer
from warren.protocol.http_proxy import HttpRequest, OptionsRequest, PacRequest
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.reception import Asked, Malformed, receive_request
from warren.protocol.resolution import Resolved
from warren.protocol.socks import SocksRequest
from warren.roles.client import Beginning
from warren.roles.datagram_desk import AssociationOpener, DatagramDesk
from warren.roles.doorstep import Doorstep, Visit
from warren.roles.gate import Gate
from warren.roles.http_carrier import carry
from warren.roles.leak_watch import UNKNOWN_PROGRAM, LeakWatch
from warren.roles.listener_rules import Request

logger = structlog.get_logger()

SPOKE_TLS = (
    "a program spoke TLS to the proxy itself, which speaks none: let its URL of the proxy begin "
    "with http:// or socks5h://, not https://"
)

T = TypeVar("T")

SpliceTask = Callable[[ByteStream, CircuitStream], Awaitable[None]]
FindProgram = Callable[[Address, Address], Awaitable[str | None]]

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
        begun: Beginning | None = None,
    ) -> CircuitStream:
        """Return a stream that is connected to `address`; `early` went with its opening.

        The first attempt is the one that was `begun`, if any. Raises ExitError, CircuitError or
        DirectoryError.
        """

    def begin_stream(
        self, address: Address, isolation: Hashable, early: bytes, flags: BeginFlags
    ) -> Beginning | None:
        """Begin the same without waiting; None when no circuit is ready."""

    def connected(self, begun: Beginning) -> CircuitStream | None:
        """Return the stream that was `begun` once it is connected, None before.

        When it raises, ``open_stream`` knows what to do.
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


class Requests:
    """Own what requests have in common: the rules, the client below, and how often what happened.

    `counts` is the proxy's, and so is the `doorstep`, where a visit stands again after a refused
    CONNECT.
    """

    def __init__(
        self,
        client: StreamOpener,
        doorstep: Doorstep,
        limits: ProxyLimits,
        counts: Counter[str],
        *,
        allow_targets: Collection[Address] = (),
        safe_socks: bool = False,
        splice: SpliceTask = splice,
        datagrams: AssociationOpener | None = None,
        find_program: FindProgram = program_at,
    ) -> None:
        self._client = client
        self._doorstep = doorstep
        self._limits = limits
        self._counts = counts
        self._gate = Gate(allow_targets)
        self._safe_socks = safe_socks
        self._splice = splice
        self._find_program = find_program
        self.leaks = LeakWatch()
        self.desk = None
        if datagrams is not None:
            self.desk = DatagramDesk(datagrams, self._datagram_objection)
        self._next_report = 0.0
        self._has_told_of_tls = False

    # ---- without a task

    def received(self, visit: Visit, asked: Asked) -> None:
        """Count what a visit asked, note what gives its user away, and move its deadline on."""
        visit.put_off(self._limits.attach_seconds - self._limits.request_seconds)
        if isinstance(asked, SocksRequest):
            self._counts[f"socks{asked.version}"] += 1
        elif isinstance(asked, HttpRequest):
            self._counts["http_connect" if asked.is_tunnel else "http_plain"] += 1
        elif isinstance(asked, Malformed):
            self._counts["wrong_logins" if asked.is_login else "malformed"] += 1
            if asked.is_tls and not self._has_told_of_tls:
                self._has_told_of_tls = True
                logger.warning(SPOKE_TLS)
        visit.request = asked if isinstance(asked, SocksRequest | HttpRequest) else None
        visit.is_suspect = visit.request is not None and self._watch(visit.request)

    def begin(self, visit: Visit) -> Beginning | None:
        """Begin the connection that a visit asks for, if nothing has to be waited for."""
        request = visit.request
        if request is None or request.command is not Command.CONNECT or visit.is_suspect:
            return None
        if isinstance(request, HttpRequest) and not request.is_tunnel:
            return None
        if request.objection is not None or self._objection(visit, request) is not None:
            return None
        isolation = visit.rules.isolation_of(visit.listener, visit.stream, request)
        early = bytes(visit.buffer)
        return self._client.begin_stream(request.address, isolation, early, request.flags)

    def connected(self, begun: Beginning) -> CircuitStream | None:
        """Return the stream that was `begun` once it is connected; raise as the client does."""
        stream = self._client.connected(begun)
        if stream is not None:
            self._counts["opened"] += 1
        return stream

    # ---- with a task

    async def serve(self, visit: Visit, asked: Asked, begun: Beginning | None) -> None:
        """Serve requests, one after the other where refused CONNECTs keep the connection.

        The first one `asked` something already, and its stream may be `begun`.
        """
        limits = self._limits
        while await self._is_request(visit, asked):
            request = visit.request
            assert request is not None
            failure = await self._fulfil(visit, request, begun)
            visit.request = begun = None
            if failure is None:
                return
            self._counts["refused"] += 1
            self._counts["wrong_logins"] += failure is front.WRONG_LOGIN
            if visit.is_attached:  # it was told of success, and a reset is all that is left to say
                self._counts["replied_in_vain"] += 1
                return
            # What came behind a refused CONNECT was meant for its tunnel: it is no request.
            if not request.keeps_alive or visit.buffer:
                await self._take_leave(visit, request.refused(failure))
                return
            visit.scope.deadline = trio.current_time() + limits.request_seconds
            await visit.stream.send_all(request.refused(failure, is_last=False))
            if not self._doorstep.enter(visit):
                return
            asked = await visit.stream.converse(receive_request(visit.rules.login), visit.buffer)
            self._doorstep.leave(visit)
            self.received(visit, asked)

    async def _is_request(self, visit: Visit, asked: Asked) -> bool:
        """Tell whether a visit asked for something; otherwise give it its answer and end it."""
        if isinstance(asked, PacRequest):
            await self._take_leave(visit, pac_answer(visit.stream.local))
        elif isinstance(asked, OptionsRequest):
            await self._take_leave(visit, options_answer())
        elif isinstance(asked, Malformed):
            if asked.answer is not None:  # FE-3
                await self._take_leave(visit, asked.answer)
        else:
            return True
        return False

    async def _fulfil(
        self, visit: Visit, request: Request, begun: Beginning | None
    ) -> Failure | None:
        """Do what `request` asks; return None when that is over, or why it was not begun."""
        if visit.is_suspect:
            self.leaks.leaked(await self._program_of(visit))
        failure = request.objection or self._objection(visit, request)
        if failure is not None:
            return failure
        if request.command is Command.ASSOCIATE:
            return await self._associate(visit, request)
        if request.command is not Command.CONNECT:
            assert isinstance(request, SocksRequest), "HTTP asks for connections only"
            return await self._answer_name(visit, request)
        open_stream = partial(self._open_stream, visit, request, begun)
        if isinstance(request, HttpRequest) and not request.is_tunnel:
            failure = await carry(visit, request, open_stream, self._limits.idle_seconds)
            if failure is None and not visit.is_attached:
                await self._take_leave(visit, b"")
            return failure
        target = await open_stream(bytes(visit.buffer))
        if isinstance(target, Failure):
            return target
        has_reply, visit.is_attached = visit.is_attached, True
        visit.scope.deadline = float("inf")
        try:
            if not has_reply:
                await visit.stream.send_all(request.granted())
        except BaseException:
            target.reset()
            raise
        visit.buffer.clear()  # nobody has to be told again
        await self._splice(visit.stream, target)
        visit.is_attached = False  # the splice has closed the socket, or reset it
        return None

    async def _associate(self, visit: Visit, request: Request) -> Failure | None:
        """Carry datagrams for as long as the connection lives (FE-13)."""
        assert self.desk is not None
        assert isinstance(request, SocksRequest)
        isolation = visit.rules.isolation_of(visit.listener, visit.stream, request)
        try:
            await self.desk.serve(visit, request, isolation)
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

    def _watch(self, request: Request) -> bool:
        """Note what gives the user away; return whether the program should be found out."""
        if request.command is not Command.CONNECT:
            return False
        now = trio.current_time()
        return self.leaks.watch(request.address.port, now, is_leak=self._is_leak(request))

    async def _program_of(self, visit: Visit) -> str:
        """Return the name of the program that came; it waits for its answer meanwhile."""
        if not visit.is_local:
            return "another machine"
        found = await self._find_program(visit.stream.remote, visit.stream.local)
        return found or UNKNOWN_PROGRAM

    def _is_leak(self, request: Request) -> bool:
        """Tell whether a SOCKS client shows that it has looked up a name itself (FE-9)."""
        return isinstance(request, SocksRequest) and self.leaks.is_leak(request.address)

    def _objection(self, visit: Visit, request: Request) -> Failure | None:
        """Return why no circuit may be used for `request`, or None (FE-8)."""
        address = request.address
        if request.command is Command.RESOLVE and address.ip is not None:
            return None  # echoed: nobody is asked (conventions D0)
        if request.command in _NAME_COMMANDS:
            return self._gate.objection_to_subject(Address(address.host, 0))
        if request.command is Command.ASSOCIATE and self.desk is not None:
            if not visit.is_local:
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
        self, visit: Visit, request: Request, begun: Beginning | None, early: bytes
    ) -> CircuitStream | Failure:
        isolation = visit.rules.isolation_of(visit.listener, visit.stream, request)
        opening = self._client.open_stream(request.address, isolation, early, request.flags, begun)
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
            self.report(error)
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

    def report(self, error: Exception) -> None:
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
