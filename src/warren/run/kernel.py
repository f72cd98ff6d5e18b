"""Calls of Linux that Python has no name for, or only newer ones than ours, through the C library.

Each raises OSError as Python's own do. Numbers are those of the kernel's headers.
"""

import ctypes
import fcntl
import os
import platform
import struct
from dataclasses import dataclass
from errno import EINVAL

from warren.run.filter import DATA, MACHINES, build_filter

NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # CLONE_NEW...
MS_BIND = 4096
IP_FREEBIND, IPV6_FREEBIND, IP_PKTINFO, IPV6_RECVPKTINFO = 15, 78, 8, 49

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, ..._SEND
_NOTIFICATION = struct.Struct("=QII")  # then seccomp_data
_RESPONSE = struct.Struct("=QqiI")
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class Notification:
    """Hold one call that waits for our answer: its number, its thread, its ``seccomp_data``."""

    number: int
    thread: int
    data: bytes


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)))


def join_namespaces(process: int, flags: int) -> None:
    """Move this process, which must have one thread, into those of the pidfd `process`."""
    _check(_libc.setns(ctypes.c_int(process), ctypes.c_int(flags)))


def bind_mount(source: str, target: str) -> None:
    """Let the file `target` be `source`, in this mount namespace."""
    flags = ctypes.c_ulong(MS_BIND)
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None))


def watch_calls() -> int:
    """Install the filter in this process and all its children; return the listener's descriptor.

    Needs CAP_SYS_ADMIN in the own user namespace. Raises OSError, with EBUSY when somebody
    listens to this process already.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"no seccomp filter for {machine}, only for {', '.join(MACHINES)}")
    code = build_filter(MACHINES[machine])
    program = _Program(len(code) // 8, code)
    try:  # where the kernel can (5.19), signals do not break off a call that is looked at
        return _install(machine, program, _NEW_LISTENER | _WAIT_KILLABLE)
    except OSError as error:
        if error.errno != EINVAL:
            raise
    return _install(machine, program, _NEW_LISTENER)


def _install(machine: str, program: _Program, flags: int) -> int:
    number, mode = ctypes.c_long(_SECCOMP[machine]), ctypes.c_uint(_SET_MODE_FILTER)
    return _check(int(_libc.syscall(number, mode, ctypes.c_uint(flags), ctypes.byref(program))))


def next_call(listener: int) -> Notification:
    """Return a call that waits; raise OSError when its process has ended meanwhile.

    The listener must be readable.
    """
    buffer = bytearray(_NOTIFICATION.size + DATA.size)  # the kernel wants it all zero
    fcntl.ioctl(listener, _RECEIVE, buffer)
    number, thread, _ = _NOTIFICATION.unpack_from(buffer)
    return Notification(number, thread, bytes(buffer[_NOTIFICATION.size :]))


def let_continue(listener: int, call: Notification) -> None:
    """Let the kernel do what was called for."""
    _respond(listener, _RESPONSE.pack(call.number, 0, 0, _CONTINUE))


def let_fail(listener: int, call: Notification, code: int) -> None:
    """Let the call fail with the error number `code`."""
    _respond(listener, _RESPONSE.pack(call.number, 0, -code, 0))


def _respond(listener: int, response: bytes) -> None:
    try:
        fcntl.ioctl(listener, _SEND, response)
    except FileNotFoundError:
        return  # a signal has ended the call or its process


def read_memory(process: int, address: int, size: int) -> bytes:
    """Return `size` bytes of the memory of another process, or what can be read of them."""
    buffer = ctypes.create_string_buffer(size)
    here = _Vector(ctypes.addressof(buffer), size)
    there = _Vector(address, size)
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    read = _libc.process_vm_readv(
        ctypes.c_int(process), ctypes.byref(here), one, ctypes.byref(there), one, none
    )
    return buffer.raw[: _check(int(read))]


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
