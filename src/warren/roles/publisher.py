"""Publish what a relay is: make its descriptor, bring it to every authority, again in time.

Keys change here too, because a new key is worth nothing before it is published: it is on the disk
first (HS-4), then in a descriptor. The key before it is accepted until the consensus has listed
the new one for two days (protocol §1).
"""

import random
from collections.abc import Callable

import structlog
import trio

from warren.directory.consensus import Consensus
from warren.directory.descriptor import Descriptor, sign_descriptor
from warren.directory.parameters import DAY
from warren.errors import TooSoon, WarrenError
from warren.identity import Hop, KeyPair
from warren.key_files import KeyFiles, Rotating, RotatingKeys
from warren.network.link import RelayKeys
from warren.roles.archive import Archive
from warren.roles.backoff import Backoff
from warren.roles.directory_door import DESCRIPTOR_PATH
from warren.roles.mirror import Fetch

logger = structlog.get_logger()

LIFETIME_SECONDS: dict[Rotating, int] = {"link": 30 * DAY, "onion": 7 * DAY}
OVERLAP_SECONDS = 2 * DAY
UPLOAD_SECONDS = 10.0
_UPKEEP_SECONDS = 3600.0
#: How often it is looked whether the clock was set, and by how much it must have been.
_CLOCK_SECONDS = 30.0

#: Makes the descriptor to publish, from the keys as they are, the time and a counter.
MakeDescriptor = Callable[[RelayKeys, int, int], Descriptor]


class Publisher:
    """Own the published side of a relay: its descriptor's counter and the age of its keys."""

    def __init__(
        self,
        keys: RelayKeys,
        files: KeyFiles,
        archive: Archive,
        fetch: Fetch,
        make_descriptor: MakeDescriptor,
        *,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._keys = keys
        self._files = files
        self._archive = archive
        self._fetch = fetch
        self._make_descriptor = make_descriptor
        self._now = now
        self._rng = rng
        self._counter = 0
        self._listed_since: dict[Rotating, float] = {}
        #: Called when link or onion keys were replaced, before the new ones are published.
        self.on_new_keys: list[Callable[[RelayKeys], None]] = []
        self._changed = trio.Event()
        self.uploads = self.failures = 0
        #: Why an authority did not take the descriptor, the last time one did not.
        self.last_error = ""

    def publish_soon(self) -> None:
        """Publish again at the next occasion: something in the descriptor changed."""
        self._changed.set()

    async def run(self) -> None:
        """Publish now and whenever it is due; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._change_keys)
            while True:
                self._changed = trio.Event()
                document = self._new_document()
                async with trio.open_nursery() as uploads:
                    for authority in self._archive.network.authorities:
                        uploads.start_soon(self._upload, authority.hop, document)
                    await self._wait_until_due()
                    uploads.cancel_scope.cancel()

    async def _wait_until_due(self) -> None:
        """Wait for a change, or the descriptor's age; or until the wall clock was set.

        What was dated by a wrong clock is refused, however often it is sent.
        """
        seconds = self._archive.network.parameters.descriptor_interval_seconds
        end, start = trio.current_time() + seconds, self._now() - trio.current_time()
        while (left := end - trio.current_time()) > 0:
            with trio.move_on_after(min(left, _CLOCK_SECONDS)):
                await self._changed.wait()
                return
            if abs(self._now() - trio.current_time() - start) > _CLOCK_SECONDS:
                return

    def _new_document(self) -> bytes:
        self._counter += 1
        descriptor = self._make_descriptor(self._keys, int(self._now()), self._counter)
        network_id = self._archive.network.network_id
        return sign_descriptor(descriptor, self._keys.identity, network_id)

    async def _upload(self, hop: Hop, document: bytes) -> None:
        """Bring the descriptor to one authority, however often it takes, when it wants it."""
        backoff = Backoff(self._rng, first=0.25, most=60.0)
        while True:
            wait = 0.0
            try:
                with trio.fail_after(UPLOAD_SECONDS):
                    await self._fetch(hop, "POST", DESCRIPTOR_PATH, document, limit=1024)
            except TooSoon as error:
                self.last_error, wait = str(error), error.seconds
            except (WarrenError, trio.TooSlowError) as error:
                self.failures += 1
                self.last_error = str(error) or "too slow"
                logger.debug("! upload", relay=repr(hop), error=self.last_error)
            except Exception:  # DOS-1: an authority's answer must not end the relay
                self.failures += 1
                logger.exception("a bug while publishing", relay=repr(hop))
            else:
                self.uploads += 1
                return
            await trio.sleep(wait + backoff.next_wait())

    async def _change_keys(self) -> None:
        while True:
            await trio.sleep(_UPKEEP_SECONDS)
            now = self._now()
            self._change_key("link", self._keys.link_keys, now)
            self._change_key("onion", self._keys.onion_keys, now)

    def _change_key(self, name: Rotating, pairs: list[KeyPair], now: float) -> None:
        try:
            held = self._held(name, pairs, now)
            age = now - held.since
            if age > LIFETIME_SECONDS[name]:
                self._use(pairs, self._files.rotate(name, now))
                self._listed_since.pop(name, None)
                self.publish_soon()
            elif held.previous is not None and self._has_been_listed(name, now):
                self._use(pairs, self._files.retire(name, now))
        except WarrenError as error:  # a full disk: the old key goes on
            logger.warning("a key could not be changed", key=name, error=str(error))

    def _held(self, name: Rotating, pairs: list[KeyPair], now: float) -> RotatingKeys:
        """Return the keys in use and their date, in the past; bring the file in line with them.

        It may have been damaged or lost meanwhile, or written while the clock was wrong.
        """
        held = self._files.load(name, now)
        current, *previous = pairs
        keys = RotatingKeys(current, previous[0] if previous else None, min(held.since, now))
        return held if held == keys else self._files.save(name, keys)

    def _use(self, pairs: list[KeyPair], keys: RotatingKeys) -> None:
        pairs[:] = keys.pairs
        for callback in self.on_new_keys:
            callback(self._keys)

    def _has_been_listed(self, name: Rotating, now: float) -> bool:
        """Tell whether consensuses have listed the current key for two days.

        After a restart the two days begin again: an old key kept too long is harmless.
        """
        if not self._is_listed(name):
            return False
        return now - self._listed_since.setdefault(name, now) > OVERLAP_SECONDS

    def _is_listed(self, name: Rotating) -> bool:
        consensus: Consensus | None = self._archive.current
        entry = consensus.get(self._keys.identity.peer_id) if consensus is not None else None
        if entry is None:
            return False
        listed = entry.hop.link_key if name == "link" else entry.hop.onion_key
        current = self._keys.link_keys if name == "link" else self._keys.onion_keys
        return listed == current[0].public

    def statistics(self) -> dict[str, object]:
        """Return how often the descriptor was taken and refused, and why the last time."""
        return {
            "uploads": self.uploads,
            "upload_failures": self.failures,
            "last_error": self.last_error or None,
        }
