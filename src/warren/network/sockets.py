"""A connected TCP or unix socket as a byte stream.

Nothing here waits but what says so. Sockets are served by ``network.readiness`` where that works,
and by a task each where it does not. ``network.listening`` and ``network.dialling`` get them.
"""

import contextlib
import fcntl
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import readiness, reserve
from warren.network.byte_streams import (
    NOTSENT_BYTES,
    Buffer,
    ByteStream,
)
from warren.network.readiness import Act
from warren.network.reserve import Share

_MOST_PARTS = 512  # below Linux's IOV_MAX of 1024
_SIOCOUTQNSD = 0x894B  # linux/sockios.h: the bytes that were never sent, not even once
#: With the first, the end of the last descriptor is a reset: also where the system closes it.
_NO_LINGER, _LINGER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
#: What ``keep_alive`` sets; a system that lacks one does without it. TCP_USER_TIMEOUT is not among
#: them: Linux gives up with it on who answers, and only does not read (decision 41).
_KEEP_ALIVE: tuple[int | None, ...] = tuple(
    getattr(socket, name, None) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
)


def _broken(error: OSError) -> LinkError:
    return LinkError(f"the connection broke: {error.strerror or error}")


def address_of(name: Any) -> Address:
    """Return the address of a socket that the system names so; 127.0.0.1:0 for a unix socket."""
    if not isinstance(name, tuple):  # a unix socket
        return Address("127.0.0.1", 0)
    return Address(str(name[0]).partition("%")[0], name[1])


class SocketStream(ByteStream):
    """Be a ``ByteStream`` over a connected, non-blocking TCP or unix socket."""

    def __init__(
        self, sock: socket.socket, remote: Address | None = None, share: Share | None = None
    ) -> None:
        """Take the socket; `remote` saves asking it who is at its other end.

        It is counted in `share` until it is closed, in that of links where none is given.
        """
        sock.setblocking(False)
        self._socket = sock
        self._readiness = readiness.here()
        self._is_armed = False  # whether what ends it is a reset
        self._waiting = 0  # tasks that wait for it
        try:
            self.remote = remote or address_of(sock.getpeername())
        except OSError as error:  # the other side is gone already
            sock.close()
            raise _broken(error) from error
        self._share = share or reserve.here().links
        self._share.take()

    @property
    def local(self) -> Address:  # type: ignore[override]  # few ask, and asking costs a call
        return address_of(self._socket.getsockname())

    @property
    def is_to_itself(self) -> bool:
        with contextlib.suppress(OSError):  # the other side is gone: it was no such connection
            return bool(self._socket.getsockname() == self._socket.getpeername())
        return False

    def keep_send_queue_short(self, size: int = NOTSENT_BYTES) -> None:
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None and self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, size)

    def unsent(self) -> int:
        if not sys.platform.startswith("linux"):
            return 0
        with contextlib.suppress(OSError, ValueError):  # no such question, or closed
            answer = fcntl.ioctl(self._socket.fileno(), _SIOCOUTQNSD, bytes(4))
            return int.from_bytes(answer, sys.byteorder)
        return 0

    def keep_alive(self, seconds: int) -> None:
        sock = self._socket
        if sock.fileno() < 0:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        values = (max(1, seconds // 2), max(1, seconds // 8), 4)
        for option, value in zip(_KEEP_ALIVE, values, strict=True):
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def receive_into(self, buffer: bytearray | memoryview) -> int | None:
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _broken(error) from error

    def send_now(self, data: Buffer) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _broken(error) from error

    def send_parts_now(self, parts: Sequence[Buffer]) -> int:
        try:
            return self._socket.sendmsg(parts[:_MOST_PARTS])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _broken(error) from error

    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        if self._readiness.is_working:
            self._readiness.read_with(self._socket.fileno(), act)
        else:
            super().read_with(act, nursery)

    def pause_reading(self, nursery: trio.Nursery) -> None:
        if self._readiness.is_working and self._socket.fileno() >= 0:
            self.read_with(self.stop_reading, nursery)  # asks the system only if more comes
        else:
            self.stop_reading()

    def stop_reading(self) -> None:
        self._readiness.stop_reading(self._socket.fileno())
        super().stop_reading()

    def write_with(self, act: Act, nursery: trio.Nursery) -> None:
        if self._readiness.is_working:
            self._readiness.write_with(self._socket.fileno(), act)
        else:
            super().write_with(act, nursery)

    async def wait_readable(self) -> None:
        await self._wait(trio.lowlevel.wait_readable)

    async def wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        # Trio would keep us as waiting for the number -1, which all closed sockets share, and call
        # it busy the next time.
        if self._socket.fileno() < 0:
            raise LinkError("the connection was closed")
        self._waiting += 1
        try:
            await wait(self._socket)
        except (trio.ClosedResourceError, OSError, ValueError) as error:
            raise LinkError("the connection was closed") from error
        finally:
            self._waiting -= 1

    def send_eof(self) -> None:
        with contextlib.suppress(OSError):  # the other side may be gone: reading will tell
            self._socket.shutdown(socket.SHUT_WR)

    def reset_if_killed(self) -> None:
        if not self._is_armed and self._socket.fileno() >= 0:
            self._set_linger(is_armed=True)

    def close(self) -> None:
        if self._is_armed and self._socket.fileno() >= 0:
            self._set_linger(is_armed=False)
        self._close()

    def reset(self) -> None:
        self.reset_if_killed()
        self._close()

    def _set_linger(self, *, is_armed: bool) -> None:
        self._is_armed = is_armed
        option = _NO_LINGER if is_armed else _LINGER
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)

    def _close(self) -> None:
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            self.stop_reading()
            self._readiness.forget(descriptor)
            if self._waiting:
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._share.give_back()


#: Makes the stream of a connected socket, whose remote may be known, counted in a share.
MakeStream = Callable[[socket.socket, Address | None, Share | None], SocketStream]
