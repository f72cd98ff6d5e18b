"""The real network: connections to TCP addresses, and listeners there."""

import errno
import os
import socket

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network import reserve
from warren.network.byte_streams import ByteStream, Dialling, Network
from warren.network.listening import SocketListener, listening_socket
from warren.network.reserve import Share
from warren.network.sockets import MakeStream, SocketStream

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
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
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
