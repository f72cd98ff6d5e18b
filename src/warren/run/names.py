"""Synthetic addresses: each name that is asked for gets one, and the address leads back to it.

They come from ranges that are set aside for tests of equipment (198.18.0.0/15, RFC 2544, and
2001:2::/48, RFC 5180), where nobody's host is. A name keeps its addresses, one of each family,
until as many other names have been used since as there are addresses.
"""

from collections import OrderedDict
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from warren.addresses import IPAddress
from warren.directory.address_tables import forbidden_name

RANGE_4, RANGE_6 = IPv4Network("198.18.0.0/15"), IPv6Network("2001:2::/48")
#: The namespace's own addresses, where names are asked for.
OWN_4, OWN_6 = RANGE_4[1], RANGE_6[1]
MOST_NAMES = 65536
_FIRST = 256  # below it is what is not for names


class SyntheticNames:
    """Own which name has which addresses; at most `most` names at a time."""

    def __init__(self, most: int = MOST_NAMES, *, has_ipv6: bool = True) -> None:
        assert 0 < most <= RANGE_4.num_addresses - _FIRST
        self._most = most
        self._has_ipv6 = has_ipv6
        self._numbers: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._names: list[str] = []

    def addresses_of(self, name: str) -> tuple[IPAddress, ...] | None:
        """Return the addresses of lower-case `name`; None when no exit would resolve it (EXT-2)."""
        if name == "localhost" or name.endswith(".localhost"):
            return self._pair(IPv4Address("127.0.0.1"), IPv6Address("::1"))
        if forbidden_name(name) is not None or name.endswith(".arpa"):
            return None
        number = self._numbers.get(name)
        if number is None:
            number = self._take_number(name)
        self._numbers.move_to_end(name)
        return self._pair(RANGE_4[_FIRST + number], RANGE_6[_FIRST + number])

    def name_of(self, ip: IPAddress) -> str | None:
        """Return the name that has the address `ip`, or None when none has."""
        base = RANGE_4 if isinstance(ip, IPv4Address) else RANGE_6
        number = int(ip) - int(base.network_address) - _FIRST
        if not 0 <= number < len(self._names):
            return None
        name = self._names[number]
        self._numbers.move_to_end(name)
        return name

    def _pair(self, four: IPv4Address, six: IPv6Address) -> tuple[IPAddress, ...]:
        return (four, six) if self._has_ipv6 else (four,)

    def _take_number(self, name: str) -> int:
        if len(self._names) < self._most:
            number = len(self._names)
            self._names.append(name)
        else:
            _, number = self._numbers.popitem(last=False)
            self._names[number] = name
        self._numbers[name] = number
        return number


def is_synthetic(ip: IPAddress) -> bool:
    """Tell whether `ip` is from the ranges that names get their addresses from."""
    return ip in (RANGE_4 if isinstance(ip, IPv4Address) else RANGE_6)
