"""Keep the consensus current, and give it to whoever asks.

``Directory`` fetches. The first consensus comes from the authorities of the network file; later
ones from mirrors drawn at random, with an authority as the last resort, so that three
authorities can serve any number of peers. The times are drawn at random too, and mirrors go
first (DIR-8). Whoever is asked can only withhold: what comes is verified by the ``Archive``.

``Mirror`` serves. Every relay is one, and every authority. It gives the very bytes that were
verified, and nothing that it would not use itself (DIR-16)::

    GET /consensus                  the newest consensus
    GET /consensus/newer/SECONDS    the same if its valid-after is greater; else 404
"""

import random
from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import Any, Protocol

import structlog
import trio

from warren.directory.clock_hints import clock_trouble
from warren.directory.consensus import (
    CONSENSUS_LIMIT,
    Consensus,
    Flag,
    Verdict,
    WrongTime,
    check_usable,
)
from warren.directory.parameters import HOUR
from warren.errors import WarrenError
from warren.identity import Hop, PeerId
from warren.network.directory_http import Response
from warren.roles.archive import Archive
from warren.roles.backoff import Backoff

logger = structlog.get_logger()

CONSENSUS_PATH = "/consensus"
_NEWER_PATH = "/consensus/newer/"
NOT_FOUND = Response(404, b"not here")

MIRRORS_ASKED = 3
#: T77: how long one peer may take at first; when all were too slow, twice that, and so on.
TRY_SECONDS = 5.0
MOST_TRY_SECONDS = 60.0
#: The part of the time from fresh-until to valid-until in which a newer one is fetched. A client
#: whose consensus has no exit is in the hurry of a mirror: nothing works until another one comes.
_CLIENT_SHARE = 1 / 2
_MIRROR_SHARE = 1 / 8
_LONGEST_SLEEP = 60.0
COMPLAINT_SECONDS = 3600.0
#: How long nobody need be told that there is no consensus at all.
PATIENCE_SECONDS = 10.0

#: What the log and the statistics say is wrong; ``status.text`` knows what to do about each.
NO_CONSENSUS = "no consensus yet: no authority can be reached, or they have made none"
WRONG_CLOCK = "no consensus fits the clock of this machine"
OLD_CONSENSUS = (
    "there is no newer consensus: the authorities are down, or kept from this machine, or its "
    "clock is fast"
)
#: The trouble whose text says by how much the clock is wrong, and ends when that is set.
_CLOCK = "clock"


def _unknown() -> float | None:
    return None


class Fetch(Protocol):
    """Make one directory request to a peer through a circuit of one hop.

    Returns the body of the answer, at most `limit` bytes. Raises a WarrenError when that fails
    or the answer is not 200. Waits as long as the peer does: the caller sets a deadline.
    """

    async def __call__(self, hop: Hop, method: str, path: str, body: bytes, *, limit: int) -> bytes:
        """Make the request."""


class Directory:
    """Own the fetching of consensuses for one node, a client or a relay."""

    def __init__(
        self,
        archive: Archive,
        fetch: Fetch,
        *,
        now: Callable[[], float],
        rng: random.Random,
        own: Container[PeerId] = (),
        is_mirror: bool = False,
        clock_error: Callable[[], float | None] = _unknown,
    ) -> None:
        """Ask through `fetch`; never ask one of `own`. A mirror fetches earlier than a client.

        `clock_error` is ``Peer.clock_error``: how wrong the clock is, as other peers say.
        """
        self.archive = archive
        self._fetch = fetch
        self._now = now
        self._rng = rng
        self._own = own
        self._share = _MIRROR_SHARE if is_mirror else _CLIENT_SHARE
        self._try_seconds = TRY_SECONDS
        self._clock_error = clock_error
        self._wrong_time: WrongTime | None = None  # what one that was offered in this round said
        self._complained_at: dict[str, float] = {}
        self._trouble: str | None = None  # since the last consensus that came
        self._began_at = trio.current_time()
        self._last_error = "too slow"
        self._woken = trio.Event()
        self._asked = 0
        self._failed = 0

    @property
    def current(self) -> Consensus | None:
        """Return the newest consensus if it is usable now."""
        return self.archive.current

    async def wait_for_consensus(self) -> Consensus:
        """Wait until there is a usable consensus and return it; the caller sets a deadline."""
        return await self.archive.wait_for_consensus()

    @property
    def clock_trouble(self) -> str | None:
        """Return what is to be said of a clock that is wrong; None while that is not known."""
        error = self._clock_error()
        return clock_trouble(error) if error is not None else None

    def tell_clock_trouble(self) -> str | None:
        """Return the same, and log it once an hour."""
        trouble = self.clock_trouble
        if trouble is not None:
            self._log(_CLOCK, trouble)
        return trouble

    def look_again(self) -> None:
        """Look at once whether a consensus is due, and ask: clock or network have changed."""
        self._wrong_time = None
        self._woken.set()
        self._woken = trio.Event()

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until ``look_again``."""
        with trio.move_on_after(seconds):
            await self._woken.wait()

    async def run(self) -> None:
        """Fetch whenever a newer consensus is due; until cancelled."""
        interval = self.archive.network.parameters.consensus_interval_seconds
        patient = Backoff(self._rng, first=1.0, most=min(60.0, max(2.0, interval / 2)))
        hasty = Backoff(self._rng, first=0.2, most=2.0)  # nothing works without any consensus
        while True:
            await self._wait_until_due()
            if await self._refresh():
                self._trouble = None
                patient.reset()
                hasty.reset()
            else:
                self._check_time()
                is_hasty = self.archive.newest is None and self._wrong_time is None
                await self._sleep((hasty if is_hasty else patient).next_wait())

    def statistics(self) -> dict[str, Any]:
        """Return what ``warren status`` shows of it; times are Unix seconds, 0 for none."""
        return {
            "requests": self._asked,
            "requests_failed": self._failed,
            "trouble": self.clock_trouble if self._trouble == _CLOCK else self._trouble,
            **consensus_statistics(self.archive.newest),
        }

    async def _wait_until_due(self) -> None:
        """Sleep until the time drawn for the consensus held; the wall clock may jump."""
        drawn = self._rng.random()
        while (newest := self.archive.current) is not None:
            share = self._share if newest.has_exits else _MIRROR_SHARE
            window = newest.valid_until - newest.fresh_until
            left = newest.fresh_until + drawn * share * window - self._now()
            if left <= 0:
                return
            if self._wrong_time is None:  # or no longer, since a clock was set
                self._trouble = None
            await self._sleep(min(left, _LONGEST_SLEEP))

    async def _refresh(self) -> bool:
        """Ask one peer after the other; tell whether a newer consensus came."""
        was_slow = False
        self._wrong_time = None
        for hop in self._peers_to_ask():
            with trio.move_on_after(self._try_seconds) as deadline:
                if await self._ask(hop):
                    return True
            was_slow |= deadline.cancelled_caught
        if was_slow:
            self._try_seconds = min(2 * self._try_seconds, MOST_TRY_SECONDS)
        return False

    def _peers_to_ask(self) -> Iterator[Hop]:
        """Yield mirrors and then an authority, or all authorities first when we know nothing."""
        newest = self.archive.newest
        listed = newest.relays if newest else ()
        mirrors = [
            entry.hop
            for entry in listed
            if Flag.MIRROR in entry.flags and not entry.gateways and entry.peer_id not in self._own
        ]
        chosen = self._rng.sample(mirrors, min(MIRRORS_ASKED, len(mirrors)))
        authorities = [authority.hop for authority in self.archive.network.authorities]
        self._rng.shuffle(authorities)
        if self.archive.current is None:
            yield from authorities
            yield from chosen  # of a consensus that has run out: better than nobody
        else:
            yield from chosen
            yield authorities[0]

    async def _ask(self, hop: Hop) -> bool:
        """Ask one peer; tell whether it gave a newer consensus."""
        newest = self.archive.newest
        path = newer_path(newest.valid_after) if newest else CONSENSUS_PATH
        self._asked += 1
        try:
            document = await self._fetch(hop, "GET", path, b"", limit=CONSENSUS_LIMIT)
            return self.archive.offer(document) is Verdict.NEWER
        except WarrenError as error:
            self._failed += 1
            self._last_error = str(error)
            logger.debug("! no consensus", relay=repr(hop.peer_id), error=str(error))
            if isinstance(error, WrongTime):
                self._wrong_time = error
            return False
        except Exception:  # DOS-1: a bug in one request must not end the node
            self._failed += 1
            logger.exception("a bug in a request for a consensus", relay=repr(hop.peer_id))
            return False

    def _check_time(self) -> None:
        """Complain when nobody has a newer consensus, and this one cannot be used or is old."""
        newest, now = self.archive.newest, self._now()
        wrong_time = self._wrong_time or (newest and _wrong_time(newest, now))
        if wrong_time is not None:
            self._complain(WRONG_CLOCK, error=str(wrong_time))
        elif newest is None:
            if trio.current_time() >= self._began_at + PATIENCE_SECONDS:
                self._complain(NO_CONSENSUS, error=self._last_error)
        elif now >= newest.fresh_until + (newest.fresh_until - newest.valid_after):  # DIR-13
            self._complain(
                OLD_CONSENSUS,
                old=f"{(now - newest.valid_after) / HOUR:.1f} hours",
                usable_for=f"{(newest.usable_until - now) / HOUR:.1f} hours",
            )

    def _complain(self, what: str, **fields: str) -> None:
        """Say `what` is wrong, once an hour; the statistics have it until a consensus comes.

        If several relays say that the clock is wrong, that is all there is to say, to the one who
        can set it (DIR-9).
        """
        if self.tell_clock_trouble() is not None:
            self._trouble = _CLOCK
        else:
            self._trouble = ": ".join((what, *filter(None, (fields.get("error"),))))
            self._log(what, what, **fields)

    def _log(self, kind: str, text: str, **fields: str) -> None:
        now = trio.current_time()
        if now >= self._complained_at.get(kind, float("-inf")) + COMPLAINT_SECONDS:
            self._complained_at[kind] = now
            logger.warning(text, **fields)


class Mirror:
    """Answer directory requests from an archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._served = 0

    async def handle(self, method: str, path: str, body: bytes) -> Response:
        """Answer one request; a ``directory_http.Handler``."""
        current, document = self._archive.current, self._archive.document
        if method != "GET" or current is None or document is None:
            return NOT_FOUND
        if path != CONSENSUS_PATH:
            held = path.removeprefix(_NEWER_PATH) if path.startswith(_NEWER_PATH) else ""
            is_time = held.isascii() and held.isdigit() and len(held) <= 12
            if not is_time or current.valid_after <= int(held):
                return NOT_FOUND
        self._served += 1
        return Response(200, document)

    def statistics(self) -> dict[str, int]:
        """Return what ``warren status`` shows of it."""
        return {"consensuses_served": self._served}


def consensus_statistics(newest: Consensus | None) -> dict[str, Any]:
    """Return what ``warren status`` shows of the newest consensus; times are Unix seconds."""
    relays = newest.relays if newest else ()
    exits = Counter(entry.country for entry in relays if Flag.EXIT in entry.flags)
    return {
        "consensus_valid_after": newest.valid_after if newest else 0,
        "consensus_valid_until": newest.valid_until if newest else 0,
        "relays_listed": len(relays),
        "exits_by_country": dict(sorted(exits.items())),
    }


def _wrong_time(newest: Consensus, now: float) -> WrongTime | None:
    """Return why `newest` cannot be used at the time `now`, or None when it can."""
    try:
        check_usable(newest, now)
    except WrongTime as error:
        return error
    return None


def newer_path(valid_after: int) -> str:
    """Return the path that asks for a consensus newer than `valid_after`."""
    return f"{_NEWER_PATH}{valid_after}"
