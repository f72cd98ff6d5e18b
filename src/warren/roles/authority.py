"""An authority: collect descriptors, look whether relays can be reached, vote, count, sign.

The authorities are equals that trust no single one of themselves. Each sends its vote to all
others, asks for those it misses, counts by itself, and signs what it counted; what `threshold`
of them signed alike is the consensus. Every talk with another authority has its own task and
deadline, so that one that is down, or accepts and never answers, costs nothing but its vote.
The times are those of ``directory.schedule``; a period that was missed is left to the others::

    POST /descriptor                     a relay's signed descriptor
    POST /vote  /signature               from the other authorities
    GET  /vote/VALID-AFTER/PEER          the vote of an authority, from whoever has it
    GET  /signatures/VALID-AFTER         all signatures known here
    GET  /consensus …                    as from any mirror
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import trio

from warren.directory.consensus import NO_DIGEST, content_digest
from warren.directory.descriptor import DESCRIPTOR_LIMIT, DescriptorReader
from warren.directory.network_file import NetworkFile
from warren.directory.relays import UNKNOWN_COUNTRY
from warren.directory.schedule import Period, next_period
from warren.directory.signatures import SIGNATURE_SIZE, read_signatures, sign_consensus
from warren.directory.votes import VOTE_LIMIT, Vote, read_vote, sign_vote
from warren.errors import ConfigError, DirectoryError, ProtocolError, WarrenError
from warren.identity import Identity, PeerId
from warren.network.directory_http import Response
from warren.roles.archive import Archive
from warren.roles.background import Background
from warren.roles.ballot import Ballot
from warren.roles.colleagues import Colleagues
from warren.roles.directory_door import DESCRIPTOR_PATH
from warren.roles.mirror import NOT_FOUND, Fetch, Mirror, consensus_statistics
from warren.roles.reachability import Check, CheckThrough, Reachability
from warren.roles.relay_book import CountryOf, RelayBook
from warren.roles.signing_record import SigningRecord
from warren.storage import DataFolder

logger = structlog.get_logger()

#: What each path may be sent; for ``directory_http.serve``.
BODY_LIMITS = {
    DESCRIPTOR_PATH: DESCRIPTOR_LIMIT,
    "/vote": VOTE_LIMIT,
    "/signature": SIGNATURE_SIZE,
}
MOST_LARGE_BODIES = 8
MOST_EVIDENCE = 16
_LONGEST_SLEEP = 10.0
_LEARN_BATCH = 32
_VOTE_FILE = "vote"


def _nowhere(_: object) -> str:
    return UNKNOWN_COUNTRY


class Authority:
    """Own one authority's part in making consensuses, until ``run`` is cancelled."""

    def __init__(
        self,
        identity: Identity,
        archive: Archive,
        folder: DataFolder,
        fetch: Fetch,
        check: Check,
        *,
        now: Callable[[], float],
        country_of: CountryOf = _nowhere,
        check_through: CheckThrough | None = None,
    ) -> None:
        """Load what the last run left in `folder`.

        `check` is tried with a deadline of 10 s. Raises ConfigError when `identity` is no
        authority of the archive's network, or when the record of signatures is damaged (DIR-5).
        """
        self.network: NetworkFile = archive.network
        if identity.peer_id not in self.network.authority_ids:
            raise ConfigError(
                f"the identity {identity.peer_id} is not among the authorities of network "
                f"{self.network.name!r}: use the right key, or add it to the network file"
            )
        #: At most so many votes arrive at a time; for ``directory_http.serve``.
        self.large_bodies = trio.CapacityLimiter(MOST_LARGE_BODIES)
        self._identity = identity
        self._archive = archive
        self._folder = folder
        self._now = now
        self._country_of = country_of
        self._reader = DescriptorReader(self.network.network_id)
        self._book = RelayBook(self.network, self._reader)
        self._reachability = Reachability(
            self._book,
            check,
            check_through,
            now=now,
            pause_seconds=min(1.0, self.network.parameters.consensus_interval_seconds / 20),
        )
        hops = [authority.hop for authority in self.network.authorities]
        others = [hop for hop in hops if hop.peer_id != identity.peer_id]
        self._colleagues = Colleagues(others, fetch, now)
        self._mirror = Mirror(archive)
        self._record = SigningRecord(folder)
        self._ballots: list[Ballot] = []  # the one in the making, and the one before it
        self._own_vote: tuple[int, bytes] | None = None
        self._background: Background | None = None
        self._trouble: str | None = None  # since the last consensus that this authority made
        self._counts = {"consensuses_made": 0, "consensuses_missed": 0, "descriptors": 0}
        self._load_vote()

    # ---- the schedule

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check relays and make consensuses, until cancelled."""
        async with trio.open_nursery() as nursery:
            background = self._background = Background(nursery)
            nursery.start_soon(self._reachability.run, background)
            task_status.started()
            await self._colleagues.ask_for_consensus(self._archive.offer)
            while True:
                await self._make_consensus(background)

    async def _make_consensus(self, background: Background) -> None:
        """Go through one period, step by step; a failed step leaves the others their chance."""
        period = next_period(self._now(), self._archive.newest, self.network.parameters)
        ballot = Ballot(period, self.network)
        self._ballots = [ballot, *self._ballots[:1]]
        self._reader.begin_period()
        steps: Sequence[tuple[float, Callable[[Ballot, Background], None]]] = (
            (period.vote_at, self._vote),
            (period.fetch_at, self._fetch_votes),
            (period.sign_at, self._sign),
            (period.collect_at, self._fetch_signatures),
            (period.valid_after, self._finish),
        )
        for time, step in steps:
            if not await self._wait_until(time):
                logger.warning("the clock went back: leaving out a consensus")
                return
            try:
                step(ballot, background)
            except WarrenError as error:
                self._trouble = str(error)
                # While a network is being founded, waiting for relays is no news.
                level = "info" if self._archive.newest is None else "warning"
                getattr(logger, level)(str(error), valid_after=period.valid_after)
            except Exception:  # DOS-1: a bug in one step must not end the authority
                logger.exception("a bug in a step of voting")

    async def _wait_until(self, time: float) -> bool:
        """Sleep until `time`; False when the wall clock was set back meanwhile.

        When it was set forward, or the machine slept, the steps are late: the others refuse them.
        """
        longest = time - self._now()
        while (left := time - self._now()) > 0:
            if left > longest + _LONGEST_SLEEP:
                return False
            await trio.sleep(min(left, _LONGEST_SLEEP))
        return True

    # ---- the steps of a period

    def _vote(self, ballot: Ballot, background: Background) -> None:
        now = self._now()
        self._book.forget_stale(now)
        if self._own_vote is not None and self._own_vote[0] == ballot.valid_after:
            document = self._own_vote[1]  # cast before a restart: never two different ones
        else:
            document = self._new_vote(ballot.valid_after, now)
            self._folder.keep(_VOTE_FILE, document)
            self._own_vote = ballot.valid_after, document
        ballot.add_vote(document)
        self._colleagues.tell(background, "/vote", document, ballot.period.sign_at)

    def _new_vote(self, valid_after: int, now: float) -> bytes:
        newest = self._archive.newest
        vote = Vote(
            authority=self._identity.peer_id,
            valid_after=valid_after,
            parameters=self.network.parameters.to_mapping(),
            previous_digest=newest.digest if newest else NO_DIGEST,
            opinions=self._book.opinions(now, self._country_of, self._is_listed),
        )
        return sign_vote(vote, self._identity, self.network.network_id)

    def _is_listed(self, peer_id: PeerId) -> bool:
        newest = self._archive.newest
        return newest is not None and newest.get(peer_id) is not None

    def _fetch_votes(self, ballot: Ballot, background: Background) -> None:
        """Ask for the votes not here: an authority that is down for us may not be for others."""
        for peer_id in ballot.without_vote():
            path = f"/vote/{ballot.valid_after}/{peer_id}"
            take = partial(self._take_vote, ballot=ballot)
            ask = partial(self._colleagues.ask_in_turn, first=peer_id)
            background.start(ask, path, VOTE_LIMIT, take, ballot.period.sign_at)

    def _sign(self, ballot: Ballot, background: Background) -> None:
        content = ballot.count(self._reader.read)
        # DIR-5: on the disk before the signature leaves; raises when another one is there.
        self._record.commit(ballot.valid_after, content_digest(content))
        signature = sign_consensus(
            ballot.valid_after, content, self._identity, self.network.network_id
        )
        ballot.add_signature(signature)
        self._colleagues.tell(background, "/signature", signature.encode(), ballot.valid_after)

    def _fetch_signatures(self, ballot: Ballot, background: Background) -> None:
        if ballot.content is not None and ballot.without_signature():
            path = f"/signatures/{ballot.valid_after}"
            limit = SIGNATURE_SIZE * len(self.network.authorities)
            take = self._take_signatures
            background.start(self._colleagues.ask_all, path, limit, take, ballot.valid_after)

    def _finish(self, ballot: Ballot, background: Background) -> None:
        try:
            self._publish(ballot)
        except DirectoryError as error:
            self._counts["consensuses_missed"] += 1
            background.start(self._catch_up, ballot.period)
            if ballot.content is not None:  # why there is none was said when it was counted
                raise DirectoryError(f"no consensus: {error}") from None

    def _publish(self, ballot: Ballot) -> None:
        """Make the consensus ours and everybody's, if enough have signed it."""
        self._archive.offer(ballot.document())
        self._counts["consensuses_made"] += 1
        self._trouble = None

    async def _catch_up(self, period: Period) -> None:
        """Take the consensus that the others may have come to; they need a moment to publish."""
        await trio.sleep(period.valid_after - period.collect_at)
        await self._colleagues.ask_for_consensus(self._archive.offer)

    # ---- what the others send

    async def handle(self, method: str, path: str, body: bytes) -> Response:
        """Answer one request; a ``directory_http.Handler``."""
        match method, path.split("/")[1:]:
            case "POST", ["descriptor"]:
                self._take_descriptor(body)
            case "POST", ["vote"]:
                self._take_vote(body)
            case "POST", ["signature"]:
                self._take_signatures(body)
            case "GET", ["vote", time, peer]:
                return self._found(self._vote_of(time, peer))
            case "GET", ["signatures", time]:
                ballot = self._ballot_for(time)
                return self._found(ballot.signatures() if ballot else None)
            case _:
                return await self._mirror.handle(method, path, body)
        return Response()

    def _take_descriptor(self, document: bytes) -> None:
        if self._book.upload(document, self._now()):
            self._counts["descriptors"] += 1
            self._reachability.wake()

    def _take_vote(self, document: bytes, ballot: Ballot | None = None) -> None:
        """Take a vote for the consensus in the making, and learn the relays in it."""
        ballot = ballot or next(iter(self._ballots), None)
        if ballot is None:
            raise DirectoryError("this authority has only just started")
        try:
            vote = ballot.add_vote(document)
        except DirectoryError:
            self._keep_evidence(ballot)
            raise
        if vote is not None and self._background is not None:
            self._background.start(self._learn, vote)

    def _take_signatures(self, data: bytes) -> None:
        for signature in read_signatures(data, self.network):
            ballot = self._ballot_for(str(signature.valid_after))
            if ballot is None:
                raise DirectoryError("a signature for no consensus in the making")
            ballot.add_signature(signature)
            if self._is_late_for(ballot):
                with suppress(DirectoryError):  # still too few
                    self._publish(ballot)

    def _is_late_for(self, ballot: Ballot) -> bool:
        newest = self._archive.newest
        is_behind = newest is None or newest.valid_after < ballot.valid_after
        return is_behind and self._now() >= ballot.valid_after

    def _vote_of(self, time: str, peer: str) -> bytes | None:
        ballot = self._ballot_for(time)
        wanted = (p for p in self.network.authority_ids if str(p) == peer)
        peer_id = next(wanted, None)
        return ballot.vote_of(peer_id) if ballot and peer_id else None

    def _ballot_for(self, time: str) -> Ballot | None:
        return next((b for b in self._ballots if str(b.valid_after) == time), None)

    @staticmethod
    def _found(content: bytes | None) -> Response:
        return NOT_FOUND if content is None else Response(200, content)

    # ---- relays

    async def _learn(self, vote: Vote) -> None:
        """Take over the descriptors of another authority's vote, a few at a time."""
        for number, opinion in enumerate(vote.opinions):
            if number % _LEARN_BATCH == 0:
                await trio.lowlevel.checkpoint()
            self._learn_one(opinion.descriptor)
        self._reachability.wake()

    def _learn_one(self, document: bytes) -> None:
        try:
            self._book.learn(document, self._now())
        except (ProtocolError, DirectoryError) as error:
            logger.debug("! a descriptor in a vote", error=str(error))

    # ---- what outlives a restart

    def _load_vote(self) -> None:
        """Begin with the relays of our last vote, each to be checked again."""
        loaded = self._folder.load(
            _VOTE_FILE, lambda document: (read_vote(document, self.network), document)
        )
        if loaded is None:
            return
        vote, document = loaded
        self._own_vote = vote.valid_after, document
        for opinion in vote.opinions:
            self._learn_one(opinion.descriptor)

    def _keep_evidence(self, ballot: Ballot) -> None:
        """Write down votes of authorities that cast two different ones (DIR-10)."""
        kept = self._folder.names("evidence-*")
        for peer_id, second in ballot.evidence.items():
            name = f"evidence-{ballot.valid_after}-{str(peer_id)[:8]}"
            first = ballot.vote_of(peer_id)
            assert first is not None
            if f"{name}-a" not in kept and len(kept) < 2 * MOST_EVIDENCE:
                logger.error("an authority cast two different votes", relay=repr(peer_id))
                self._folder.keep(f"{name}-a", first)
                self._folder.keep(f"{name}-b", second)

    def statistics(self) -> dict[str, Any]:
        """Return what ``warren status`` shows of it; times are Unix seconds, 0 for none.

        Votes and signatures are those for the consensus in the making; ``last_count`` is about the
        last one for which votes were counted, and names who cast none.
        """
        ballot = self._ballots[0].statistics() if self._ballots else {}
        return {
            **self._counts,
            **self._book.statistics(),
            **self._mirror.statistics(),
            **ballot,
            **consensus_statistics(self._archive.newest),
            "authorities": len(self.network.authorities),
            "trouble": self._trouble,
            "last_count": self._last_count(),
        }

    def _last_count(self) -> dict[str, Any] | None:
        last = next((ballot for ballot in self._ballots if ballot.is_closed), None)
        if last is None:
            return None
        absent = last.without_vote()
        names = [each.name for each in self.network.authorities if each.hop.peer_id in absent]
        return {"valid_after": last.valid_after, **last.statistics(), "missing": names}
