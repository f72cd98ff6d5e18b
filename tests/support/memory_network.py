"""A network in memory whose streams have TCP's manners, for whole journeys on a mock clock.

A ``MemoryNetwork`` is the view of one host; ``at`` gives the view of another one. Bytes cross a
``Line`` with a latency, a rate and two bounds, the same between all hosts unless ``join`` says
otherwise for two of them. Nothing runs by itself: a byte has a time at which it arrives, and
whoever waits for it sleeps until then, so ``autojump_clock`` drives everything.

What can go wrong is asked for: ``cut`` breaks the connections of two hosts, ``stall`` makes a
host fall silent, ``refuse`` makes it turn down whoever dials.
"""

import math
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import cycle

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network.byte_streams import NOTSENT_BYTES, Accept, Buffer, ByteStream, Listener, Network


@dataclass
class Line:
    """Hold what every connection is like.

    ``latency`` is in seconds and one way, ``rate`` in bytes per second. ``capacity`` bounds the
    bytes that were sent in one direction and not read yet, ``queue`` those of them that have not
    left the sender, as TCP_NOTSENT_LOWAT does. At most ``piece`` bytes arrive together.
    """

    latency: float = 0.0
    rate: float = math.inf
    capacity: int = 64 * 1024
    queue: float = math.inf
    piece: int = 1 << 30


class Signal:
    """Wake everybody who waits; they look for themselves what has changed."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        event, self._event = self._event, trio.Event()
        event.set()

    async def wait(self, until: float = math.inf) -> None:
        """Wait for ``fire``, at most to the time `until`."""
        with trio.move_on_at(until):
            await self._event.wait()


class MemoryStream(ByteStream):
    """Be one end of a connection in memory.

    As with TCP, what was sent before an end is read before it; closing with bytes unread, and
    sending to an end that was closed, resets the connection.
    """

    def __init__(
        self, network: "MemoryNetwork", local: Address, remote: Address, line: Line
    ) -> None:
        self.local, self.remote = local, remote
        self.is_closed = False
        self.peer: MemoryStream | None = None
        self._network = network
        self._line = line
        self._queue = line.queue
        self._incoming: deque[tuple[float, memoryview]] = deque()  # when it arrives, what
        self._incoming_bytes = 0
        self._line_free_at = 0.0  # when what was sent to us so far has left the sender
        self._ends_at = self._breaks_at = math.inf
        self._has_sent_eof = False
        self._is_orphan = False
        self._changed = Signal()
        self._waiting: set[str] = set()
        network.streams.add(self)

    def __repr__(self) -> str:
        return f"<MemoryStream {self.local} to {self.remote}>"

    @property
    def unread(self) -> int:
        """Return the bytes that were sent to this end and not read."""
        return self._incoming_bytes

    # ---- what can be done now

    def receive_into(self, buffer: bytearray | memoryview) -> int | None:
        self._expect_open()
        if self._is_stalled:
            return None
        now, taken = trio.current_time(), 0
        view = memoryview(buffer)
        while self._incoming and self._incoming[0][0] <= now and taken < len(view):
            arrived, chunk = self._incoming.popleft()
            part = chunk[: len(view) - taken]
            view[taken : taken + len(part)] = part
            taken += len(part)
            if len(part) < len(chunk):
                self._incoming.appendleft((arrived, chunk[len(part) :]))
        if taken:
            self._incoming_bytes -= taken
            assert self.peer is not None
            self.peer._changed.fire()
            return taken
        if self._broken_at <= now:
            raise LinkError("the connection broke: Connection reset by peer")
        return 0 if self._ends_at <= now and not self._incoming else None

    def send_now(self, data: Buffer) -> int:
        self._expect_open()
        if self._broken_at <= trio.current_time() or self._has_sent_eof:
            raise LinkError("the connection broke: Broken pipe")
        part = memoryview(data)[: self._room]
        if part:
            assert self.peer is not None
            self.peer._arrive(bytes(part))
        return len(part)

    def send_parts_now(self, parts: Sequence[Buffer]) -> int:
        return self.send_now(b"".join(parts))

    def keep_send_queue_short(self, size: int = NOTSENT_BYTES) -> None:
        self._queue = min(self._line.queue, size)

    def unsent(self) -> int:
        return math.ceil(self._unsent)

    def send_eof(self) -> None:
        if not self.is_closed and not self._has_sent_eof:
            self._has_sent_eof = True
            assert self.peer is not None
            self.peer._end()

    def close(self) -> None:
        if self._incoming:
            self.reset()
        else:
            self.send_eof()
            self._leave()

    def reset(self) -> None:
        if not self.is_closed and self.peer is not None:
            self.peer.break_off(trio.current_time() + self._line.latency)
        self._leave()

    def break_off(self, at: float) -> None:
        """Let a reset arrive here at the time `at`."""
        self._breaks_at = min(self._breaks_at, at)
        self._changed.fire()

    def orphan(self) -> None:
        """Let nothing arrive here any more, and no end or reset either."""
        self._is_orphan = True

    # ---- waiting

    async def wait_readable(self) -> None:
        await self._wait("read")

    async def wait_writable(self) -> None:
        await self._wait("write")

    async def _wait(self, what: str) -> None:
        if what in self._waiting:
            raise trio.BusyResourceError(f"another task waits to {what} here")
        self._waiting.add(what)
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self.is_closed:
                    raise LinkError("the connection was closed")
                now = trio.current_time()
                if self._broken_at <= now or (what == "write" and self._is_writable):
                    return
                if what == "read" and self._readable_at <= now:
                    return
                look_at = self._readable_at if what == "read" else self._writable_at
                await self._changed.wait(min(self._broken_at, look_at))
        finally:
            self._waiting.discard(what)

    def notice(self) -> None:
        """Look again: something about the hosts has changed."""
        self._changed.fire()

    # ---- inside

    @property
    def _is_stalled(self) -> bool:
        return self._is_orphan or bool(self._network.stalled & {self.local.host, self.remote.host})

    @property
    def _broken_at(self) -> float:
        return math.inf if self._is_stalled else self._breaks_at

    @property
    def _readable_at(self) -> float:
        if self._is_stalled:
            return math.inf
        return self._incoming[0][0] if self._incoming else self._ends_at

    @property
    def _room(self) -> int:
        assert self.peer is not None
        free = self._line.capacity - self.peer._incoming_bytes
        if self._queue < math.inf:
            free = min(free, math.ceil(self._queue - self._unsent))
        return max(0, free)

    @property
    def _unsent(self) -> float:
        """Return the bytes that were sent here and have not left yet."""
        assert self.peer is not None
        seconds = self.peer._line_free_at - trio.current_time()
        return seconds * self._line.rate if seconds > 0 else 0.0

    @property
    def _is_writable(self) -> bool:
        # Like the kernel, which wakes nobody for a handful of bytes.
        most = min(self._line.capacity, self._queue)
        return self._has_sent_eof or 3 * self._room >= most

    @property
    def _writable_at(self) -> float:
        """Return when so much has left that there is room; never, if others must read first."""
        assert self.peer is not None
        line = self._line
        if 3 * (line.capacity - self.peer._incoming_bytes) < min(line.capacity, self._queue):
            return math.inf
        # half, so that what is rounded does not matter
        return self.peer._line_free_at - self._queue / 2 / line.rate

    def _arrive(self, data: bytes) -> None:
        now, line = trio.current_time(), self._line
        if self.is_closed:
            assert self.peer is not None
            self.peer.break_off(now + 2 * line.latency + len(data) / line.rate)
            return
        rest = memoryview(data)
        while rest:
            part, rest = rest[: line.piece], rest[line.piece :]
            self._line_free_at = max(now, self._line_free_at) + len(part) / line.rate
            self._incoming.append((self._line_free_at + line.latency, part))
        self._incoming_bytes += len(data)
        self._changed.fire()

    def _end(self) -> None:
        self._ends_at = max(trio.current_time(), self._line_free_at) + self._line.latency
        self._changed.fire()

    def _leave(self) -> None:
        self.is_closed = True
        self._incoming.clear()
        self._incoming_bytes = 0
        self._network.streams.discard(self)
        self._changed.fire()
        if self.peer is not None:
            self.peer._changed.fire()

    def _expect_open(self) -> None:
        if self.is_closed:
            raise LinkError("the connection broke: Bad file descriptor")


class MemoryListener(Listener):
    """Be a port that others dial in memory."""

    def __init__(self, network: "MemoryNetwork", local: Address) -> None:
        self.local = local
        self._network = network
        self._waiting: deque[MemoryStream] = deque()
        self._changed = Signal()
        self._is_closed = False

    def arrive(self, stream: MemoryStream) -> None:
        """Let a connection wait to be accepted."""
        self._waiting.append(stream)
        self._changed.fire()

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        while not self._is_closed:
            while self._waiting:
                nursery.start_soon(accept, self._waiting.popleft())
            await self._changed.wait()

    async def accept(self) -> MemoryStream:
        """Return the next connection, for a test that plays the target itself."""
        while not self._waiting:
            await self._changed.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        self._is_closed = True
        self._network.listeners.pop(self.local, None)
        while self._waiting:
            self._waiting.popleft().reset()
        self._changed.fire()


class MemoryNetwork(Network):
    """Be the network as ``host`` sees it; all views share what is in it.

    ``streams`` are the ends that nobody has closed. ``dial_seconds`` tells how long it takes to
    reach a host, beyond the latency of the line.
    """

    def __init__(self, host: str = "5.5.0.1", line: Line | None = None) -> None:
        self.host = host
        self.line = line or Line()
        self.lines: dict[frozenset[str], Line] = {}
        self.streams: set[MemoryStream] = set()
        self.listeners: dict[Address, MemoryListener] = {}
        self.stalled: set[str] = set()
        self.refusing: set[str] = set()
        self.offline: set[str] = set()
        self.dial_seconds: dict[str, float] = {}
        self.dialled: list[Address] = []
        self._ports = cycle(range(30_000, 65_536))  # as a system does, after a while again
        self._resumed = Signal()

    def at(self, host: str) -> "MemoryNetwork":
        """Return the same network as `host` sees it."""
        view = copy(self)
        view.host = host
        return view

    def join(self, one: str, other: str, line: Line) -> None:
        """Let connections between two hosts be like `line` from now on."""
        self.lines[frozenset((one, other))] = line

    def _line_to(self, host: str) -> Line:
        return self.lines.get(frozenset((self.host, host)), self.line)

    async def dial(self, address: Address) -> MemoryStream:
        assert address.ip is not None, "names are resolved before dialling"
        self.dialled.append(address)
        if self.host in self.offline:
            raise LinkError(f"{address} cannot be reached: Network is unreachable", is_local=True)
        line = self._line_to(address.host)
        await trio.sleep(self.dial_seconds.get(address.host, 0.0) + 2 * line.latency)
        while self.stalled & {self.host, address.host}:
            await self._resumed.wait()
        listener = self.listeners.get(address)
        if listener is None or address.host in self.refusing:
            cause = ConnectionRefusedError(111, "Connection refused")
            raise LinkError(f"{address} cannot be reached: {cause.strerror}") from cause
        local = Address(self.host, next(self._ports))
        near = MemoryStream(self, local, address, line)
        far = MemoryStream(self, address, local, line)
        near.peer, far.peer = far, near
        listener.arrive(far)
        return near

    def listen(self, address: Address) -> MemoryListener:
        assert address.ip is not None, "one listens at a literal address"
        local = Address(address.host, address.port or next(self._ports))
        if local in self.listeners:
            raise LinkError(f"cannot listen at {local}: Address already in use")
        listener = self.listeners[local] = MemoryListener(self, local)
        return listener

    # ---- what goes wrong

    def cut(self, *hosts: str) -> None:
        """Break every connection between these hosts, or all of a single one."""
        for stream in tuple(self.streams):
            if set(hosts) <= {stream.local.host, stream.remote.host}:
                stream.break_off(trio.current_time())

    def stall(self, host: str) -> None:
        """Let nothing pass from or to `host` any more; nobody is told."""
        self.stalled.add(host)

    def resume(self, host: str) -> None:
        """Let everything pass again, what was held back first."""
        self.stalled.discard(host)
        self._resumed.fire()
        for stream in tuple(self.streams):
            stream.notice()

    def unplug(self, host: str) -> None:
        """Take the network away from `host`, which knows it; nothing passes until ``plug_in``."""
        self.offline.add(host)
        self.stall(host)

    def plug_in(self, host: str) -> None:
        """Give `host` its network back, at another address: what it had open is dead."""
        self.offline.discard(host)
        for stream in tuple(self.streams):
            if host in (stream.local.host, stream.remote.host):
                stream.orphan()
        self.resume(host)

    def refuse(self, host: str) -> None:
        """Turn down whoever dials `host` from now on."""
        self.refusing.add(host)


async def connected_pair(network: MemoryNetwork) -> tuple[MemoryStream, MemoryStream]:
    """Return both ends of a new connection: who dialled, and who was dialled."""
    listener = network.listen(Address("5.5.0.2", 0))
    near = await network.dial(listener.local)
    far = await listener.accept()
    listener.close()
    return near, far


async def receive(stream: ByteStream, count: int | None = None) -> bytes:
    """Read exactly `count` bytes, or all up to the end; raise LinkError when it breaks."""
    data, chunk = bytearray(), bytearray(64 * 1024)
    while count is None or len(data) < count:
        most = len(chunk) if count is None else min(len(chunk), count - len(data))
        size = stream.receive_into(memoryview(chunk)[:most])
        if size is None:
            await stream.wait_readable()
        elif size == 0:
            break
        else:
            data += chunk[:size]
    return bytes(data)
