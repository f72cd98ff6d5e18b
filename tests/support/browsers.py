"""Real browsers without a window, pages that tell what they find, canaries for what goes around."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.support.recipes import Kitchen
from tests.support.web_origin import Origin
from warren.addresses import Address

#: What a test's Chromium needs besides its own arguments: no window, no sandbox for root.
WINDOWLESS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),
)


def trust(home: Path, certificate: Path) -> None:
    """Let a Chromium whose home is `home` find the authority of `certificate` among its own."""
    folder = home / ".pki" / "nssdb"
    folder.mkdir(parents=True)
    database = ["certutil", "-d", f"sql:{folder}"]
    add = ["-A", "-t", "C,,", "-n", "origin", "-i", str(certificate)]
    subprocess.run([*database, "-N", "--empty-password"], check=True)
    subprocess.run([*database, *add], check=True)


def warren_browser(proxy: str, browser: str) -> list[str]:
    """Return the command that starts `browser` with the proxy at `proxy`."""
    return [sys.executable, "-m", "warren", "browser", "--proxy", proxy, "--browser", browser]


@contextlib.contextmanager
def running(kitchen: Kitchen, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` while inside, and end it."""
    process = subprocess.Popen(command, cwd=kitchen.table, env=kitchen.environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def profiles(kitchen: Kitchen) -> list[Path]:
    """Return the profiles that ``warren browser`` has there now."""
    return list(Path(kitchen.environment["TMPDIR"]).glob("warren-browser-*"))


class Page:
    """Own one page of the origin, at `path`, that tells the origin what it has found.

    Its script asks for SEEN? with JSON behind it.
    """

    def __init__(self, origin: Origin, path: str, text: str) -> None:
        self.url = origin.url(path)
        self._origin = origin
        self._report = f"/seen{path}?"
        page = text.replace("SEEN?", self._report)
        origin.files[path] = ("text/html", page.encode())

    def reports(self) -> list[Any]:
        """Return what it has told so far."""
        told = [path for path in self._origin.paths() if path.startswith(self._report)]
        return [json.loads(unquote(path.partition("?")[2])) for path in told]


class Canary:
    """Own a port on loopback, UDP or TCP, that should never hear anything.

    ``heard`` has the first bytes of each datagram, or an entry for each connection.
    """

    def __init__(self, kind: socket.SocketKind) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._listen = self._receive
        if kind == socket.SOCK_STREAM:
            self._socket.listen()
            self._listen = self._accept
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """Return where it listens."""
        return Address(*self._socket.getsockname())

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                self.heard.append(self._listen())

    def _receive(self) -> bytes:
        return self._socket.recv(2048)

    def _accept(self) -> bytes:
        self._socket.accept()[0].close()
        return b"a connection"


@contextlib.contextmanager
def canary(kind: socket.SocketKind) -> Iterator[Canary]:
    """Run a canary while inside."""
    bird = Canary(kind)
    try:
        yield bird
    finally:
        bird.close()
