"""Archives as tests look at them."""

import trio

from warren.directory.consensus import Consensus
from warren.roles.archive import Archive


async def next_consensus(archive: Archive) -> Consensus:
    """Wait for the next consensus that is newer than all before; return it."""
    found: list[Consensus] = []
    came = trio.Event()

    def note(consensus: Consensus) -> None:
        found.append(consensus)
        came.set()

    archive.on_change.append(note)
    await came.wait()
    archive.on_change.remove(note)
    return found[0]
