"""What it costs to choose: a path for each circuit, and the guards for each consensus.

Paths go to a port that most exits open, to one that few do, to a literal address, and through a
network where everybody is in a family and few subnets are left. Each figure is the mean over
many paths, after the first: what a first one costs once for all is a figure of its own.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

from benchmarks.growth_child import run_child, tell, timed
from benchmarks.growth_network import RARE_PORT, VALID_AFTER
from warren.addresses import Address
from warren.directory.consensus import Consensus, read_consensus
from warren.directory.guards import GuardSet
from warren.directory.network_file import parse_network_file
from warren.directory.path import choose_path
from warren.identity import PeerId

_PATHS = 2000
_UPDATES = 20
_MICRO, _MILLI = 1e6, 1e3
TARGETS = {
    "web": Address("site.example", 443),
    "rare": Address("mail.example", RARE_PORT),
    "literal": Address("93.184.216.34", 443),
}


def measure(count: int, folder: Path) -> Mapping[str, float]:
    """Measure all with the files of a network of `count` relays in `folder`."""
    del count
    return run_child("growth_path", folder)


def _measure(folder: Path) -> dict[str, float]:
    network = parse_network_file((folder / "network.toml").read_text(encoding="utf-8"))
    spacious, crowded = (
        read_consensus((folder / name).read_bytes(), network) for name in ("consensus0", "crowded")
    )
    rng = Random(1)
    guards, first_update, update = _update_guards(spacious, rng)
    figures = {"guards.first": first_update * _MILLI, "guards": update * _MILLI}
    for name, target in TARGETS.items():
        first, each = _choose(spacious, guards, target, rng)
        figures[f"{name}.first"], figures[name] = first * _MICRO, each * _MICRO
    crowded_guards, *_ = _update_guards(crowded, rng)
    figures["crowded"] = _choose(crowded, crowded_guards, TARGETS["web"], rng)[1] * _MICRO
    return figures


def _update_guards(consensus: Consensus, rng: Random) -> tuple[list[PeerId], float, float]:
    """Return guards to begin paths with, and the seconds of a first update and of one more."""
    guards = GuardSet()

    def update(times: int) -> None:
        for _ in range(times):
            guards.update(consensus, VALID_AFTER, rng)

    _, first = timed(lambda: update(1))
    _, many = timed(lambda: update(_UPDATES))
    return guards.choose(VALID_AFTER), first, many / _UPDATES


def _choose(
    consensus: Consensus, guards: list[PeerId], target: Address, rng: Random
) -> tuple[float, float]:
    """Return the seconds for a first path to `target`, and for each of many more."""
    _, first = timed(lambda: choose_path(consensus, guards, target, rng=rng))
    _, many = timed(
        lambda: [choose_path(consensus, guards, target, rng=rng) for _ in range(_PATHS)]
    )
    return first, many / _PATHS


if __name__ == "__main__":
    tell(_measure(Path(sys.argv[1])))
