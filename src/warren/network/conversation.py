"""A conversation: an opening exchange that is driven by what arrives, without a task.

``ByteStream.converse`` does the same for who has a task to wait in. Thousands of programs a second
come through the front door and say twenty bytes; a task that is scheduled for each of these few
words costs more than what it says.
"""

from collections.abc import Callable
from typing import Generic

import trio

from warren.errors import LinkError
from warren.network.byte_streams import ByteStream
from warren.protocol.exchange import Exchange, Send, T, advance

# Read into and copied out in the same step, so one serves all.
_CHUNK = memoryview(bytearray(4096))


class Conversation(Generic[T]):
    """Own an exchange over `stream` until it is over; bytes beyond its end are in `buffer`.

    Calls `on_done` with the result, or `on_error` with what the exchange raised, or a LinkError
    when the stream ended too early or does not take an answer. It may do so at once. Nothing is
    read afterwards, nor once the stream is closed.
    """

    def __init__(
        self,
        stream: ByteStream,
        exchange: Exchange[T],
        buffer: bytearray,
        nursery: trio.Nursery,
        on_done: Callable[[T], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._stream, self._buffer, self._nursery = stream, buffer, nursery
        self._exchange = exchange
        self._on_done, self._on_error = on_done, on_error
        self._wanted = next(exchange)
        self._is_reading = False

    def go_on(self) -> None:
        """Read and answer what there is."""
        try:
            while (count := self._read()) > 0:
                self._answer()
                if count < len(_CHUNK):  # all there was; if more comes, it calls
                    break
        except StopIteration as done:
            self._stream.pause_reading(self._nursery)
            self._on_done(done.value)
            return
        except Exception as error:  # noqa: BLE001  whoever began it knows what it means
            self._stream.pause_reading(self._nursery)
            self._on_error(error)
            return
        if not self._is_reading:
            self._is_reading = True
            self._stream.read_with(self.go_on, self._nursery)

    def _read(self) -> int:
        """Read what there is, up to a chunk; return how many bytes that was."""
        count = self._stream.receive_into(_CHUNK)
        if count == 0:
            raise LinkError("the other side closed in the middle of the opening")
        if count is None:
            return 0
        self._buffer += _CHUNK[:count]
        return count

    def _answer(self) -> None:
        """Give the exchange what there is, and send what it says to it."""
        exchange = self._exchange
        while True:
            self._wanted = wanted = advance(exchange, self._wanted, self._buffer)
            if not isinstance(wanted, Send):
                return
            if self._stream.send_now(wanted.data) < len(wanted.data):
                raise LinkError("the other side does not read its answer")
            self._wanted = exchange.send(b"")
