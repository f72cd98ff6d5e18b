"""What every process has: its state folder, where it listens, its control socket."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from warren import __version__
from warren.addresses import Address
from warren.config import Config, Role, state_directory
from warren.errors import ConfigError, LinkError
from warren.network.sockets import listening_socket
from warren.status.control import Statistics, serve_control
from warren.status.running import known_as_running
from warren.storage import DataFolder


def listen(address: Address) -> socket.socket:
    """Return a socket that listens at `address`; raise ConfigError if that is impossible."""
    try:
        return listening_socket(address)
    except LinkError as error:
        raise ConfigError(f"{error}: choose another address or port") from error


@contextlib.asynccontextmanager
async def answering(role: Role, path: Path, statistics: Statistics) -> AsyncIterator[None]:
    """Answer at the control socket in the state folder `path` while inside, and be found by it."""

    async def all_statistics() -> dict[str, Any]:
        return {"pid": os.getpid(), "version": __version__, **await statistics()}

    async with serve_control(path, all_statistics):
        with known_as_running(role, path):
            yield


@contextlib.contextmanager
def holding_state(config: Config, role: Role) -> Iterator[DataFolder]:
    """Give the state folder of `role`, to this process alone, while inside.

    Raises ConfigError when another process has it.
    """
    folder = DataFolder(state_directory(config, role))
    with folder.held():
        yield folder
