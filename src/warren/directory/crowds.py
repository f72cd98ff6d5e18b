"""Crowds: how many relays of one address, and of one network, are listed (DIR-11).

Identities cost nothing, addresses do. So whoever makes a thousand relays is listed as many times
as he has addresses in different places. Who stays of too many is for the ``tally`` to say.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from ipaddress import ip_network
from typing import NamedTuple

from warren.addresses import IPAddress


class Block(NamedTuple):
    """Hold how many leading bits the addresses have in common that count together."""

    v4_bits: int
    v6_bits: int

    def block_of(self, ip: IPAddress) -> Hashable:
        """Return what the addresses share that count together with `ip`."""
        bits = self.v4_bits if ip.version == 4 else self.v6_bits
        return ip.version, int(ip) >> ip.max_prefixlen - bits

    def text(self, ip: IPAddress) -> str:
        """Return the address or network around `ip`, to people."""
        bits = self.v4_bits if ip.version == 4 else self.v6_bits
        if bits == ip.max_prefixlen:
            return f"at {ip}"
        return f"in {ip_network((ip, bits), strict=False)}"


#: How many relays one address may have (of IPv6 that is a /64), and the network around it.
LIMITS = {Block(32, 64): 2, Block(24, 48): 8}


def without_crowds(addresses: Iterable[IPAddress]) -> list[bool]:
    """Tell of each of `addresses` whether it may stay; those that come first do."""
    met: Counter[Hashable] = Counter()
    stay = []
    for ip in addresses:
        blocks = [(size, size.block_of(ip)) for size in LIMITS]
        stays = all(met[block] < LIMITS[block[0]] for block in blocks)
        if stays:
            met.update(blocks)
        stay.append(stays)
    return stay


def crowd_around(ip: IPAddress, others: Sequence[IPAddress]) -> str | None:
    """Return which others leave no room at `ip`, to people; None where there is room."""
    for size, most in LIMITS.items():
        block = size.block_of(ip)
        count = sum(size.block_of(other) == block for other in others)
        if count >= most:
            return f"{count} relays {size.text(ip)}"
    return None
