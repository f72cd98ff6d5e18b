"""Watches whether the network lists this relay, and says what to do when it does not.

A relay behind a router or a firewall notices nothing by itself: it dials, fetches, publishes, and
waits for those who cannot come. What it can see of their side is whether an authority took its
descriptor, whether anybody has linked to it, and whether consensuses made since then list it.
What is wrong is logged when it is found out, and once an hour while it lasts.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
import trio

from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.crowds import crowd_around
from warren.identity import PeerId
from warren.roles.archive import Archive

logger = structlog.get_logger()

LOOK_SECONDS = 10.0
#: How long authorities may take: they look for a relay at once, each for 10 s, some at a time.
PATIENCE_SECONDS = 120.0
REMINDER_SECONDS = 3600.0
#: The first one that comes may have been voted on before anybody looked.
_CONSENSUSES_TO_BE_LISTED = 2

NOT_TAKEN = "no authority has taken this relay's descriptor, so nobody knows of it"
NOT_REACHED = (
    "nobody has connected to this relay, so the network does not list it: open its port in the "
    "firewall, let a router pass it on to this machine, or correct address in the configuration"
)
ELSEWHERE = (
    "the network lists this relay at another address: another process has a copy of its identity, "
    "and needs one of its own"
)
CROWDED = (
    "the network does not list this relay, because it lists {} already, and no more are listed of "
    "one address or network: move this one to another network"
)
NOT_LISTED = "the network does not list this relay: more than half of the authorities must reach it"


def _no_trouble() -> str | None:
    return None


class Published(Protocol):
    """Tell how publishing went: see ``publisher.Publisher``."""

    uploads: int
    last_error: str


@dataclass(frozen=True)
class Signs:
    """Hold what can be known here of how others see this relay; ``seconds`` since it began."""

    seconds: float
    is_taken: bool
    is_reached: bool
    is_listed: bool
    is_elsewhere: bool  # listed, but not here
    was_listed: bool
    consensuses: int  # that came after an authority had taken the descriptor
    crowd: str | None = None  # which others leave no place for it
    clock: str | None = None  # what is wrong with the clock here, and makes descriptors worthless

    def trouble(self) -> str | None:
        """Return what keeps this relay from being of use, as far as one can tell; or None."""
        if self.is_listed:
            return None
        if self.clock is not None:
            return self.clock
        if self.was_listed:
            return self._reason()
        if self.seconds < PATIENCE_SECONDS:
            return None
        if not self.is_taken:
            return NOT_TAKEN
        if not self.is_reached:
            return NOT_REACHED
        if self.consensuses < _CONSENSUSES_TO_BE_LISTED:
            return None
        return self._reason()

    def _reason(self) -> str:
        if self.is_elsewhere:
            return ELSEWHERE
        return NOT_LISTED if self.crowd is None else CROWDED.format(self.crowd)


class ListingWatch:
    """Own what the operator has been told of this relay's place in the network."""

    def __init__(
        self,
        archive: Archive,
        own_id: PeerId,
        address: Address,
        published: Published,
        count_links: Callable[[], Awaitable[int]],
        tell_clock_trouble: Callable[[], str | None] = _no_trouble,
    ) -> None:
        """Watch from now on; `count_links` tells how many peers have linked to this relay.

        `tell_clock_trouble` logs and returns what is wrong with the clock here, if it is (DIR-9).
        """
        self._archive = archive
        self._own_id = own_id
        self._address = address
        self._published = published
        self._count_links = count_links
        self._tell_clock_trouble = tell_clock_trouble
        self._began_at = trio.current_time()
        self._was_listed = False
        self._consensuses = 0
        self._trouble: str | None = None
        self._told: tuple[str | None, float] = (None, float("-inf"))  # what, and when
        archive.on_change.append(self._count)

    def _place(self) -> Address | None:
        """Return where the newest consensus lists this relay, if it does."""
        newest = self._archive.newest
        entry = newest.get(self._own_id) if newest is not None else None
        return entry.hop.address if entry is not None else None

    def _crowd(self) -> str | None:
        """Return which relays have the places at this address or in its network (DIR-11)."""
        newest, ip = self._archive.newest, self._address.ip
        if newest is None or ip is None or self._archive.network.testing:
            return None
        others = (entry.hop.address.ip for entry in newest.relays if entry.peer_id != self._own_id)
        return crowd_around(ip, [other for other in others if other is not None])

    async def run(self) -> None:
        """Look every few seconds whether something is wrong; until cancelled."""
        while True:
            await self._look()
            await trio.sleep(LOOK_SECONDS)

    def statistics(self) -> dict[str, Any]:
        """Return whether the network lists this relay, and what it may be that keeps it out."""
        return {"listed": self._place() == self._address, "trouble": self._trouble}

    def _count(self, _: Consensus) -> None:
        if self._published.uploads:
            self._consensuses += 1

    async def _look(self) -> None:
        place = self._place()
        is_listed = place == self._address
        if is_listed and not self._was_listed:
            logger.info("the network lists this relay", address=str(self._address))
        signs = Signs(
            seconds=trio.current_time() - self._began_at,
            is_taken=self._published.uploads > 0,
            is_reached=is_listed or await self._count_links() > 0,
            is_listed=is_listed,
            is_elsewhere=place is not None and not is_listed,
            was_listed=self._was_listed,
            consensuses=self._consensuses,
            crowd=None if is_listed else self._crowd(),
            clock=None if is_listed else self._tell_clock_trouble(),
        )
        self._was_listed |= is_listed
        self._trouble = signs.trouble()
        if self._trouble is not None and self._trouble != signs.clock:
            self._tell(self._trouble)

    def _tell(self, trouble: str) -> None:
        """Log what is wrong, unless that was done less than an hour ago."""
        told, at = self._told
        now = trio.current_time()
        if trouble == told and now < at + REMINDER_SECONDS:
            return
        self._told = (trouble, now)
        error = {"error": self._published.last_error} if trouble == NOT_TAKEN else {}
        logger.warning(trouble, address=str(self._address), **error)
