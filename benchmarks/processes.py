"""Processes that end with us: started, watched, and stopped in the order that suits them.

Each process gets SIGTERM from the kernel when the benchmark dies, however it died, so nothing
stays behind on a machine that somebody wants to measure again. (That takes ``setpriv``, which
every Linux with util-linux has.) Folders go with us, and those of a run that was killed with the
next one.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from warren import outset
from warren.lab.scratch import remove_dead
from warren.storage import DataFolder

#: From SIGTERM to SIGKILL. A lab ends within 5 s by itself.
GRACE_SECONDS = 10.0
_TAIL_BYTES = 1500
_PREFIX = "warren-bench-"

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Return the environment for processes of ours: they find this package anywhere."""
    before = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), before)))}


def run_script(name: str, main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `main` with what the command line says, as the commands run; Ctrl-C ends it with 130."""

    def run() -> int:
        try:
            return main(sys.argv[1:])
        except KeyboardInterrupt:
            return 128 + signal.SIGINT

    outset.run_script(name, run)


def end_in_good_order() -> None:
    """Let SIGTERM and SIGHUP raise SystemExit here, so that whatever we started is stopped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


class ProcessError(Exception):
    """Tell that a process did not start, or did not last."""


class Processes:
    """Own processes and a folder for their files; ``stop`` ends all and removes it."""

    def __init__(self, prefix: str) -> None:
        remove_dead(_PREFIX)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{prefix}-"))
        self._held = contextlib.ExitStack()
        self._held.enter_context(DataFolder(self.folder).held())
        # Whatever interrupts us, and wherever: at the latest it goes when Python ends.
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a process; what it prints goes to the file ``output_of(name)``."""
        assert name not in self._running
        with self.output_of(name).open("wb") as output, self.errors_of(name).open("wb") as errors:
            process = subprocess.Popen(
                [*_leash(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for us: we end them in good order
            )
        self._running[name] = process
        return process

    def output_of(self, name: str) -> Path:
        """Return the file of what `name` writes to standard output."""
        return self.folder / f"{name}.out"

    def errors_of(self, name: str) -> Path:
        """Return the file of what `name` writes to standard error."""
        return self.folder / f"{name}.err"

    def pid_of(self, name: str) -> int:
        """Return the process id of `name`."""
        return self._running[name].pid

    def check(self) -> None:
        """Raise ProcessError when a process has ended, with the last it said."""
        for name, process in self._running.items():
            if process.poll() is not None:
                said = self._tail(self.errors_of(name)) or self._tail(self.output_of(name))
                raise ProcessError(f"{name} ended with code {process.returncode}: {said}")

    def stop_one(self, name: str) -> None:
        """End the process `name`, by force if it takes long."""
        process = self._running.pop(name)
        process.terminate()
        _bury(process, time.monotonic() + GRACE_SECONDS)

    def stop(self) -> None:
        """End all processes, the last ones first, and remove the folder."""
        for process in reversed(self._running.values()):
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._running.values():
            _bury(process, deadline)
        self._running.clear()
        self._held.close()
        self._remove()

    def _tail(self, path: Path) -> str:
        return path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()


def _bury(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _leash() -> list[str]:
    """Return what makes a command end with us, where there is such a thing."""
    program = shutil.which("setpriv")
    return [] if program is None else [program, "--pdeathsig", "TERM"]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of `host` that nobody listens at now."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port
