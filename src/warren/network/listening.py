"""Listening TCP and unix sockets: each lets in who waits, while there is room (DOS-8)."""

import errno
import os
import socket
from functools import partial

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import readiness, reserve
from warren.network.byte_streams import Accept, Listener, Meet
from warren.network.reserve import Share
from warren.network.sockets import MakeStream, SocketStream, address_of

#: How long to wait when the system is out of descriptors: what closes makes room (DOS-8).
_FULL_SECONDS = 0.1


class SocketListener(Listener):
    """Be a ``Listener`` over a listening TCP or unix socket; `make` makes the streams.

    They count in `share`, in that of links where none is given. Nothing is accepted while there is
    no room for any socket (DOS-8).
    """

    def __init__(
        self, sock: socket.socket, make: MakeStream = SocketStream, share: Share | None = None
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._make = make
        self._share = share or reserve.here().links
        self._woken: trio.Event | None = None  # ends the wait of ``serve_with``
        self.local = address_of(sock.getsockname())

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        while self._socket.fileno() >= 0:
            try:
                stream = self._accept()
            except OSError:
                await trio.sleep(_FULL_SECONDS)
                continue
            if stream is not None:
                nursery.start_soon(accept, stream)
                # Whoever was let in makes room for itself before the next one is.
                await trio.lowlevel.checkpoint()
                continue
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except (trio.ClosedResourceError, OSError, ValueError):
                return

    async def serve_with(self, meet: Meet, nursery: trio.Nursery) -> None:
        watching = readiness.here()
        if not watching.is_working:
            await super().serve_with(meet, nursery)
            return
        try:
            while self._socket.fileno() >= 0:
                is_full = trio.Event()
                self._meet(meet, is_full)
                watching.read_with(self._socket.fileno(), partial(self._meet, meet, is_full))
                self._woken = is_full
                await is_full.wait()
                self._stop_meeting()
                await trio.sleep(_FULL_SECONDS)
        finally:
            self._stop_meeting()

    def _meet(self, meet: Meet, is_full: trio.Event) -> None:
        """Let `meet` have who waits; set `is_full` when no more can be accepted now."""
        try:
            stream = self._accept()
        except OSError:
            is_full.set()
            return
        if stream is not None:
            meet(stream)  # whoever waits behind it is told of in the next round

    def _stop_meeting(self) -> None:
        if self._socket.fileno() >= 0:
            readiness.here().stop_reading(self._socket.fileno())

    def _accept(self) -> SocketStream | None:
        """Return one who waits, or None; raise OSError when there is no room (DOS-8)."""
        if self._share.reserve.is_full:
            self._share.reserve.relieve_soon()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        while True:
            try:
                sock, name = self._socket.accept()
                return self._make(sock, address_of(name), self._share)
            except BlockingIOError:
                return None
            except LinkError:
                continue  # gone already
            except OSError as error:
                if self._socket.fileno() < 0:
                    return None
                if error.errno != errno.ECONNABORTED:
                    raise

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._stop_meeting()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            if self._woken is not None:
                self._woken.set()


def listening_socket(address: Address) -> socket.socket:
    """Return a socket that listens at `address` (port 0: a free one).

    Raises LinkError if that is impossible.
    """
    assert address.ip is not None, "one listens at a literal address"
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits it
        sock.bind((address.host, address.port))
        sock.listen(4096)
    except OSError as error:
        sock.close()
        raise LinkError(f"cannot listen at {address}: {error.strerror}") from error
    return sock
