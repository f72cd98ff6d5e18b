"""Finding the relays that this user runs on this machine, so that a proxy never uses them (P2P-2).

Processes are found as ``warren status`` finds them: by the links they leave, and in the usual
state folder. Each relay is asked once who it is; one that does not answer is asked again at the
next look. A proxy only reads: it neither starts nor stops with a relay (P2P-4).
"""

from pathlib import Path

import structlog
import trio

from warren.config.file import Config, Role, state_directory
from warren.errors import ConfigError
from warren.identity import PeerId
from warren.roles.own_relays import OwnRelays
from warren.status.control import ask_soon, find_socket
from warren.status.running import find_links

logger = structlog.get_logger()

LOOK_SECONDS = 5.0
_ROLE: Role = "relay"
#: A state folder, and the inode of the control socket in it: another process has another.
_Place = tuple[Path, int]


async def keep_finding(
    own: OwnRelays, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Look for relays of this user now and again; runs for ever.

    Has started after the first look, which waits 5 s at most, for a relay that does not answer.
    """
    known: set[_Place] = set()
    await _look(own, known)
    task_status.started()
    while True:
        await trio.sleep(LOOK_SECONDS)
        await _look(own, known)


async def _look(own: OwnRelays, known: set[_Place]) -> None:
    """Ask those relays who they are that are not `known`."""
    found: set[PeerId] = set()
    places = _places()
    known &= places
    async with trio.open_nursery() as nursery:
        for place in places - known:
            nursery.start_soon(_ask, place, known, found)
    if new := own.add(found):
        logger.info("no path of this proxy uses this user's own relays", relays=len(new))


def _places() -> set[_Place]:
    """Return where relays may answer."""
    folders = {running.state for running in find_links() if running.role == _ROLE}
    folders.add(state_directory(Config(), _ROLE))
    places = set()
    for folder in folders:
        try:
            places.add((folder, find_socket(folder).stat().st_ino))
        except OSError:
            continue
    return places


async def _ask(place: _Place, known: set[_Place], found: set[PeerId]) -> None:
    """Ask who the relay is whose state folder is in `place`."""
    try:
        answer = await ask_soon(find_socket(place[0]))
        found.add(PeerId.parse(str(answer["id"])))
    except (ConfigError, KeyError, ValueError) as error:
        logger.debug("! a relay of this user does not say who it is", error=str(error))
    else:
        known.add(place)
