"""Byte streams, listeners and networks: what everything above asks of the world, as interfaces.

A ``ByteStream`` is a reliable byte stream whose bytes move without waiting. Who waits for them
has the choice: a task, in an opening exchange, or a callback, on the hot path, which then reads,
works and writes in one synchronous step. Everything above takes a ``Network``; real life has the
one of ``network.dialling``, a simulated one may give memory streams.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network.readiness import Act
from warren.protocol.exchange import Exchange, Send, T, advance

Buffer = bytes | bytearray | memoryview
Accept = Callable[["ByteStream"], Awaitable[None]]
Meet = Callable[["ByteStream"], None]

#: Unsent bytes the kernel may hold before a socket counts as not writable.
NOTSENT_BYTES = 128 * 1024
#: Bytes that are worth having ready for a socket, where nothing else is known of it.
MOST_READY = 256 * 1024


class _Reading:
    """Own the task that calls the reader of a stream which knows no callbacks itself."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()


class ByteStream(ABC):
    """Be one reliable byte stream; its owner closes it."""

    remote: Address
    local: Address
    #: Bytes that may be made ready to be sent, after which nothing can overtake them any more.
    most_ready: int = MOST_READY
    _reading: "_Reading | None" = None

    @property
    def is_to_itself(self) -> bool:
        """Tell whether both ends are this one, as TCP allows."""
        return self.local == self.remote

    @abstractmethod
    def receive_into(self, buffer: bytearray | memoryview) -> int | None:
        """Read what is there: bytes written to `buffer`, 0 at the end, None when none is there.

        Raises LinkError when the connection broke.
        """

    @abstractmethod
    def send_now(self, data: Buffer) -> int:
        """Take as many bytes of `data` as fit without waiting; raise LinkError when broken."""

    @abstractmethod
    def send_parts_now(self, parts: Sequence[Buffer]) -> int:
        """Do ``send_now`` for several buffers, in order."""

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until ``receive_into`` has something; raise LinkError when closed meanwhile."""

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until ``send_now`` takes something; raise LinkError when closed meanwhile."""

    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        """Call `act` whenever ``receive_into`` has something, until ``stop_reading`` or ``close``.

        `act` reads and must not raise. `nursery` is for the task of a stream that needs one.
        """
        self.stop_reading()
        before, self._reading = self._reading, _Reading()
        nursery.start_soon(self._read_with, act, self._reading, before)

    async def _read_with(self, act: Act, reading: "_Reading", before: "_Reading | None") -> None:
        try:
            with reading.scope:
                if before is not None:
                    await before.is_over.wait()
                while True:
                    try:
                        await self.wait_readable()
                    except LinkError:
                        return  # closed by its owner, who reads no more
                    act()
        finally:
            reading.is_over.set()

    def stop_reading(self) -> None:
        """Call nobody any more when there is something to read."""
        if self._reading is not None:
            self._reading.scope.cancel()

    def pause_reading(self, nursery: trio.Nursery) -> None:
        """Stop reading; cheaper than ``stop_reading`` where ``read_with`` may follow soon."""
        self.stop_reading()

    def write_with(self, act: Act, nursery: trio.Nursery) -> None:
        """Call `act` once, when ``send_now`` takes something or raises; not after ``close``."""
        nursery.start_soon(self._write_with, act)

    async def _write_with(self, act: Act) -> None:
        try:
            await self.wait_writable()
        except LinkError:
            return  # closed by its owner, who waits for nothing any more
        act()

    @abstractmethod
    def send_eof(self) -> None:
        """Half-close: the other side reads the end, we may still receive."""

    def keep_send_queue_short(self, size: int = NOTSENT_BYTES) -> None:
        """Count as writable only while less than `size` bytes are unsent below us.

        What is not yet in the kernel can still be overtaken by something more urgent. Where this
        cannot be asked for, nothing happens.
        """
        return

    def unsent(self) -> int:
        """Return how many bytes wait below us to be sent, 0 where that cannot be asked for."""
        return 0

    def keep_alive(self, seconds: int) -> None:
        """Notice within about `seconds` that the other side is gone, while nothing is to be sent.

        One that does not read what waits for it may be slow, and is not taken for gone.
        """
        return

    def reset_if_killed(self) -> None:
        """Let the other side see an error, no clean end, when this process is killed (SID-4).

        Only ``close`` ends it cleanly then. Where this cannot be asked for, nothing happens.
        """
        return

    @abstractmethod
    def close(self) -> None:
        """Close now; what was sent is still delivered. Closing twice is fine."""

    @abstractmethod
    def reset(self) -> None:
        """Close so that the other side sees an error, never a clean end (SID-4)."""

    async def send_all(self, data: Buffer) -> None:
        """Send `data` whole; wait as long as the other side does not read."""
        view = memoryview(data)
        while view:
            view = view[self.send_now(view) :]
            if view:
                await self.wait_writable()

    async def converse(self, exchange: Exchange[T], buffer: bytearray) -> T:
        """Drive an opening exchange; bytes beyond its end stay in `buffer`.

        Raises what the exchange raises, and LinkError when the stream ends too early.
        """
        chunk = bytearray(4096)
        wanted = next(exchange)
        try:
            while True:
                wanted = advance(exchange, wanted, buffer)
                if isinstance(wanted, Send):
                    await self.send_all(wanted.data)
                    wanted = exchange.send(b"")
                    continue
                count = self.receive_into(chunk)
                if count is None:
                    await self.wait_readable()
                elif count == 0:
                    raise LinkError("the other side closed in the middle of the opening")
                else:
                    buffer += chunk[:count]
        except StopIteration as done:
            result: T = done.value
            return result


class Listener(ABC):
    """Be one listening port; closing it ends ``serve``."""

    local: Address

    @abstractmethod
    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        """Start `accept` in `nursery` for every connection, until closed."""

    async def serve_with(self, meet: Meet, nursery: trio.Nursery) -> None:
        """Call `meet`, which must not wait or raise, for every connection, until closed.

        `nursery` is for the tasks of a listener that needs them.
        """

        async def accept(stream: ByteStream) -> None:
            meet(stream)

        await self.serve(accept, nursery)

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""


class Dialling:
    """Be a connection that is wanted: to be waited for, or given up with ``close``.

    ``stream`` is set at once where a neighbour has answered already. This one only waits to be
    begun.
    """

    def __init__(self, network: "Network", address: Address) -> None:
        self.stream: ByteStream | None = None
        self._network, self._address = network, address

    async def wait(self) -> ByteStream:
        """Return the connection; raise LinkError if it fails."""
        return self.stream or await self._dial()

    async def _dial(self) -> ByteStream:
        return await self._network.dial(self._address)

    def close(self) -> None:
        """Give up; a connection that is there is closed."""
        if self.stream is not None:
            self.stream.close()


class Network(ABC):
    """Give connections to literal addresses and listening ports."""

    @abstractmethod
    async def dial(self, address: Address) -> ByteStream:
        """Connect to `address`, whose host must be an IP literal; raise LinkError if it fails.

        Waits as long as the system does: the caller sets a deadline.
        """

    def begin_dial(self, address: Address) -> "Dialling":
        """Begin to connect, without waiting, and raise as ``dial``."""
        return Dialling(self, address)

    def for_exit(self) -> "Network":
        """Return the same network, where what is dialled counts as an exit's (DOS-8)."""
        return self

    @abstractmethod
    def listen(self, address: Address) -> Listener:
        """Listen at `address` (port 0: a free one); raise LinkError if that is impossible."""
