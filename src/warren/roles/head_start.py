"""A head start: what an application sends before its stream is connected goes ahead.

Where a listener replies early, the application hears of success when its request leaves, not when
the answer comes, and speaks a whole round trip of the circuit sooner. What it says is sent behind
the BEGIN and kept in the visit's buffer until CONNECTED, for another circuit may have to be told
it again (SID-6).
"""

from collections.abc import Callable

import trio

from warren.errors import LinkError
from warren.network.streams import CircuitStream
from warren.roles.doorstep import Visit

#: Kept for one visit (SID-6); what is more waits in the application's socket.
MOST_KEPT = 64 * 1024

# Read into and copied out in the same step, so one serves all.
_READ = memoryview(bytearray(MOST_KEPT))


class HeadStart:
    """Own the reading of a visit's socket until its stream is connected, or is not.

    The end of what the application sends is left for whoever reads on: it is still there then.
    A broken connection is not, so `on_broken` is called.
    """

    __slots__ = ("_nursery", "_on_broken", "_stream", "_visit")

    def __init__(
        self,
        visit: Visit,
        stream: CircuitStream,
        nursery: trio.Nursery,
        on_broken: Callable[[LinkError], None],
    ) -> None:
        self._visit, self._stream = visit, stream
        self._nursery, self._on_broken = nursery, on_broken
        visit.stream.read_with(self._read, nursery)

    def end(self) -> None:
        """Read nothing more; all that was read is in the visit's buffer."""
        self._visit.stream.pause_reading(self._nursery)

    def _read(self) -> None:
        """Send on what there is, as long as it can be kept."""
        kept, stream = self._visit.buffer, self._stream
        room = min(MOST_KEPT - len(kept), stream.protocol.room)
        try:
            count = self._visit.stream.receive_into(_READ[:room]) if room > 0 else 0
        except LinkError as error:
            self._on_broken(error)
            return
        if count is None:
            return
        if not count:
            self.end()
            return
        kept += _READ[:count]
        stream.protocol.write(bytes(_READ[:count]))
        stream.turn.run()
