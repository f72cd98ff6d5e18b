"""Strangers: those who dial us and have not shown yet that they know how to open a link.

They have proved nothing, so they are few, and for seconds only (DOS-2). Whoever does not know how
is met with silence for a while, so that a prober learns nothing (protocol §2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import structlog
import trio

from warren.addresses import host_of
from warren.errors import ProtocolError
from warren.network.byte_streams import ByteStream
from warren.network.evictions import oldest_of_the_busiest
from warren.network.link import HANDSHAKE_SECONDS, LinkSettings
from warren.protocol.handshake import LinkSecrets, accept_link

logger = structlog.get_logger()

MOST_HANDSHAKES = 64
#: Of one address: an honest one is over as soon as its first packet is here, so few are many.
MOST_HANDSHAKES_EACH = 16
MOST_SILENCED = 256


class _Crowd:
    """Own the connections that have proved nothing yet, each in a scope.

    There are at most `most`, and of one host `most_each` where that is given. One more makes room
    for itself: the oldest goes, of its own host or of whichever has most of them, so that one host
    cannot shut all others out (DOS-2).
    """

    def __init__(self, most: int, most_each: int | None = None) -> None:
        self._most, self._most_each = most, most_each
        self._streams: dict[trio.CancelScope, ByteStream] = {}  # oldest first
        self._hosts: dict[trio.CancelScope, str] = {}  # the same

    def __len__(self) -> int:
        return len(self._streams)

    @contextmanager
    def enter(self, stream: ByteStream) -> Iterator[trio.CancelScope]:
        """Count `stream` while inside; to make room it is closed, and the scope cancelled."""
        host = host_of(stream.remote)
        own = [scope for scope, each in self._hosts.items() if each == host]
        if host and self._most_each is not None and len(own) >= self._most_each:
            self._turn_out(own[0])
        elif len(self._streams) >= self._most:
            self._turn_out(oldest_of_the_busiest(self._hosts))
        with trio.CancelScope() as scope:
            self._streams[scope], self._hosts[scope] = stream, host
            try:
                yield scope
            finally:
                self._streams.pop(scope, None)
                self._hosts.pop(scope, None)

    def turn_out_oldest(self, count: int) -> int:
        """Close up to `count`; return how many."""
        oldest = tuple(islice(self._streams, count))
        for scope in oldest:
            self._turn_out(scope)
        return len(oldest)

    def _turn_out(self, scope: trio.CancelScope) -> None:
        scope.cancel()
        del self._hosts[scope]
        self._streams.pop(scope).close()  # now, and not when its task gets to it


class Strangers:
    """Own the connections of those who dial a node and have not shown that they know how.

    ``refused`` counts those who never did.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self.refused = 0
        self._settings = settings
        self._handshaking = _Crowd(MOST_HANDSHAKES, MOST_HANDSHAKES_EACH)
        self._silenced = _Crowd(MOST_SILENCED)

    async def meet(self, stream: ByteStream) -> tuple[LinkSecrets, bytes] | None:
        """Do the responder's handshake; return its secrets, and the bytes that came behind it.

        Waits at most 10 s for that. None when the other side does not know how, after the silence
        it gets, or when it had to make room; whoever called closes `stream`. Raises LinkError when
        it breaks.
        """
        known = None
        with self._handshaking.enter(stream) as scope:
            known = await self._answer(stream)
        if known is None:
            self.refused += 1
            if not scope.cancelled_caught:
                await self._stay_silent(stream)
        return known

    def make_room(self, count: int) -> int:
        """Close up to `count` of those that were met with silence; return how many (DOS-8)."""
        return self._silenced.turn_out_oldest(count)

    async def _answer(self, stream: ByteStream) -> tuple[LinkSecrets, bytes] | None:
        settings = self._settings
        relay = settings.relay
        assert relay is not None
        exchange = accept_link(
            settings.network_id,
            relay.identity.peer_id,
            relay.link_keys,
            settings.keys,
            settings.wall_clock(),
        )
        rest = bytearray()
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                secrets = await stream.converse(exchange, rest)
        except (ProtocolError, trio.TooSlowError) as error:
            logger.debug("! handshake", error=str(error))
            return None
        return secrets, bytes(rest)

    async def _stay_silent(self, stream: ByteStream) -> None:
        """Read and say nothing for a while, so that a prober learns nothing (protocol §2)."""
        waste = bytearray(4096)
        with self._silenced.enter(stream) as scope:
            scope.deadline = trio.current_time() + self._settings.rng.uniform(10, 60)
            while stream.receive_into(waste) != 0:
                await stream.wait_readable()
