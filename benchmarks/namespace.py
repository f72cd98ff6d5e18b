"""A network of our own: a loopback device with nobody else on it, and known TCP settings.

As root we run again in a new network namespace. TCP there is ``reno``: without losses it is what
the usual ``cubic`` is, while the ``bbr`` of some machines paces a loopback connection to about
half of what it carries. Elsewhere we measure on the machine's own loopback, and say so.

One setting changes while we run: delayed acknowledgements are off while a system is measured
that leaves Nagle's algorithm on, as C Tor does. The two together stall for 40 ms at a time on a
path without a round trip, which no real path shows.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import environment

CONGESTION_CONTROL = "reno"

_MARK = "WARREN_BENCH_NAMESPACE"
_SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_GET_FLAGS, _SET_FLAGS, _IS_UP = 0x8913, 0x8914, 0x1
_LOOPBACK_ROUTES = ("127.0.0.0/8", "127.0.0.1")


def is_inside() -> bool:
    """Tell whether this process runs in a network namespace that it made."""
    return _MARK in os.environ


def run_inside(arguments: Sequence[str], module: str = "benchmarks") -> None:
    """Run `module` in a namespace of its own instead; return only when that is not possible."""
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        return
    if subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode != 0:
        return
    again = [unshare, "-n", sys.executable, "-P", "-m", "warren.outset", module, *arguments]
    os.execve(unshare, again, {**environment(), _MARK: "1"})


def set_up() -> None:
    """Bring up the loopback device of the new namespace and choose its congestion control."""
    with socket.socket() as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, _GET_FLAGS, request), 16)
        fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _IS_UP))
    with contextlib.suppress(OSError):  # a container's /proc; results say which one was used
        _SETTING.write_text(CONGESTION_CONTROL, encoding="ascii")


def congestion_control() -> str:
    """Return the congestion control that TCP uses here."""
    return _SETTING.read_text(encoding="ascii").strip()


class Acknowledgements:
    """Own whether acknowledgements on loopback are delayed; they are at first."""

    def __init__(self) -> None:
        self._is_quick = False

    def be_quick(self, is_quick: bool) -> None:
        """Send acknowledgements at once, or delay them; outside of the namespace do nothing."""
        program = shutil.which("ip")
        if not is_inside() or program is None or is_quick is self._is_quick:
            return
        for route in _LOOPBACK_ROUTES:
            change = f"route change local {route} dev lo proto kernel scope host src 127.0.0.1"
            setting = f"table local quickack {int(is_quick)}"
            subprocess.run([program, *change.split(), *setting.split()], check=True)
        self._is_quick = is_quick
