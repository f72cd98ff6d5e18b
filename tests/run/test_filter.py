import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.run.filter import (
    AARCH64,
    ARM,
    DATA,
    I386,
    MACHINES,
    X86_64,
    Abi,
    Call,
    Kind,
    build_filter,
    read_call,
)

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
ALL_ABIS = [abi for abis in MACHINES.values() for abi in abis]
#: On paper, from the tables of system calls of Linux.
NUMBERS = [
    (X86_64, 42, Kind.CONNECT),
    (X86_64, 49, Kind.BIND),
    (X86_64, 0x4000002A, Kind.CONNECT),
    (X86_64, 0x40000031, Kind.BIND),
    (I386, 362, Kind.CONNECT),
    (I386, 361, Kind.BIND),
    (AARCH64, 203, Kind.CONNECT),
    (AARCH64, 200, Kind.BIND),
    (ARM, 283, Kind.CONNECT),
    (ARM, 282, Kind.BIND),
]


def call_data(architecture: int, number: int, *arguments: int) -> bytes:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    return DATA.pack(number, architecture, 0, *padded)


def verdict(program: bytes, data: bytes) -> int:
    """Run classic BPF as the kernel does, as far as the filter uses it."""
    code = list(struct.iter_unpack("=HBBI", program))
    place, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x15:
            place += if_true if accumulator == value else if_false
        else:
            assert operation == 0x06
            return int(value)


@pytest.mark.parametrize(("abi", "number", "kind"), NUMBERS)
def test_connect_and_bind_are_told_and_understood(abi: Abi, number: int, kind: Kind) -> None:
    data = call_data(abi.architecture, number, 3, 0x7000, 16)

    assert verdict(build_filter(ALL_ABIS), data) == NOTIFY
    assert read_call(data) == Call(kind, 0x7000, 16)


@pytest.mark.parametrize(("which", "kind"), [(2, Kind.BIND), (3, Kind.CONNECT)])
def test_32_bit_programs_have_both_behind_one_number(which: int, kind: Kind) -> None:
    data = call_data(I386.architecture, 102, which, 0x7000)

    assert verdict(build_filter(MACHINES["x86_64"]), data) == NOTIFY
    assert read_call(data) == Call(kind, 0x7000, 12, is_indirect=True)


@pytest.mark.parametrize("which", [1, 4, 5, 11, 20])
def test_other_socket_calls_of_32_bit_programs_pass(which: int) -> None:
    data = call_data(I386.architecture, 102, which, 0x7000)

    assert verdict(build_filter(MACHINES["x86_64"]), data) == ALLOW
    assert read_call(data) is None


@pytest.mark.parametrize("machine", MACHINES)
@given(
    architecture=st.sampled_from([abi.architecture for abi in ALL_ABIS])
    | st.integers(0, 2**32 - 1),
    number=st.integers(0, 500) | st.integers(-(2**31), 2**31 - 1),
    first=st.integers(0, 25),
)
def test_what_is_told_is_what_is_understood(
    machine: str, architecture: int, number: int, first: int
) -> None:
    abis = MACHINES[machine]
    data = call_data(architecture, number, first, 0x7000, 16)

    is_told = verdict(build_filter(abis), data) == NOTIFY

    is_ours = architecture in {abi.architecture for abi in abis}
    assert is_told == (is_ours and read_call(data) is not None)


def test_the_length_is_the_lower_half_of_its_register() -> None:
    call = read_call(call_data(X86_64.architecture, 42, 3, 0x7000, 0xFFFFFFFF_00000010))

    assert call == Call(Kind.CONNECT, 0x7000, 16)


def test_the_program_is_the_one_that_was_checked_by_hand() -> None:
    lines = list(struct.iter_unpack("=HBBI", build_filter([AARCH64])))

    assert lines == [
        (0x20, 0, 0, 4),
        (0x15, 0, 5, 0xC00000B7),
        (0x20, 0, 0, 0),
        (0x15, 2, 0, 203),
        (0x15, 1, 0, 200),
        (0x06, 0, 0, ALLOW),
        (0x06, 0, 0, NOTIFY),
        (0x06, 0, 0, ALLOW),
    ]
