"""When authorities vote, sign and publish: everything is counted back from valid-after.

    vote_at ── fetch_at ── sign_at ── collect_at ── valid_after
      │ votes go out │ those missing │ signatures │ those missing │ the consensus
      │              │ are asked for │ go out     │ are asked for │ is published

The four stretches are of equal length. Consensuses become valid at whole multiples of the
interval, so that authorities agree on the times without talking.
"""

import math
from dataclasses import dataclass

from warren.directory.consensus import Consensus
from warren.directory.parameters import Parameters

#: The most of an interval that voting may take, so that short intervals leave time to publish.
_MOST_OF_INTERVAL = 0.6


@dataclass(frozen=True)
class Period:
    """Hold the times at which one consensus is made, in Unix seconds."""

    valid_after: int
    vote_at: float
    fetch_at: float
    sign_at: float
    collect_at: float


def most_voting_seconds(interval: int) -> float:
    """Return how much of `interval` seconds may go into votes and signatures."""
    return interval * _MOST_OF_INTERVAL


def period_of(valid_after: int, interval: int, parameters: Parameters) -> Period:
    """Return the times for the consensus of `valid_after`, with `interval` seconds for it."""
    quarter = min(parameters.voting_seconds, most_voting_seconds(interval)) / 4
    return Period(
        valid_after=valid_after,
        vote_at=valid_after - 4 * quarter,
        fetch_at=valid_after - 3 * quarter,
        sign_at=valid_after - 2 * quarter,
        collect_at=valid_after - quarter,
    )


def next_period(now: float, latest: Consensus | None, parameters: Parameters) -> Period:
    """Return the next period whose votes go out at `now` or later.

    `latest` is the newest consensus known: its own parameters rule. Without one, `parameters`
    (those of the network file) do, and the initial interval.
    """
    if latest is None:
        interval = parameters.initial_interval_seconds
    else:
        parameters = latest.parameters
        interval = parameters.consensus_interval_seconds
    number = math.ceil(now / interval)
    while (period := period_of(number * interval, interval, parameters)).vote_at < now:
        number += 1
    return period
