"""What every process has: its state folder, where it listens, its control socket."""

import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from warren import __version__
from warren.addresses import Address
from warren.config.file import Config, Role, state_directory
from warren.errors import ConfigError, LinkError
from warren.network.interruptions import read_clocks
from warren.network.listening import listening_socket
from warren.network.machine_memory import whole_memory
from warren.network.quota import MEBIBYTE, default_quota
from warren.status.control import Statistics, serve_control
from warren.status.running import known_as_running
from warren.storage import DataFolder

#: Unless the system was told otherwise.
_FIRST_UNPRIVILEGED = 1024


def listen(address: Address) -> socket.socket:
    """Return a socket that listens at `address`; raise ConfigError if that is impossible."""
    try:
        return listening_socket(address)
    except LinkError as error:
        number = getattr(error.__cause__, "errno", None)
        raise ConfigError(f"{error}: {_what_to_do(number, address.port)}") from error


def _what_to_do(number: int | None, port: int) -> str:
    """Return what somebody can do who may not listen, for the reason `number`."""
    if number == errno.EADDRINUSE:
        return "another process listens there: stop it, or choose another address or port"
    if number == errno.EADDRNOTAVAIL:
        return (
            "this machine has no such address, but a router may: choose one of its own, or "
            "0.0.0.0 or [::] for all of them"
        )
    if number == errno.EACCES and port < _FIRST_UNPRIVILEGED:
        return (
            f"choose a port of {_FIRST_UNPRIVILEGED} or more, or give the process "
            "CAP_NET_BIND_SERVICE (AmbientCapabilities= of systemd)"
        )
    return "choose another address or port"


def quota_of(megabytes: int | None, section: str) -> int:
    """Return how many bytes a process may keep for others: as configured, or what is usual.

    Raises ConfigError where the machine has not got as much.
    """
    memory = whole_memory()
    if megabytes is None:
        return default_quota(memory)
    if megabytes * MEBIBYTE > memory:
        raise ConfigError(
            f"{section}.memory_megabytes is {megabytes}, but this machine, or the control group "
            f"that the process is in, has {memory // MEBIBYTE}: expected no more than that, and "
            "a quarter of it leaves room for others"
        )
    return megabytes * MEBIBYTE


@contextlib.asynccontextmanager
async def answering(role: Role, path: Path, statistics: Statistics) -> AsyncIterator[None]:
    """Answer at the control socket in the state folder `path` while inside, and be found by it."""
    began_at = read_clocks().since_boot  # sleep counts, and a clock that is set does not

    async def all_statistics() -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "running_seconds": int(read_clocks().since_boot - began_at),
            **await statistics(),
        }

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
