"""The reserve: how many sockets of each kind this process has open, and when some have to go.

The system grants a process a number of open files. When it is used up nothing works any more: no
connection is accepted, no name asked for, no file written. So a part of it is nobody's (for
listening sockets, the state folder, name servers, ``warren status``), and the rest is shared: each
kind of socket has a *target*, and uses what others leave free beyond it, but for the links' part,
which is never lent: without links nothing works. Above 90 % of what there is, or of what a kind
may have, kinds that are beyond their target give back, down to 85 %: their owners choose whom to
close (``evictions``), and a look over all of them is worth a twentieth of the sockets (DOS-8).

A socket is counted by who owns its descriptor, from the moment it has one until it is closed
(``sockets``, ``datagram_sockets``), so the count is the sockets'. The directory is served over
links and has none of its own: its 5 % are free for all.
"""

import resource
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum

import structlog
import trio

from warren.network import readiness
from warren.network.bucket import SeldomLine
from warren.network.readiness import Act

logger = structlog.get_logger()

#: Files for what is not counted here; of small limits a quarter, so that most is for sockets. An
#: idle relay has some 20 open, and an exit asks name servers over 32 at most.
MOST_RESERVED, LEAST_RESERVED, RESERVED_PART = 256, 32, 4
#: Above this part some have to go, down to the other.
CROWDED, RELIEVED = 0.90, 0.85
#: After it was in vain: those that could not be closed end by themselves, in their own time.
RETRY_SECONDS = 0.1
_UNLIMITED = 1 << 30

#: Close about so many sockets; return how many there were, by why.
MakeRoom = Callable[[int], Mapping[str, int]]


class Kind(Enum):
    """Name what sockets are for: the target, and the most they may have, as parts of all."""

    LINKS = ("links", 0.40, 1.0)
    EXIT = ("exit", 0.50, 0.60)  # EXT-11
    FRONT = ("front", 0.05, 0.60)

    def __init__(self, text: str, target: float, most: float) -> None:
        self.text, self.target, self.most = text, target, most


class Share:
    """Own the count of the open sockets of one kind; whoever has one takes and gives it back.

    ``make_room`` is the owner of those sockets that can be closed, if there are any.
    """

    __slots__ = ("closed", "kind", "line", "low", "make_room", "most", "open", "refused",
                 "reserve", "target")  # fmt: skip

    def __init__(self, reserve: "Reserve", kind: Kind) -> None:
        self.reserve, self.kind = reserve, kind
        self.target = int(reserve.most * kind.target)
        self.most = int(reserve.most * kind.most)
        self.line, self.low = _lines(self.most)
        self.open = self.refused = 0
        self.closed: Counter[str] = Counter()
        self.make_room: MakeRoom | None = None

    def __repr__(self) -> str:
        return f"<Share of {self.kind.text}: {self.open} of {self.most}>"

    def take(self) -> None:
        """Count a socket that was opened."""
        reserve = self.reserve
        self.open += 1
        reserve.open += 1
        if self.open > self.line or reserve.open > reserve.line:
            reserve.relieve_soon()

    def give_back(self) -> None:
        """Count a socket that was closed."""
        self.open -= 1
        self.reserve.open -= 1

    @property
    def has_room(self) -> bool:
        """Tell whether one more may be opened."""
        return self.open < self.most and self.reserve.open < self.reserve.most

    @property
    def is_exceeded(self) -> bool:
        """Tell whether there is one more than may be."""
        return self.open > self.most

    def refuse(self) -> None:
        """Note that somebody was refused because there is no room, and see to it."""
        self.refused += 1
        self.reserve.relieve_soon()
        self.reserve.report_soon()

    def note_closed(self, closed: Mapping[str, int]) -> None:
        """Note who had to go, by why."""
        self.closed.update(closed)
        if closed:
            self.reserve.report_soon()


class Reserve:
    """Own the counts of the sockets of a process that may have so many `files` open.

    `soon` calls an act at the end of the step, `now` gives seconds.
    """

    def __init__(
        self, files: int, *, soon: Callable[[Act], None], now: Callable[[], float]
    ) -> None:
        self.files = files
        self.most = files - min(MOST_RESERVED, max(LEAST_RESERVED, files // RESERVED_PART))
        self.line, self.low = _lines(self.most)
        self.open = 0
        self.links, self.exit, self.front = self._shares = [Share(self, kind) for kind in Kind]
        self._soon, self._now = soon, now
        self._is_due = False
        self._rests_until = float("-inf")
        self._line = SeldomLine()

    def __repr__(self) -> str:
        return f"<Reserve {self.open} of {self.most}>"

    @property
    def is_full(self) -> bool:
        """Tell whether nothing more may be opened: what is left of the files is not for sockets."""
        return self.open >= self.most

    def due(self) -> dict[Share, int]:
        """Return how many sockets of each kind have to go now.

        A kind that has nearly all that it may have gives back down to its own low line. If there
        are still too many altogether, those go on that are beyond their target, furthest first,
        and none goes below it.
        """
        due = {each: each.open - each.low for each in self._shares if each.open > each.line}
        left = self.open - sum(due.values())
        if left <= self.line:
            return due
        excess = left - self.low
        for share in sorted(self._shares, key=lambda each: each.target - each.open):
            beyond = share.open - due.get(share, 0) - share.target
            if (part := min(excess, beyond)) > 0:
                due[share] = due.get(share, 0) + part
                excess -= part
        return due

    def relieve_soon(self) -> None:
        """Make room at the end of this step, if that is due."""
        if not self._is_due and self._now() >= self._rests_until:
            self._is_due = True
            self._soon(self._relieve)

    def _relieve(self) -> None:
        self._is_due = False
        for share, count in self.due().items():
            if share.make_room is not None:
                share.note_closed(share.make_room(count))
        if self.due():
            self._rests_until = self._now() + RETRY_SECONDS

    def report_soon(self) -> None:
        """Say at the end of this step that sockets run short, once a minute at most (DOS-9)."""
        if self._line.is_due(self._now()):
            self._soon(self._report)

    def _report(self) -> None:
        logger.warning(
            "sockets run short, some are closed or refused: if nobody attacks, allow more open "
            "files (LimitNOFILE=, ulimit -n)",
            files=self.files,
            open=self.open,
            closed=sum(each.closed.total() for each in self._shares),
            refused=sum(each.refused for each in self._shares),
        )

    def statistics(self) -> dict[str, object]:
        """Return what is open of each kind, and what was refused and closed, and why."""
        return {
            "most": self.most,
            "open": {each.kind.text: each.open for each in self._shares},
            "refused": {each.kind.text: each.refused for each in self._shares},
            "closed": {why: n for each in self._shares for why, n in each.closed.items()},
        }


def _lines(most: int) -> tuple[int, int]:
    return int(most * CROWDED), int(most * RELIEVED)


_here = trio.lowlevel.RunVar["Reserve"]("warren reserve")


def here() -> Reserve:
    """Return the one of this trio run: the system counts the files of a process, not of a peer."""
    try:
        return _here.get()
    except LookupError:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            files = _UNLIMITED
        reserve = Reserve(files, soon=readiness.here().soon, now=trio.current_time)
        _here.set(reserve)
        return reserve
