"""What a network of real links, directories and consensuses makes of clocks that are wrong."""

import pytest
import structlog
from structlog.testing import LogCapture

from simulation.run import simulate
from simulation.scenario import Scenario, parse_faults
from warren.directory.clock_hints import clock_trouble
from warren.roles import mirror

HOUR, DAY = 3600, 86400
WRONG = {"client1": 3 * HOUR, "client2": -2 * DAY, "client3": 365 * DAY, "relay1": -365 * DAY}


@pytest.mark.timeout(120)
def test_whoever_has_one_is_told_and_all_is_well_when_it_is_right_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # LNK-7, DIR-9
    log = LogCapture()  # a simulation listens to the others
    monkeypatch.setattr(mirror, "logger", structlog.wrap_logger(None, processors=[log]))
    clocks = [f"at 60 clock {host} for 200 by {off}" for host, off in WRONG.items()]
    restarts = [f"at {90 + n} crash {host} for 5" for n, host in enumerate(WRONG)]
    faults = parse_faults("; ".join(clocks + restarts))

    outcome = simulate(Scenario(3, peers=16, seconds=480.0, faults=faults))

    said = {entry["event"] for entry in log.entries if entry["log_level"] != "debug"}
    assert not outcome.violations
    assert said == {clock_trouble(off) for off in WRONG.values()}
