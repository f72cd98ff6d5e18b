"""What the stories do all the time: connect through a proxy, ask a peer, weigh its memory."""

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from python_socks.sync import Proxy

from tests.support.labs import RunningLab
from warren.addresses import Address
from warren.status.control import ask, find_socket

Scheme = Literal["socks5", "socks4", "http"]
CONNECT_SECONDS = 60
READ_SECONDS = 60
MIB = 1024 * 1024


def through(
    proxy: str, target: Address, *, scheme: Scheme = "socks5", user: str | None = None
) -> socket.socket:
    """Connect to `target` through `proxy`, by its name where it is one.

    `user` isolates: streams of different users never share a circuit. Raises
    ``python_socks.ProxyError``, whose ``error_code`` is the proxy's.
    """
    login = f"{user}:x@" if user else ""
    sock = Proxy.from_url(f"{scheme}://{login}{proxy}", rdns=True).connect(
        target.host, target.port, timeout=CONNECT_SECONDS
    )
    sock.settimeout(READ_SECONDS)
    return sock


def request(sock: socket.socket, path: str, method: str = "GET", length: int = 0) -> None:
    """Send the head of an HTTP request, after which the connection ends."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    sock.sendall(f"{head}Connection: close\r\n\r\n".encode())


def read_answer(sock: socket.socket) -> tuple[str, int]:
    """Read an HTTP answer up to the end of the connection; return SHA-256 and length of its body.

    Raises ConnectionResetError when it breaks off.
    """
    rest = b""
    while b"\r\n\r\n" not in rest:
        chunk = sock.recv(65536)
        assert chunk, f"the connection ended after {rest[:200]!r}"
        rest += chunk
    assert rest.startswith(b"HTTP/1.1 200"), rest[:200]
    return read_rest(sock, rest.partition(b"\r\n\r\n")[2])


def read_rest(sock: socket.socket, first: bytes = b"") -> tuple[str, int]:
    """Read up to the end of the connection; return the SHA-256 of it all and its length."""
    total, length, buffer = hashlib.sha256(first), len(first), memoryview(bytearray(MIB))
    while count := sock.recv_into(buffer):
        total.update(buffer[:count])
        length += count
    return total.hexdigest(), length


def ask_socks(proxy: str, command: int, host: str) -> bytes:
    """Ask by SOCKS5 for a name (F0) or of an address (F1); return the reply, up to the end."""
    address = Address.parse(proxy)
    try:
        encoded = b"\x01" + ip_address(host).packed
    except ValueError:
        encoded = bytes((3, len(host))) + host.encode()
    with socket.create_connection((address.host, address.port), CONNECT_SECONDS) as sock:
        sock.sendall(b"\x05\x01\x00\x05%c\x00" % command + encoded + b"\0\0")
        return b"".join(iter(lambda: sock.recv(4096), b""))[2:]


def statistics(lab: RunningLab, name: str) -> dict[str, Any]:
    """Return what the peer `name` of `lab` counts."""
    return ask(find_socket(Path(lab.ready["dir"]) / name))


def check_logs(folder: Path, *secrets: str) -> None:
    """Fail if a log below `folder` tells of a bug (DOS-1), or holds one of the `secrets` (T85)."""
    logs = {path.name: path.read_text() for path in folder.rglob("*.log")}
    assert logs
    for name, text in logs.items():
        assert not re.search(r"^\S+ error |Traceback", text, re.MULTILINE), f"{name}:\n{text}"
        assert not any(secret in text for secret in secrets), f"{name} names a target:\n{text}"


def wait_until(happens: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `happens` says so; fail with `what` when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


@dataclass
class Growth:
    """Hold by how much the resident memory of processes grew at most, by name, in bytes."""

    peak: dict[str, int]

    @property
    def most(self) -> int:
        """Return the growth of the one that grew most."""
        return max(self.peak.values())


@contextlib.contextmanager
def watching_memory(lab: RunningLab) -> Iterator[Growth]:
    """Watch the memory of all processes of `lab` while inside; the result is there afterwards."""
    pids = {process["name"]: process["pid"] for process in lab.ready["processes"]}
    before = {name: _memory(pid, "VmRSS") for name, pid in pids.items()}
    for pid in pids.values():
        # proc(5): writing 5 sets the highest resident memory back to what it is now.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    growth = Growth({})
    yield growth
    growth.peak |= {name: _memory(pid, "VmHWM") - before[name] for name, pid in pids.items()}


def _memory(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = next(line.split() for line in lines if line.startswith(f"{key}:"))
    return int(words[1]) * 1024


def without_proxies() -> dict[str, str]:
    """Return the environment for a program that is to use the proxy it is told, and no other."""
    return {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
