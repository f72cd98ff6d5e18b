"""What the clocks of other peers say of ours: hints, until enough of them agree.

A relay names its time in READY. One liar, or one operator with many relays, must not make a person
set a clock, so a time counts when relays of three networks name it within ten minutes, and they
are more than half of the networks that were heard (LNK-7). It is kept as its distance from a clock
that never goes back, and so it follows at once when the clock that was wrong is set. Nothing here
sets one: what comes of it is a sentence to a person (DIR-9).
"""

from collections.abc import Hashable
from statistics import median_low
from typing import NamedTuple

from warren.addresses import IPAddress
from warren.directory.crowds import Block
from warren.directory.parameters import DAY, HOUR, Parameters

#: In how many different networks the same time must be said, and within how many seconds.
LEAST_NETWORKS = 3
HINT_SECONDS = 600.0
#: Two peers say the same time if their clocks, and the ways from them, differ by no more.
AGREEMENT_SECONDS = 300.0
#: The newest hints are kept: this many relays are heard, however many are dialled.
MOST_HINTS = 16

#: On either side of one of them, so that no two of those differ by more than is allowed.
_NEAR = AGREEMENT_SECONDS / 2
_MINUTE = 60


class _Hint(NamedTuple):
    host: IPAddress
    network: Hashable
    heard_at: float
    ahead: float  # of the clock that never goes back


class ClockHints:
    """Own what relays have said of the time lately, and what enough of them agreed on.

    `now` is always in seconds of one clock that never goes back and is never set.
    """

    def __init__(self, parameters: Parameters) -> None:
        """Tell networks apart as paths do, by the subnets in `parameters` (PATH-1)."""
        self._networks = Block(parameters.subnet_v4_prefix, parameters.subnet_v6_prefix)
        self._least_error = max(parameters.clock_tolerance_seconds, AGREEMENT_SECONDS)
        self._hints: list[_Hint] = []  # the newest come last
        self._agreed: float | None = None  # how far the right time is ahead of `now`

    def hear(self, host: IPAddress, time: int, now: float) -> None:
        """Note that the relay at `host`, which was dialled, for a document lists it, says `time`.

        That is in Unix seconds, any number that fits eight bytes.
        """
        kept = [
            hint
            for hint in self._hints
            if hint.host != host and now - hint.heard_at <= HINT_SECONDS
        ]
        heard = _Hint(host, self._networks.block_of(host), now, time - now)
        self._hints = [*kept, heard][-MOST_HINTS:]
        agreed = self._agreement()
        if agreed is not None:
            self._agreed = agreed

    def error(self, wall: float, now: float) -> float | None:
        """Return by how many seconds a clock that shows `wall` is fast, below 0 by how many slow.

        None while that is not known, or the error is one that the network bears (DIR-9).
        """
        if self._agreed is None:
            return None
        error = wall - now - self._agreed
        return error if abs(error) > self._least_error else None

    def forget(self) -> None:
        """Forget everything: the machine slept, and `now` may not have gone on meanwhile."""
        self._hints, self._agreed = [], None

    def _agreement(self) -> float | None:
        """Return what most networks say, if they are enough."""
        most: list[_Hint] = []
        for hint in self._hints:
            near = [each for each in self._hints if abs(each.ahead - hint.ahead) <= _NEAR]
            if _count_networks(near) > _count_networks(most):
                most = near
        count = _count_networks(most)
        if count < LEAST_NETWORKS or 2 * count <= _count_networks(self._hints):
            return None
        return median_low(hint.ahead for hint in most)


def _count_networks(hints: list[_Hint]) -> int:
    return len({hint.network for hint in hints})


def clock_trouble(error: float) -> str:
    """Return the sentence for a person whose clock is fast by `error` seconds, or slow below 0."""
    return (
        f"the clock of this machine is about {_roughly(abs(error))} "
        f"{'fast' if error > 0 else 'slow'}, as several relays say: set it right, and this goes on "
        "by itself"
    )


def _roughly(seconds: float) -> str:
    """Return `seconds` in one unit, rounded, two of it at least."""
    for unit, name in ((DAY, "days"), (HOUR, "hours")):
        if seconds >= 1.5 * unit:
            return f"{round(seconds / unit)} {name}"
    return f"{round(seconds / _MINUTE)} minutes"
