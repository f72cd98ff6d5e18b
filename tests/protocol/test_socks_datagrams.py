"""The header of SOCKS5 datagrams: what is read, what is written, and that nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import ProtocolError
from warren.protocol.socks_datagrams import read_datagram, write_datagram

V4 = bytes((1, 93, 184, 216, 34, 0, 53))
V6 = bytes((4,)) + bytes.fromhex("26062800022000010000000000000001") + bytes((0, 53))
NAME = bytes((3, 11)) + b"dns.example" + bytes((0, 53))

literals = st.builds(
    Address,
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    st.integers(0, 0xFFFF),
)


@pytest.mark.parametrize(
    ("head", "address"),
    [
        (V4, Address("93.184.216.34", 53)),
        (V6, Address("2606:2800:220:1::1", 53)),
        (NAME, Address("dns.example", 53)),
        (bytes((3, 12)) + b"dns.example." + bytes((0, 53)), Address("dns.example", 53)),
        (bytes((3, 11)) + b"DNS.example" + bytes((0, 53)), Address("dns.example", 53)),
        (bytes((3, 9)) + b"127.0.0.1" + bytes((0, 53)), Address("127.0.0.1", 53)),
    ],
)
def test_every_kind_of_address_is_read(head: bytes, address: Address) -> None:
    assert read_datagram(bytes(3) + head + b"data") == (address, b"data")
    assert read_datagram(bytes(3) + head) == (address, b"")


@given(address=literals, data=st.binary(max_size=1500))
def test_what_was_written_is_read(address: Address, data: bytes) -> None:
    assert read_datagram(write_datagram(address, data)) == (address, data)


@pytest.mark.parametrize("fragment", [1, 2, 0x81, 0xFF])
def test_a_fragment_is_refused(fragment: int) -> None:  # FE-13
    with pytest.raises(ProtocolError, match="fragment"):
        read_datagram(bytes((0, 0, fragment)) + V4 + b"data")


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(4),
        b"\x00\x01\x00" + V4,
        b"\x05\x00\x00" + V4,
        bytes(3) + bytes((2,)) + V4[1:],
        bytes(3) + V4[:-1],
        bytes(3) + V6[:-1],
        bytes(3) + NAME[:-1],
        bytes(3) + bytes((3, 255)) + b"short" + bytes((0, 53)),
        bytes(3) + bytes((3, 0, 0, 53)),
        bytes(3) + bytes((3, 4)) + b"a b!" + bytes((0, 53)),
        bytes(3) + bytes((3, 3)) + b"\xff.\xe9" + bytes((0, 53)),
    ],
)
def test_a_bad_header_is_refused(datagram: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_datagram(datagram)


@given(st.binary(max_size=300), st.booleans())
def test_garbage_raises_protocol_errors_only(garbage: bytes, is_likely: bool) -> None:
    datagram = bytes(3) + garbage if is_likely else garbage
    try:
        address, data = read_datagram(datagram)
    except ProtocolError:
        return
    assert datagram.endswith(data)
    assert address.port == int.from_bytes(datagram[len(datagram) - len(data) - 2 :][:2], "big")
