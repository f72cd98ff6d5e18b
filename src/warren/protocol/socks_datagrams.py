"""The header that SOCKS5 puts before each datagram, both ways (RFC 1928 §7).

::

    reserved 00 00 | fragment u8 | kind u8 | host | port u16 | data
"""

import ipaddress

from warren.addresses import Address
from warren.errors import expect, refuse
from warren.protocol.front import target_address

_IPV4, _NAME, _IPV6 = 0x01, 0x03, 0x04
_HEAD = 4
_SIZES = {_IPV4: 4, _IPV6: 16}


def read_datagram(datagram: bytes) -> tuple[Address, bytes]:
    """Return whom a program's datagram is for, and what it says.

    Raises ProtocolError for a bad header and for a fragment, which nobody puts together (FE-13).
    """
    expect(len(datagram) > _HEAD, f"a SOCKS5 datagram of {len(datagram)} bytes")
    expect(datagram[:2] == b"\0\0", "a SOCKS5 datagram does not begin with 00 00")
    expect(datagram[2] == 0, "a fragment of a SOCKS5 datagram")
    kind, start = datagram[3], _HEAD
    if kind == _NAME:
        size, start = datagram[_HEAD], _HEAD + 1
    elif kind in _SIZES:
        size = _SIZES[kind]
    else:
        refuse(f"SOCKS5 address type {kind}, expected 1, 3 or 4")
    end = start + size
    expect(len(datagram) >= end + 2, "a SOCKS5 datagram is cut short")
    raw = datagram[start:end]
    # What is not ASCII becomes characters that no name may have.
    host = raw.decode("ascii", "replace") if kind == _NAME else str(ipaddress.ip_address(raw))
    address = target_address(host, int.from_bytes(datagram[end : end + 2], "big"))
    return address, datagram[end + 2 :]


def write_datagram(address: Address, data: bytes) -> bytes:
    """Return the datagram that tells a program what the literal `address` said."""
    assert address.ip is not None
    kind = _IPV4 if address.ip.version == 4 else _IPV6
    head = bytes((0, 0, 0, kind))
    return b"".join((head, address.ip.packed, address.port.to_bytes(2, "big"), data))
