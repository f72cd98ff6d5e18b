"""A throttle: all that a relay sends, to its neighbours and to targets, within its bandwidth.

What cannot be sent yet waits where it is, so a full line is felt by whoever fills it: cells stay
with their circuit, whose credit is not given back, and bytes for a target with their stream. So
what a relay receives is bounded as well. Only what it sends is counted (P2P-5).
"""

import socket
from collections.abc import Sequence
from functools import partial

import trio

from warren.addresses import Address
from warren.network import readiness
from warren.network.byte_streams import Buffer
from warren.network.datagram_sockets import UdpSocket
from warren.network.dialling import SocketNetwork
from warren.network.readiness import Act
from warren.network.reserve import Share
from warren.network.send_queue import LEAST_QUEUE, MOST_QUEUE, QUEUE_SECONDS
from warren.network.sockets import SocketStream
from warren.protocol.cells import CELL_LENGTH
from warren.protocol.records import RECORD_EXTRA

#: What was not sent for a while may be sent later, but no more than that of so many seconds.
_BURST_SECONDS = 0.25
#: How far whoever was quiet may go beyond what there is, before it waits like all others.
_DEBT_SECONDS = 0.05
#: How often those who wait are looked after.
_TICK_SECONDS = 0.005
#: The least that is sent at once, a record of one cell.
_LEAST = CELL_LENGTH + RECORD_EXTRA


class Throttle:
    """Own how much may be sent now: `rate` bytes per second in the long run, 1 at least.

    Whoever finds nothing left waits in a queue. Whoever does not wait there yet may send a cell
    all the same, as long as not too many do: so a keystroke does not stand behind downloads.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.sent = 0
        self.most_ready = min(max(int(rate * QUEUE_SECONDS), LEAST_QUEUE), MOST_QUEUE)
        self._burst = max(rate * _BURST_SECONDS, _LEAST)
        self._most_debt = max(rate * _DEBT_SECONDS, _LEAST)
        self._left = self._burst
        self._then = trio.current_time()
        self._waiting: dict[object, Act] = {}
        self._is_serving = False
        self._waited = 0.0

    @property
    def is_spent(self) -> bool:
        """Tell whether nothing is left now."""
        if self._left <= 0:
            self._refill()
        return self._left <= 0

    def allows(self, who: object) -> int:
        """Return how many bytes `who` may send now; 0 if it has to wait."""
        if self._left <= 0 and self.is_spent:
            may_pass = self._left > -self._most_debt and who not in self._waiting
            return _LEAST if may_pass else 0
        return max(int(self._left), _LEAST)

    def spend(self, count: int) -> None:
        """Count bytes that were sent."""
        self._left -= count
        self.sent += count

    def wait_with(self, who: object, act: Act, nursery: trio.Nursery) -> None:
        """Call `act` once, when `who` may send, unless it was forgotten before.

        `nursery` is for the task that looks after all who wait.
        """
        self._waiting[who] = act
        if not self._is_serving:
            self._is_serving = True
            nursery.start_soon(self._serve)

    def forget(self, who: object) -> None:
        """Call nobody for `who` any more."""
        self._waiting.pop(who, None)

    async def wait(self, who: object) -> None:
        """Wait until `who` may send something."""
        while not self.allows(who):  # noqa: ASYNC110  what is left grows with time
            await trio.sleep(self._pause)

    def statistics(self) -> dict[str, float]:
        """Return how many bytes may be sent a second, how many were, and what was waited for that.

        ``waited_seconds`` is how long somebody had to wait, in all.
        """
        return {"limit": self.rate, "sent": self.sent, "waited_seconds": round(self._waited, 1)}

    @property
    def _pause(self) -> float:
        return max(_TICK_SECONDS, (_LEAST - self._left) / self.rate)

    def _refill(self) -> None:
        now = trio.current_time()
        self._left = min(self._burst, self._left + (now - self._then) * self.rate)
        self._then = now

    async def _serve(self) -> None:
        """Let those who wait go on, in the order in which they came."""
        try:
            while self._waiting:
                pause = self._pause
                await trio.sleep(pause)
                self._waited += pause
                self._refill()
                while self._waiting and self._left > 0:
                    who = next(iter(self._waiting))
                    readiness.guarded(self._waiting.pop(who))
        finally:
            self._is_serving = False


class ThrottledStream(SocketStream):
    """Be a ``SocketStream`` that sends what `throttle` leaves."""

    def __init__(
        self,
        throttle: Throttle,
        sock: socket.socket,
        remote: Address | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__(sock, remote, share)
        self._throttle = throttle
        self.most_ready = throttle.most_ready

    def send_now(self, data: Buffer) -> int:
        most = self._throttle.allows(self)
        if not most:
            return 0
        sent = super().send_now(data if len(data) <= most else memoryview(data)[:most])
        self._throttle.spend(sent)
        return sent

    def send_parts_now(self, parts: Sequence[Buffer]) -> int:
        most = self._throttle.allows(self)
        if not most:
            return 0
        if sum(map(len, parts)) > most:
            return self.send_now(parts[0])  # what is left is for another time
        sent = super().send_parts_now(parts)
        self._throttle.spend(sent)
        return sent

    def write_with(self, act: Act, nursery: trio.Nursery) -> None:
        if self._throttle.is_spent:
            self._throttle.wait_with(self, act, nursery)
        else:
            super().write_with(act, nursery)

    async def wait_writable(self) -> None:
        await super().wait_writable()
        await self._throttle.wait(self)

    def _close(self) -> None:
        self._throttle.forget(self)
        super()._close()


class ThrottledUdpSocket(UdpSocket):
    """Be a ``UdpSocket`` that drops what `throttle` does not leave."""

    def __init__(self, throttle: Throttle, host: str, share: Share | None = None) -> None:
        super().__init__(host, share)
        self._throttle = throttle

    def send_now(self, data: bytes | memoryview, remote: Address) -> bool:
        if self._throttle.is_spent or not super().send_now(data, remote):
            return False
        self._throttle.spend(len(data))
        return True


def throttled_network(throttle: Throttle | None) -> SocketNetwork:
    """Return the real network, as far as `throttle` lets one send; None lets send everything."""
    return (
        SocketNetwork() if throttle is None else SocketNetwork(partial(ThrottledStream, throttle))
    )
