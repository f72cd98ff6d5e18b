"""Hours of ordinary trouble, at a tenth of an hour: nothing grows, nothing is left open (T83)."""

import os
import time
from pathlib import Path

import pytest

from tests.support.journeys import check_logs
from tests.support.labs import RunningLab, running_lab

pytestmark = [pytest.mark.processes, pytest.mark.long, pytest.mark.timeout(900)]

WARM_SECONDS = 90
SECONDS = 360
CHAOS = "kill any relay every 60s; kill any exit every 50s; stop guard 3s every 70s"
#: Of the resident memory between the two looks, and of open files.
MOST_GROWTH = 1.05
MOST_FILES = 5
#: What a small process takes at a time is no slope.
LEAST_BYTES = 4 << 20


def memory_of(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def files_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def wait_for_summary(lab: RunningLab, seconds: float) -> dict[str, object]:
    """Return the first summary after `seconds` of chaos."""
    while True:
        event = lab.next_event(60)
        if event["event"] == "chaos-summary" and event["seconds"] >= seconds:
            return event


def test_nothing_grows_while_relays_come_and_go() -> None:  # T83
    with running_lab("--relays", "9", "--exits", "3", "--chaos", CHAOS) as lab:
        lasting = [*lab.of_role("proxy"), *lab.of_role("authority")]  # who is never killed
        pids = {process["name"]: process["pid"] for process in lasting}
        wait_for_summary(lab, WARM_SECONDS)
        memory = {name: memory_of(pid) for name, pid in pids.items()}
        files = {name: files_of(pid) for name, pid in pids.items()}

        last = wait_for_summary(lab, SECONDS)
        time.sleep(1)

        for name, pid in pids.items():
            assert memory_of(pid) < max(memory[name] * MOST_GROWTH, memory[name] + LEAST_BYTES)
            # Links to relays that have come back are new ones, and some old ones are still there.
            assert files_of(pid) <= files[name] + MOST_FILES + 9
        check_logs(Path(lab.ready["dir"]))
    assert last["failed"] == 0, last["failures"]
    assert int(str(last["served"])) >= 5 * SECONDS / 2
