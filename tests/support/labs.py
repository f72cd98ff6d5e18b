"""A lab as its users see it: a command, its lines of JSON, and a port."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from warren.directory.consensus import Consensus, read_consensus
from warren.directory.network_file import NetworkFile, parse_network_file
from warren.directory.relays import RelayEntry
from warren.identity import PeerId

#: A lab is usable within ten seconds; a machine that does other things may take longer.
READY_SECONDS = 60


class RunningLab:
    """Own a ``warren lab --json`` process; its temporary files lie in ``scratch``."""

    def __init__(self, *arguments: str, prefix: Sequence[str] = ()) -> None:
        """Start it with `arguments`, behind a command that runs another one."""
        self.scratch = Path(tempfile.mkdtemp(prefix="wt"))  # short: it will hold sockets
        self.errors = (self.scratch / "errors").open("w+b")
        (self.scratch / "tmp").mkdir()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "warren", "lab", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "TMPDIR": str(self.scratch / "tmp")},
            text=True,
        )
        self.ready: dict[str, Any] = {}
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under us
            for line in self.process.stdout:
                self._events.put(json.loads(line))
        self._events.put(None)

    def next_event(self, seconds: float = 10) -> dict[str, Any]:
        """Return the next line, or fail with what the lab said instead."""
        event = self._events.get(timeout=seconds)
        assert event is not None, (self.scratch / "errors").read_text()
        return event

    def wait_until_ready(self) -> None:
        self.ready = self.next_event(READY_SECONDS)
        assert self.ready["event"] == "ready"

    def of_role(self, role: str) -> list[dict[str, Any]]:
        return [process for process in self.ready["processes"] if process["role"] == role]

    @property
    def pids(self) -> list[int]:
        return [process["pid"] for process in self.ready["processes"]]

    @property
    def proxy(self) -> str:
        return str(self.ready["proxy"])

    @property
    def folder(self) -> Path:
        return Path(self.ready["dir"])

    @property
    def network(self) -> NetworkFile:
        return parse_network_file((self.folder / "network.toml").read_text())

    @property
    def consensus(self) -> Consensus:
        """Return the consensus that the proxy has now."""
        return read_consensus((self.folder / "proxy" / "consensus").read_bytes(), self.network)

    def entry_of(self, name: str) -> RelayEntry:
        """Return what the consensus says of the relay or exit that is called `name`."""
        peers = self.of_role("relay") + self.of_role("exit")
        [text] = [each["id"] for each in peers if each["name"] == name]
        entry = self.consensus.get(PeerId.parse(text))
        assert entry is not None
        return entry

    @property
    def leftovers(self) -> list[Path]:
        return list((self.scratch / "tmp").iterdir())

    def end(self, number: int = signal.SIGTERM, seconds: float = 10) -> tuple[int, float]:
        """Send a signal; return the exit code and how many seconds the end took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        return code, time.monotonic() - begun

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(8)
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


@contextlib.contextmanager
def running_lab(*arguments: str, prefix: Sequence[str] = ()) -> Iterator[RunningLab]:
    """Run a lab while inside, from the moment it is ready."""
    lab = RunningLab(*arguments, prefix=prefix)
    try:
        lab.wait_until_ready()
        yield lab
    finally:
        lab.close()


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process, and it is not just waiting to be buried."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_dead(pids: list[int], seconds: float = 6) -> list[int]:
    """Wait for the end of all `pids`; return those that are still there."""
    deadline = time.monotonic() + seconds
    while (alive := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


@contextlib.contextmanager
def running_proxy(config: Path) -> Iterator[list[str]]:
    """Run ``warren proxy`` while inside, from the moment it is usable; gives its addresses.

    Its log is ``proxy.log`` beside the file.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "warren", "proxy", "--config", str(config)]
    with (config.parent / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writer)], stderr=log, pass_fds=[writer]
        )
    os.close(writer)
    try:
        with os.fdopen(reader) as lines:
            said = [json.loads(lines.readline()) for _ in range(2)]
            yield said[0]["addresses"]
    finally:
        process.terminate()
        process.wait(10)
    assert "Traceback" not in (config.parent / "proxy.log").read_text()
