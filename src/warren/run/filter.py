"""The seccomp filter of the command: ``connect`` and ``bind`` are told to us, all else passes.

The program is classic BPF over ``struct seccomp_data``, made by hand. A processor that runs two
instruction sets has two numbers for one call, so each has a block of its own, found by the
``AUDIT_ARCH`` it is called with. Calls of an architecture we do not know pass as they are: their
connections then find nobody listening. It is a means of learning ports, not a fence (seccomp(2):
the arguments of a call that continues may have changed meanwhile).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

#: ``struct seccomp_data``: number, architecture, instruction pointer, six arguments.
DATA = struct.Struct("=iIQ6Q")

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000  # SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF
_X32 = 0x40000000  # a bit of the number says that an x86-64 call has 32-bit pointers
_SOCKETCALL_BIND, _SOCKETCALL_CONNECT = 2, 3


class Kind(Enum):
    """Name the calls that are told to us."""

    CONNECT = "connect"
    BIND = "bind"


@dataclass(frozen=True, slots=True)
class Abi:
    """Hold how one instruction set names the calls; ``socketcall`` has both behind one number."""

    architecture: int
    calls: dict[int, Kind]
    socketcall: int | None = None


X86_64 = Abi(
    0xC000003E,
    {42: Kind.CONNECT, 49: Kind.BIND, 42 | _X32: Kind.CONNECT, 49 | _X32: Kind.BIND},
)
I386 = Abi(0x40000003, {362: Kind.CONNECT, 361: Kind.BIND}, socketcall=102)
AARCH64 = Abi(0xC00000B7, {203: Kind.CONNECT, 200: Kind.BIND})
ARM = Abi(0x40000028, {283: Kind.CONNECT, 282: Kind.BIND})

#: What the kernel of each machine, as ``uname -m`` says it, can be called with.
MACHINES: dict[str, tuple[Abi, ...]] = {"x86_64": (X86_64, I386), "aarch64": (AARCH64, ARM)}
_ABIS = {abi.architecture: abi for abis in MACHINES.values() for abi in abis}


@dataclass(frozen=True, slots=True)
class Call:
    """Hold a call that was told: where in its process the socket address is, and how long.

    With ``is_indirect`` the three arguments of the call stand at ``pointer``, 4 bytes each.
    """

    kind: Kind
    pointer: int
    length: int
    is_indirect: bool = False


def build_filter(abis: Sequence[Abi]) -> bytes:
    """Return the filter program for `abis`: 8 bytes for each instruction."""
    code = [_instruction(_LOAD, _ARCHITECTURE_AT)]
    for abi in abis:
        block = _block(abi)
        code += [_instruction(_JUMP_IF_EQUAL, abi.architecture, 0, len(block)), *block]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _block(abi: Abi) -> list[bytes]:
    """Return what follows once the architecture is known; it always ends in a verdict."""
    numbers = list(abi.calls)
    tail = [_instruction(_RETURN, _ALLOW), _instruction(_RETURN, _NOTIFY)]
    if abi.socketcall is not None:
        tail = [
            _instruction(_JUMP_IF_EQUAL, abi.socketcall, 0, 3),
            _instruction(_LOAD, _FIRST_ARGUMENT_AT),
            _instruction(_JUMP_IF_EQUAL, _SOCKETCALL_BIND, 2),
            _instruction(_JUMP_IF_EQUAL, _SOCKETCALL_CONNECT, 1),
            *tail,
        ]
    tests = [
        # Over the other tests and all of the tail but the verdict at its end.
        _instruction(_JUMP_IF_EQUAL, number, len(numbers) - 1 - place + len(tail) - 1)
        for place, number in enumerate(numbers)
    ]
    return [_instruction(_LOAD, _NUMBER_AT), *tests, *tail]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one ``struct sock_filter``; jumps count from the next instruction."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def read_call(data: bytes) -> Call | None:
    """Return the call in a ``struct seccomp_data``, or None when it is none of ours."""
    number, architecture, _, first, second, third, *_ = DATA.unpack(data)
    abi = _ABIS.get(architecture)
    if abi is None:
        return None
    if number == abi.socketcall:
        kind = {_SOCKETCALL_BIND: Kind.BIND, _SOCKETCALL_CONNECT: Kind.CONNECT}.get(first)
        return None if kind is None else Call(kind, second, 12, is_indirect=True)
    kind = abi.calls.get(number & 0xFFFFFFFF)
    # The length is an int, in the lower half of its register.
    return None if kind is None else Call(kind, second, third & 0xFFFFFFFF)
