"""The exit's other half: sends the datagrams of others, so that nobody is flooded with them.

A TCP target agrees to a connection; nobody agrees to a datagram. So, beside the checks that every
target passes (``Exit.allowed``, each datagram's destination for itself), a remote that has not
answered gets ten of them and no more, later ten for each of its own, and only who was written to
may write back (EXT-15). A remote is an IP address: its ports share these bounds. What is not
allowed is dropped and counted; nobody is told which it was.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

import structlog
import trio

from warren.addresses import Address, IPAddress
from warren.directory.exit_policy import ExitPolicy
from warren.errors import EndReason, ExitError, LinkError
from warren.network.associations import CircuitAssociation
from warren.network.datagram_sockets import DatagramSocket, UdpSocket
from warren.protocol.datagrams import MOST_DATAGRAM
from warren.protocol.messages import ANY_FAMILY, Begin, BeginFlags
from warren.roles.exit import Exit
from warren.roles.passing_circuit import PassingCircuit

logger = structlog.get_logger()

OpenSocket = Callable[[str], DatagramSocket]

_WATCH_SECONDS = 5.0
#: How long it is remembered that an address may be reached: as long as own addresses are.
_VERDICT_SECONDS = 60.0
_MOST_VERDICTS = 256
_MOST_NAMES = 64
#: Names of one association that are looked up at a time, and what may wait for one of them.
_MOST_LOOKUPS = 4
_MOST_WAITING = 16
#: Addresses that have not answered, counted for at most a minute.
_MOST_SILENT = 1 << 16
_SILENT_SECONDS = 60.0
#: Datagrams read from a socket before others have their turn.
_BATCH = 32
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True)
class UdpLimits:
    """Bound what clients can send through an exit (EXT-15).

    ``unanswered`` datagrams may go to a remote that has not answered, and as many for each of its
    answers; ``unanswered_by_all`` associations together may send it no more in a minute, or a
    client would open one after the other.
    """

    associations: int = 1024
    associations_per_circuit: int = 16
    remotes: int = 64
    unanswered: int = 10
    unanswered_by_all: int = 100
    idle_seconds: float = 60


class UdpExit:
    """Own the associations that end here.

    The checks of targets, and the limits on names and beginnings, are those of `tcp_exit`.
    ``counts`` says what became of datagrams, by what was done or why they were dropped.
    """

    def __init__(
        self,
        tcp_exit: Exit,
        policy: ExitPolicy,
        *,
        open_socket: OpenSocket = UdpSocket,
        limits: UdpLimits | None = None,
    ) -> None:
        self.exit = tcp_exit
        self.policy = policy
        self.open_socket = open_socket
        self.limits = limits or UdpLimits()
        self.counts: Counter[str] = Counter()
        self._open: dict[_Outlet, int] = {}  # and the circuit of each
        self._per_circuit: Counter[int] = Counter()
        self.associated = 0
        self._silent: Counter[str] = Counter()  # datagrams to who has not answered, this minute
        self._forget_at = 0.0

    async def serve(
        self, circuit: PassingCircuit, association: CircuitAssociation, flags: BeginFlags
    ) -> None:
        """Carry the datagrams of `association` until it is over.

        Raises ExitError with the reason when it is refused.
        """
        if not self.exit.admits(circuit, association.end):
            return
        if self.exit.is_leaving:
            raise ExitError(EndReason.HIBERNATING)
        key = id(circuit.machine)
        self.exit.admission.count_begin(circuit.machine)
        is_full = self._per_circuit[key] >= self.limits.associations_per_circuit
        if is_full or len(self._open) >= self.limits.associations:
            raise ExitError(EndReason.RESOURCE_LIMIT)
        streams = circuit.machine.streams
        if streams is None or association.is_ended:
            return
        async with trio.open_nursery() as nursery:
            outlet = _Outlet(self, association, flags, key, nursery)
            self._open[outlet] = key
            self._per_circuit[key] += 1
            self.associated += 1
            try:
                streams.associate_here(association.protocol)
                outlet.start()
                association.turn.run()
                await association.wait_ended()
            finally:
                outlet.close()
                del self._open[outlet]
                self._per_circuit[key] -= 1
                if not self._per_circuit[key]:
                    del self._per_circuit[key]
                nursery.cancel_scope.cancel()

    async def watch(self) -> None:
        """End associations on which nothing has moved for long (EXT-15); runs for ever."""
        while True:
            await trio.sleep(_WATCH_SECONDS)
            now = trio.current_time()
            for outlet in tuple(self._open):
                if now - outlet.moved_at >= self.limits.idle_seconds:
                    outlet.association.end(EndReason.TIMEOUT)

    def may_disturb(self, host: str) -> bool:
        """Count a datagram to `host`, which has not answered; return False when it is too many."""
        now, silent = trio.current_time(), self._silent
        if now >= self._forget_at or len(silent) >= _MOST_SILENT:
            silent.clear()
            self._forget_at = now + _SILENT_SECONDS
        if silent[host] >= self.limits.unanswered_by_all:
            return False
        silent[host] += 1
        return True

    def statistics(self) -> dict[str, object]:
        """Return counters; no remote is named."""
        return {
            "associated": self.associated,
            "open": len(self._open),
            "remotes": sum(len(outlet.remotes) for outlet in self._open),
            "datagrams": dict(self.counts),
        }


@dataclass(slots=True)
class _Remote:
    """Count what went to one address and came from it; ``moved_at`` is in seconds."""

    moved_at: float
    sent: int = 0
    answers: int = 0


@dataclass(slots=True)
class _Name:
    """Hold what a name and port stand for, until when, and what waits to know it."""

    place: Address | None = None
    until: float = 0.0
    waiting: deque[bytes] = field(default_factory=deque)


class _Outlet:
    """Own the sockets of one association and who may be written to, and write back."""

    def __init__(
        self,
        owner: UdpExit,
        association: CircuitAssociation,
        flags: BeginFlags,
        circuit: int,
        nursery: trio.Nursery,
    ) -> None:
        self.association = association
        self.moved_at = trio.current_time()
        self.remotes: dict[str, _Remote] = {}
        self._owner = owner
        self._flags = flags
        self._circuit = circuit
        self._nursery = nursery
        self._sockets: dict[int, DatagramSocket | None] = {}  # by family; None: not to be had
        self._verdicts: dict[Address, tuple[bool, float]] = {}
        self._names: dict[Address, _Name] = {}
        self._lookups = 0

    def start(self) -> None:
        """Send what came with the opening, and all that follows."""
        self.association.on_news = self._forward
        self._forward()

    def close(self) -> None:
        """Close the sockets; what comes now is nobody's."""
        self.association.on_news = None
        for sock in self._sockets.values():
            if sock is not None:
                sock.close()

    # ---- forward

    def _forward(self) -> None:
        for address, data in self.association.take():
            if address.ip is None:
                self._send_to_name(address, data)
            else:
                self._send(address, data)

    def _send(self, place: Address, data: bytes) -> None:
        """Send `data` to the literal `place`, as far as EXT-15 lets it."""
        owner, now = self._owner, trio.current_time()
        if not self._is_allowed(place, now):
            self._drop("not allowed")
            return
        remote = self._remote(place.host, now)
        if remote is None:
            self._drop("too many remotes")
            return
        is_enough = remote.sent >= owner.limits.unanswered * max(1, remote.answers)
        if is_enough or not (remote.answers or owner.may_disturb(place.host)):
            self._drop("unanswered")
            return
        sock = self._socket(place)
        if sock is None or not self._send_now(sock, data, place):
            self._drop("not sent")
            return
        remote.sent += 1
        remote.moved_at = self.moved_at = now
        owner.counts["sent"] += 1

    def _remote(self, host: str, now: float) -> _Remote | None:
        """Return what is known of the remote `host`; None when it would be one too many."""
        remotes, limits = self.remotes, self._owner.limits
        remote = remotes.get(host)
        if remote is not None and now - remote.moved_at < limits.idle_seconds:
            return remote
        if remote is None and len(remotes) >= limits.remotes:
            for name, other in tuple(remotes.items()):
                if now - other.moved_at >= limits.idle_seconds:
                    del remotes[name]
            if len(remotes) >= limits.remotes:
                return None
        remote = remotes[host] = _Remote(now)
        return remote

    def _is_allowed(self, place: Address, now: float) -> bool:
        """Tell whether `place` passes all that a TCP target must pass, under the UDP policy."""
        known = self._verdicts.get(place)
        if known is not None and now < known[1]:
            return known[0]
        ip = place.ip
        assert ip is not None
        is_allowed = not is_many(ip)
        if is_allowed:
            try:
                owner, begin = self._owner, Begin(place, ANY_FAMILY)
                owner.exit.allowed((ip,), begin, owner.policy)
            except ExitError:
                is_allowed = False
        if len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
        self._verdicts[place] = (is_allowed, now + _VERDICT_SECONDS)
        return is_allowed

    def _socket(self, place: Address) -> DatagramSocket | None:
        """Return the socket for the family of `place`, bound to a port that nobody chose."""
        version = place.ip.version if place.ip is not None else 0
        if version not in self._sockets:
            try:
                sock = self._owner.open_socket("0.0.0.0" if version == 4 else "::")
            except LinkError as error:
                if error.is_local:  # EXT-12: it may be had at another exit
                    self.association.end(EndReason.RESOURCE_LIMIT)
                else:
                    logger.info("no datagrams of a family", version=version, error=str(error))
                self._sockets[version] = None
            else:
                self._sockets[version] = sock
                sock.read_with(partial(self._read, sock), self._nursery)
        return self._sockets[version]

    def _send_now(self, sock: DatagramSocket, data: bytes, place: Address) -> bool:
        try:
            return sock.send_now(data, place)
        except LinkError:
            self.association.end(EndReason.INTERNAL)
            return False

    def _drop(self, why: str) -> None:
        self._owner.counts[why] += 1

    # ---- names

    def _send_to_name(self, address: Address, data: bytes) -> None:
        """Send `data` to the one address that was found, and checked, for a name (EXT-4)."""
        now = trio.current_time()
        name = self._names.get(address)
        if name is not None and name.place is not None and now < name.until:
            self._send(name.place, data)
            return
        if name is None or name.place is not None:
            if self._lookups >= _MOST_LOOKUPS:
                self._drop("too many names")
                return
            if len(self._names) >= _MOST_NAMES:
                self._names = {a: n for a, n in self._names.items() if n.place is None}
            name = self._names[address] = _Name()
            self._lookups += 1
            self._nursery.start_soon(self._look_up, address, name)
        name.waiting.append(data)
        if len(name.waiting) > _MOST_WAITING:
            name.waiting.popleft()
            self._drop("too many names")

    async def _look_up(self, address: Address, name: _Name) -> None:
        owner = self._owner
        begin = Begin(address, self._flags)
        try:
            ips, ttl = await owner.exit.look_up(self._circuit, address, owner.policy)
            place = owner.exit.allowed(ips, begin, owner.policy)[0]
        except ExitError as error:
            is_closed = error.reason in (EndReason.EXIT_POLICY, EndReason.PROTOCOL)
            owner.counts["not allowed" if is_closed else "not resolved"] += len(name.waiting)
            self._names.pop(address, None)
            return
        finally:
            self._lookups -= 1
        name.place, name.until = place, trio.current_time() + ttl
        while name.waiting:
            self._send(place, name.waiting.popleft())

    # ---- backward

    def _read(self, sock: DatagramSocket) -> None:
        """Take what came, from those only who were written to."""
        for _ in range(_BATCH):
            datagram = sock.receive_now()
            if datagram is None:
                return
            self._receive(*datagram)

    def _receive(self, data: bytes, source: Address) -> None:
        now = trio.current_time()
        remote = self.remotes.get(source.host)
        if remote is None or now - remote.moved_at >= self._owner.limits.idle_seconds:
            self._drop("unsolicited")
        elif len(data) > MOST_DATAGRAM or source.port == 0:
            self._drop("too long")
        else:
            remote.answers += 1
            remote.moved_at = self.moved_at = now
            self._owner.counts["received"] += 1
            self.association.send(source, data)


def is_many(ip: IPAddress) -> bool:
    """Tell whether `ip` is more than one machine; no exemption opens that (EXT-15)."""
    return ip.is_multicast or ip == _BROADCAST
