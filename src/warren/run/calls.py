"""What the command is about to do, read from its memory, and what we say to it.

A ``connect`` waits until there is a door at the address and port that it names, and then goes on
as if nothing had been. A ``bind`` waits until our own doors at that port are gone. Calls to the
services that look names up for the C library outside of the namespace, over unix sockets, fail:
the library then asks over the network, and that is us. Whatever else is read (a process may
change it at once, or give an address that cannot be read) just continues.
"""

import errno
import select
import socket
import struct
from dataclasses import dataclass

import trio

from warren.addresses import Address
from warren.run import kernel
from warren.run.doors import Doors
from warren.run.filter import Call, Kind, read_call

#: Sockets where names would be looked up in the open (nscd, systemd-resolved, Avahi).
LOOKUP_SERVICES = frozenset(
    folder + name
    for folder in (b"/run", b"/var/run")
    for name in (
        b"/nscd/socket",
        b"/systemd/resolve/io.systemd.Resolve",
        b"/avahi-daemon/socket",
    )
)
_LONGEST = 128  # bytes of a struct sockaddr_storage
_LOOPBACK = {4: socket.inet_aton("127.0.0.1"), 6: bytes(15) + b"\1"}
_MAPPED = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one


@dataclass(frozen=True, slots=True)
class Path:
    """Hold the file of a unix socket."""

    name: bytes


def read_target(data: bytes) -> Address | Path | None:
    """Return what a ``struct sockaddr`` names; None for what is neither TCP/IP nor a file.

    An address that stands for this machine is its loopback address, as for the kernel.
    """
    if len(data) < 2:
        return None
    (family,) = struct.unpack_from("=H", data)
    if family == socket.AF_UNIX:
        return Path(data[2:].partition(b"\0")[0])
    if family == socket.AF_INET and len(data) >= 8:
        return _address(data[4:8], data[2:4])
    if family == socket.AF_INET6 and len(data) >= 24:
        packed = data[8:24]
        return _address(packed[12:] if packed.startswith(_MAPPED) else packed, data[2:4])
    return None


def _address(packed: bytes, port: bytes) -> Address:
    version = 4 if len(packed) == 4 else 6
    if not any(packed):
        packed = _LOOPBACK[version]
    return Address.decode(bytes((version,)) + packed + port)[0]


class Calls:
    """Answer the calls that wait at the descriptor `listener`; `doors` are opened and closed."""

    def __init__(self, listener: int, doors: Doors) -> None:
        self._listener = listener
        self._doors = doors
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    async def answer_all(self) -> None:
        """Answer calls until there is no process left that could make one."""
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            for _, events in self._poll.poll(0):
                if events & select.POLLIN:
                    self._answer_next()
                elif events & select.POLLHUP:
                    return

    def _answer_next(self) -> None:
        try:
            call = kernel.next_call(self._listener)
        except OSError:
            return  # its process has ended meanwhile
        code = self._look_at(call)
        if code:
            kernel.let_fail(self._listener, call, code)
        else:
            kernel.let_continue(self._listener, call)

    def _look_at(self, notification: kernel.Notification) -> int:
        """Do what must be done before the call; return the error it shall fail with, or 0."""
        call = read_call(notification.data)
        if call is None:
            return 0
        try:
            target = read_target(_memory_of(notification.thread, call))
        except OSError:
            return 0  # the kernel will not be able to read it either
        if isinstance(target, Path):
            is_lookup = call.kind is Kind.CONNECT and target.name in LOOKUP_SERVICES
            return errno.ECONNREFUSED if is_lookup else 0
        if target is None or target.port == 0:
            return 0
        if call.kind is Kind.BIND:
            self._doors.give_way(target.port)
            return 0
        return 0 if self._doors.open(target) else errno.ECONNREFUSED


def _memory_of(thread: int, call: Call) -> bytes:
    pointer, length = call.pointer, call.length
    if call.is_indirect:
        _, pointer, length = struct.unpack("=III", kernel.read_memory(thread, pointer, length))
    return kernel.read_memory(thread, pointer, min(length, _LONGEST))
