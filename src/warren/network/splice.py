"""Splice: the bytes of a socket go into a stream, and those of the stream to the socket.

What arrives from the circuit is written to the socket in the step it arrives in, and what is
read from the socket is sealed in the step it is read in. An end in one direction is passed on as
a half-close (SID-5); anything but a clean end resets both sides (SID-4).
"""

from collections.abc import Callable
from itertools import islice

import trio

from warren.errors import EndReason, LinkError
from warren.network.byte_streams import ByteStream
from warren.network.readiness import nothing
from warren.network.streams import CircuitStream

# Bytes of applications and targets are read into this one buffer and copied out in the same step.
_READ = memoryview(bytearray(128 * 1024))
_MOST_PARTS = 128
#: A read of less than this may wait for others of the same round, to leave with them.
_SMALL_BYTES = 16 * 1024


async def splice(byte_stream: ByteStream, stream: CircuitStream, early: bytes = b"") -> None:
    """Move bytes both ways until both directions are done; `byte_stream` is closed, or reset, then.

    `early` was read from `byte_stream` already and goes first.
    """
    is_over = trio.Event()
    joint = Splice(byte_stream, stream, is_over.set)
    try:
        joint.start(early)
        await is_over.wait()
    except BaseException:
        joint.give_up(EndReason.MISC)
        raise


def begin_splice(
    byte_stream: ByteStream, stream: CircuitStream, on_over: Callable[[], None]
) -> "Splice":
    """Move bytes as ``splice`` does, without a task; `on_over` is called at the end."""
    joint = Splice(byte_stream, stream, on_over)
    joint.start()
    return joint


class Splice:
    """Own a socket while a stream is spliced to it."""

    __slots__ = (
        "_has_sent_eof", "_is_blocked", "_is_deaf", "_is_over", "_is_reading", "_on_over",
        "_socket", "_stream",
    )  # fmt: skip

    def __init__(
        self, byte_stream: ByteStream, stream: CircuitStream, on_over: Callable[[], None]
    ) -> None:
        self._socket = byte_stream
        self._stream = stream
        self._on_over = on_over
        self._is_over = False
        self._is_reading = False
        self._is_blocked = False  # whether the socket must be writable before more is written
        self._is_deaf = False  # whether it takes nothing any more
        self._has_sent_eof = False

    def start(self, early: bytes = b"") -> None:
        """Begin, with `early` as the first bytes of the socket."""
        self._socket.reset_if_killed()
        stream = self._stream
        if early:
            stream.protocol.write(early)
        stream.on_news = self._act
        if not stream.protocol.eof_due:
            # Without a look first: whoever was just connected has seldom said something yet.
            self._is_reading = True
            self._socket.read_with(self._readable, stream.turn.nursery)
        self._act()
        stream.turn.run()

    def give_up(self, reason: EndReason) -> None:
        """Reset both sides."""
        self._stream.protocol.end(reason)
        self._finish()
        self._stream.turn.run()

    def _act(self) -> None:
        """Do what has become possible: write, read on, or end."""
        stream = self._stream
        protocol = stream.protocol
        if protocol.incoming and not (self._is_blocked or self._is_deaf):
            self._write()
        if stream.is_ended:
            self._finish()
            return
        if self._is_deaf:
            protocol.incoming.clear()
            return
        if protocol.eof_received and not protocol.incoming and not self._has_sent_eof:
            self._has_sent_eof = True
            stream.turn.soon(self._socket.send_eof)
        if not (self._is_reading or protocol.eof_due) and self._read():
            self._is_reading = True
            self._socket.read_with(self._readable, stream.turn.nursery)

    # ---- from the socket

    def _readable(self) -> None:
        if not self._read():
            self._is_reading = False
            self._socket.stop_reading()

    def _read(self) -> bool:
        """Read what there is room for; return whether to be told when there is more."""
        stream = self._stream
        protocol, turn = stream.protocol, stream.turn
        room = protocol.room
        if room <= 0:
            protocol.waits_for_room = True
            return False
        try:
            count = self._socket.receive_into(_READ[:room])
        except LinkError:
            self._hear_out()
            if stream.is_ended:
                self._finish()
            turn.run()
            return False
        if count is None:
            return True
        if count == 0:
            protocol.write_eof()
            turn.run_soon()
            return False
        protocol.write(bytes(_READ[:count]))
        if count < _SMALL_BYTES:
            turn.run_soon()
        else:
            turn.run()
        if protocol.room > 0:
            return not self._is_over
        protocol.waits_for_room = True
        return False

    # ---- to the socket

    def _write(self) -> None:
        """Write what arrived, as far as the socket takes it without waiting."""
        protocol = self._stream.protocol
        try:
            self._write_parts()
        except LinkError:  # the application or the target is gone
            self._hear_out()
            return
        if protocol.incoming:
            self._is_blocked = True
            self._socket.write_with(self._writable, self._stream.turn.nursery)

    def _hear_out(self) -> None:
        """Pass on what the socket has said before it was reset, then the reset.

        A server that answers early, and closes without reading the rest of the request, does that.
        """
        self._is_deaf = True
        self._is_reading = False
        self._socket.stop_reading()
        protocol = self._stream.protocol
        while protocol.room > 0 and not protocol.eof_due:
            try:
                count = self._socket.receive_into(_READ[: protocol.room])
            except LinkError:
                break
            if not count:
                break
            protocol.write(bytes(_READ[:count]))
        protocol.end_behind(EndReason.CONNECTION_RESET)

    def _write_parts(self) -> None:
        sink, incoming = self._socket, self._stream.protocol.incoming
        written = 0
        while incoming:
            if len(incoming) == 1:
                offered = len(incoming[0])
                sent = sink.send_now(incoming[0])
            else:
                parts = list(islice(incoming, _MOST_PARTS))
                offered = sum(map(len, parts))
                sent = sink.send_parts_now(parts)
            written += sent
            left = sent
            while left and len(incoming[0]) <= left:
                left -= len(incoming.popleft())
            if left:
                incoming[0] = incoming[0][left:]
            if sent < offered:
                break
        if written:
            self._stream.protocol.consume(written)

    def _writable(self) -> None:
        self._is_blocked = False
        if not self._is_over:
            self._act()
        self._stream.turn.run()

    # ---- the end

    def _finish(self) -> None:
        """Close the socket if the stream came to its clean end, and reset it otherwise."""
        if not self._is_over:
            self._stream.on_news = None
            if self._stream.protocol.reason is EndReason.DONE:
                self._socket.close()
            else:
                self._socket.reset()
            self._is_over = True
            on_over, self._on_over = self._on_over, nothing
            on_over()
