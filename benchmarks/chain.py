"""Three chained shadowsocks proxies: three layers of encryption in C, and little else.

The client seals for the last server, the sealed stream goes through a tunnel that seals for the
second, and that through one that seals for the first. Keys and route are fixed by hand; there is
no directory, no cell, no exit policy and no forward secrecy. It shows what three nested layers
cost at least.
"""

import secrets
from collections.abc import Mapping

from benchmarks.client import wait_for_answer
from benchmarks.processes import free_port
from benchmarks.route import Route
from benchmarks.systems import ANSWER_SECONDS, Origin, System

CIPHER = "chacha20-ietf-poly1305"
HOPS = 3


class Chain(System):
    """Own the servers, the tunnels between them and the local SOCKS5 proxy."""

    name = "chain"
    takes_logins = False

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._port = free_port()
        self._names: list[str] = []
        with self._closing_on_error():
            self._start()
            wait_for_answer(self.route, ANSWER_SECONDS, self.check)

    def _start(self) -> None:
        keys = [secrets.token_hex(16) for _ in range(HOPS)]
        servers = [free_port() for _ in range(HOPS)]
        for number, (port, key) in enumerate(zip(servers, keys, strict=True), 1):
            self._run(f"server{number}", "ss-server", port, key)
        # Where the next program finds its server: the first directly, the others in a tunnel.
        entrance = servers[0]
        for number in range(1, HOPS):
            port = free_port()
            inner = ["-L", f"127.0.0.1:{servers[number]}", "-l", str(port), "-b", "127.0.0.1"]
            self._run(f"tunnel{number}", "ss-tunnel", entrance, keys[number - 1], *inner)
            entrance = port
        local = ["-l", str(self._port), "-b", "127.0.0.1"]
        self._run("client", "ss-local", entrance, keys[-1], *local)

    def _run(self, name: str, program: str, port: int, key: str, *more: str) -> None:
        common = ["-s", "127.0.0.1", "-p", str(port), "-k", key, "-m", CIPHER, "-t", "300"]
        self.processes.start(name, [program, *common, "--no-delay", *more])
        self._names.append(name)

    @property
    def route(self) -> Route:
        return Route(self.origin.place, ("127.0.0.1", self._port))

    @property
    def pids(self) -> Mapping[str, int]:
        return {name: self.processes.pid_of(name) for name in self._names}

    @property
    def relays(self) -> frozenset[str]:
        return frozenset(name for name in self._names if name.startswith("server"))
