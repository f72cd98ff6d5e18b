"""One rule of an exit policy: which addresses, which ports, and whether they are opened.

::

    rule = accept | reject | accept6 | reject6   ADDRESS[/BITS][:PORTS]

An address is ``*`` (both families), ``*4``, ``*6``, ``private`` (the table of ``address_tables``),
an IPv4 address, or an IPv6 address in brackets; ``accept6`` and ``reject6`` see only its IPv6
part. Ports are ``*`` or a list such as ``80,443,6660-6669``, and all of them when left out. This
is Tor's grammar (conventions D9) but for the list, without which Tor's reduced policy would not
fit into 64 rules.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from warren.addresses import IPNetwork
from warren.directory.address_tables import REFUSED_NETWORKS, network_bounds

MOST_PORT = 0xFFFF
LONGEST_RULE = 256  # DIR-3

#: First and last port of each range.
PortRanges = tuple[tuple[int, int], ...]
#: First address, last address, whether accepted.
Span = tuple[int, int, bool]

EVERYWHERE: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
_ALL_PORTS: PortRanges = ((1, MOST_PORT),)
_NAMED: dict[str, tuple[IPNetwork, ...]] = {
    "*": tuple(EVERYWHERE.values()),
    "*4": (EVERYWHERE[4],),
    "*6": (EVERYWHERE[6],),
    "private": REFUSED_NETWORKS,
}


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Hold one rule as parsed; without ``networks`` it matches nothing."""

    accepts: bool
    networks: tuple[IPNetwork, ...]
    ports: PortRanges
    text: str

    def spans(self, version: int) -> list[Span]:
        """Return the rule's address ranges of one family."""
        mine = (network for network in self.networks if network.version == version)
        return [(*network_bounds(network), self.accepts) for network in mine]

    def covers(self, port: int) -> bool:
        """Tell whether the rule counts at `port`."""
        return any(low <= port <= high for low, high in self.ports)

    def names_port(self, port: int) -> bool:
        """Tell whether the rule was written for `port`, not for a range it falls into."""
        return (port, port) in self.ports


def parse_rule(text: str) -> ExitRule:
    """Read one rule; raise ValueError, with what is expected, when `text` is none."""
    if len(text) > LONGEST_RULE:
        raise ValueError(f"a rule of {len(text)} characters, expected at most {LONGEST_RULE}")
    words = text.split()
    if len(words) != 2 or words[0] not in ("accept", "reject", "accept6", "reject6"):
        raise ValueError(f"{text!r} is no rule: write accept ADDRESS:PORT or reject ADDRESS:PORT")
    verb, pattern = words
    where, port_text = _split_pattern(pattern, text)
    networks, where = _parse_networks(where, text)
    if verb.endswith("6"):
        networks = tuple(network for network in networks if network.version == 6)
    ports = _parse_ports(port_text, text)
    return ExitRule(verb[:6] == "accept", networks, ports, f"{verb} {where}:{render_ports(ports)}")


def check_host_bits(text: str) -> None:
    """Raise ValueError when the rule `text` names a network by one of its addresses.

    In a descriptor that is read as the network; of what a user writes, one of the two is a slip.
    """
    where, _ = _split_pattern(text.split()[1], text)
    address, slash, _ = where.partition("/")
    if not slash:
        return
    (network,), spelling = _parse_networks(where, text)
    if ip_address(address.strip("[]")) != network.network_address:
        raise ValueError(
            f"{text!r} has host bits set: expected {spelling} for the network, or {address} for "
            "the address"
        )


def _split_pattern(pattern: str, rule: str) -> tuple[str, str]:
    """Cut ``ADDRESS[/MASK][:PORTS]`` in two."""
    if pattern.startswith("["):
        address, bracket, rest = pattern.partition("]")
        mask, _, ports = rest.partition(":")
        if not bracket or (mask and not mask.startswith("/")):
            raise ValueError(f"{rule!r}: write an IPv6 address as [ADDRESS]/BITS:PORT")
        return f"{address}]{mask}", ports if ":" in rest else "*"
    where, colon, ports = pattern.partition(":")
    if ":" in ports:
        raise ValueError(f"{rule!r}: write an IPv6 address in brackets")
    return where, ports if colon else "*"


def _parse_networks(where: str, rule: str) -> tuple[tuple[IPNetwork, ...], str]:
    """Return the networks that `where` means, and its one spelling."""
    if where in _NAMED:
        return _NAMED[where], where
    try:
        if where.startswith("["):
            six = IPv6Network(_strict_bits(where[1:].replace("]", "", 1)), strict=False)
            bits = f"/{six.prefixlen}" if six.prefixlen < six.max_prefixlen else ""
            return (six,), f"[{six.network_address}]{bits}"
        four = IPv4Network(_strict_bits(where), strict=False)
    except ValueError:
        raise ValueError(
            f"{rule!r}: {where!r} is not an address: expected *, *4, *6, private, an IPv4 address "
            "or [an IPv6 address], with /BITS if it is a network"
        ) from None
    return (four,), str(four).removesuffix("/32")


def _strict_bits(text: str) -> str:
    """Return `text` unless its mask is anything but a number of bits."""
    address, slash, bits = text.partition("/")
    is_number = bits.isascii() and bits.isdigit() and len(bits) <= 3
    if (slash and not is_number) or "%" in address:
        raise ValueError(text)
    return text


def _parse_ports(text: str, rule: str) -> PortRanges:
    """Return the port ranges of `text`, in its order."""
    if text == "*":
        return _ALL_PORTS
    ranges = []
    for piece in text.split(","):
        first, dash, last = piece.partition("-")
        low, high = _parse_port(first), _parse_port(last if dash else first)
        if low is None or high is None or low > high:
            raise ValueError(
                f"{rule!r}: {piece!r} is not a port: expected *, a number from 1 to 65535, a range "
                "such as 6660-6669, or several of them with commas between"
            )
        ranges.append((low, high))
    return tuple(ranges)


def _parse_port(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        return None
    return port if 1 <= (port := int(text)) <= MOST_PORT else None


def render_ports(ports: PortRanges) -> str:
    """Return `ports` as a rule writes them."""
    if ports == _ALL_PORTS:
        return "*"
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ports)
