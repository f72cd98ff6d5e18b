"""The send queue: how many bytes of a link the kernel may hold, so that the rest can be overtaken.

What is in the kernel leaves in order. On a fast line that is nothing; on a slow one 128 KiB are a
tenth of a second, and a keystroke of another circuit would wait behind them (protocol §6).
"""

from typing import Protocol

from warren.network.byte_streams import MOST_READY, NOTSENT_BYTES
from warren.protocol.cells import CELL_LENGTH

#: The kernel may hold what the line takes in so many seconds.
QUEUE_SECONDS = 0.005
LEAST_QUEUE = 3 * CELL_LENGTH + 256
MOST_QUEUE = MOST_READY


class Socket(Protocol):
    """Be what of a ``ByteStream`` matters here."""

    most_ready: int

    def unsent(self) -> int:
        """Return how many bytes wait to be sent."""

    def keep_send_queue_short(self, size: int) -> None:
        """Count as writable only while less than `size` bytes wait."""


class SendQueue:
    """Own how much of a link's bytes may wait in the kernel; fed with what its socket takes.

    The rate is measured only while there is always more to send, or it would not be the line's.
    """

    def __init__(self, stream: Socket) -> None:
        self.size = stream.most_ready
        self._stream = stream
        self._since = -1.0  # negative: nothing is measured
        self._blocked_at = 0.0
        self._bytes = 0
        self._set = NOTSENT_BYTES

    def sent(self, count: int) -> None:
        """Count bytes that the socket took."""
        self._bytes += count

    def has_idled(self) -> None:
        """Note that there was nothing to send."""
        self._since = -1.0

    def blocked(self, now: float) -> None:
        """Note that there is more to send than the socket should take."""
        self._blocked_at = now
        if self._since < 0:
            self._begin(now, self._stream.unsent())

    def writable(self, now: float) -> None:
        """Note that the socket takes more; measure, when enough time has passed.

        A line that takes all in far less time is given more at once: on a fast one there may never
        be something to send for long enough to be measured, just because so little is sent at once.
        """
        if now - self._blocked_at < QUEUE_SECONDS / 4:
            self._set_size(2 * self.size)
        elapsed = now - self._since
        if self._since < 0 or elapsed < QUEUE_SECONDS:
            return
        unsent = self._stream.unsent()
        taken = self._bytes - unsent  # what was unsent at the beginning is counted in
        self._begin(now, unsent)
        self._set_size(int(taken / elapsed * QUEUE_SECONDS))

    def _set_size(self, size: int) -> None:
        self.size = min(max(size, LEAST_QUEUE), self._stream.most_ready)
        most = min(self.size, NOTSENT_BYTES)
        if not self._set / 2 <= most <= 2 * self._set:
            self._set = most
            self._stream.keep_send_queue_short(most)

    def _begin(self, now: float, unsent: int) -> None:
        self._since, self._bytes = now, unsent
