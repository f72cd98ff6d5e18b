"""The consensus for a command that only wants to look: one that is held, or fetched for it.

A state folder that was named is what counts, however old its consensus is. Otherwise the usual one
will do while its consensus can be used, and without that the network is asked, as a proxy does
when it starts. What was fetched is kept nowhere.
"""

import time
from pathlib import Path
from random import SystemRandom

import trio

from warren.directory.consensus import Consensus, read_consensus
from warren.directory.network_file import NetworkFile
from warren.errors import ConfigError, DirectoryError, NoConsensus, WarrenError
from warren.network.readiness import LoopClock
from warren.peer import running_peer
from warren.roles.archive import CONSENSUS_FILE
from warren.roles.mirror import Directory
from warren.service import LogStyle, set_up_logging

#: How long authorities have to answer.
FETCH_SECONDS = 30.0


def read_held(folder: Path, network: NetworkFile) -> Consensus:
    """Return the newest consensus in the state folder `folder`, usable or not.

    Raises ConfigError when there is none, or it is one of another network.
    """
    path = folder / CONSENSUS_FILE
    try:
        return read_consensus(path.read_bytes(), network)
    except OSError as error:
        raise ConfigError(
            f"no consensus: cannot read {path}: {error.strerror}. Name the state folder of a peer "
            "that has fetched one, or leave out --state to fetch it"
        ) from error
    except WarrenError as error:
        raise ConfigError(
            f"{path} is no consensus of the network {network.name}: {error}. Is it the right "
            "network file?"
        ) from error


def usable_consensus(folder: Path, network: NetworkFile) -> Consensus | None:
    """Return the consensus in `folder` if it can be used now."""
    try:
        held = read_held(folder, network)
    except ConfigError:
        return None
    return held if held.is_usable(time.time()) else None


def fetch_consensus(network: NetworkFile) -> Consensus:
    """Fetch the newest consensus; wait up to 30 s. Raises DirectoryError when nobody gives one."""
    set_up_logging(LogStyle(level="error"))
    return trio.run(_fetch, network, clock=LoopClock(), strict_exception_groups=True)


async def _fetch(network: NetworkFile) -> Consensus:
    async with running_peer(network, None) as peer:
        directory = Directory(
            peer.archive,
            peer.fetch,
            now=time.time,
            rng=SystemRandom(),
            clock_error=peer.clock_error,
        )
        peer.turn.nursery.start_soon(directory.run)
        with trio.move_on_after(FETCH_SECONDS):
            return await directory.wait_for_consensus()
        why = NoConsensus(directory.clock_trouble)
    raise DirectoryError(f"within {FETCH_SECONDS:g} s {why}")
