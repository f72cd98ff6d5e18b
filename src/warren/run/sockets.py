"""Sockets for a network we are not in: a process that is makes them, and hands them over.

A socket belongs to the network of the process that made it, whoever has it later. So one process
joins the command's network and waits there; each request is one packet, and the answer is an
error number, with the socket beside it where that is 0.
"""

import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from errno import EMFILE

from warren.addresses import Address
from warren.run import kernel

#: Kind of socket, and whether the port may have been in use a moment ago; an address follows.
_REQUEST = struct.Struct("=i?")
_ANSWER = struct.Struct("=i")
_BACKLOG = 4096
_MOST_DESCRIPTORS = 1 << 30


class SocketMaker:
    """Own the process in the namespaces of process `inside`, a pidfd."""

    def __init__(self, inside: int) -> None:
        """Start the process; raise OSError when it cannot join the namespaces."""
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = run_in_child(lambda: _serve(inside, other), keep=(inside, other.fileno()))
        other.close()
        self._take_answer()

    def listen(self, address: Address, *, may_be_left: bool) -> socket.socket:
        """Return a TCP socket that listens at `address`; raise OSError when it cannot.

        With `may_be_left`, connections of an earlier listener there are no obstacle.
        """
        return self._make(socket.SOCK_STREAM, address, may_be_left)

    def datagrams(self, address: Address) -> socket.socket:
        """Return a UDP socket bound to `address`, told to which address each datagram was sent."""
        return self._make(socket.SOCK_DGRAM, address, is_reusing=False)

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        os.waitpid(self._pid, 0)

    def _make(self, kind: int, address: Address, is_reusing: bool) -> socket.socket:
        # It waits for nothing but us, so neither do we for long, and a task that made us wait
        # would only let others overtake.
        self._channel.sendall(_REQUEST.pack(kind, is_reusing) + address.encode())
        descriptors = self._take_answer()
        if not descriptors:  # there was no number left for it here
            raise OSError(EMFILE, os.strerror(EMFILE))
        return socket.socket(fileno=descriptors[0])

    def _take_answer(self) -> list[int]:
        data, descriptors, _, _ = socket.recv_fds(self._channel, _ANSWER.size, 1)
        if not data:
            raise OSError("the process that makes sockets has ended")
        (code,) = _ANSWER.unpack(data)
        if code:
            raise OSError(code, os.strerror(code))
        return descriptors


def run_in_child(
    act: Callable[[], None], *, keep: tuple[int, ...], keeps_errors: bool = False
) -> int:
    """Run `act` in a process and session of its own and return its id; it does not return here.

    Of the open files it has only `keep` and, with `keeps_errors`, standard error.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1) if keeps_errors else (0, 1, 2):
            os.dup2(nowhere, standard)
        last = 2
        for descriptor in sorted(keep):
            os.closerange(last + 1, descriptor)
            last = descriptor
        os.closerange(last + 1, _MOST_DESCRIPTORS)
        act()
    except BaseException:  # noqa: BLE001  it ends here, whatever it is
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _serve(inside: int, channel: socket.socket) -> None:
    """Join the network of `inside` and make sockets there until nobody asks any more."""
    try:
        kernel.join_namespaces(inside, kernel.NEW_USER | kernel.NEW_NETWORK)
    except OSError as error:
        channel.sendall(_ANSWER.pack(error.errno or 1))
        return
    channel.sendall(_ANSWER.pack(0))
    while request := channel.recv(64):
        try:
            kind, is_reusing = _REQUEST.unpack_from(request)
            address, _ = Address.decode(request[_REQUEST.size :])
            with make_socket(kind, address, is_reusing=is_reusing) as made:
                socket.send_fds(channel, [_ANSWER.pack(0)], [made.fileno()])
        except OSError as error:
            channel.sendall(_ANSWER.pack(error.errno or 1))


def make_socket(kind: int, address: Address, *, is_reusing: bool) -> socket.socket:
    """Return a socket of `kind` in the network of this process; see ``SocketMaker``."""
    assert address.ip is not None
    is_4 = address.ip.version == 4
    made = socket.socket(socket.AF_INET if is_4 else socket.AF_INET6, kind)
    try:
        level = socket.IPPROTO_IP if is_4 else socket.IPPROTO_IPV6
        # A route makes an address local enough to be reached; IPv6 wants more for binding to it.
        made.setsockopt(level, kernel.IP_FREEBIND if is_4 else kernel.IPV6_FREEBIND, 1)
        if not is_4:
            made.setsockopt(level, socket.IPV6_V6ONLY, 1)
        if is_reusing:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == socket.SOCK_DGRAM:
            made.setsockopt(level, kernel.IP_PKTINFO if is_4 else kernel.IPV6_RECVPKTINFO, 1)
        made.bind((address.host, address.port))
        if kind == socket.SOCK_STREAM:
            made.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )  # what it accepts inherits it
            made.listen(_BACKLOG)
            # What the command binds after we left must not meet what we accepted before.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except BaseException:
        made.close()
        raise
    return made
