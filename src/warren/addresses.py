"""Addresses: a host and a port, in text and on the wire.

A host is an IPv4 or IPv6 literal or a DNS name. Only ``ipaddress`` decides what a literal is
(EXT-1): it refuses ``127.1`` and ``0177.0.0.1``, which the C library would read as loopback,
and the name grammar refuses them as well, because a name never ends in a number (EXT-2). Which
addresses an exit may connect to is decided in ``directory.exit_policy``.

On the wire::

    kind u8 | host | port u16        kind 4: 4 bytes, 6: 16 bytes, 1: length u8 and a name
"""

import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache

from warren.errors import ProtocolError, expect, refuse

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Where connections come from that somebody makes to any loopback address.
_THIS_MACHINE = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1")))
_NAME, _IPV4, _IPV6 = 1, 4, 6
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


def lasting_part(ip: IPAddress) -> IPAddress:
    """Return what of an address stays: hosts change the last 64 bits of IPv6 ones every day."""
    return ip if ip.version == 4 else ipaddress.IPv6Address(int(ip) >> 64 << 64)


def unmapped(ip: IPAddress) -> IPAddress:
    """Return the IPv4 address that `ip` is in IPv6 clothes, as a dual-stack socket shows it."""
    return ip if ip.version == 4 else ip.ipv4_mapped or ip


def is_loopback(ip: IPAddress | None) -> bool:
    """Tell whether only this machine can be at `ip`, in IPv6 clothes or without; None is no IP."""
    return ip is not None and unmapped(ip).is_loopback


def host_of(remote: "Address") -> str:
    """Return by what those who come from somewhere are told apart, of IPv6 the /64.

    It is "" for whoever comes from 127.0.0.1 or ::1. That is this machine, or a forwarder before
    us which speaks for everybody, so nobody is told apart there. Other loopback addresses are
    addresses like any: somebody has chosen them.
    """
    if remote.ip is None:
        return ""
    ip = unmapped(remote.ip)
    return "" if ip in _THIS_MACHINE else str(lasting_part(ip))


def parse_ip(text: str) -> IPAddress | None:
    """Return the IP address that `text` is a strict literal of, or None.

    Scoped IPv6 literals (``fe80::1%eth0``) are not addresses here.
    """
    if ":" not in text and not text[-1:].isdigit():
        return None  # a name, as nearly always: the strict parser is slow to say so
    return _read_literal(text)[0]


@lru_cache(maxsize=512)
def _read_literal(text: str) -> tuple[IPAddress | None, str]:
    """Return the address that `text` is a literal of and its one spelling; None when it is none.

    Few are in use at a time, each is read several times, and the strict parser is slow.
    """
    if "%" in text or not text.isascii():
        return None, text
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None, text
    return ip, str(ip)


@lru_cache(maxsize=512)
def _read_packed(packed: bytes) -> tuple[IPAddress, str]:
    """Return the address of 4 or 16 bytes and its one spelling."""
    ip = ipaddress.ip_address(packed)
    return ip, str(ip)


def _canonical_name(host: str) -> str:
    """Return the name `host` in its one spelling; raise ValueError when it is none."""
    name = host.lower() if host.isascii() else ""  # some letters have an ASCII lower case
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError(f"{host[:64]!r} is neither an IP address nor a host name")
    if _NUMERIC_LABEL.match(labels[-1]):
        raise ValueError(f"{host[:64]!r} ends in a number but is no IP address")
    return name


@dataclass(frozen=True, slots=True)
class Address:
    """Hold a host, in its one canonical spelling, and a port of 0 to 65535.

    ``ip`` is the host as an IP address, or None when it is a name. Raises ValueError when made
    from anything else. Names are lower-case ASCII of at most 253 bytes (EXT-2);
    internationalised names must arrive as A-labels.
    """

    host: str
    port: int
    ip: IPAddress | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ip = parse_ip(self.host)
        host = _canonical_name(self.host) if ip is None else _read_literal(self.host)[1]
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "ip", ip)
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"port {self.port} is not between 0 and 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``host:port`` or ``[IPv6]:port``; raise ValueError otherwise."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
            raise ValueError(f"{text[:80]!r} is not HOST:PORT")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if not isinstance(parse_ip(host), ipaddress.IPv6Address):
                raise ValueError(f"{host[:64]!r} in brackets is not an IPv6 address")
        elif "://" in host:
            raise ValueError(f"{text[:80]!r} is an URL: leave out what stands before HOST:PORT")
        elif ":" in host:
            raise ValueError(f"write the IPv6 address in {text[:80]!r} in brackets: [ADDRESS]:PORT")
        return cls(host, int(port))

    def encode(self) -> bytes:
        """Return the wire form: 7, 19, or 4 plus the name's length bytes."""
        if self.ip is None:
            name = self.host.encode("ascii")
            head = bytes((_NAME, len(name))) + name
        else:
            head = bytes((self.ip.version,)) + self.ip.packed
        return head + self.port.to_bytes(2, "big")

    @classmethod
    def decode(cls, data: bytes) -> tuple["Address", int]:
        """Read an address at the start of `data`; return it and the bytes it took.

        Raises ProtocolError for anything but the one canonical encoding.
        """
        if len(data) < 2:
            refuse(f"an address of {len(data)} bytes, expected at least 5")
        kind = data[0]
        if kind == _NAME:
            return cls._decode_name(data)
        if kind not in (_IPV4, _IPV6):
            refuse(f"address kind {kind}, expected 1, 4 or 6")
        end = 5 if kind == _IPV4 else 17
        expect(len(data) >= end + 2, "an address is cut short")
        ip, host = _read_packed(bytes(data[1:end]))
        # A consensus has ten thousand of them, so the text is not read again. Each has one
        # encoding, and two bytes are always a port.
        address = object.__new__(cls)
        object.__setattr__(address, "host", host)
        object.__setattr__(address, "port", int.from_bytes(data[end : end + 2], "big"))
        object.__setattr__(address, "ip", ip)
        return address, end + 2

    @classmethod
    def _decode_name(cls, data: bytes) -> tuple["Address", int]:
        end = 2 + data[1]
        expect(len(data) >= end + 2, "an address is cut short")
        try:
            host = bytes(data[2:end]).decode("ascii")
            address = cls(host, int.from_bytes(data[end : end + 2], "big"))
        except ValueError as error:
            raise ProtocolError(f"not an address: {error}") from error
        is_own = address.host == host and address.ip is None
        expect(is_own, "an address in a spelling not its own")
        return address, end + 2
