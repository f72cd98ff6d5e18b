"""Outages at the moment that matters, written down as scripts."""

from dataclasses import replace

import pytest

from simulation.run import simulate
from simulation.scenario import Scenario, parse_faults

#: Consensuses become valid every 300 s, and the votes for one are cast 150 s before.
QUARTER = Scenario(3, peers=14, seconds=1200.0, traffic=4.0)


#: During the outage the votes for the time 500 are cast.
OUTAGE = "at 205 part authority1+authority2+authority3 for 125"
#: Who starts anew between that consensus and the next has no circuit from before.
RESTARTS = "; ".join(f"at {560 + 20 * n} crash client{n} for 1" for n in range(1, 5))


@pytest.mark.timeout(120)
def test_when_the_votes_are_cast_in_an_outage_clients_get_pages_all_the_same() -> None:
    scenario = replace(QUARTER, faults=parse_faults(f"{OUTAGE}; {RESTARTS}"))

    outcome = simulate(scenario)

    assert not outcome.violations
    assert not [name for name in outcome.outcomes if name.endswith("refused")]
    assert outcome.outcomes["page done"] > 50
