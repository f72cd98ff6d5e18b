"""Dial, listen and move bytes: the one seam to the world.

A ``ByteStream`` is a reliable byte stream whose bytes move without waiting. Who waits for them
has the choice: a task, in an opening exchange, or a callback, on the hot path, which then reads,
works and writes in one synchronous step. Everything above takes a ``Network``; real life has
``SocketNetwork``, a simulated one may give memory streams.
"""

import contextlib
import errno
import fcntl
import socket
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import readiness
from warren.network.readiness import Act
from warren.protocol.exchange import Exchange, Send, T, take

Buffer = bytes | bytearray | memoryview
Accept = Callable[["ByteStream"], Awaitable[None]]

#: Unsent bytes the kernel may hold before a socket counts as not writable.
NOTSENT_BYTES = 128 * 1024
_MOST_PARTS = 512  # below Linux's IOV_MAX of 1024
_SIOCOUTQNSD = 0x894B  # linux/sockios.h: the bytes that were never sent, not even once
_NO_LINGER = struct.pack("ii", 1, 0)


class _Reading:
    """Own the task that calls the reader of a stream which knows no callbacks itself."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()


class ByteStream(ABC):
    """Be one reliable byte stream; its owner closes it."""

    remote: Address
    local: Address
    _reading: "_Reading | None" = None

    @abstractmethod
    def receive_into(self, buffer: bytearray | memoryview) -> int | None:
        """Read what is there: bytes written to `buffer`, 0 at the end, None when none is there.

        Raises LinkError when the connection broke.
        """

    @abstractmethod
    def send_now(self, data: Buffer) -> int:
        """Take as many bytes of `data` as fit without waiting; raise LinkError when broken."""

    @abstractmethod
    def send_parts_now(self, parts: Sequence[Buffer]) -> int:
        """Do ``send_now`` for several buffers, in order."""

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until ``receive_into`` has something; raise LinkError when closed meanwhile."""

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until ``send_now`` takes something; raise LinkError when closed meanwhile."""

    def read_with(self, act: Act, nursery: trio.Nursery) -> None:
        """Call `act` whenever ``receive_into`` has something, until ``stop_reading`` or ``close``.

        `act` reads and must not raise. `nursery` is for the task of a stream that needs one.
        """
        self.stop_reading()
        before, self._reading = self._reading, _Reading()
        nursery.start_soon(self._read_with, act, self._reading, before)

    async def _read_with(self, act: Act, reading: "_Reading", before: "_Reading | None") -> None:
        try:
            with reading.scope:
                if before is not None:
                    await before.is_over.wait()
                while True:
                    try:
                        await self.wait_readable()
                    except LinkError:
                        return  # closed by its owner, who reads no more
                    act()
        finally:
            reading.is_over.set()

    def stop_reading(self) -> None:
        """Call nobody any more when there is something to read."""
        if self._reading is not None:
            self._reading.scope.cancel()

    def write_with(self, act: Act, nursery: trio.Nursery) -> None:
        """Call `act` once, when ``send_now`` takes something or raises; not after ``close``."""
        nursery.start_soon(self._write_with, act)

    async def _write_with(self, act: Act) -> None:
        try:
            await self.wait_writable()
        except LinkError:
            return  # closed by its owner, who waits for nothing any more
        act()

    @abstractmethod
    def send_eof(self) -> None:
        """Half-close: the other side reads the end, we may still receive."""

    def keep_send_queue_short(self, size: int = NOTSENT_BYTES) -> None:
        """Count as writable only while less than `size` bytes are unsent below us.

        What is not yet in the kernel can still be overtaken by something more urgent. Where this
        cannot be asked for, nothing happens.
        """
        return

    def unsent(self) -> int:
        """Return how many bytes wait below us to be sent, 0 where that cannot be asked for."""
        return 0

    def keep_alive(self, seconds: int) -> None:
        """Notice within about `seconds` that the other side is gone without a word."""
        return

    @abstractmethod
    def close(self) -> None:
        """Close now; what was sent is still delivered. Closing twice is fine."""

    @abstractmethod
    def reset(self) -> None:
        """Close so that the other side sees an error, never a clean end (SID-4)."""

    async def send_all(self, data: Buffer) -> None:
        """Send `data` whole; wait as long as the other side does not read."""
        view = memoryview(data)
        while view:
            view = view[self.send_now(view) :]
            if view:
                await self.wait_writable()

    async def converse(self, exchange: Exchange[T], buffer: bytearray) -> T:
        """Drive an opening exchange; bytes beyond its end stay in `buffer`.

        Raises what the exchange raises, and LinkError when the stream ends too early.
        """
        chunk = bytearray(4096)
        wanted = next(exchange)
        while True:
            if isinstance(wanted, Send):
                await self.send_all(wanted.data)
                answer = b""
            else:
                while (taken := take(wanted, buffer)) is None:
                    count = self.receive_into(chunk)
                    if count is None:
                        await self.wait_readable()
                    elif count == 0:
                        raise LinkError("the other side closed in the middle of the opening")
                    else:
                        buffer += chunk[:count]
                answer = taken
            try:
                wanted = exchange.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result


def _broken(error: OSError) -> LinkError:
    return LinkError(f"the connection broke: {error.strerror or error}")


def _address_of(name: Any) -> Address:
    if not isinstance(name, tuple):  # a unix socket
        return Address("127.0.0.1", 0)
    return Address(str(name[0]).partition("%")[0], name[1])


class SocketStream(ByteStream):
    """Be a ``ByteStream`` over a connected, non-blocking TCP or unix socket."""

    def __init__(self, sock: socket.socket, remote: Address | None = None) -> None:
        """Take the socket; `remote` saves asking it who is at its other end."""
        sock.setblocking(False)
        self._socket = sock
        self._waiting = 0  # tasks that wait for it
        try:
            self.remote = remote or _address_of(sock.getpeername())
        except OSError as error:  # the other side is gone already
            sock.close()
            raise _broken(error) from error

    @cached_property
    def local(self) -> Address:  # type: ignore[override]  # few ask, and asking costs a call
        return _address_of(self._socket.getsockname())

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
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", seconds),
            ("TCP_KEEPINTVL", max(1, seconds // 4)),
            ("TCP_KEEPCNT", 4),
            ("TCP_USER_TIMEOUT", seconds * 1000),
        ):  # a system that lacks one does without it
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

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
        watching = readiness.here()
        if watching.is_working:
            watching.read_with(self._socket.fileno(), act)
        else:
            super().read_with(act, nursery)

    def stop_reading(self) -> None:
        readiness.here().stop_reading(self._socket.fileno())
        super().stop_reading()

    def write_with(self, act: Act, nursery: trio.Nursery) -> None:
        watching = readiness.here()
        if watching.is_working:
            watching.write_with(self._socket.fileno(), act)
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

    def close(self) -> None:
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            self.stop_reading()
            readiness.here().forget(descriptor)
            if self._waiting:
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def reset(self) -> None:
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.close()


class Listener(ABC):
    """Be one listening port; closing it ends ``serve``."""

    local: Address

    @abstractmethod
    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        """Start `accept` in `nursery` for every connection, until closed."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""


class SocketListener(Listener):
    """Be a ``Listener`` over a listening TCP or unix socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.local = _address_of(sock.getsockname())

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, name = self._socket.accept()
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                except (trio.ClosedResourceError, OSError, ValueError):
                    return
                continue
            except OSError as error:
                if self._socket.fileno() < 0:
                    return
                if error.errno != errno.ECONNABORTED:
                    await trio.sleep(0.1)  # DOS-8: out of descriptors; what closes makes room
                continue
            try:
                stream = SocketStream(sock, _address_of(name))
            except LinkError:
                continue
            nursery.start_soon(accept, stream)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class Network(ABC):
    """Give connections to literal addresses and listening ports."""

    @abstractmethod
    async def dial(self, address: Address) -> ByteStream:
        """Connect to `address`, whose host must be an IP literal; raise LinkError if it fails.

        Waits as long as the system does: the caller sets a deadline.
        """

    @abstractmethod
    def listen(self, address: Address) -> Listener:
        """Listen at `address` (port 0: a free one); raise LinkError if that is impossible."""


class SocketNetwork(Network):
    """Be the real network."""

    async def dial(self, address: Address) -> SocketStream:
        assert address.ip is not None, "names are resolved before dialling"
        family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            place = (address.host, address.port)
            code = sock.connect_ex(place)
            if code == errno.EINPROGRESS:
                code = sock.connect_ex(place)  # a neighbour has answered by now
            if code == errno.EALREADY:
                await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, errno.errorcode.get(code, "connect failed"))
            return SocketStream(sock, address)
        except OSError as error:
            sock.close()
            raise LinkError(f"{address} cannot be reached: {error.strerror}") from error
        except BaseException:
            sock.close()
            raise

    def listen(self, address: Address) -> SocketListener:
        return SocketListener(listening_socket(address))


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
