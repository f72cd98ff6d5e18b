"""Associations through a circuit: the same at both ends, as ``streams`` are.

What arrives is handed on at the end of the step it arrives in, and what is sent leaves with what
others of the same round send. Nobody waits for datagrams: what finds no room is dropped below.
"""

from collections.abc import Callable

import trio

from warren.addresses import Address
from warren.errors import EndReason, ExitError
from warren.network.turn import Turn
from warren.protocol.datagrams import Association, Datagram


class CircuitAssociation:
    """Own one end of an association: its machine, and who is told of what happens to it.

    ``on_news`` is called when datagrams arrived or the association ended; it must not wait.
    """

    def __init__(self, protocol: Association, turn: Turn) -> None:
        self.protocol = protocol
        self.turn = turn
        self.in_turn = False
        self.on_news: Callable[[], None] | None = None
        self._news: trio.Event | None = None
        protocol.on_news = self._on_news

    def __repr__(self) -> str:
        return f"<CircuitAssociation {self.protocol!r}>"

    @property
    def is_ended(self) -> bool:
        """Tell whether it is over, or about to be."""
        return self.protocol.is_ended

    @property
    def reason(self) -> EndReason | None:
        """Return why it ended, or None while it has not."""
        return self.protocol.reason

    def _on_news(self) -> None:
        self.turn.add(self)

    def flush(self) -> None:
        """Tell whoever waits that something arrived."""
        if self.on_news is not None:
            self.on_news()
        if self._news is not None:
            self._news.set()
            self._news = None

    def send(self, address: Address, data: bytes | memoryview) -> None:
        """Queue a datagram of at most 1472 bytes; the oldest one is dropped for it if need be."""
        self.protocol.send(address, data)
        self.turn.run_soon()

    def take(self) -> list[Datagram]:
        """Return what arrived since the last time, the oldest first."""
        return self.protocol.take()

    def end(self, reason: EndReason = EndReason.MISC) -> None:
        """End it; what was sent goes first."""
        self.protocol.end(reason)
        self._on_news()
        self.turn.run()

    async def wait_connected(self) -> None:
        """Wait until the far end has it; raise ExitError when it refuses instead."""
        while self.protocol.connected is None:
            if self.is_ended:
                raise ExitError(self.reason or EndReason.MISC)
            await self._wait_news()

    async def wait_ended(self) -> None:
        """Wait until it is over."""
        while not self.is_ended:
            await self._wait_news()

    async def _wait_news(self) -> None:
        if self._news is None:
            self._news = trio.Event()
        await self._news.wait()
