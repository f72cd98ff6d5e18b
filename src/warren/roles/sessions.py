"""Which exit each session keeps: the one its first stream left from, as long as that exit lives.

A session is an isolation that asks to keep its exit (``choice.keeps_exit``). Its exit changes only
when it is listed no more, when it could not be reached several times in a row, or when it refused
as often before anything has gone through it. That an exit does not open one target changes nothing.
Sessions live in memory; the one that was quiet longest makes room for a new one.
"""

from collections.abc import Container, Hashable
from dataclasses import dataclass, replace

from warren.directory.consensus import Consensus
from warren.directory.relays import Flag
from warren.identity import PeerId
from warren.protocol.choice import ANYTHING, Choice
from warren.protocol.front import choice_of

MOST_SESSIONS = 4096
#: Failures in a row until another exit is drawn: the fault may be in the relay before it, or in the
#: target, and an exit that changes too easily could be changed on purpose.
MOST_MISSES = 3


@dataclass(slots=True)
class _Session:
    exit_id: PeerId
    has_worked: bool = False
    misses: int = 0


class Sessions:
    """Own the exits of all sessions of one client."""

    def __init__(self) -> None:
        self._sessions: dict[Hashable, _Session] = {}  # the one used longest ago first

    def __len__(self) -> int:
        return len(self._sessions)

    def exit_of(self, isolation: Hashable) -> PeerId | None:
        """Return the exit that the session `isolation` keeps, None while it has none."""
        session = self._sessions.get(isolation)
        return session.exit_id if session is not None else None

    def wish(self, isolation: Hashable) -> Choice | None:
        """Return what `isolation` asks of a path now, None for nothing."""
        choice = choice_of(isolation)
        if choice is ANYTHING:
            return None
        if choice.keeps_exit and (kept := self.exit_of(isolation)) is not None:
            return replace(choice, exit_id=kept)
        return choice

    def begin(self, isolation: Hashable, exit_id: PeerId) -> None:
        """Note that a stream of `isolation` is about to leave from `exit_id`."""
        session = self._sessions.pop(isolation, None)
        if session is None or session.exit_id != exit_id:
            session = _Session(exit_id)
        self._sessions[isolation] = session
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def worked(self, isolation: Hashable, exit_id: PeerId) -> None:
        """Note that a stream of `isolation` was connected by `exit_id`."""
        session = self._sessions.get(isolation)
        if session is not None and session.exit_id == exit_id:
            session.has_worked, session.misses = True, 0

    def refused(self, isolation: Hashable, exit_id: PeerId) -> bool:
        """Note that `exit_id` did not serve a stream, which counts until one was served.

        Tells whether the session is to have another one.
        """
        session = self._sessions.get(isolation)
        if session is None or session.has_worked:
            return False
        return self.missed(isolation, exit_id)

    def missed(self, isolation: Hashable, exit_id: PeerId) -> bool:
        """Note that no circuit reached `exit_id`; tell whether that was once too often."""
        session = self._sessions.get(isolation)
        if session is None or session.exit_id != exit_id:
            return False
        session.misses += 1
        if session.misses < MOST_MISSES:
            return False
        del self._sessions[isolation]
        return True

    def check(self, isolation: Hashable, consensus: Consensus, own: Container[PeerId] = ()) -> None:
        """Forget the exit of `isolation` if it is gone, or not where it is wanted any more.

        Nor is one kept that turned out to be the user's `own` (P2P-2).
        """
        kept = self.exit_of(isolation)
        if kept is None:
            return
        entry, country = consensus.get(kept), choice_of(isolation).country
        if (
            entry is None
            or Flag.RUNNING not in entry.flags
            or country not in (None, entry.country)
            or kept in own
        ):
            del self._sessions[isolation]
