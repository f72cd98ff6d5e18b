"""Keep the guards of a client over restarts, and in step with the consensus.

The decisions are ``directory.guards``'; this is their clock, their chance and their file. A file
that is of no use is set aside and a new sample drawn.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random, SystemRandom

import msgspec
import structlog
import trio

from warren.directory.consensus import Consensus
from warren.directory.guards import GuardSet
from warren.directory.path_bias import Outcome, PathBias, Verdict
from warren.identity import PeerId
from warren.roles.own_relays import OwnRelays
from warren.storage import DataFolder

logger = structlog.get_logger()

_FILE = "guards.json"
#: Circuits after which what became of them is written: each by itself is not worth a flush.
_UNSAVED = 16
#: PATH-4
_COMPLAINTS = {
    Verdict.LOW: "many circuits through a guard fail",
    Verdict.VERY_LOW: "most circuits through a guard fail: it may choose which ones live",
}
#: A guard that has taken no circuit for so long comes behind the other primary ones, for a while.
REFUSED_SECONDS, BUSY_SECONDS = 3.0, 60.0


@dataclass
class _Refusals:
    """Hold when a guard refused circuits `first` and ``last``, with none taken in between."""

    first: float
    last: float = 0.0
    busy_until: float = 0.0


class GuardKeeper:
    """Own the guard set of one client and the file it is kept in."""

    def __init__(
        self,
        folder: DataFolder,
        *,
        own: OwnRelays | None = None,
        rng: Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._own = own or OwnRelays()
        self._left_out: frozenset[PeerId] = frozenset()
        self._rng = rng or SystemRandom()
        self._wall_clock = wall_clock
        self._guards = self._load()
        self._seen: Consensus | None = None
        self._saved = b""
        self._slow: set[PeerId] = set()
        self._uncounted = 0  # circuits that the file does not know of
        self._refusals: dict[PeerId, _Refusals] = {}

    def candidates(self, consensus: Consensus) -> list[PeerId]:
        """Return the guards to try, the one to prefer first; last those that should wait.

        Primary guards that are slow to answer, or take no circuits, come behind those that do.
        """
        now = self._wall_clock()
        own = self._own.within(consensus)
        is_new = consensus is not self._seen or own != self._left_out
        if is_new or self._guards.needs_update(now):
            self._seen, self._left_out = consensus, own
            self._guards.update(consensus, now, self._rng, own)
            self.save()
        ready = self._guards.choose(now)
        found = ready + [peer for peer in self._guards.in_need(now) if peer not in ready]
        if self._slow or self._refusals:
            primary = self.primary
            behind = self._slow | self._busy
            found.sort(key=lambda peer: (peer not in primary, peer in behind))
        return found

    @property
    def _busy(self) -> set[PeerId]:
        """Return the guards that take no circuits just now."""
        now = trio.current_time()
        return {peer for peer, refusals in self._refusals.items() if now < refusals.busy_until}

    @property
    def primary(self) -> list[PeerId]:
        """Return the guards that come first, whether they should wait or not."""
        return self._guards.primary

    @property
    def unanswering(self) -> set[PeerId]:
        """Return the guards that do not answer, or take no circuits: no good middles either.

        One that may be tried again is none of them, but for want of an answer to the last try.
        """
        resting = self._guards.resting(self._wall_clock())
        return (self._slow.union(resting) - (self._may_be_tried() - self._slow)) | self._busy

    @property
    def rest_seconds(self) -> float:
        """Return for how long no guard more may be tried than now; 0 when none has to wait."""
        now = self._wall_clock()
        need = self._guards.next_need(now)
        return 0.0 if need is None else need - now

    def is_ready(self, peer_id: PeerId) -> bool:
        """Tell whether a guard may be tried before there is need, and it is not slow or busy."""
        is_left_alone = peer_id in self._slow | self._busy
        return not is_left_alone and peer_id in self._guards.choose(self._wall_clock())

    def has_better(self, peer_id: PeerId) -> bool:
        """Tell whether another primary guard may be tried that is not slow."""
        found = self._may_be_tried().intersection(self.primary)
        return not found.issubset({*self._slow, peer_id})

    def _may_be_tried(self) -> set[PeerId]:
        now = self._wall_clock()
        return {*self._guards.choose(now), *self._guards.in_need(now)}

    def slow(self, peer_id: PeerId, *, is_slow: bool = True) -> None:
        """Note that the dial to `peer_id` takes long, or is over."""
        if is_slow:
            self._slow.add(peer_id)
        else:
            self._slow.discard(peer_id)

    def refused(self, peer_id: PeerId) -> None:
        """Note that `peer_id` answers, but took no circuit: it has too much to do, perhaps.

        No guard that was not used yet is dialled for it but a primary one (PATH-3).
        """
        now = trio.current_time()
        refusals = self._refusals.get(peer_id)
        if refusals is None or now - refusals.last > BUSY_SECONDS:
            refusals = self._refusals[peer_id] = _Refusals(now)
        refusals.last = now
        if now - refusals.first >= REFUSED_SECONDS:
            refusals.busy_until = now + BUSY_SECONDS

    def took(self, peer_id: PeerId) -> None:
        """Note that `peer_id` took a circuit."""
        self._refusals.pop(peer_id, None)

    def contacted(self, peer_id: PeerId) -> None:
        """Note that `peer_id` is about to be dialled."""
        self._guards.contacted(peer_id, self._wall_clock())
        self.save()

    def succeeded(self, peer_id: PeerId) -> None:
        """Note that there is a link to `peer_id`."""
        self._guards.succeeded(peer_id, self._wall_clock())
        self.save()

    def failed(self, peer_id: PeerId) -> None:
        """Note that no link to `peer_id` could be had."""
        self._guards.failed(peer_id, self._wall_clock())
        self.save()

    def circuit(self, peer_id: PeerId, outcome: Outcome) -> None:
        """Note what became of a circuit through `peer_id`; say so when it is too often bad."""
        bias = self._guards.bias(peer_id)
        if bias is None:
            return
        before = bias.verdict
        bias.note(outcome)
        if bias.verdict < before:
            # Which one it is, is in the status: no log names a guard.
            logger.warning(_COMPLAINTS[bias.verdict], **_shares(bias), see="warren status")
        self._uncounted += 1
        if self._uncounted >= _UNSAVED:
            self.save()

    def interrupted(self) -> None:
        """Forget who failed: the machine slept, or is in another network (T42, T43)."""
        self._guards.network_changed()
        self._refusals.clear()

    def statistics(self) -> dict[str, object]:
        """Return how many guards there are, whether nothing answers, and who is suspected."""
        now = self._wall_clock()
        return {
            "sample": len(self._guards.sample),
            "internet_down": self._guards.is_internet_down(now),
            "biased": [
                {"guard": str(peer_id), "below_percent": int(bias.verdict), **_shares(bias)}
                for peer_id in self._guards.sample
                if (bias := self._guards.bias(peer_id)) and bias.verdict < Verdict.FINE
            ],
        }

    def _load(self) -> GuardSet:
        kept = self._folder.load(_FILE, lambda content: GuardSet.load(msgspec.json.decode(content)))
        return kept or GuardSet()

    def save(self) -> None:
        """Write what has changed since the file was written."""
        self._uncounted = 0
        content = msgspec.json.encode(self._guards.dump())
        if content != self._saved:
            self._saved = content
            self._folder.keep(_FILE, content)


def _shares(bias: PathBias) -> dict[str, int]:
    return {
        "built": bias.builds.succeeded,
        "of_begun": bias.builds.tried,
        "served": bias.uses.succeeded,
        "of_used": bias.uses.tried,
    }
