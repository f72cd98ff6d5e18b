import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.run.calls import LOOKUP_SERVICES, Path, read_target


def inet(host: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + port.to_bytes(2, "big") + socket.inet_aton(host)


def inet6(host: str, port: int) -> bytes:
    packed = socket.inet_pton(socket.AF_INET6, host)
    head = struct.pack("=H", socket.AF_INET6) + port.to_bytes(2, "big")
    return head + bytes(4) + packed + bytes(4)


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (inet("5.5.5.5", 443) + bytes(8), Address("5.5.5.5", 443)),
        (inet("0.0.0.0", 80) + bytes(8), Address("127.0.0.1", 80)),
        (inet6("2a00::1", 443), Address("2a00::1", 443)),
        (inet6("::", 80), Address("::1", 80)),
        (inet6("::ffff:5.5.5.5", 443), Address("5.5.5.5", 443)),
        (inet6("::ffff:0.0.0.0", 443), Address("127.0.0.1", 443)),
    ],
)
def test_a_socket_address_is_read_as_the_kernel_reads_it(data: bytes, target: Address) -> None:
    assert read_target(data) == target


def test_the_file_of_a_unix_socket_ends_at_its_zero() -> None:
    data = struct.pack("=H", socket.AF_UNIX) + b"/run/nscd/socket\0\xffrest"

    target = read_target(data)

    assert target == Path(b"/run/nscd/socket")
    assert target.name in LOOKUP_SERVICES


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02", inet("5.5.5.5", 80)[:7], inet6("2a00::1", 80)[:23], struct.pack("=H", 16)],
)
def test_what_is_short_or_of_another_kind_is_nothing(data: bytes) -> None:
    assert read_target(data) is None


@given(st.binary(max_size=128))
def test_anything_can_be_read(data: bytes) -> None:
    target = read_target(data)

    assert target is None or isinstance(target, Address | Path)
