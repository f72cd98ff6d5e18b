"""The processes of a lab: started together, watched, and none left behind.

Each child holds the reading end of a pipe that only the lab can write to, so it notices when
the lab is gone, even killed with -9 (``--while-open``). It tells where it listens through a pipe
of its own (``--ready-fd``). Children run in process groups of their own: Ctrl-C reaches the lab
alone, which then ends them in good order.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

from warren.addresses import Address
from warren.errors import WarrenError

#: From SIGTERM to SIGKILL; together with the rest of the clean-up it stays below 5 s.
GRACE_SECONDS = 3.0
_TAIL_LINES = 8
#: Roles whose port the system chooses at their first start.
_CHOOSE_PORTS = frozenset(("relay", "exit", "proxy"))


class ChildError(WarrenError):
    """Tell that a process did not start or did not last."""


class Child:
    """Own one process, and the next one when it is started again.

    What it has announced so far stands in its fields.
    """

    def __init__(
        self, role: str, name: str, log: Path, arguments: Sequence[str], process: trio.Process
    ) -> None:
        self.role, self.name, self.log = role, name, log
        self.arguments = tuple(arguments)
        self.process = process
        self.addresses: tuple[Address, ...] = ()
        self.peer_id: str | None = None
        self.is_listening = trio.Event()
        self.is_usable = trio.Event()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Tell whether it still runs."""
        return self.process.poll() is None

    def describe(self) -> dict[str, Any]:
        """Return what the ready event says of it."""
        address = str(self.addresses[0]) if self.addresses else None
        about = {"role": self.role, "name": self.name, "pid": self.pid, "address": address}
        return about if self.peer_id is None else {**about, "id": self.peer_id}

    def note(self, line: bytes) -> None:
        """Take an announcement, a line of JSON."""
        event = json.loads(line)
        if event["event"] == "listening":
            self.addresses = tuple(Address.parse(text) for text in event["addresses"])
            self.peer_id = event["id"]
            self.is_listening.set()
        elif event["event"] == "usable":
            self.is_usable.set()

    def obituary(self) -> str:
        """Return how it ended; where that was its own doing, with the last lines of its log."""
        code = self.process.returncode
        if code is not None and code < 0:
            return f"{self.name} (process {self.pid}) was ended by signal {-code}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "".join(f"\n    {line}" for line in lines[-_TAIL_LINES:])
        if not lines:
            place = self.log.parent.parent.parent
            tail = f", and nothing in its log: is there room in {place} (TMPDIR, or --dir)?"
        return f"{self.name} (process {self.pid}) ended with code {code}{tail}"

    def __repr__(self) -> str:
        return f"<Child {self.name}, process {self.pid}>"


class Children:
    """Own the processes of a lab; ``stop`` ends them all.

    `on_death` is told of each child that ends by itself.
    """

    def __init__(self, nursery: trio.Nursery, on_death: Callable[[Child], None]) -> None:
        self._nursery = nursery
        self._on_death = on_death
        self._all: list[Child] = []
        self._is_stopping = False
        self._lifeline, self._leash = os.pipe()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._all))

    def named(self, name: str) -> Child:
        """Return the child `name`."""
        return next(child for child in self._all if child.name == name)

    async def start(self, role: str, name: str, log: Path, arguments: Sequence[str]) -> Child:
        """Start ``python ARGUMENTS`` and watch it; return before it listens."""
        process, announcements = await self._open(log, arguments)
        child = Child(role, name, log, arguments, process)
        self._all.append(child)
        self._attend(child, announcements)
        return child

    async def restart(self, child: Child) -> None:
        """Start a child that has ended again, at the same address; return when it listens."""
        await child.process.wait()
        if self._is_stopping:
            return
        arguments = list(child.arguments)
        if child.role in _CHOOSE_PORTS and "--listen" not in arguments:
            arguments += ["--listen", str(child.addresses[0])]
        child.is_listening, child.is_usable = trio.Event(), trio.Event()
        child.process, announcements = await self._open(child.log, arguments)
        self._attend(child, announcements)
        await child.is_listening.wait()

    def _attend(self, child: Child, announcements: int) -> None:
        self._nursery.start_soon(self._listen_to, child, trio.lowlevel.FdStream(announcements))
        self._nursery.start_soon(self._watch, child)

    async def _open(self, log: Path, arguments: Sequence[str]) -> tuple[trio.Process, int]:
        """Start a process; return it and the descriptor at which it announces itself."""
        announcements, pen = os.pipe()
        with log.open("ab") as output:
            try:
                process = await trio.lowlevel.open_process(
                    # -P: what lies in the current folder is none of our modules.
                    [
                        *(sys.executable, "-P", *arguments),
                        *("--while-open", str(self._lifeline), "--ready-fd", str(pen)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(self._lifeline, pen),
                    process_group=0,
                )
            finally:
                os.close(pen)
        return process, announcements

    async def _listen_to(self, child: Child, announcements: trio.lowlevel.FdStream) -> None:
        buffer = bytearray()
        async with announcements:
            async for chunk in announcements:
                buffer += chunk
                *lines, rest = bytes(buffer).split(b"\n")
                buffer[:] = rest
                for line in lines:
                    child.note(line)

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        if not self._is_stopping:
            self._on_death(child)

    async def stop(self) -> None:
        """End all children, by force those that take longer than ``GRACE_SECONDS``."""
        self._is_stopping = True
        with trio.CancelScope(shield=True):
            for child in self._all:
                if child.is_alive:
                    child.process.terminate()
            with trio.move_on_after(GRACE_SECONDS):
                await self._wait()
            for child in self._all:
                if child.is_alive:
                    child.process.kill()
            await self._wait()
        os.close(self._lifeline)
        os.close(self._leash)

    async def _wait(self) -> None:
        for child in self._all:
            await child.process.wait()
