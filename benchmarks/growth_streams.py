"""What open streams cost the proxy, the exit and the relays between, while nothing moves on them.

All are processes as people run them. A circuit takes 512 streams, and the proxy builds as many
circuits as that needs.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.accounting import memory
from benchmarks.client import IdleStreams, wait_for_answer
from benchmarks.growth_relays import RealRelays
from benchmarks.route import Route
from benchmarks.systems import ANSWER_SECONDS, running_origin
from warren.directory.relays import Flag

#: What is made once, for the first streams, is not counted.
_WARM_UP = 64
_REST_SECONDS = 1.0
ONE_WAY = (frozenset({Flag.GUARD}), frozenset[Flag](), frozenset({Flag.EXIT}))


def measure(count: int, folder: Path) -> Mapping[str, float]:
    """Open `count` streams through fresh processes, and let them rest."""
    del folder
    with running_origin() as origin, RealRelays(ONE_WAY, target=origin.place) as network:
        route = Route(origin.place, network.start_proxy())
        wait_for_answer(route, ANSWER_SECONDS, network.processes.check)
        pids = {
            "client": network.processes.pid_of("proxy"),
            **dict(
                zip(("guard", "middle", "exit"), map(network.pid_of, network.relays), strict=True)
            ),
        }
        with IdleStreams(route, _WARM_UP):
            time.sleep(_REST_SECONDS)
        before = {name: memory(pid).current for name, pid in pids.items()}
        with IdleStreams(route, count) as streams:
            time.sleep(_REST_SECONDS)
            growth = {name: memory(pid).current - before[name] for name, pid in pids.items()}
            streams.check()
    each = {f"{name}.each": mebibytes * 1024 / count for name, mebibytes in growth.items()}
    return {**growth, **each}
