"""Links to guards: each is dialled once, whoever waits for it, and the next one when it is slow.

A host that is switched off says nothing, and a dial to it takes as long as a dial may. So after
some seconds another of the primary guards, if one may be tried, is the better way; the dial goes
on beside it, and what comes of it the guards learn as they do of any other.
"""

import trio

from warren.directory.relays import RelayEntry
from warren.errors import LinkError
from warren.identity import PeerId
from warren.network.link import Link
from warren.network.links import Links
from warren.roles.background import Background
from warren.roles.guard_keeper import GuardKeeper

#: Of a dial that was not answered, before another guard is tried beside it.
SLOW_SECONDS = 3.0


class _Dial:
    """Share one dial to a guard among all who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: LinkError | None = None


class GuardLinks:
    """Own the dials to guards that are under way."""

    def __init__(self, links: Links, guards: GuardKeeper) -> None:
        self._links = links
        self._guards = guards
        self._dials: dict[PeerId, _Dial] = {}
        self._background = Background(links.turn.nursery)

    async def get(self, guard: RelayEntry) -> Link:
        """Find or dial the link to `guard`, and let the guards learn how it went.

        Waits until it is there, or cannot be had, or another guard is worth a try. Raises
        LinkError in both of these cases.
        """
        peer_id = guard.peer_id
        while (link := self._links.find(peer_id, is_anonymous=True)) is None:
            dial = self._dials.get(peer_id)
            if dial is None:
                dial = self._dials[peer_id] = _Dial()
                self._background.start(self._dial, guard, dial)
            with trio.move_on_after(SLOW_SECONDS):
                await dial.done.wait()
            if dial.failure is not None:
                raise LinkError(str(dial.failure), is_local=dial.failure.is_local)
            if not dial.done.is_set() and self._guards.has_better(peer_id):
                self._guards.slow(peer_id)
                raise LinkError(f"no link to {guard.hop!r} yet")
        return link

    async def _dial(self, guard: RelayEntry, dial: _Dial) -> None:
        guards, peer_id = self._guards, guard.peer_id
        guards.contacted(peer_id)
        try:
            await self._links.get(guard.hop, is_anonymous=True)
            guards.succeeded(peer_id)
        except LinkError as error:
            dial.failure = error
            if not error.is_local:
                guards.failed(peer_id)
        finally:
            guards.slow(peer_id, is_slow=False)
            del self._dials[peer_id]
            dial.done.set()
