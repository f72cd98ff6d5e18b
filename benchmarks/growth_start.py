"""How soon a proxy answers that starts with a cached consensus of a large network.

From the start of the process to the first byte that comes back through three relays; the guards
are drawn first.
"""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.accounting import cpu_seconds, memory
from benchmarks.client import wait_for_answer
from benchmarks.growth_relays import RealRelays
from benchmarks.growth_streams import ONE_WAY
from benchmarks.reactor import now
from benchmarks.route import Route
from benchmarks.systems import ANSWER_SECONDS, running_origin


def measure(count: int, folder: Path) -> Mapping[str, float]:
    """Start a proxy in a network of three real relays and `count` that are on paper."""
    del folder
    with (
        running_origin() as origin,
        RealRelays(ONE_WAY, paper=count, target=origin.place) as network,
    ):
        begun = now()
        route = Route(origin.place, network.start_proxy())
        wait_for_answer(route, ANSWER_SECONDS, network.processes.check)
        seconds = now() - begun
        pid = network.processes.pid_of("proxy")
        return {"answer": seconds, "cpu": cpu_seconds(pid), "memory": memory(pid).peak}
