"""UDP in memory: sockets that remember what was sent, and remotes that the test plays.

``MemoryDatagrams`` is the whole outside world; give its ``open`` where a socket is bound. What a
remote answers arrives at once.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import cycle

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network.datagram_sockets import DatagramSocket
from warren.network.readiness import Act

Answer = Callable[[bytes], Iterable[bytes]]


class MemorySocket(DatagramSocket):
    """Be one bound socket; ``arrive`` gives it a datagram."""

    def __init__(self, world: "MemoryDatagrams", local: Address) -> None:
        self.local = local
        self.is_closed = False
        self._world = world
        self._incoming: deque[tuple[bytes, Address]] = deque()
        self._act: Act | None = None

    def send_now(self, data: bytes | memoryview, remote: Address) -> bool:
        assert not self.is_closed
        if remote.host in self._world.unreachable:
            return False
        self._world.sent.append((bytes(data), remote))
        for answer in self._world.answers.get(remote, _silence)(bytes(data)):
            self.arrive(answer, remote)
        return True

    def receive_now(self) -> tuple[bytes, Address] | None:
        assert not self.is_closed
        return self._incoming.popleft() if self._incoming else None

    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        self._act = act

    def close(self) -> None:
        self.is_closed = True

    def arrive(self, data: bytes, source: Address) -> None:
        """Let a datagram of `source` arrive."""
        self._incoming.append((data, source))
        assert self._act is not None
        while self._incoming:
            self._act()


class MemoryDatagrams:
    """Own all sockets; ``sent`` is what left them, ``answers`` what remotes say to it."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.answers: dict[Address, Answer] = {}
        self.unreachable: set[str] = set()
        self.missing_families: set[str] = set()
        self.sockets: list[MemorySocket] = []
        self._ports = cycle(range(40_000, 65_536))

    def open(self, host: str) -> MemorySocket:
        """Bind a socket to `host`, as ``UdpSocket`` does."""
        if host in self.missing_families:
            raise LinkError("no UDP socket to be had")
        sock = MemorySocket(self, Address(host, next(self._ports)))
        self.sockets.append(sock)
        return sock

    @property
    def remotes(self) -> Counter[str]:
        """Count the datagrams that left, by whom they were for."""
        return Counter(str(remote) for _, remote in self.sent)


def _silence(data: bytes) -> Iterable[bytes]:
    return ()
