"""What a relay's main process and one of its workers tell each other, and how it travels.

A unix socket of packets keeps the borders of messages and their order, and may carry a connection
beside one. So whatever the main process told before it handed a connection over, a new key for
one, is known when that connection is answered. A message too long for one packet is cut: the
first byte of a packet says whether it is the last of its message.

Both ends are our own processes, so nothing is checked here that could only be a bug.
"""

import errno
import socket
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec
import trio

from warren.config.relay import RelayLimits
from warren.identity import KeyPair
from warren.network.link import RelayKeys

T = TypeVar("T")

PACKET_BYTES = 32 * 1024
_LAST, _MORE = b"\x00", b"\x01"
#: What to wait when too many connections are under way between processes (unix(7)).
_CROWDED_SECONDS = 0.1


class Message(msgspec.Struct, frozen=True, tag=True):
    """Be something that is told."""


# ---- from the main process to a worker


class NewKeys(Message, frozen=True):
    """Answer with these private keys from now on, 32 bytes each; the current ones come first."""

    link: tuple[bytes, ...]
    onion: tuple[bytes, ...]

    @classmethod
    def of(cls, keys: RelayKeys) -> "NewKeys":
        """Return what tells `keys`."""
        return cls(
            tuple(pair.private for pair in keys.link_keys),
            tuple(pair.private for pair in keys.onion_keys),
        )

    def put_into(self, keys: RelayKeys) -> None:
        """Replace the link and onion keys of `keys`, which all links share."""
        keys.link_keys[:] = map(KeyPair.from_private, self.link)
        keys.onion_keys[:] = map(KeyPair.from_private, self.onion)


class NewConsensus(Message, frozen=True):
    """Use this signed consensus."""

    document: bytes


class Assignment(Message, frozen=True):
    """Begin: this is the relay you are, and your share of its limits.

    Addresses are in their text form; ``policy``, ``udp_policy``, ``resolvers`` and
    ``allow_targets`` are those of ``ExitConfig``. It may keep ``memory`` bytes for others, and
    sends ``bandwidth`` bytes per second at most, if that is bounded.
    """

    network: str
    address: str
    memory: int
    bandwidth: int | None
    limits: RelayLimits
    policy: str | tuple[str, ...]
    udp_policy: str | tuple[str, ...] | None
    resolvers: tuple[str, ...]
    allow_targets: tuple[str, ...]
    seed: bytes
    suites: tuple[int, ...]
    keys: NewKeys
    consensus: bytes | None


class Connection(Message, frozen=True):
    """Answer the peer at the other end of the connection beside this."""


class Count(Message, frozen=True):
    """Tell your counters."""


class TakeNoMore(Message, frozen=True):
    """Open nothing more: the relay ends soon."""


ToWorker = Assignment | NewKeys | NewConsensus | Connection | Count | TakeNoMore

# ---- from a worker to the main process


class Started(Message, frozen=True):
    """Tell that connections may come."""


class Usable(Message, frozen=True):
    """Tell that there is a consensus."""


class Taken(Message, frozen=True):
    """Tell that the connection handed over first of those not yet taken has arrived."""


class Over(Message, frozen=True):
    """Tell that a connection that was taken has ended."""


class Counted(Message, frozen=True):
    """Tell the counters."""

    counts: dict[str, Any]


FromWorker = Started | Usable | Taken | Over | Counted

# ---- the way they go


class Channel(Generic[T]):
    """Own one end of the socket, and the packets that have not left yet.

    `incoming` is the type of the messages that the other end sends. ``write`` must be running.
    """

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(incoming)
        self._queue: deque[tuple[bytes, socket.socket | None]] = deque()
        self._filled = trio.Event()

    def send(self, message: Message, connection: socket.socket | None = None) -> None:
        """Queue `message`; a `connection` must stay open until it has arrived."""
        body = msgspec.msgpack.encode(message)
        while len(body) > PACKET_BYTES:
            self._queue.append((_MORE + body[:PACKET_BYTES], None))
            body = body[PACKET_BYTES:]
        self._queue.append((_LAST + body, connection))
        self._filled.set()

    async def write(self) -> None:
        """Send what is queued, until cancelled or the other end is gone."""
        while True:
            while self._queue:
                try:
                    self._send_packet(*self._queue[0])
                    self._queue.popleft()
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS:
                        return
                    await trio.sleep(_CROWDED_SECONDS)
            self._filled = trio.Event()
            await self._filled.wait()

    def _send_packet(self, packet: bytes, connection: socket.socket | None) -> None:
        if connection is None:
            self._socket.send(packet)
        else:
            socket.send_fds(self._socket, [packet], [connection.fileno()])

    async def receive(self) -> tuple[T, socket.socket | None] | None:
        """Wait for the next message, and the connection beside it; None when the end is gone.

        The connection may be missing: this process has as many files open as it may.
        """
        body = b""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._socket, 1 + PACKET_BYTES, 1)
            except BlockingIOError:
                continue
            except OSError:
                return None
            if not packet:
                return None
            body += packet[1:]
            if packet[:1] == _LAST:
                return self._decoder.decode(body), _socket_of(descriptors)

    def close(self) -> None:
        """Close the socket; nothing may be waiting for it any more."""
        self._socket.close()


def _socket_of(descriptors: list[int]) -> socket.socket | None:
    if not descriptors:
        return None
    sock = socket.socket(fileno=descriptors[0])
    sock.set_inheritable(False)  # as if we had made it; recv_fds of Python 3.11 knows no flags
    return sock
