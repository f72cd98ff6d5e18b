"""What a hundred peers work out alike is worked out once, and is the same object for all.

In a network each peer verifies the same consensus and prepares the same choice of paths from it.
That follows from the bytes alone, so in one process the first to do it does it for the others. No
decision is shared, and nothing that has chance in it: each handshake is every peer's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from simulation.probes import replaced
from warren.directory import path
from warren.directory.consensus import Consensus, read_consensus
from warren.directory.network_file import NetworkFile
from warren.roles import archive

#: Consensuses that somebody among the peers may still choose paths from.
_MOST_INDEXES = 256


@contextmanager
def sharing() -> Iterator[None]:
    """Let all peers of this process share what they read while inside."""
    consensuses: dict[tuple[bytes, bytes], Consensus] = {}
    merged: dict[tuple[int, int], tuple[Consensus, Consensus, Consensus]] = {}
    merge = archive._sharing

    def read(document: bytes, network: NetworkFile) -> Consensus:
        key = document, network.network_id
        if key not in consensuses:
            consensuses[key] = read_consensus(document, network)
        return consensuses[key]

    def merge_once(new: Consensus, old: Consensus | None) -> Consensus:
        if old is None:
            return new
        key = id(new), id(old)
        if key not in merged:
            merged[key] = new, old, merge(new, old)  # which keeps both, and so their ids
        return merged[key][2]

    index_of = lru_cache(_MOST_INDEXES)(path._index_of.__wrapped__)
    with (
        replaced(archive, "read_consensus", read),
        replaced(archive, "_sharing", merge_once),
        replaced(path, "_index_of", index_of),
    ):
        yield
