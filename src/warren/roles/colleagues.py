"""The other authorities of a network, as one of them talks to them.

Every talk has its own task and its own deadline: one that is down refuses at once, one that
hangs is given up when its time is over, and neither holds up the rest.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from warren.directory.consensus import CONSENSUS_LIMIT
from warren.errors import WarrenError
from warren.identity import Hop, PeerId
from warren.roles.background import Background
from warren.roles.mirror import CONSENSUS_PATH, Fetch

logger = structlog.get_logger()

#: How long each has for a question outside the schedule.
ASK_SECONDS = 5.0

Take = Callable[[bytes], object]


class Colleagues:
    """Send to and ask the other authorities, all at once or in turn."""

    def __init__(self, others: Sequence[Hop], fetch: Fetch, now: Callable[[], float]) -> None:
        self._others = others
        self._fetch = fetch
        self._now = now

    def tell(self, background: Background, path: str, body: bytes, until: float) -> None:
        """Begin to POST `body` to all of them, and give up at `until` (Unix seconds)."""
        for hop in self._others:
            background.start(self._tell_one, hop, path, body, until)

    async def ask_in_turn(
        self, path: str, limit: int, take: Take, until: float, *, first: PeerId | None = None
    ) -> None:
        """GET `path` from one after the other until `take` accepts an answer.

        Begins with `first`. The time until `until` is shared out equally among those left.
        """
        order = sorted(self._others, key=lambda hop: hop.peer_id != first)
        for number, hop in enumerate(order):
            share = self._seconds_until(until) / (len(order) - number)
            if await self._ask_one(hop, path, limit, take, share):
                return

    async def ask_all(self, path: str, limit: int, take: Take, until: float) -> None:
        """GET `path` from all of them at once and give `take` every answer."""
        seconds = self._seconds_until(until)
        async with trio.open_nursery() as nursery:
            for hop in self._others:
                nursery.start_soon(self._ask_one, hop, path, limit, take, seconds)

    async def ask_for_consensus(self, take: Take) -> None:
        """Give `take` the newest consensus of each that answers within 5 s."""
        await self.ask_all(CONSENSUS_PATH, CONSENSUS_LIMIT, take, self._now() + ASK_SECONDS)

    async def _tell_one(self, hop: Hop, path: str, body: bytes, until: float) -> None:
        with trio.move_on_after(self._seconds_until(until)):
            await self._fetch(hop, "POST", path, body, limit=0)

    async def _ask_one(self, hop: Hop, path: str, limit: int, take: Take, seconds: float) -> bool:
        """Tell whether `hop` gave something that `take` accepted."""
        with trio.move_on_after(seconds):
            try:
                take(await self._fetch(hop, "GET", path, b"", limit=limit))
            except WarrenError as error:
                logger.debug("! no answer", relay=repr(hop.peer_id), path=path, error=str(error))
            except Exception:  # DOS-1: one answer must not cost those of the others
                logger.exception("a bug in a question to an authority", path=path)
            else:
                return True
        return False

    def _seconds_until(self, time: float) -> float:
        return max(0.0, time - self._now())
