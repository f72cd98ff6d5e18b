"""Targets for datagrams, in threads of the test, and programs that reach them through a proxy.

An ``UdpServer`` answers each datagram with what a function says; ``seen`` holds what arrived. An
``AssociatedSocket`` is a UDP socket like any other, but for a proxy that it goes through.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from warren.addresses import Address
from warren.protocol.socks_datagrams import read_datagram, write_datagram

Answer = Callable[[bytes], bytes | None]
_QUEUE_BYTES = 1024 * 1024


class UdpServer:
    """Own one socket at a loopback port, a free one if it is 0, and the thread that answers."""

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.seen: list[bytes] = []
        self._answer = answer
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        self._socket.bind(("127.0.0.1", port))
        self.address = Address(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, asker = self._socket.recvfrom(4096)
            if not data:
                return
            self.seen.append(data)
            if (answer := self._answer(data)) is not None:
                self._socket.sendto(answer, asker)

    def close(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self.address.host, self.address.port))
        self._thread.join(5)
        self._socket.close()


@contextlib.contextmanager
def udp_server(answer: Answer, port: int = 0) -> Iterator[UdpServer]:
    """Run a server while inside."""
    server = UdpServer(answer, port)
    try:
        yield server
    finally:
        server.close()


class AssociatedSocket:
    """Own a UDP socket and the connection that its association lives as long as."""

    def __init__(self, proxy: str, seconds: float = 30) -> None:
        host, _, port = proxy.rpartition(":")
        self.connection = socket.create_connection((host, int(port)), seconds)
        self.connection.sendall(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        answer = b""
        while len(answer) < 12:
            more = self.connection.recv(12 - len(answer))
            assert more, answer
            answer += more
        assert answer[:6] == b"\x05\x00\x05\x00\x00\x01", answer
        self.relay = (socket.inet_ntoa(answer[6:10]), int.from_bytes(answer[10:], "big"))
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        self.socket.settimeout(seconds)
        self.socket.bind(("127.0.0.1", 0))

    def send(self, data: bytes, remote: Address) -> None:
        self.socket.sendto(write_datagram(remote, data), self.relay)

    def receive(self) -> tuple[Address, bytes]:
        """Return the next datagram and whose it is; raise TimeoutError when none comes."""
        data, source = self.socket.recvfrom(4096)
        assert source == self.relay
        return read_datagram(data)

    def close(self) -> None:
        self.socket.close()
        self.connection.close()

    def __enter__(self) -> "AssociatedSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
