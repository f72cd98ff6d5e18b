"""Connections in memory with TCP's manners, between hosts that have a place and an uplink.

A byte leaves when its host's uplink is free, which all connections of the host share, and arrives
a latency later; that arrival is an event of the clock, which calls whoever reads the stream.
What the wire can do to a connection is here too: hold everything back without a word, break it,
change a byte. When and to whom that happens is decided in ``simulation.faults``.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from struct import Struct
from zlib import crc32

import trio

from simulation.clock import SimulatedClock
from warren.addresses import Address
from warren.errors import LinkError
from warren.network.byte_streams import Accept, Buffer, ByteStream, Listener, Network
from warren.network.readiness import Act

LOOPBACK = "127.0.0.1"
#: Bytes of one direction that were sent and not read; and those of them that have not left.
CAPACITY = 256 * 1024
QUEUE = 128 * 1024
_LOOPBACK_SECONDS = 0.0001
#: What it is for a host to be slow; still, what is in its queues leaves within two minutes or so.
_SLOWER, _SLOWEST, _FURTHER_SECONDS = 50, 20_000.0, 0.3
#: When, at which end, how much.
_DELIVERY = Struct("!dqq").pack
_END, _RESET = b"end", b"reset"  # what arrives besides bytes, told apart by identity


@dataclass
class Host:
    """Hold one machine on the wire: how far away it is, and what its uplink carries.

    ``latency`` is in seconds, one way, and half of it is on either side; ``rate`` in bytes a
    second. Nothing passes from or to a host that is ``stalled`` by somebody.
    """

    address: str
    usual_latency: float
    usual_rate: float
    free_at: float = 0.0
    slowed: int = 0
    stalled: int = 0
    refusing: int = 0
    corrupting: int = 0
    sides: dict[object, int] = field(default_factory=dict)  # of which part, in each partition

    @property
    def latency(self) -> float:
        return self.usual_latency + _FURTHER_SECONDS if self.slowed else self.usual_latency

    @property
    def rate(self) -> float:
        return max(self.usual_rate / _SLOWER, _SLOWEST) if self.slowed else self.usual_rate


class WireStream(ByteStream):
    """Be one end of a connection."""

    def __init__(
        self, wire: "Wire", number: int, host: Host, local: Address, remote: Address
    ) -> None:
        self.number, self.host, self.local, self.remote = number, host, local, remote
        self.other: WireStream  # set once, before anything is sent
        self.is_local = remote.host == LOOPBACK
        self.is_closed = False
        self.was_killed = False  # closed because its process ended
        self._wire = wire
        self._clock, self._soon = wire.clock, wire.clock.soon
        self._on_its_way: deque[memoryview | bytes] = deque()  # to this end, in its order
        self._arrival: Act = self._arrive  # made once, and asked for by every byte
        self._call: Act = self._call_reader
        self._incoming: deque[memoryview] = deque()
        self._unread = 0  # bytes sent to this end and not read
        self._held: deque[memoryview | bytes] = deque()  # arrived, and held back by a fault
        self._has_ended = self._is_broken = self._sent_eof = False
        self._leaves_at = self._arrives_at = 0.0  # of what was sent from here last
        self._reader: Act | None = None
        self._writer: Act | None = None
        self._is_told = self._is_due = False  # whether reader or writer are about to be called
        self._news: trio.Event | None = None
        self._patience = math.inf

    def __repr__(self) -> str:
        return f"<WireStream {self.number} {self.local} to {self.remote}>"

    # ---- what can be done now

    def receive_into(self, buffer: bytearray | memoryview) -> int | None:
        if self.is_closed:
            raise LinkError("the connection broke: Bad file descriptor")
        incoming, taken = self._incoming, 0
        if incoming:
            view, room = memoryview(buffer), len(buffer)
            while incoming and taken < room:
                part = incoming.popleft()
                size = len(part)
                if size > room - taken:
                    incoming.appendleft(part[room - taken :])
                    part = part[: room - taken]
                    size = room - taken
                view[taken : taken + size] = part
                taken += size
        if taken:
            self._unread -= taken
            self.other._there_is_room()
            return taken
        if self._is_broken:
            raise LinkError("the connection broke: Connection reset by peer")
        return 0 if self._has_ended else None

    def send_now(self, data: Buffer) -> int:
        if self.is_closed or self._is_broken or self._sent_eof:
            raise LinkError("the connection broke: Broken pipe")
        size = min(len(data), self._room)
        if size <= 0:
            return 0
        self.other._unread += size
        self._send(memoryview(bytes(data[:size])), size)
        return size

    def send_parts_now(self, parts: Sequence[Buffer]) -> int:
        return self.send_now(b"".join(parts))

    def send_eof(self) -> None:
        if not (self.is_closed or self._sent_eof or self._is_broken):
            self._sent_eof = True
            self._send(_END, 0)

    def keep_alive(self, seconds: int) -> None:
        self._patience = seconds

    def close(self) -> None:
        if self._incoming:
            self.reset()
        else:
            self.send_eof()
            self._leave()

    def reset(self) -> None:
        if not (self.is_closed or self._is_broken):
            self._send(_RESET, 0)
        self._leave()

    @property
    def _room(self) -> int:
        free = CAPACITY - self.other._unread
        return free if self.is_local else min(free, QUEUE - int(self._unsent))

    @property
    def _unsent(self) -> float:
        seconds = self._leaves_at - self._clock.now
        return seconds * self.host.rate if seconds > 0 else 0.0

    def _send(self, what: memoryview | bytes, size: int) -> None:
        """Let `what` arrive at the other end behind everything that was sent before."""
        host, other, clock = self.host, self.other, self._clock
        now = clock.now
        if self.is_local:
            arrives_at = now + _LOOPBACK_SECONDS
        else:
            free_at = host.free_at
            leaves_at = (now if now > free_at else free_at) + size / host.rate
            host.free_at = self._leaves_at = leaves_at
            arrives_at = leaves_at + self._wire.seconds_between(host, other.host)
        if arrives_at > self._arrives_at:
            self._arrives_at = arrives_at
        other._on_its_way.append(what)
        clock.at(self._arrives_at, other._arrival)

    # ---- what arrives

    def _arrive(self) -> None:
        """Let the next of what is on its way arrive: nothing overtakes on a connection."""
        what, wire = self._on_its_way.popleft(), self._wire
        if not self._held and not (wire.trouble and self._is_blocked):
            self._deliver(what)
            return
        if not self._held:
            wire.hold(self)
        self._held.append(what)

    @property
    def _is_blocked(self) -> bool:
        return self._wire.is_blocked(self.host, self.other.host, is_local=self.is_local)

    def _deliver(self, what: memoryview | bytes) -> None:
        wire = self._wire
        packed = _DELIVERY(self._clock.now, self.number, len(what))
        wire.fingerprint = crc32(packed, wire.fingerprint)
        if self.is_closed:
            if isinstance(what, memoryview):
                self.other.break_off()
            return
        if what is _END:
            self._has_ended = True
        elif what is _RESET:
            self._is_broken = True
        else:
            assert isinstance(what, memoryview)
            if self.host.corrupting:
                what = wire.tamper_with(self, what)
            self._incoming.append(what)
        self._tell()
        if self._is_broken:
            self._there_is_room()

    def deliver_held(self) -> None:
        """Let arrive what was held back."""
        held, self._held = self._held, deque()
        for what in held:
            self._deliver(what)

    def break_off(self) -> None:
        """Break this end at once, as a reset that arrives does."""
        if not self.is_closed:
            self._is_broken = True
            self._incoming.clear()
            self._tell()
            self._there_is_room()

    def lose_patience(self) -> None:
        """Break when this end was told to give up on a silent peer after so long."""
        if self._patience < math.inf:
            act = self._give_up
            self._wire.clock.at(self._wire.clock.now + self._patience, act)

    def _give_up(self) -> None:
        if self._is_blocked:
            self.break_off()
            self.other.break_off()  # which asks as often, or will be told when it says something

    def _leave(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._incoming.clear()
            self._reader = self._writer = None
            self._wire.forget(self)
            self._wake()

    # ---- who is told

    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        self._reader = act
        if self._is_readable:
            self._tell()

    def stop_reading(self) -> None:
        self._reader = None

    def write_with(self, act: Act, nursery: trio.Nursery) -> None:
        self._writer = act
        self._there_is_room()

    @property
    def _is_readable(self) -> bool:
        return bool(self._incoming) or self._has_ended or self._is_broken

    @property
    def _is_writable(self) -> bool:
        # Like the kernel, which wakes nobody for a handful of bytes.
        return self._is_broken or self._sent_eof or 3 * self._room >= QUEUE

    def _tell(self) -> None:
        """Call the reader, and again for as long as there is something, as a socket would."""
        if self._news is not None:
            self._wake()
        if self._reader is not None and not self._is_told:
            self._is_told = True
            self._soon(self._call)

    def _call_reader(self) -> None:
        self._is_told = False
        if self._reader is not None and (self._incoming or self._is_readable):
            self._reader()
            if self._incoming or self._is_readable:
                self._tell()

    def _there_is_room(self) -> None:
        """Call the writer if something can be sent, or when it can."""
        if self._news is not None:
            self._wake()
        if self._writer is None:
            return
        if self._is_writable:
            act, self._writer = self._writer, None
            self._soon(act)
        elif 3 * (CAPACITY - self.other._unread) >= QUEUE and not self._is_due:
            self._is_due = True
            self._wire.clock.at(self._half_sent_at, self._half_is_sent)

    def _half_is_sent(self) -> None:
        self._is_due = False
        self._there_is_room()

    @property
    def _half_sent_at(self) -> float:
        """Return when half of the queue is free, and a moment more so that it surely is."""
        return self._leaves_at - QUEUE / 2 / self.host.rate + 1e-6

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not (self._is_readable or self.is_closed):
            await self._wait()
        if self.is_closed:
            raise LinkError("the connection was closed")

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not (self._is_writable or self.is_closed):
            if self._unsent > QUEUE / 2:
                self._wire.clock.at(self._half_sent_at, self._wake)
            await self._wait()
        if self.is_closed:
            raise LinkError("the connection was closed")

    async def _wait(self) -> None:
        if self._news is None:
            self._news = trio.Event()
        await self._news.wait()


class WireListener(Listener):
    """Be a port that others dial."""

    def __init__(self, wire: "Wire", host: Host, local: Address) -> None:
        self.local = local
        self._wire, self._host = wire, host
        self._waiting: deque[WireStream] = deque()
        self._news = trio.Event()
        self._is_closed = False

    def arrive(self, stream: WireStream) -> None:
        """Let a connection wait to be accepted."""
        self._waiting.append(stream)
        self._news.set()

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        while not self._is_closed:
            while self._waiting:
                nursery.start_soon(accept, self._waiting.popleft())
            self._news = trio.Event()
            await self._news.wait()

    def close(self) -> None:
        self._is_closed = True
        self._wire.stop_listening(self._host, self.local)
        while self._waiting:
            self._waiting.popleft().reset()
        self._news.set()


class WireNetwork(Network):
    """Be the wire as one host sees it."""

    def __init__(self, wire: "Wire", host: Host) -> None:
        self._wire, self.host = wire, host

    async def dial(self, address: Address) -> WireStream:
        return await self._wire.dial(self.host, address)

    def listen(self, address: Address) -> WireListener:
        return self._wire.listen(self.host, address)


class Wire:
    """Own all hosts, listeners and connections.

    ``fingerprint`` sums up everything that was ever delivered: when, where to, how much.
    """

    def __init__(self, clock: SimulatedClock, rng: Random) -> None:
        self.clock = clock
        self.hosts: dict[str, Host] = {}
        self.fingerprint = 0
        self.streams: dict[WireStream, None] = {}
        self.link_ports: frozenset[int] = frozenset()  # where a changed byte must be noticed
        self._listeners: dict[tuple[str, Address], WireListener] = {}
        self._holding: dict[WireStream, None] = {}
        self.trouble = 0  # how many reasons there are for something to be blocked
        self._resumed = trio.Event()
        self._numbers = count(1)
        self._ports = count(30000)
        self._rng = rng

    def add(self, address: str, *, latency: float, rate: float) -> None:
        """Put a host on the wire."""
        self.hosts[address] = Host(address, latency, rate)

    def network_of(self, address: str) -> WireNetwork:
        """Return the network as the host at `address` sees it."""
        return WireNetwork(self, self.hosts[address])

    def seconds_between(self, one: Host, other: Host) -> float:
        """Return how long a byte takes from one host to another one."""
        return (one.latency + other.latency) / 2

    # ---- connections

    async def dial(self, host: Host, address: Address) -> WireStream:
        """Connect, as ``Network.dial`` does."""
        assert address.ip is not None, "names are resolved before dialling"
        is_local = address.host == LOOPBACK
        target = host if is_local else self.hosts.get(address.host)
        if target is None:
            raise LinkError(f"{address} cannot be reached: No route to host")
        seconds = _LOOPBACK_SECONDS if is_local else 2 * self.seconds_between(host, target)
        await trio.sleep(seconds)
        while self.is_blocked(host, target, is_local=is_local):
            await self._resumed.wait()
        listener = self._listeners.get((target.address, address))
        if listener is None or target.refusing:
            cause = ConnectionRefusedError(111, "Connection refused")
            raise LinkError(f"{address} cannot be reached: {cause.strerror}") from cause
        number = next(self._numbers)
        local = Address(LOOPBACK if is_local else host.address, next(self._ports))
        near = WireStream(self, number, host, local, address)
        far = WireStream(self, -number, target, address, local)
        near.other, far.other = far, near
        near.is_local = far.is_local = is_local
        self.streams[near] = self.streams[far] = None
        self.fingerprint = crc32(_DELIVERY(self.clock.now, number, 0), self.fingerprint)
        listener.arrive(far)
        return near

    def listen(self, host: Host, address: Address) -> WireListener:
        """Listen, as ``Network.listen`` does."""
        local = Address(address.host, address.port or next(self._ports))
        key = host.address, local
        if key in self._listeners:
            raise LinkError(f"cannot listen at {local}: Address already in use")
        listener = self._listeners[key] = WireListener(self, host, local)
        return listener

    def stop_listening(self, host: Host, local: Address) -> None:
        """Refuse whoever dials `local` from now on."""
        self._listeners.pop((host.address, local), None)

    def forget(self, stream: WireStream) -> None:
        """Drop an end that was closed."""
        self.streams.pop(stream, None)

    def streams_of(self, *addresses: str) -> list[WireStream]:
        """Return the open ends between these hosts, or those at a single one."""
        wanted = set(addresses)
        if len(wanted) == 1:
            return [each for each in self.streams if each.host.address in wanted]
        return [s for s in self.streams if wanted <= {s.host.address, s.other.host.address}]

    def kill(self, address: str) -> None:
        """Close what a process at `address` has open, as the kernel does when it is killed."""
        for key in [key for key in self._listeners if key[0] == address]:
            self._listeners[key].close()
        for stream in self.streams_of(address):
            stream.was_killed = True
            stream.close()

    # ---- what goes wrong

    def is_blocked(self, one: Host, other: Host, *, is_local: bool) -> bool:
        """Tell whether nothing passes between two hosts now."""
        if not self.trouble or is_local:
            return False
        if one.stalled or other.stalled:
            return True
        return any(
            part in other.sides and other.sides[part] != side for part, side in one.sides.items()
        )

    def stall(self, address: str) -> None:
        """Let nothing pass from or to a host any more; nobody is told."""
        self.hosts[address].stalled += 1
        self._blocked()

    def resume(self, address: str) -> None:
        """Let everything pass again, what was held back first."""
        self.hosts[address].stalled -= 1
        self._unblocked()

    def part(self, name: object, *sides: Iterable[str]) -> None:
        """Let nothing pass between hosts of different `sides`; the others reach everybody."""
        for number, side in enumerate(sides):
            for address in side:
                self.hosts[address].sides[name] = number
        self._blocked()

    def join(self, name: object) -> None:
        """End a partition."""
        for host in self.hosts.values():
            host.sides.pop(name, None)
        self._unblocked()

    def cut(self, *addresses: str) -> int:
        """Break every connection between these hosts, or all of a single one."""
        streams = [each for each in self.streams_of(*addresses) if not each.is_local]
        for stream in streams:
            stream.break_off()
            stream.other.break_off()
        return len(streams)

    def tamper_with(self, stream: WireStream, data: memoryview) -> memoryview:
        """Change a byte of `data` if its host has one to change, and it is on a link."""
        host = stream.host
        ports = {stream.local.port, stream.remote.port}
        if not host.corrupting or stream.is_local or not ports & self.link_ports:
            return data
        host.corrupting -= 1
        changed = bytearray(data)
        changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
        return memoryview(bytes(changed))

    def hold(self, stream: WireStream) -> None:
        """Remember an end that something is held back from."""
        self._holding[stream] = None

    def _blocked(self) -> None:
        self.trouble += 1
        for stream in self.streams:
            if self.is_blocked(stream.host, stream.other.host, is_local=stream.is_local):
                stream.lose_patience()

    def _unblocked(self) -> None:
        self.trouble -= 1
        resumed, self._resumed = self._resumed, trio.Event()
        resumed.set()
        for stream in list(self._holding):
            if not self.is_blocked(stream.host, stream.other.host, is_local=stream.is_local):
                del self._holding[stream]
                stream.deliver_held()
