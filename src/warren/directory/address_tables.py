"""The addresses and names that no exit connects to, whatever its policy says.

IPv4 has a list of what is refused, IPv6 a list of what is allowed: 2000::/3 without some blocks,
so that what is assigned tomorrow is closed today. The table is our own (EXT-6), because the
standard library's ``is_global`` says yes to many of these. An IPv6 address may carry an IPv4
address inside; then both must pass (EXT-5). What the exit's own host and network add to the
table is found in ``network.own_addresses``.
"""

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from warren.addresses import Address, IPAddress, IPNetwork

#: Refused always, on all ports (EXT-6); the text is the reason given in logs and tests.
REFUSED_V4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "a private network",
    "100.64.0.0/10": "a provider's shared network",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "a private network",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "AS112 name servers",
    "192.52.193.0/24": "multicast tunnelling",
    "192.88.99.0/24": "6to4 relays",
    "192.168.0.0/16": "a private network",
    "192.175.48.0/24": "AS112 name servers",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved or broadcast",
    "168.63.129.16/32": "a cloud provider's host agent",
}
REFUSED_V6 = {
    "::/3": "outside global unicast",
    "2001::/23": "protocol assignments",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "2620:4f:8000::/48": "AS112 name servers",
    "3fff::/20": "documentation",
    "4000::/2": "outside global unicast",
    "8000::/1": "outside global unicast",
}
#: What a policy rule means by ``private``.
REFUSED_NETWORKS: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(text) for text in (*REFUSED_V4, *REFUSED_V6)
)

#: Names that mean something else at the exit than where they were typed (EXT-2).
FORBIDDEN_SUFFIXES = (
    "local", "localhost", "internal", "lan", "home", "home.arpa", "corp", "onion", "test",
    "invalid",
)  # fmt: skip

#: The name whose AAAA records betray a NAT64 (RFC 7050), and its two addresses.
NAT64_NAME = "ipv4only.arpa"
_NAT64_KNOWN = {IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")}
#: Prefix lengths of RFC 6052 §2.2.
_NAT64_LENGTHS = (96, 64, 56, 48, 40, 32)

_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_NAT64_WELL_KNOWN = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL_USE = IPv6Network("64:ff9b:1::/48")
_IN_THE_LAST_32_BITS = (_MAPPED, _COMPATIBLE, _TRANSLATED, _NAT64_WELL_KNOWN, _NAT64_LOCAL_USE)
#: Where the prefix of a NAT64 may be: a forged answer must not open a local network.
_NAT64_PLACES = (_NAT64_WELL_KNOWN, _NAT64_LOCAL_USE, IPv6Network("2000::/3"))
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def network_bounds(network: IPNetwork) -> tuple[int, int]:
    """Return the first and the last address of `network` as integers."""
    return int(network.network_address), int(network.broadcast_address)


class _Ranges:
    """Find in which of several disjoint networks of one family an address is."""

    def __init__(self, table: dict[str, str]) -> None:
        ranges = sorted((*network_bounds(ipaddress.ip_network(n)), why) for n, why in table.items())
        self._starts = [start for start, _, _ in ranges]
        self._ends = [end for _, end, _ in ranges]
        self._reasons = [why for _, _, why in ranges]

    def find(self, ip: IPAddress) -> str | None:
        value = int(ip)
        index = bisect_right(self._starts, value) - 1
        return self._reasons[index] if index >= 0 and value <= self._ends[index] else None


_V4, _V6 = _Ranges(REFUSED_V4), _Ranges(REFUSED_V6)


def embedded_addresses(ip: IPAddress, nat64: Iterable[IPv6Network] = ()) -> tuple[IPv4Address, ...]:
    """Return every IPv4 address that `ip` may stand for (EXT-5).

    `nat64` are the prefixes of a local NAT64, as ``learn_nat64`` finds them.
    """
    if isinstance(ip, IPv4Address):
        return ()
    return tuple(dict.fromkeys(_embedded(ip, nat64)))


def _embedded(ip: IPv6Address, nat64: Iterable[IPv6Network]) -> Iterator[IPv4Address]:
    value = int(ip)
    if any(ip in network for network in _IN_THE_LAST_32_BITS):
        yield IPv4Address(value & 0xFFFF_FFFF)
    if ip in _SIX_TO_FOUR:
        yield IPv4Address(value >> 80 & 0xFFFF_FFFF)
    if ip in _TEREDO:  # RFC 4380 §4: the server, and the client with all bits turned over
        yield IPv4Address(value >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(~value & 0xFFFF_FFFF)
    if value >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield IPv4Address(value & 0xFFFF_FFFF)
    for network in (_NAT64_LOCAL_USE, *nat64):
        if ip in network:
            yield _behind_nat64(value, network.prefixlen)


def _behind_nat64(value: int, prefix_length: int) -> IPv4Address:
    """Take the IPv4 address out of a NAT64 one: it leaves out bits 64 to 71 (RFC 6052 §2.2)."""
    if prefix_length == 96:
        return IPv4Address(value & 0xFFFF_FFFF)
    without_gap = value >> 64 << 56 | value & (1 << 56) - 1
    return IPv4Address(without_gap >> (120 - 32 - prefix_length) & 0xFFFF_FFFF)


def learn_nat64(answers: Iterable[IPAddress]) -> tuple[IPv6Network, ...]:
    """Return the prefixes of the local NAT64, read from the addresses of ``NAT64_NAME``.

    There are none without a NAT64. Follows RFC 7050 §3.
    """
    found = dict.fromkeys(
        prefix
        for ip in answers
        if isinstance(ip, IPv6Address) and (prefix := _nat64_prefix(ip)) is not None
    )
    return tuple(prefix for prefix in found if any(map(prefix.subnet_of, _NAT64_PLACES)))


def _nat64_prefix(ip: IPv6Address) -> IPv6Network | None:
    for length in _NAT64_LENGTHS:
        if _behind_nat64(int(ip), length) in _NAT64_KNOWN:
            return IPv6Network((ip, length), strict=False)
    return None


def denied_reason(ip: IPAddress, nat64: Iterable[IPv6Network] = ()) -> str | None:
    """Return why no exit may connect to `ip`, in a few words, or None (EXT-5, EXT-6).

    An address inside one of the `nat64` prefixes is an IPv4 address in disguise: only what it
    carries decides.
    """
    prefixes = tuple(nat64)
    embedded = embedded_addresses(ip, prefixes)
    if isinstance(ip, IPv4Address):
        outer = _V4.find(ip)
    else:
        outer = None if any(ip in prefix for prefix in prefixes) else _V6.find(ip)
    if outer is not None:
        return outer
    return next((f"{why} inside IPv6" for inner in embedded if (why := _V4.find(inner))), None)


def forbidden_name(host: str) -> str | None:
    """Return why an exit does not resolve the name `host`, or None when it may (EXT-2)."""
    try:
        address = Address(host, 0)
    except ValueError as error:
        return str(error)
    if address.ip is not None:
        return "an IP address, not a name"
    if "." not in address.host:
        return "a name of a single label"
    for suffix in FORBIDDEN_SUFFIXES:
        if address.host == suffix or address.host.endswith(f".{suffix}"):
            return f"names under .{suffix} are local"
    return None
