"""One consensus in the making: the votes for it, what they come to, and who has signed that.

Votes are taken until they are counted, one of each authority; a second, different one is kept
as evidence (DIR-10). Signatures are taken for as long as anybody asks. Sending, asking and
waiting is the authority's business.
"""

from collections.abc import Sequence

from warren.directory.documents import content_hash
from warren.directory.network_file import NetworkFile
from warren.directory.schedule import Period
from warren.directory.signatures import DetachedSignature, combine
from warren.directory.tally import ReadDescriptor, count_votes
from warren.directory.votes import Vote, read_vote
from warren.errors import DirectoryError
from warren.identity import PeerId


class Ballot:
    """Own the votes and signatures for one period."""

    def __init__(self, period: Period, network: NetworkFile) -> None:
        self.period = period
        self.content: bytes | None = None
        self.is_closed = False
        #: The second, different votes of authorities that cast two.
        self.evidence: dict[PeerId, bytes] = {}
        self._network = network
        self._documents: dict[PeerId, bytes] = {}
        self._votes: dict[PeerId, Vote] = {}
        self._signatures: dict[PeerId, DetachedSignature] = {}
        self._hashed: bytes | None = None

    @property
    def valid_after(self) -> int:
        """Return the time from which the consensus is to be valid."""
        return self.period.valid_after

    def add_vote(self, document: bytes) -> Vote | None:
        """Take a signed vote and return it; None when it is here already.

        Raises ProtocolError when it is malformed, and DirectoryError when it is for another
        time, comes after the count, or differs from the one its authority has cast before.
        """
        if document in self._documents.values():
            return None
        vote = read_vote(document, self._network)
        if vote.valid_after != self.valid_after:
            raise DirectoryError(
                f"a vote for {vote.valid_after}, but this is about {self.valid_after}"
            )
        if vote.authority in self._votes:
            self.evidence.setdefault(vote.authority, document)
            raise DirectoryError(f"a second, different vote by {vote.authority!r}")
        if self.is_closed:
            raise DirectoryError("a vote that comes after the count")
        self._documents[vote.authority] = document
        self._votes[vote.authority] = vote
        return vote

    def vote_of(self, authority: PeerId) -> bytes | None:
        """Return the signed vote of `authority`, if it is here."""
        return self._documents.get(authority)

    def count(self, read: ReadDescriptor) -> bytes:
        """Close the ballot and return the content that its votes make.

        Raises DirectoryError when there are too few votes, or too few relays to begin with.
        """
        self.is_closed = True
        self.content = count_votes(self._votes.values(), self._network, read)
        self._hashed = content_hash(self.content)
        return self.content

    def add_signature(self, signature: DetachedSignature) -> None:
        """Take a verified signature; one that fits what we counted replaces one that does not.

        Raises DirectoryError when it is for another time.
        """
        if signature.valid_after != self.valid_after:
            raise DirectoryError("a signature for another consensus than this one")
        held = self._signatures.get(signature.authority)
        if held is None or not self._fits(held):
            self._signatures[signature.authority] = signature

    def signatures(self) -> bytes:
        """Return all signatures, one behind the other."""
        return b"".join(s.encode() for _, s in sorted(self._signatures.items()))

    def document(self) -> bytes:
        """Return the signed consensus; raise DirectoryError while too few have signed it."""
        if self.content is None:
            raise DirectoryError("no consensus was counted here")
        return combine(self.content, self._signatures.values(), self._network)

    def without_vote(self) -> Sequence[PeerId]:
        """Return the authorities whose vote is not here."""
        return [peer for peer in self._network.authority_ids if peer not in self._votes]

    def without_signature(self) -> Sequence[PeerId]:
        """Return the authorities that have not signed what we counted, as far as we know."""
        return [
            peer
            for peer in self._network.authority_ids
            if (signature := self._signatures.get(peer)) is None or not self._fits(signature)
        ]

    def statistics(self) -> dict[str, int]:
        """Return what ``warren status`` shows of it."""
        return {"votes": len(self._votes), "signatures": len(self._signatures)}

    def _fits(self, signature: DetachedSignature) -> bool:
        return signature.hashed == self._hashed

    def __repr__(self) -> str:
        state = "counted" if self.is_closed else "open"
        return f"<Ballot {self.valid_after} {state}, {len(self._votes)} votes>"
