"""Set up a new network namespace: its loopback device is up, and every address is local.

Said to the kernel over rtnetlink(7) in its own words, so that no iproute2 is needed::

    ip link set lo up
    ip address add 198.18.0.1/32 dev lo
    ip route add local 0.0.0.0/0 dev lo src 198.18.0.1

A source that is not loopback lets programs believe that they are on a network (AI_ADDRCONFIG).
"""

import os
import socket
import struct
from collections.abc import Iterator

from warren.addresses import IPAddress

_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 20, 24  # RTM_...
_REQUEST, _ACKNOWLEDGE, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x400, 0x200  # NLM_F_...
_ERROR = 2  # NLMSG_ERROR
_HEADER = struct.Struct("=IHHII")
_IS_UP = 1  # IFF_UP
_ADDRESS, _LOCAL, _FLAGS, _NO_DAD = 1, 2, 8, 0x02  # IFA_..., IFA_F_NODAD
_DEVICE, _PREFERRED_SOURCE = 4, 7  # RTA_OIF, RTA_PREFSRC
_TABLE_LOCAL, _BY_ADMINISTRATOR, _SCOPE_HOST, _TYPE_LOCAL = 255, 4, 254, 2
_LOOPBACK = 1  # the index of lo in every network namespace


def make_everything_local(own_4: IPAddress, own_6: IPAddress) -> bool:
    """Make every address local in this network namespace, with `own_4` and `own_6` as its own.

    Returns whether it has IPv6. Needs CAP_NET_ADMIN; raises OSError.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        _ask(sock, link_up())
        for message in (new_address(own_4), new_local_route(own_4)):
            _ask(sock, message)
        try:
            for message in (new_address(own_6), new_local_route(own_6)):
                _ask(sock, message)
        except OSError:  # a kernel without IPv6, or told to do without
            return False
    return True


def link_up() -> bytes:
    """Return the message that brings the loopback device up."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, _LOOPBACK, _IS_UP, _IS_UP)
    return _message(_NEW_LINK, 0, body)


def new_address(ip: IPAddress) -> bytes:
    """Return the message that gives `ip` to the loopback device."""
    bits = ip.max_prefixlen
    body = struct.pack("=BBBBI", _family(ip), bits, 0, 0, _LOOPBACK)
    attributes = _attribute(_LOCAL, ip.packed) + _attribute(_ADDRESS, ip.packed)
    # Nobody else is there to have it already, and until that is sure it could not be used.
    attributes += _attribute(_FLAGS, struct.pack("=I", _NO_DAD))
    return _message(_NEW_ADDRESS, _CREATE | _EXCLUSIVE, body + attributes)


def new_local_route(source: IPAddress) -> bytes:
    """Return the message that makes every address of the family of `source` local."""
    body = struct.pack(
        "=BBBBBBBBI",
        *(_family(source), 0, 0, 0),  # to everywhere, from anywhere
        *(_TABLE_LOCAL, _BY_ADMINISTRATOR, _SCOPE_HOST, _TYPE_LOCAL, 0),
    )
    attributes = _attribute(_DEVICE, struct.pack("=I", _LOOPBACK))
    attributes += _attribute(_PREFERRED_SOURCE, source.packed)
    return _message(_NEW_ROUTE, _CREATE | _EXCLUSIVE, body + attributes)


def _family(ip: IPAddress) -> int:
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, kind, _REQUEST | _ACKNOWLEDGE | flags, 1, 0) + body


def _ask(sock: socket.socket, message: bytes) -> None:
    """Send one request and wait for its acknowledgement."""
    sock.sendto(message, (0, 0))
    for kind, body in _parts(sock.recv(65536)):
        if kind == _ERROR:
            (code,) = struct.unpack_from("=i", body)
            if code:
                raise OSError(-code, os.strerror(-code))


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[length + -length % 4 :]
