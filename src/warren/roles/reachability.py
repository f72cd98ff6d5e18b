"""Look whether the relays of a book can be reached, each as often as it is due."""

from collections.abc import Awaitable, Callable

import trio

from warren.identity import Hop
from warren.roles.background import Background
from warren.roles.relay_book import KnownRelay, RelayBook

#: Tells whether a relay answers at `hop`; may raise a WarrenError for no, and take its time.
Check = Callable[[Hop], Awaitable[bool]]
#: The same for a relay behind a gateway: gateway first.
CheckThrough = Callable[[Hop, Hop], Awaitable[bool]]

CHECK_SECONDS = 10.0
MOST_CHECKS = 64


class Reachability:
    """Own the checks in progress; what came of them stands in the book."""

    def __init__(
        self,
        book: RelayBook,
        check: Check,
        check_through: CheckThrough | None,
        *,
        now: Callable[[], float],
        pause_seconds: float,
    ) -> None:
        """Look for relays that are due every `pause_seconds`, and when woken."""
        self._book = book
        self._check = check
        self._check_through = check_through
        self._now = now
        self._pause_seconds = pause_seconds
        self._woken = trio.Event()

    def wake(self) -> None:
        """Look at once: a new descriptor came."""
        self._woken.set()

    async def run(self, background: Background) -> None:
        """Start the checks that are due, a bounded number at a time; until cancelled."""
        limiter = trio.CapacityLimiter(MOST_CHECKS)
        while True:
            for relay in self._book.due(self._now()):
                background.start(self._check_relay, relay, limiter)
            self._woken = trio.Event()
            with trio.move_on_after(self._pause_seconds):
                await self._woken.wait()

    async def _check_relay(self, relay: KnownRelay, limiter: trio.CapacityLimiter) -> None:
        hop = relay.descriptor.hop
        reached = False
        try:
            async with limiter:
                with trio.move_on_after(CHECK_SECONDS):
                    reached = await self._reaches(relay)
        finally:
            self._book.note_check(relay, hop, reached=reached, now=self._now())

    async def _reaches(self, relay: KnownRelay) -> bool:
        descriptor = relay.descriptor
        if not descriptor.gateways:
            return await self._check(descriptor.hop)
        for peer_id in descriptor.gateways:
            gateway = self._book.get(peer_id)
            if self._check_through is not None and gateway is not None and gateway.is_running:
                return await self._check_through(gateway.descriptor.hop, descriptor.hop)
        return False
