"""Which country an address is in, by a table of ranges.

A table of the whole internet has some 700 000 ranges, so it is kept as three strings of bytes for
each family and searched by bisection: 36 bytes for a range of IPv6, 12 for one of IPv4.
"""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import pairwise

from warren.addresses import IPAddress
from warren.directory.relays import UNKNOWN_COUNTRY

#: First and last address, packed, and the country in two lower-case letters.
Range = tuple[bytes, bytes, str]

_WIDTHS = {4: 4, 6: 16}


class CountryTable:
    """Own the ranges of both families; what is in none is in no known country."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        """Take `ranges` in any order; raise ValueError when two of a family overlap."""
        self._families = {width: _Family(width) for width in _WIDTHS.values()}
        for each in ranges:
            self._families[len(each[0])].add(*each)
        for family in self._families.values():
            family.settle()

    def __len__(self) -> int:
        return sum(map(len, self._families.values()))

    def find(self, ip: IPAddress) -> str:
        """Return the country of `ip` in two lower-case letters, or ``??``."""
        return self._families[_WIDTHS[ip.version]].find(ip.packed)


class _Family:
    """Own the ranges of one family, whose addresses have `width` bytes.

    They are never objects all at once: that would take five times the memory.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._starts, self._ends, self._countries = bytearray(), bytearray(), bytearray()
        self._last = b""
        self._is_settled = True

    def __len__(self) -> int:
        return len(self._starts) // self._width

    def add(self, start: bytes, end: bytes, country: str) -> None:
        """Take a range; ``settle`` must follow."""
        self._is_settled &= start > self._last
        self._last = end
        self._starts += start
        self._ends += end
        self._countries += country.encode("ascii")

    def settle(self) -> None:
        """Put the ranges in order, which files mostly are; raise ValueError when two overlap."""
        if self._is_settled:
            return
        ranges = sorted(map(self._range, range(len(self))))
        for one, other in pairwise(ranges):
            if other[0] <= one[1]:
                raise ValueError(f"the ranges {_text(one)} and {_text(other)} overlap")
        self._starts = bytearray().join([start for start, _, _ in ranges])
        self._ends = bytearray().join([end for _, end, _ in ranges])
        self._countries = bytearray("".join([country for _, _, country in ranges]), "ascii")

    def find(self, packed: bytes) -> str:
        """Return the country of an address."""
        index = bisect_right(range(len(self)), packed, key=self._start) - 1
        if index < 0:
            return UNKNOWN_COUNTRY
        _, end, country = self._range(index)
        return country if packed <= end else UNKNOWN_COUNTRY

    def _start(self, index: int) -> bytes:
        return bytes(self._starts[index * self._width : (index + 1) * self._width])

    def _range(self, index: int) -> Range:
        end = bytes(self._ends[index * self._width : (index + 1) * self._width])
        country = self._countries[2 * index : 2 * index + 2].decode("ascii")
        return self._start(index), end, country


def _text(each: Range) -> str:
    return " to ".join(str(ip_address(packed)) for packed in each[:2])
