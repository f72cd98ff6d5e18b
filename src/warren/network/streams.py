"""Streams through a circuit: a trio stream, the same at both ends.

A ``CircuitStream`` is a ``trio.abc.HalfCloseableStream`` for those who want to read and write
(the directory, tests). What joins one to a socket, and is most of what streams are for, is in
``network.splice``.
"""

from collections.abc import Callable
from functools import cached_property
from operator import index

import trio

from warren.errors import EndReason, ExitError
from warren.network.readiness import nothing
from warren.network.turn import Turn
from warren.protocol.messages import Connected
from warren.protocol.stream import StreamProtocol, StreamState

#: How long a closed stream waits for the other side to end as well.
LINGER_SECONDS = 60.0


class _OneAtATime:
    """Let one task at a time do something."""

    __slots__ = ("_is_busy", "_message")

    def __init__(self, message: str) -> None:
        self._message = message
        self._is_busy = False

    def __enter__(self) -> None:
        if self._is_busy:
            raise trio.BusyResourceError(self._message)
        self._is_busy = True

    def __exit__(self, *_: object) -> None:
        self._is_busy = False


class CircuitStream(trio.abc.HalfCloseableStream):
    """Own one end of a stream: its machine, and who waits for it.

    Reading raises ``trio.BrokenResourceError`` when the stream was reset, so that a truncated
    transfer never looks like its end (SID-4); ``reason`` says why.
    """

    def __init__(self, protocol: StreamProtocol, turn: Turn) -> None:
        self.protocol = protocol
        self.turn = turn
        self.in_turn = False
        self.on_news: Callable[[], None] | None = None  # told of all news, by who reads itself
        self._news: trio.Event | None = None
        self._closed = False
        protocol.on_news = self._on_news
        if protocol.incoming or protocol.eof_received:
            self._on_news()

    def __repr__(self) -> str:
        return f"<CircuitStream {self.protocol!r}>"

    @property
    def reason(self) -> EndReason | None:
        """Return why the stream ended, or None while it has not."""
        return self.protocol.reason

    @property
    def is_ended(self) -> bool:
        """Tell whether an END was sent or received, or the circuit is gone."""
        return self.protocol.state is StreamState.ENDED or self.protocol.end_due is not None

    def _on_news(self) -> None:
        if not self.in_turn:
            self.turn.add(self)

    def flush(self) -> None:
        """Tell whoever waits that something arrived, or left."""
        if self.on_news is not None:
            self.on_news()
        elif self._closed and self.protocol.incoming:
            self.protocol.end(EndReason.MISC)  # nobody will read it, and the sender must know
        if self._news is not None:
            self._news.set()
            self._news = None
        if self.protocol.state is StreamState.ENDED:
            self.protocol.on_news = nothing  # there is no more, and so we end with our last user

    async def wait_news(self) -> None:
        """Wait until something arrived or there is more room to write."""
        if self._news is None:
            self._news = trio.Event()
        await self._news.wait()

    async def wait_connected(self) -> Connected:
        """Wait for CONNECTED; raise ExitError when the far end refuses instead."""
        protocol = self.protocol
        while protocol.connected is None:
            if self.is_ended:
                raise ExitError(protocol.reason or EndReason.MISC)
            await self.wait_news()
        return protocol.connected

    def reset(self, reason: EndReason = EndReason.MISC) -> None:
        """End the stream now; the other end resets its socket too."""
        self.protocol.end(reason)
        self._on_news()
        self.turn.run()

    # ---- trio.abc.HalfCloseableStream

    @cached_property
    def _sending(self) -> _OneAtATime:
        return _OneAtATime("another task is sending on this stream")

    @cached_property
    def _receiving(self) -> _OneAtATime:
        return _OneAtATime("another task is reading from this stream")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; wait for the other end's credit."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            rest = memoryview(bytes(data))
            while True:
                await self._wait_room()
                part = rest[: self.protocol.room]
                rest = rest[len(part) :]
                self.protocol.write(part)
                self.turn.run()
                if not rest:
                    return

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until ``send_all`` takes something at once."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            await self._wait_room()

    async def _wait_room(self) -> None:
        protocol = self.protocol
        while True:
            if self._closed or protocol.eof_due:
                raise trio.ClosedResourceError("this stream was closed, or half-closed")
            if self.is_ended:
                self._raise_ended()
            if protocol.room > 0:
                return
            protocol.waits_for_room = True
            await self.wait_news()

    async def send_eof(self) -> None:
        """Half-close: nothing more will be sent."""
        with self._sending:
            await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self.is_ended and not self.protocol.eof_due:
            self._raise_ended()
        self.protocol.write_eof()
        self.turn.run()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes that arrived, b"" at the clean end."""
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint()
            if not await self._wait_data():
                return b""
        protocol = self.protocol
        part = protocol.incoming[0]
        if max_bytes is not None and len(part) > max_bytes:
            protocol.incoming[0] = part[max_bytes:]
            part = part[:max_bytes]
        else:
            protocol.incoming.popleft()
        protocol.consume(len(part))
        self.turn.run()
        return bytes(part)

    async def _wait_data(self) -> bool:
        """Wait until something can be read; return False at the clean end."""
        protocol = self.protocol
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if protocol.incoming:
                return True
            if protocol.eof_received and not self.was_reset:
                return False
            if self.is_ended:
                self._raise_ended()
            await self.wait_news()

    async def wait_ended(self) -> None:
        """Wait until both ENDs are through, or the stream was reset."""
        while not self.is_ended:
            await self.wait_news()

    async def aclose(self) -> None:
        """Close as TCP does: what was written is delivered, what still comes resets the stream.

        So does what came and was not read. Whoever gives up in the middle of something that must
        not look whole calls ``reset`` first (SID-4).
        """
        if not self._closed:
            self._closed = True
            self.protocol.write_eof()
            self._on_news()
            self.turn.run()
            if not self.is_ended:
                self.turn.nursery.start_soon(self._linger)
        await trio.lowlevel.checkpoint()

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_SECONDS):
            await self.wait_ended()
            return
        self.reset()

    @property
    def was_reset(self) -> bool:
        """Tell whether the stream ended for any reason but that it was complete."""
        return self.protocol.reason not in (None, EndReason.DONE)

    def _raise_ended(self) -> None:
        reason = self.protocol.reason
        raise trio.BrokenResourceError(f"the stream was reset: {reason and reason.name}")
