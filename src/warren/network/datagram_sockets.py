"""UDP sockets: the second seam to the world, beside ``byte_streams``.

A datagram is sent at once or not at all, and read when it is there; whoever reads is called back
(``readiness``). Nothing here knows which remotes are allowed.
"""

import contextlib
import errno
import socket
from abc import ABC, abstractmethod

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import readiness, reserve
from warren.network.readiness import Act
from warren.network.reserve import Share

#: Longer datagrams cannot be told from cut ones, and are dropped (EXT-15, plus a SOCKS header).
MOST_BYTES = 2048
#: What the kernel may keep for us while we are at something else; it takes less if it must.
_QUEUE_BYTES = 1024 * 1024
#: What says nothing about the next datagram: no route, no room, or an answer to an earlier one.
_FLEETING = frozenset(
    (
        errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE, errno.EPERM, errno.EACCES, errno.EINVAL,
        errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ENETDOWN,
        errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL,
    )
)  # fmt: skip

_buffer = memoryview(bytearray(MOST_BYTES))


class DatagramSocket(ABC):
    """Be one bound socket for datagrams to and from anywhere; its owner closes it."""

    local: Address

    @abstractmethod
    def send_now(self, data: bytes | memoryview, remote: Address) -> bool:
        """Send `data` to the literal `remote`; return whether it left this machine's hands."""

    @abstractmethod
    def receive_now(self) -> tuple[bytes, Address] | None:
        """Return what came and from whom; None when nothing is there."""

    @abstractmethod
    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        """Call `act` whenever ``receive_now`` has something, until ``close``.

        `nursery` is for the task that waits where no readiness serves sockets.
        """

    @abstractmethod
    def close(self) -> None:
        """Close now. Closing twice is fine."""


class UdpSocket(DatagramSocket):
    """Be the real one."""

    def __init__(self, host: str, share: Share | None = None) -> None:
        """Bind the literal `host` at a free port; it is counted in `share` until it is closed.

        Raises LinkError if that is impossible, one that ``is_local`` where sockets have run out.
        Without `share` it counts with the front door's (DOS-8).
        """
        is_v6 = ":" in host
        self._share = share or reserve.here().front
        if not self._share.has_room:
            self._share.refuse()
            raise LinkError("no UDP socket to be had: too many are open", is_local=True)
        try:
            self._socket = socket.socket(
                socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM
            )
        except OSError as error:
            is_local = error.errno in (errno.EMFILE, errno.ENFILE)
            text = f"no UDP socket to be had: {error.strerror}"
            raise LinkError(text, is_local=is_local) from error
        try:
            self._socket.setblocking(False)
            if is_v6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
            self._socket.bind((host, 0))
            self.local = _address_of(self._socket.getsockname())
        except OSError as error:
            self._socket.close()
            raise LinkError(f"cannot bind a UDP socket to {host}: {error.strerror}") from error
        self._share.take()

    def send_now(self, data: bytes | memoryview, remote: Address) -> bool:
        try:
            self._socket.sendto(data, (remote.host, remote.port))
        except OSError as error:
            if error.errno not in _FLEETING:
                raise LinkError(f"a UDP socket broke: {error.strerror}") from error
            return False
        return True

    def receive_now(self) -> tuple[bytes, Address] | None:
        try:
            count, name = self._socket.recvfrom_into(_buffer)
        except OSError:  # nothing is there, or the network said something of an earlier one
            return None
        return bytes(_buffer[:count]), _address_of(name)

    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        watching = readiness.here()
        if watching.is_working:
            watching.read_with(self._socket.fileno(), act)
        else:
            nursery.start_soon(self._read_with, act)

    async def _read_with(self, act: Act) -> None:
        with contextlib.suppress(trio.ClosedResourceError, OSError, ValueError):
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                act()

    def close(self) -> None:
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            readiness.here().forget(descriptor)
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._share.give_back()


def _address_of(name: tuple[str, int]) -> Address:
    return Address(name[0].partition("%")[0], name[1])
