"""What the origin has besides the web: sshd, rsync, git's server, each started for a connection.

As inetd did it: the connection is the program's input and output. So nothing is to be stopped, the
port is known before the program is, and where a program is missing only its own tests notice.
"""

import contextlib
import getpass
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from warren.addresses import Address


class Daemon(socketserver.ThreadingTCPServer):
    """Own a port on loopback; ``command`` is run for each connection to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Visit)
        self.command: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    @property
    def address(self) -> Address:
        """Return where it listens."""
        return Address("127.0.0.1", self.socket.getsockname()[1])


class _Visit(socketserver.BaseRequestHandler):
    server: Daemon

    def handle(self) -> None:
        descriptor = self.request.fileno()
        subprocess.run(self.server.command, stdin=descriptor, stdout=descriptor, check=False)


@contextlib.contextmanager
def running_daemons(*names: str) -> Iterator[dict[str, Daemon]]:
    """Run a daemon for each of `names` while inside."""
    daemons = {name: Daemon() for name in names}
    try:
        yield daemons
    finally:
        for daemon in daemons.values():
            daemon.shutdown()
            daemon.server_close()


def serve_git(daemon: Daemon, folder: Path) -> None:
    """Let `daemon` serve the repositories below `folder`."""
    daemon.command = ["git", "daemon", "--inetd", "--export-all", f"--base-path={folder}"]


def serve_rsync(daemon: Daemon, folder: Path, files: Path) -> None:
    """Let `daemon` serve what is in `files`; its configuration is written into `folder`."""
    configuration = folder / "rsyncd.conf"
    configuration.write_text(f"use chroot = no\n[files]\npath = {files}\n")
    daemon.command = ["rsync", "--daemon", f"--config={configuration}"]


def serve_ssh(daemon: Daemon, folder: Path, name: str) -> list[str]:
    """Let `daemon` log this user in; return the options with which ssh knows it as `name`.

    Keys and configuration of both sides are written into the new folder `folder`.
    """
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(generate, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    known = (folder / "host.pub").read_text()
    port = daemon.address.port
    (folder / "known").write_text(f"[{name}]:{port} {known}")
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nPidFile none\nPrintMotd no\nLogLevel QUIET\n"
    )
    if os.geteuid() == 0:  # where its unprivileged half goes; a boot makes it on most machines
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:" + os.environ["PATH"])
    assert program is not None
    daemon.command = [program, "-i", "-f", str(folder / "sshd_config")]
    return [
        *("-p", str(port), "-l", getpass.getuser(), "-i", str(folder / "user")),
        *("-o", f"UserKnownHostsFile={folder}/known", "-o", "StrictHostKeyChecking=yes"),
        *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
    ]
