"""What belongs to this host: its addresses, and the networks it reaches by a way of their own.

An exit connects to none of them (EXT-6): its neighbours on the LAN, behind a VPN or in a
container, and its own services, must not be reachable through the network. A destination is
special when its route is not the default route. At home every device has a global IPv6 address,
so the /64 of each interface and the whole prefix that the provider delegates count as well.

Linux tells all this in /proc/net, which is read again when it is a minute old; other systems
tell only what their host name resolves to. Addresses that only others see, or that listeners
are bound to, are added by hand.
"""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TypeVar

import structlog

from warren.addresses import IPAddress, IPNetwork, parse_ip

logger = structlog.get_logger()

REFRESH_SECONDS = 60.0
#: What a provider usually delegates to a home.
HOME_PREFIX = 56
_LINK_PREFIX = 64

T = TypeVar("T")
Place = tuple[IPNetwork, str]

_GLOBAL_V6 = IPv6Network("2000::/3")
_OWN, _LINKED, _HOME = "an address of this host", "a network on a link here", "the home's prefix"
_ROUTED = "a network with a route of its own"
#: A route that old kernels made for one destination, about its path and not about its place.
_RTF_CACHE = 0x0100_0000


class OwnAddresses:
    """Own what is known of this host's places in the network.

    `home_prefix` is the length of the IPv6 prefix around each own global address that counts as
    own, 128 for none. `proc` is where Linux keeps its tables, `clock` counts seconds.
    """

    def __init__(
        self,
        *,
        home_prefix: int = HOME_PREFIX,
        proc: Path = Path("/proc/net"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home_prefix = home_prefix
        self._proc = proc
        self._clock = clock
        self._added: dict[IPNetwork, str] = {}
        self._tables: dict[tuple[int, int], dict[int, str]] = {}
        self._read_at = -REFRESH_SECONDS
        self._is_old = True

    def add(self, ip: IPAddress, why: str = _OWN) -> None:
        """Count `ip` as own too: an advertised, observed or listening address."""
        self._added.update(_around(ip, self._home_prefix))
        self._added[_host(ip)] = why
        self._is_old = True

    def contains(self, ip: IPAddress) -> str | None:
        """Return what `ip` is to this host, or None when it is any address elsewhere.

        Reads the system's tables when they are a minute old, which takes about a millisecond.
        """
        now = self._clock()
        if self._is_old or now >= self._read_at + REFRESH_SECONDS:
            self._read_at, self._is_old = now, False
            self._tables = self._read()
        value = int(ip)
        for (version, shift), networks in self._tables.items():
            if version == ip.version and (why := networks.get(value >> shift)) is not None:
                return why
        return None

    def _read(self) -> dict[tuple[int, int], dict[int, str]]:
        """Return all places by family and number of bits that do not count, narrowest first."""
        tables: dict[tuple[int, int], dict[int, str]] = {}
        for network, why in (*self._added.items(), *self._places()):
            shift = network.max_prefixlen - network.prefixlen
            key = int(network.network_address) >> shift
            tables.setdefault((network.version, shift), {}).setdefault(key, why)
        return dict(sorted(tables.items(), key=lambda item: item[0][1]))

    def _places(self) -> Iterator[Place]:
        addresses: list[IPAddress] = [
            *self._table("fib_trie", local_v4),
            *self._table("if_inet6", interface_v6),
        ]
        for ip in addresses or self._named_addresses:
            yield from _around(ip, self._home_prefix)
        yield from self._table("fib_trie", trie_routes_v4)
        yield from self._table("route", routes_v4)
        yield from self._table("ipv6_route", routes_v6)

    def _table(self, name: str, parse: Callable[[list[str]], Iterator[T]]) -> list[T]:
        try:
            return list(parse((self._proc / name).read_text(encoding="ascii").splitlines()))
        except OSError:  # not Linux, or a host without IPv6
            return []
        except (ValueError, IndexError) as error:
            logger.warning("a table of the system cannot be read", table=name, why=repr(error))
            return []

    @cached_property
    def _named_addresses(self) -> list[IPAddress]:
        """Return what the host's name resolves to; asked once, because it may take a while."""
        logger.warning("the routes of this host cannot be read: an exit here protects only itself")
        try:
            found = socket.getaddrinfo(socket.gethostname(), None)
        except OSError:
            return []
        literals = (parse_ip(str(name[0]).partition("%")[0]) for *_, name in found)
        return [ip for ip in literals if ip is not None]


def address_towards(ip: IPAddress) -> IPAddress | None:
    """Return the address this host would send from to `ip`, None when it knows no way.

    Nothing is sent: to connect a datagram socket only asks the routing table.
    """
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(ip), 9))
            return parse_ip(str(sock.getsockname()[0]).partition("%")[0])
    except OSError:
        return None


def _around(ip: IPAddress, home_prefix: int) -> Iterator[Place]:
    """Yield what is own because `ip` is (EXT-6, the last two rows)."""
    if isinstance(ip, IPv6Address) and ip in _GLOBAL_V6:
        if home_prefix < _LINK_PREFIX:
            yield IPv6Network((ip, home_prefix), strict=False), _HOME
        if home_prefix <= _LINK_PREFIX:
            yield IPv6Network((ip, _LINK_PREFIX), strict=False), _LINKED
    yield _host(ip), _OWN


def _host(ip: IPAddress) -> IPNetwork:
    return IPv4Network(ip) if isinstance(ip, IPv4Address) else IPv6Network(ip)


def _is_default(network: IPNetwork) -> bool:
    """Tell whether `network` is everything, or a half of it as VPNs like to write it."""
    return network.prefixlen <= 1 or network == _GLOBAL_V6


def local_v4(trie: list[str]) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses of all interfaces from the lines of ``fib_trie``."""
    for ip, bits, kind in _leaves(trie):
        if bits == 32 and kind == "LOCAL":
            yield ip


def trie_routes_v4(trie: list[str]) -> Iterator[Place]:
    """Yield the networks in ``fib_trie``, which has those of all routing tables."""
    for ip, bits, _ in _leaves(trie):
        network = IPv4Network((ip, bits), strict=False)
        if not _is_default(network):
            yield network, _ROUTED


def _leaves(trie: list[str]) -> Iterator[tuple[IPv4Address, int, str]]:
    """Yield address, prefix length and kind of each leaf: two lines, the second repeated.

    ::

        |-- 192.0.2.0
           /24 link UNICAST
    """
    ip: IPv4Address | None = None
    for line in trie:
        words = line.split()
        if words[:1] == ["|--"]:
            ip = IPv4Address(words[1])
        elif ip is not None and len(words) >= 3 and words[0].startswith("/"):
            yield ip, int(words[0][1:]), words[2]


def routes_v4(lines: list[str]) -> Iterator[Place]:
    """Yield the networks with a route of their own from the lines of ``route``."""
    for line in lines[1:]:
        words = line.split()
        # The numbers are in the machine's byte order, as the kernel holds them.
        destination, mask = (int(words[i], 16).to_bytes(4, sys.byteorder) for i in (1, 7))
        bits = int.from_bytes(mask, "big").bit_count()
        network = IPv4Network((destination, bits), strict=False)
        if not _is_default(network):
            yield network, _ROUTED


def interface_v6(lines: list[str]) -> Iterator[IPv6Address]:
    """Yield the IPv6 addresses of all interfaces from the lines of ``if_inet6``."""
    for line in lines:
        yield IPv6Address(bytes.fromhex(line.split()[0]))


def routes_v6(lines: list[str]) -> Iterator[Place]:
    """Yield the networks with a route of their own from the lines of ``ipv6_route``."""
    for line in lines:
        words = line.split()
        network = IPv6Network((bytes.fromhex(words[0]), int(words[1], 16)), strict=False)
        is_cached = int(words[8], 16) & _RTF_CACHE
        if not _is_default(network) and not is_cached:
            yield network, _ROUTED
