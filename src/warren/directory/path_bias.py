"""Path bias: how many of the circuits through one guard come to stand, and do what they are for.

A guard that lets circuits fail until one leads to a friend of his sees both ends of more of them
than chance would give him. No single failure says so, as relays come and go; the share of them may
(PATH-4; Tor's path specification, "path bias"). Nothing is decided before 150 circuits, and half of
what was counted fades when there are 300, so that the last ones weigh most. What is worth counting
at all is decided in ``roles.bias_watch``.
"""

from dataclasses import dataclass, field
from enum import Enum, IntEnum

#: Circuits before any verdict, and those after which half of what was counted is forgotten.
LEAST_CIRCUITS, MOST_CIRCUITS = 150, 300
#: So much better than its bound the share must be before a verdict is dropped, in percent.
MARGIN = 5


class Outcome(Enum):
    """Name what can become of a circuit, as far as its guard can be behind it."""

    BUILT = "built"
    NOT_BUILT = "not built"
    LOST = "built, and lost before anybody used it"
    SERVED = "used, and of use"
    FAILED = "used, and lost or silent"


class Verdict(IntEnum):
    """Name how bad a share of successes is: what it is below, in percent."""

    FINE = 100
    LOW = 70
    VERY_LOW = 50


@dataclass(slots=True)
class Tally:
    """Count circuits that were tried, those of them that succeeded, and judge the share.

    Raises ValueError when made of numbers that no tally ever has.
    """

    tried: int = 0
    succeeded: int = 0
    verdict: Verdict = field(default=Verdict.FINE, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.succeeded <= self.tried <= MOST_CIRCUITS:
            raise ValueError(f"{self.succeeded} of {self.tried} circuits")
        self._judge()

    @property
    def percent(self) -> int:
        """Return the share of successes, rounded down; 100 where nothing was tried."""
        return 100 * self.succeeded // self.tried if self.tried else 100

    def note(self, *, has_succeeded: bool) -> None:
        """Count one more circuit."""
        if self.tried == MOST_CIRCUITS:
            self.tried //= 2
            self.succeeded = (self.succeeded + 1) // 2
        self.tried += 1
        self.succeeded += has_succeeded
        self._judge()

    def take_back(self) -> None:
        """Count a success as none after all."""
        self.succeeded = max(self.succeeded - 1, 0)
        self._judge()

    def _judge(self) -> None:
        found = Verdict.FINE
        for verdict in (Verdict.LOW, Verdict.VERY_LOW):
            # One that was given is kept for a little longer: at a bound it would come and go.
            bound = verdict + (MARGIN if self.verdict <= verdict else 0)
            if self.tried >= LEAST_CIRCUITS and 100 * self.succeeded < bound * self.tried:
                found = verdict
        self.verdict = found


@dataclass(slots=True)
class PathBias:
    """Hold the counts of one guard: circuits built, and circuits used."""

    builds: Tally = field(default_factory=Tally)
    uses: Tally = field(default_factory=Tally)

    @property
    def verdict(self) -> Verdict:
        """Return the worse of both verdicts."""
        return min(self.builds.verdict, self.uses.verdict)

    def note(self, outcome: Outcome) -> None:
        """Count what became of a circuit; one that is LOST was counted as BUILT before."""
        if outcome is Outcome.LOST:
            self.builds.take_back()
        elif outcome in (Outcome.BUILT, Outcome.NOT_BUILT):
            self.builds.note(has_succeeded=outcome is Outcome.BUILT)
        else:
            self.uses.note(has_succeeded=outcome is Outcome.SERVED)
