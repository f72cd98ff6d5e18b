"""Hours of ordinary trouble: nothing grows, nothing is left open (T83).

Each run of the tests has 40 s with as many deaths as ten minutes of the plan have; ``long`` are
six minutes, and the whole hour.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.journeys import check_logs, wait_until
from tests.support.labs import RunningLab, running_lab

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

#: Of the resident memory between the two looks, and of open files.
MOST_GROWTH = 1.05
MOST_FILES = 5
#: What a small process takes at a time is no slope.
LEAST_BYTES = 4 << 20
#: Links to relays that have come back are new ones, and some old ones are still there.
CLOSING_SECONDS = 30


def memory_of(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def files_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def wait_for_summary(lab: RunningLab, seconds: float) -> dict[str, Any]:
    """Return the first summary after `seconds` of chaos."""
    while True:
        event = lab.next_event(60)
        if event["event"] == "chaos-summary" and event["seconds"] >= seconds:
            return event


def wait_for_files(name: str, pid: int, most: int) -> None:
    wait_until(lambda: files_of(pid) <= most, CLOSING_SECONDS, f"{name} with {most} files at most")


@pytest.mark.parametrize(
    ("warm", "seconds", "chaos"),
    [
        (10, 40, "kill any relay every 5s; kill any exit every 8s; stop guard 2s once at 20s"),
        pytest.param(
            *(
                90,
                360,
                "kill any relay every 60s; kill any exit every 50s; stop guard 3s every 70s",
            ),
            marks=[pytest.mark.long, pytest.mark.timeout(600)],
        ),
        pytest.param(
            *(
                600,
                3600,
                "kill any relay every 60s; kill any exit every 50s; stop guard 3s every 70s",
            ),
            marks=[pytest.mark.long, pytest.mark.timeout(4000)],
        ),
    ],
    ids=["40 s", "six minutes", "an hour"],
)
def test_nothing_grows_while_relays_come_and_go(warm: int, seconds: int, chaos: str) -> None:  # T83
    with running_lab("--relays", "9", "--exits", "3", "--chaos", chaos) as lab:
        lasting = [*lab.of_role("proxy"), *lab.of_role("authority")]  # who is never killed
        pids = {process["name"]: process["pid"] for process in lasting}
        wait_for_summary(lab, warm)
        memory = {name: memory_of(pid) for name, pid in pids.items()}
        files = {name: files_of(pid) for name, pid in pids.items()}

        last = wait_for_summary(lab, seconds)
        grown = {name: memory_of(pid) - memory[name] for name, pid in pids.items()}
        for name, pid in pids.items():
            wait_for_files(name, pid, files[name] + MOST_FILES)
        check_logs(Path(lab.ready["dir"]))

    sys.stdout.write(f"T83: {last['served']} served, grown by {grown}\n")
    for name, growth in grown.items():
        assert growth < max(memory[name] * (MOST_GROWTH - 1), LEAST_BYTES)
    # What an exit had begun when it died is reset, and never begun twice (SID-4).
    assert last["failed"] <= last["done"]["killed"], last["failures"]
    assert all("reset" in failure for failure in last["failures"])
    assert last["served"] >= 5 * seconds / 2
