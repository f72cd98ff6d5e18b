"""The real network: TCP and unix sockets, as byte streams, listeners and connections.

Nothing here waits but what says so. Sockets are served by ``network.readiness`` where that works,
and by a task each where it does not.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import readiness, reserve
from warren.network.byte_streams import (
    NOTSENT_BYTES,
    Accept,
    Buffer,
    ByteStream,
    Dialling,
    Listener,
    Meet,
    Network,
)
from warren.network.readiness import Act
from warren.network.reserve import Share

_MOST_PARTS = 512  # below Linux's IOV_MAX of 1024
_SIOCOUTQNSD = 0x894B  # linux/sockios.h: the bytes that were never sent, not even once
#: With the first, the end of the last descriptor is a reset: also where the system closes it.
_NO_LINGER, _LINGER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
#: What ``keep_alive`` sets; a system that lacks one does without it.
_KEEP_ALIVE: tuple[int | None, ...] = tuple(
    getattr(socket, name, None)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
)
#: How long to wait when the system is out of descriptors: what closes makes room (DOS-8).
_FULL_SECONDS = 0.1


def _full() -> OSError:
    """Return what the system would say, before it has to (DOS-8)."""
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _broken(error: OSError) -> LinkError:
    return LinkError(f"the connection broke: {error.strerror or error}")


def _address_of(name: Any) -> Address:
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
            self.remote = remote or _address_of(sock.getpeername())
        except OSError as error:  # the other side is gone already
            sock.close()
            raise _broken(error) from error
        self._share = share or reserve.here().links
        self._share.take()

    @property
    def local(self) -> Address:  # type: ignore[override]  # few ask, and asking costs a call
        return _address_of(self._socket.getsockname())

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
        values = (seconds, max(1, seconds // 4), 4, seconds * 1000)
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
        self.local = _address_of(sock.getsockname())

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
            raise _full()
        while True:
            try:
                sock, name = self._socket.accept()
                return self._make(sock, _address_of(name), self._share)
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


#: Why no connection can be had from here to anywhere.
_OURS = frozenset(
    (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE)
)


class _SocketDialling(Dialling):
    """Own a socket that is being connected."""

    def __init__(self, network: "SocketNetwork", address: Address, share: Share) -> None:
        assert address.ip is not None, "names are resolved before dialling"
        super().__init__(network, address)
        self._make = network.make
        family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
        self._socket: socket.socket | None = None
        self._share = share
        self._is_counted = False  # by us: the stream counts itself
        try:
            if not share.has_room:
                share.refuse()
                raise _full()
            self._socket = sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            place = (address.host, address.port)
            code = sock.connect_ex(place)
            if code == errno.EINPROGRESS:
                code = sock.connect_ex(place)  # a neighbour has answered by now
            if code != errno.EALREADY:
                self._connected(code)
                return
            self._is_counted = True
            share.take()
        except OSError as error:
            raise self._failed(error) from error

    async def _dial(self) -> ByteStream:
        sock = self._socket
        assert sock is not None
        try:
            await trio.lowlevel.wait_writable(sock)
            return self._connected(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        except OSError as error:
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def _connected(self, code: int) -> ByteStream:
        assert self._socket is not None
        if code:
            raise OSError(code, os.strerror(code))
        sock, self._socket = self._socket, None
        if self._is_counted:
            self._leave_count()
        self.stream = self._make(sock, self._address, self._share)
        return self.stream

    def _leave_count(self) -> None:
        self._is_counted = False
        self._share.give_back()

    def _failed(self, error: OSError) -> LinkError:
        self.close()
        message = f"{self._address} cannot be reached: {error.strerror}"
        return LinkError(message, is_local=error.errno in _OURS)

    def close(self) -> None:
        super().close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._is_counted:
            self._leave_count()


class SocketNetwork(Network):
    """Be the real network, whose streams `make` makes.

    Those it dials count in `share`, in that of links where none is given.
    """

    def __init__(self, make: MakeStream = SocketStream, share: Share | None = None) -> None:
        self.make = make
        self._share = share

    async def dial(self, address: Address) -> ByteStream:
        return await self.begin_dial(address).wait()

    def begin_dial(self, address: Address) -> Dialling:
        return _SocketDialling(self, address, self._share or reserve.here().links)

    def for_exit(self) -> Network:
        return SocketNetwork(self.make, reserve.here().exit)

    def listen(self, address: Address) -> SocketListener:
        return SocketListener(listening_socket(address), self.make)


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
