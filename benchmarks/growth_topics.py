"""The topics of ``scripts/bench growth``: what there is more of, and the figures of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    growth_circuits,
    growth_consensus,
    growth_path,
    growth_start,
    growth_streams,
)
from benchmarks.growth_results import GrowthFigure


@dataclass(frozen=True)
class Topic:
    """Hold one topic: `measure` takes a size and the folder of that network's files.

    `least` is n, `quick` that of a quick run.
    """

    title: str
    unit_of_size: str
    least: int
    quick: int
    measure: Callable[[int, Path], Mapping[str, float]]
    figures: tuple[GrowthFigure, ...]
    needs_files: bool = False


TOPICS = {
    "consensus": Topic(
        "a consensus, received, cached and made",
        "relays",
        2500,
        100,
        growth_consensus.measure,
        (
            GrowthFigure("bytes", "size of a consensus", "KiB"),
            GrowthFigure("receive", "verify, parse and keep it", "ms CPU"),
            GrowthFigure("index", "index it for paths", "ms CPU"),
            GrowthFigure("memory", "memory of the first, with its index", "MiB"),
            GrowthFigure("next", "receive the next one", "ms CPU"),
            GrowthFigure("next.memory", "memory of each more that is held", "MiB"),
            GrowthFigure("start", "read it from the disk", "ms CPU"),
            GrowthFigure("vote", "size of a vote", "KiB"),
            GrowthFigure("vote.read", "authority: read a vote", "ms CPU"),
            GrowthFigure("verify", "authority: verify all descriptors once", "ms CPU"),
            GrowthFigure("count", "authority: count five votes", "ms CPU"),
            GrowthFigure("authority.memory", "authority: memory of all that", "MiB"),
        ),
        needs_files=True,
    ),
    "path": Topic(
        "choosing",
        "relays",
        2500,
        100,
        growth_path.measure,
        (
            GrowthFigure("web", "a path to port 443", "µs CPU"),
            GrowthFigure("rare", "a path to a port of few exits", "µs CPU"),
            GrowthFigure("literal", "a path to a literal address", "µs CPU"),
            GrowthFigure("crowded", "a path where all have families, few subnets", "µs CPU"),
            GrowthFigure("web.first", "the first path of a consensus", "µs CPU"),
            GrowthFigure("rare.first", "the first to another port", "µs CPU"),
            GrowthFigure("guards.first", "draw guards", "ms CPU"),
            GrowthFigure("guards", "update guards", "ms CPU"),
        ),
        needs_files=True,
    ),
    "start": Topic(
        "a proxy with a cached consensus",
        "relays",
        2500,
        100,
        growth_start.measure,
        (
            GrowthFigure("answer", "from the start to the first answer", "s"),
            GrowthFigure("cpu", "its processor time", "s CPU"),
            GrowthFigure("memory", "peak of its memory", "MiB"),
        ),
    ),
    "circuits": Topic(
        "idle circuits through a relay",
        "circuits",
        5000,
        50,
        growth_circuits.measure,
        (
            GrowthFigure("memory", "memory of the relay", "MiB"),
            GrowthFigure("memory.each", "  per circuit", "KiB"),
            GrowthFigure("memory.again", "  destroyed and built again", "MiB"),
            GrowthFigure("memory.left", "  when all are destroyed", "MiB"),
            GrowthFigure("create", "relay: create one, extended", "ms CPU"),
            GrowthFigure("destroy", "relay: destroy one", "ms CPU"),
        ),
    ),
    "streams": Topic(
        "idle streams of one proxy",
        "streams",
        1250,
        25,
        growth_streams.measure,
        tuple(
            GrowthFigure(f"{name}{key}", title, unit)
            for name in ("client", "exit", "guard", "middle")
            for key, title, unit in (
                ("", f"memory of the {name}", "MiB"),
                (".each", "  per stream", "KiB"),
            )
        ),
    ),
}
