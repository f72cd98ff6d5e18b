"""What a consensus costs: who receives it, who starts with it on disk, who keeps a day of them.

``client`` is what a peer does with one that comes in, ``start`` what it does at its start, and
``authority`` what it takes to make one of five votes. Each is a process of its own.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.growth_child import resident_mebibytes, run_child, tell, timed
from benchmarks.growth_network import AUTHORITIES, HOUR, HOURS, VALID_AFTER
from warren.directory.consensus import Verdict
from warren.directory.descriptor import DescriptorReader
from warren.directory.network_file import NetworkFile, parse_network_file
from warren.directory.path import index_of
from warren.directory.schedule import period_of
from warren.roles.archive import Archive
from warren.roles.ballot import Ballot
from warren.storage import DataFolder


def measure(count: int, folder: Path) -> Mapping[str, float]:
    """Measure all with the files of a network of `count` relays in `folder`."""
    del count
    figures = {"bytes": (folder / "consensus0").stat().st_size / 1024}
    for part in ("client", "start", "authority"):
        figures |= run_child("growth_consensus", part, folder)
    return figures


def _network(folder: Path) -> NetworkFile:
    return parse_network_file((folder / "network.toml").read_text(encoding="utf-8"))


def _client(folder: Path) -> dict[str, float]:
    """Receive a consensus, make of it what choosing paths needs, and receive later ones.

    What the first two leave behind is used again by those that follow, so the memory of one
    more is counted from the third on.
    """
    network = _network(folder)
    documents = [(folder / f"consensus{hour}").read_bytes() for hour in range(HOURS)]
    with tempfile.TemporaryDirectory() as state:
        clock = [float(VALID_AFTER)]
        archive = Archive(network, DataFolder(Path(state)), lambda: clock[0])
        memory = [resident_mebibytes()]
        seconds: list[float] = []
        for hour, document in enumerate(documents):
            clock[0] = VALID_AFTER + HOUR * hour
            seconds += _take(archive, document)
            memory.append(resident_mebibytes())
    return {
        "receive": seconds[0] * 1000,
        "index": seconds[1] * 1000,
        "memory": memory[1] - memory[0],
        "next": seconds[-2] * 1000,
        "next.memory": (memory[-1] - memory[2]) / (HOURS - 2),
    }


def _take(archive: Archive, document: bytes) -> tuple[float, float]:
    """Receive a consensus and index it; return the seconds of both."""
    verdict, seconds = timed(lambda: archive.offer(document))
    held = archive.current
    assert verdict is Verdict.NEWER
    assert held is not None
    _, index_seconds = timed(lambda: (index_of(held), held.get(held.relays[0].peer_id)))
    return seconds, index_seconds


def _start(folder: Path) -> dict[str, float]:
    network = _network(folder)
    with tempfile.TemporaryDirectory() as state:
        cached = Path(state) / "consensus"
        cached.touch(mode=0o600)  # as the peer had left it
        cached.write_bytes((folder / "consensus0").read_bytes())
        archive, seconds = timed(
            lambda: Archive(network, DataFolder(Path(state)), lambda: VALID_AFTER)
        )
        assert archive.current is not None
    return {"start": seconds * 1000}


def _authority(folder: Path) -> dict[str, float]:
    """Read the votes, verify the descriptors in them, and count."""
    network = _network(folder)
    documents = [(folder / f"vote{number}").read_bytes() for number in range(AUTHORITIES)]
    ballot = Ballot(period_of(VALID_AFTER, HOUR, network.parameters), network)
    reader = DescriptorReader(network.network_id)
    empty = resident_mebibytes()
    vote, read_seconds = timed(lambda: ballot.add_vote(documents[0]))
    assert vote is not None
    _, verify_seconds = timed(lambda: [reader.read(each.descriptor) for each in vote.opinions])
    for document in documents[1:]:
        ballot.add_vote(document)
    counted, count_seconds = timed(lambda: ballot.count(reader.read))
    assert len(counted) > len(vote.opinions)
    return {
        "vote": len(documents[0]) / 1024,
        "vote.read": read_seconds * 1000,
        "verify": verify_seconds * 1000,
        "count": count_seconds * 1000,
        "authority.memory": resident_mebibytes() - empty,
    }


if __name__ == "__main__":
    parts = {"client": _client, "start": _start, "authority": _authority}
    tell(parts[sys.argv[1]](Path(sys.argv[2])))
