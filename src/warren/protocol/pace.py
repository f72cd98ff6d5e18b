"""Pace: what the streams of one end of a circuit know of each other's hurry.

A stream's window is what may be on its way through the whole circuit, and so it is also the queue
that everything behind it on the same circuit stands in. Alone, a stream may have as much as it can
use. Beside a stream that sends little at a time, a terminal or a call, a queue is a delay: then
a stream is given no more than fills the path, and a little to keep it full.

Beside others that move as much as they can, a stream needs less of its own: what is on its way
through the circuit is theirs together.

Only the receiver decides, by what it grants; the sender need not know.
"""

from collections.abc import Callable

#: The queue, in seconds, that a stream may build when it has company; a quarter of the least round
#: trip where that is more.
QUEUE_SECONDS = 0.0002
#: How long a stream that sent a little counts as company.
COMPANY_SECONDS = 1.0
#: Bytes in a second from which on a stream is no company but one of those that wait for it.
_MUCH = 512 * 1024
#: Seconds over which that is measured.
_MEASURED_SECONDS = 0.05
#: Seconds after which an older round trip is forgotten, twice over: paths change.
_EPOCH_SECONDS = 60.0
#: Bytes that the windows of a circuit's busy streams have together: what one may have, twice over.
SHARED_BYTES = 10 * 1024 * 1024
#: For so long, and no more than twice, a stream that used up its window counts as a busy one.
BUSY_SECONDS = 5.0
_NOT_YET = float("-inf")


class Pace:
    """Own the least round trip of a circuit, which stream was the last to send a little, and which
    were busy lately.

    `clock` returns seconds; it may stand still while one batch of cells is read.
    """

    __slots__ = (
        "_before", "_busy", "_busy_before", "_busy_since", "_company", "_company_until", "_epoch",
        "_least", "clock",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._company = 0
        self._company_until = float("-inf")
        self._epoch = float("-inf")
        self._least = self._before = float("inf")
        self._busy: set[int] = set()
        self._busy_before: set[int] = set()  # and not again since
        self._busy_since = _NOT_YET

    def has_company(self, number: int) -> bool:
        """Tell whether another stream suffers from the queue of stream `number`."""
        return self._company != number and self.clock() < self._company_until

    def note_company(self, number: int) -> None:
        """Note that stream `number` had a little to send."""
        self._company = number
        self._company_until = self.clock() + COMPANY_SECONDS

    def forget(self, number: int) -> None:
        """Note that stream `number` is over: it waits no more, and has no share any more."""
        self._busy.discard(number)
        self._busy_before.discard(number)
        if self._company == number:
            self._company_until = float("-inf")

    def most_window(self, number: int) -> int:
        """Return how wide stream `number` may become, in bytes, now that it used up its window.

        It and the others that did so lately have ``SHARED_BYTES`` together.
        """
        since = self.clock() - self._busy_since
        if since > BUSY_SECONDS:
            self._busy_before = self._busy if since <= 2 * BUSY_SECONDS else set()
            self._busy, self._busy_since = set(), self.clock()
        self._busy_before.discard(number)
        self._busy.add(number)
        return SHARED_BYTES // (len(self._busy) + len(self._busy_before))

    def begin(self, round_trip: float) -> None:
        """Note how long the circuit took to come round, in seconds, while nothing was on it."""
        self._least, self._before, self._epoch = round_trip, float("inf"), self.clock()

    def share(self, round_trip: float) -> float:
        """Return by how much a window must change that came round in `round_trip` seconds."""
        now = self.clock()
        if now - self._epoch > _EPOCH_SECONDS:
            self._before, self._least, self._epoch = self._least, round_trip, now
        elif round_trip < self._least:
            self._least = round_trip
        least = min(self._least, self._before)
        return (least + max(QUEUE_SECONDS, least / 4)) / max(round_trip, 1e-6)


class Talk:
    """Own what was measured of one stream or association: whether it sends a little at a time.

    It goes with the stream from circuit to circuit, and is told to the pace of the present one.
    """

    __slots__ = ("_bytes", "_since", "is_quiet")

    def __init__(self) -> None:
        self.is_quiet = False
        self._since = _NOT_YET
        self._bytes = 0  # that had come by then

    def note(self, pace: Pace, number: int, received: int) -> None:
        """Note that a little came on stream `number`, `received` bytes in all by now."""
        now = pace.clock()
        elapsed = now - self._since
        if elapsed >= _MEASURED_SECONDS:
            is_first = self._since == _NOT_YET  # one answer, however late, is no talk
            self.is_quiet = not is_first and received - self._bytes < _MUCH * elapsed
            self._since, self._bytes = now, received
        if self.is_quiet:
            pace.note_company(number)
