"""The consensuses a node holds: the newest on disk, and in memory all that are still usable.

Whatever comes in, from a mirror, an authority or our own counting, goes through ``offer``, which
verifies it and never goes back to an older one (DIR-6). A consensus is on the disk before it
replaces the one before it (REL-4). When the disk fails, the node goes on from memory.
"""

import math
from collections.abc import Callable

import structlog
import trio

from warren.directory.consensus import Consensus, Verdict, check_usable, compare, read_consensus
from warren.directory.network_file import NetworkFile
from warren.identity import PeerId
from warren.storage import DataFolder

logger = structlog.get_logger()

#: As many as are made in the time an hourly one stays usable (DIR-8).
MOST_HELD = 27
#: Pairs of conflicting consensuses kept as evidence (DIR-7).
MOST_CONFLICTS = 8
#: Where the newest one lies in the folder.
CONSENSUS_FILE = "consensus"

OnChange = Callable[[Consensus], None]


class Archive:
    """Own the consensuses of one network that were verified, newest first."""

    def __init__(
        self, network: NetworkFile, folder: DataFolder | None, now: Callable[[], float]
    ) -> None:
        """Load what the folder holds; `now` gives Unix seconds. A damaged file is set aside.

        Without a folder nothing outlasts the process.
        """
        self.network = network
        self.document: bytes | None = None
        self.on_change: list[OnChange] = []
        self._folder = folder
        self._now = now
        self._held: list[Consensus] = []
        self._usable: tuple[Consensus, ...] = ()
        self._looked_at = self._look_again_at = 0.0  # in between it is as it was
        self._maybe_usable = trio.Event()
        self._conflicts = 0
        self._load()

    @property
    def newest(self) -> Consensus | None:
        """Return the newest consensus ever accepted, usable or not."""
        return self._held[0] if self._held else None

    @property
    def current(self) -> Consensus | None:
        """Return the newest consensus if it is usable now."""
        newest = self.newest
        return newest if newest is not None and newest.is_usable(self._now()) else None

    @property
    def usable(self) -> tuple[Consensus, ...]:
        """Return all consensuses that are usable now, newest first (LNK-4)."""
        now = self._now()
        if not self._looked_at <= now < self._look_again_at:
            held = self._held
            turns = [time for each in held for time in (each.usable_from, each.usable_until)]
            self._usable = tuple(consensus for consensus in held if consensus.is_usable(now))
            self._looked_at = now
            self._look_again_at = min((turn for turn in turns if turn > now), default=math.inf)
        return self._usable

    def knows(self, peer_id: PeerId) -> bool:
        """Tell whether `peer_id` stands in a consensus that is usable now."""
        return any(consensus.get(peer_id) is not None for consensus in self.usable)

    async def wait_for_consensus(self) -> Consensus:
        """Wait until there is a usable consensus and return it; the caller sets a deadline."""
        while (current := self.current) is None:
            await self._maybe_usable.wait()
        return current

    def look_again(self) -> None:
        """Let those who wait for a usable consensus look: the clock may be right now (DIR-9)."""
        self._maybe_usable.set()
        self._maybe_usable = trio.Event()

    def offer(self, document: bytes) -> Verdict:
        """Verify a signed consensus and take it if it is newer than all before.

        Raises ProtocolError when it is malformed, DirectoryError when too few authorities
        signed it or it is not usable at this time.
        """
        if document == self.document:
            return Verdict.SAME
        offered = read_consensus(document, self.network)
        verdict = compare(self.newest, offered)
        if verdict is Verdict.CONFLICT:
            self._keep_evidence(offered, document)
        if verdict is Verdict.NEWER:
            check_usable(offered, self._now())
            self._write(CONSENSUS_FILE, document)
            self._take(offered, document)
        return verdict

    def notice(self, peer_id: PeerId, valid_after: int, digest: bytes) -> None:
        """Hear which consensus a peer holds (READY), and warn when it is another one (DIR-7)."""
        for consensus in self._held:
            if consensus.valid_after == valid_after and consensus.digest != digest:
                logger.warning(
                    "a peer holds a different consensus for the same time: the authorities "
                    "signed two, or it is deceived",
                    relay=repr(peer_id),
                    valid_after=valid_after,
                )

    def _take(self, consensus: Consensus, document: bytes) -> None:
        self._held = [_sharing(consensus, self.newest), *self.usable][:MOST_HELD]
        self._look_again_at = 0.0
        self.document = document
        self.look_again()
        for callback in self.on_change:
            callback(self._held[0])

    def _load(self) -> None:
        if self._folder is None:
            return
        loaded = self._folder.load(
            CONSENSUS_FILE, lambda document: (read_consensus(document, self.network), document)
        )
        if loaded is not None:
            self._take(*loaded)

    def _keep_evidence(self, offered: Consensus, document: bytes) -> None:
        logger.error(
            "the authorities signed two different consensuses for one time; both are kept as "
            "conflict-* in the data folder: please tell the operators of the authorities",
            valid_after=offered.valid_after,
        )
        assert self.document is not None
        if self._conflicts < MOST_CONFLICTS:
            self._conflicts += 1
            self._write(f"conflict-{offered.valid_after}-a", self.document)
            self._write(f"conflict-{offered.valid_after}-b", document)

    def _write(self, name: str, document: bytes) -> None:
        if self._folder is not None:
            self._folder.keep(name, document)

    def __repr__(self) -> str:
        return f"<Archive of {len(self._held)}, newest {self.newest!r}>"


def _sharing(new: Consensus, old: Consensus | None) -> Consensus:
    """Return `new` with the entries it has in common with `old` as the same objects.

    A day of consensuses is mostly the same relays; this way they cost little more than one.
    """
    if old is None:
        return new
    relays = tuple(
        known if (known := old.get(entry.peer_id)) == entry else entry for entry in new.relays
    )
    return Consensus(
        valid_after=new.valid_after,
        fresh_until=new.fresh_until,
        valid_until=new.valid_until,
        relays=relays,
        parameters=new.parameters,
        digest=new.digest,
        previous_digest=new.previous_digest,
    )
