"""The front door: lets applications in, counts them, and sees each visit to its end.

One port speaks SOCKS4, 4a and 5, CONNECT and plain HTTP; the first byte decides. A visit begins
without a task, and most end so (``roles.quick_way``). Whatever has to wait goes on in a task
(``roles.requests``), in one cancel scope, whose deadline moves on as the visit does: first for the
request, then until a stream is attached, then none.
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import structlog
import trio

from warren.addresses import Address, IPNetwork, is_loopback
from warren.errors import ConfigError, LinkError
from warren.network.byte_streams import ByteStream, Listener
from warren.network.local_programs import program_at
from warren.network.reserve import Share
from warren.network.splice import splice
from warren.protocol.reception import Asked
from warren.roles.client import Beginning
from warren.roles.datagram_desk import AssociationOpener
from warren.roles.doorstep import Doorstep, Visit
from warren.roles.gate import lets_in
from warren.roles.leak_watch import LeakWatch
from warren.roles.listener_rules import PLAIN, ListenerRules
from warren.roles.quick_way import Hall, QuickWay
from warren.roles.requests import FindProgram, ProxyLimits, Requests, SpliceTask, StreamOpener

logger = structlog.get_logger()

_COUNTERS = (
    "connections", "turned_away", "given_up", "broken_off", "malformed", "bugs",
    "socks4", "socks5", "http_connect", "http_plain", "opened", "resolved", "failed", "refused",
    "wrong_logins", "replied_early", "replied_in_vain",
)  # fmt: skip


class Proxy:
    """Own the connections of applications, on all its listeners.

    `allow_clients` names the networks besides this machine that may come in, `allow_targets` the
    internal addresses that may be asked for all the same (EXT-16). What holds for one listener
    alone stands in its ``ListenerRules``; `safe_socks` is for all of them. Without `datagrams` no
    UDP is carried. The sockets of its listeners count in `share`, where one is given.
    """

    def __init__(
        self,
        client: StreamOpener,
        *,
        allow_clients: Sequence[IPNetwork] = (),
        allow_targets: Collection[Address] = (),
        safe_socks: bool = False,
        limits: ProxyLimits | None = None,
        splice: SpliceTask = splice,
        datagrams: AssociationOpener | None = None,
        find_program: FindProgram = program_at,
        share: Share | None = None,
    ) -> None:
        self._allow_clients = tuple(allow_clients)
        self._limits = limits or ProxyLimits()
        self._doorstep = Doorstep(self._limits.half_done, self._limits.half_done_per_peer)
        self._share = share
        if share is not None:
            share.make_room = self.make_room
        self._open = 0
        self._counts = Counter(dict.fromkeys(_COUNTERS, 0))
        self._requests = Requests(
            client,
            self._doorstep,
            self._limits,
            self._counts,
            allow_targets=allow_targets,
            safe_socks=safe_socks,
            splice=splice,
            datagrams=datagrams,
            find_program=find_program,
        )
        self.connected = self._requests.connected  # no call in between: every new stream asks it

    def __repr__(self) -> str:
        return f"<Proxy {self._open} connections, {len(self._doorstep)} without a request>"

    @property
    def leaks(self) -> LeakWatch:
        """Return what watches over programs that look up names themselves."""
        return self._requests.leaks

    def statistics(self) -> dict[str, int]:
        """Return counters since the start, and what is open now."""
        desk = self._requests.desk
        return {
            **self._counts,
            "connections_open": self._open,
            "half_done": len(self._doorstep),
            "literal_addresses": self.leaks.total,
            **(desk.statistics() if desk is not None else {}),
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
        if not is_loopback(listener.local.ip):
            if not self._allow_clients and rules.login is None:
                raise ConfigError(
                    f"the proxy would listen at {listener.local}, which other machines can reach: "
                    "say which of them may use it, set a password, or listen at 127.0.0.1"
                )
            logger.warning("other machines can use the proxy", listen=str(listener.local))
        hall = Hall(self, nursery, self._limits.request_seconds)
        meet = partial(self._meet, hall, name or str(listener.local), rules)
        try:
            await listener.serve_with(meet, nursery)
        except BaseException:
            hall.close()
            raise

    def _meet(self, hall: Hall, listener: str, rules: ListenerRules, stream: ByteStream) -> None:
        """Let a visit in, and begin it."""
        deadline = trio.current_time() + self._limits.request_seconds
        visit = Visit(listener, stream, deadline, rules=rules)
        self._counts["connections"] += 1
        if not self._lets_in(visit):
            self._counts["turned_away"] += 1
            stream.reset()
            return
        self._open += 1
        QuickWay(hall, visit).enter()

    def _lets_in(self, visit: Visit) -> bool:
        peer = visit.peer
        if peer is None:
            return False
        # A login takes the place of a list (FE-1).
        by_login = not self._allow_clients and visit.rules.login is not None
        if not (by_login or visit.is_local or lets_in(peer, self._allow_clients)):
            return False
        if self._open >= self._limits.connections and not self._doorstep.close_oldest():
            return False
        share = self._share
        if share is not None and share.is_exceeded:  # DOS-8
            closed = self.make_room(1)
            share.note_closed(closed)
            if not closed:
                share.refuse()
                return False
        return self._doorstep.enter(visit)

    def make_room(self, count: int) -> Mapping[str, int]:
        """Close up to `count` visits without a request, the oldest first (FE-11)."""
        closed = 0
        while closed < count and self._doorstep.close_oldest():
            closed += 1
        return {"visits without a request": closed} if closed else {}

    # ---- for the ways that a visit takes: a ``FrontDoor``

    def received(self, visit: Visit, asked: Asked) -> Beginning | None:
        """Take what a visit `asked` first; return the stream that was begun, if one could be."""
        self._doorstep.leave(visit)
        self._requests.received(visit, asked)
        return self._requests.begin(visit)

    async def go_on(self, visit: Visit, asked: Asked, begun: Beginning | None) -> None:
        """Carry a visit to its end that has `asked` something; its stream may be `begun`.

        Whatever happens in it ends here, with its socket (DOS-1).
        """
        try:
            with visit.scope:
                await self._requests.serve(visit, asked, begun)
            if visit.scope.cancelled_caught:
                self.give_up(visit)
        except Exception as error:  # noqa: BLE001  it ends with its own visit (DOS-1)
            self.note(error)
        finally:
            self.leave(visit)

    def replied_early(self, visit: Visit) -> None:
        """Note that the application was told of success: what fails from now on is a reset."""
        visit.is_attached = True
        visit.stream.reset_if_killed()
        self._counts["replied_early"] += 1

    def give_up(self, visit: Visit) -> None:
        """Tell the application that its time is over, if it is owed an answer and takes it."""
        self._counts["given_up"] += 1
        if visit.request is not None and not visit.is_attached:
            with contextlib.suppress(LinkError):
                visit.stream.send_now(visit.request.refused(visit.lateness))

    def note(self, error: Exception) -> None:
        """Count what ended a visit, or report it if it is a bug."""
        if isinstance(error, LinkError):
            self._counts["broken_off"] += 1
        else:
            self._requests.report(error)

    def leave(self, visit: Visit) -> None:
        """End a visit, with its socket."""
        self.parted()
        self._doorstep.leave(visit)
        if visit.is_attached:
            visit.stream.reset()  # SID-4
        else:
            visit.stream.close()

    def parted(self) -> None:
        """Note that a visit is over."""
        self._open -= 1
