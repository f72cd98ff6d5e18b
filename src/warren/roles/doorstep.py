"""Who stands at the front door: connections that have not yet said what they want.

They cost a descriptor each and prove nothing, so they are few, and the oldest makes room for the
newest (FE-2, FE-11). Once a request is read, its visit has left the doorstep.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from warren.addresses import IPAddress, is_loopback, unmapped
from warren.network.byte_streams import ByteStream
from warren.protocol.front import TOO_SLOW, Failure
from warren.protocol.http_proxy import HttpRequest
from warren.protocol.socks import SocksRequest
from warren.roles.listener_rules import PLAIN, ListenerRules


@dataclass(eq=False, slots=True)
class Visit:
    """Own one connection of an application, from accept to its end.

    Its time is over at ``deadline``, which ``put_off`` moves; one that has a task ends by its
    ``scope`` then. ``turn_out`` ends it before that. ``request`` is set while an answer is owed,
    ``is_attached`` while bytes of a target are on their way to the application, or it was told
    that they may be, ``lateness`` is what it is told when its time is over, and ``is_suspect``
    that the program should be found out.
    """

    listener: str
    stream: ByteStream
    deadline: float  # as ``trio.current_time``; until there is a scope, which has its own
    buffer: bytearray = field(default_factory=bytearray)
    request: SocksRequest | HttpRequest | None = None
    is_attached: bool = False
    lateness: Failure = TOO_SLOW
    rules: ListenerRules = PLAIN
    is_suspect: bool = False
    #: Ends it while it has no task; None: its scope does.
    on_turned_out: Callable[[], None] | None = field(init=False, default=None)
    #: Who is there; a listener for both families sees IPv4 inside of IPv6.
    peer: IPAddress | None = field(init=False)
    is_local: bool = field(init=False)  # whether that is a program on this machine
    _scope: trio.CancelScope | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        ip = self.stream.remote.ip
        self.peer = unmapped(ip) if ip is not None else None
        self.is_local = is_loopback(self.peer)

    @property
    def scope(self) -> trio.CancelScope:
        """Return the scope of its task, which most visits never need."""
        if self._scope is None:
            self._scope = trio.CancelScope(deadline=self.deadline)
        return self._scope

    def put_off(self, seconds: float) -> None:
        """Give it `seconds` more."""
        if self._scope is None:
            self.deadline += seconds
        else:
            self._scope.deadline += seconds

    def turn_out(self) -> None:
        """End it before its time."""
        if self.on_turned_out is not None:
            self.on_turned_out()
        else:
            self.scope.cancel()

    @property
    def replies_early(self) -> bool:
        """Tell whether the application hears of success before there is any: SOCKS only (FE-7)."""
        return self.rules.early_reply and isinstance(self.request, SocksRequest)


class Doorstep:
    """Own the visits without a request: at most `most`, and `most_per_peer` from one machine.

    Programs on this machine all come from one address, so they are not counted apart.
    """

    def __init__(self, most: int, most_per_peer: int) -> None:
        self.most = most
        self.most_per_peer = most_per_peer
        self._visits: dict[Visit, str] = {}  # oldest first; the host, or "" for this machine
        self._by_host: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def enter(self, visit: Visit) -> bool:
        """Let `visit` stand here and close the oldest if it is full; False: too many of a peer."""
        host = "" if visit.peer is None or visit.is_local else str(visit.peer)
        if host:
            count = self._by_host.get(host, 0)
            if count >= self.most_per_peer:
                return False
            self._by_host[host] = count + 1
        if len(self._visits) >= self.most:
            self.close_oldest()
        self._visits[visit] = host
        return True

    def leave(self, visit: Visit) -> None:
        """Forget `visit`, if it stands here."""
        host = self._visits.pop(visit, None)
        if host:
            self._by_host[host] -= 1
            if not self._by_host[host]:
                del self._by_host[host]

    def close_oldest(self) -> bool:
        """Close the visit that has stood here longest; False when there is none."""
        oldest = next(iter(self._visits), None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.turn_out()
        return True
