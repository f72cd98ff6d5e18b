"""Exit policies: ordered rules, of which the first that matches decides; none means reject.

A policy is compiled once into one short list of address ranges for each range of ports that its
rules tell apart, so asking it costs a look-up and a rule or two. The grammar of a rule is in
``exit_rules``. ``check_target`` puts table, policy and the exit's own places in their order.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from ipaddress import IPv6Network
from itertools import pairwise

from warren.addresses import Address, IPAddress
from warren.directory.address_tables import (
    denied_reason,
    embedded_addresses,
    forbidden_name,
    network_bounds,
)
from warren.directory.exit_rules import (
    EVERYWHERE,
    MOST_PORT,
    ExitRule,
    PortRanges,
    Span,
    check_host_bits,
    parse_rule,
    render_ports,
)
from warren.errors import ConfigError

__all__ = [
    "PROFILES",
    "UDP_PROFILES",
    "ExitPolicy",
    "check_target",
    "configured_policy",
    "configured_udp_policy",
    "denied_reason",
    "forbidden_name",
]

# DIR-3: what stands in a descriptor is bounded, so that reading it is cheap (T52).
MOST_RULES = 64
_SMTP = 25
#: Ports whose services answer a forged question with a flood (EXT-15).
REFLECTING_PORTS = (53, 123, 161, 389, 1900, 11211)
#: The addresses a share of which must be open before a name is likely to be: v4, v6.
_PUBLIC = {4: (0, (1 << 32) - 1), 6: (0x2 << 124, (0x4 << 124) - 1)}

_REDUCED_PORTS = (
    (
        "20-23,43,53,79-81,88,110,143,194,220,389,443,464,531,543-544,554,563,636,706,749,873,"
        "902-904,981,989-995,1194,1220,1293,1500,1533,1677,1723,1755,1863,2082-2083,2086-2087,"
        "2095-2096,2102-2104,3128,3389,3690"
    ),
    (
        "4321,4643,5050,5190,5222-5223,5228,5900,6660-6669,6679,6697,8000,8008,8074,8080,8082,"
        "8087-8088,8232-8233,8332-8333,8443,8888,9418,9999-10000,11371,19294,19638,50002,64738"
    ),
)
_OPEN_REJECTS = "25,119,135-139,445,563,1214,4661-4666,6346-6429,6699,6881-6999"

#: Ready-made policies for TCP (EXT-7); none of them opens port 25, and only ``open`` opens
#: 465 and 587.
PROFILES: dict[str, tuple[str, ...]] = {
    "web": ("accept *:80,443", "reject *:*"),
    "reduced": (*(f"accept *:{ports}" for ports in _REDUCED_PORTS), "reject *:*"),
    "open": (f"reject *:{_OPEN_REJECTS}", "accept *:*"),
    "none": (),
}
#: The same for datagrams (conventions D0); ``open`` leaves out what reflects (EXT-15).
UDP_PROFILES: dict[str, tuple[str, ...]] = {
    "web": ("accept *:443", "reject *:*"),
    "reduced": ("accept *:443,3478-3481", "reject *:*"),
    "open": ("reject *:53,123,161,389,1900,11211", "accept *:*"),
    "none": (),
}


@dataclass(frozen=True)
class ExitPolicy:
    """Hold the rules by which an exit opens streams; ``rules`` are in their one spelling.

    Raises ValueError when made from anything but rules: callers say whether that was a user's
    mistake or a peer's.
    """

    rules: tuple[str, ...]
    parsed: tuple[ExitRule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.rules) > MOST_RULES:
            raise ValueError(f"{len(self.rules)} policy rules, expected at most {MOST_RULES}")
        object.__setattr__(self, "parsed", tuple(parse_rule(text) for text in self.rules))
        object.__setattr__(self, "rules", tuple(rule.text for rule in self.parsed))

    @classmethod
    def parse(cls, rules: Iterable[str]) -> "ExitPolicy":
        """Read `rules`, the first that matches first; raise ValueError for anything else."""
        return cls(tuple(rules))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the rules that can match nothing: ``accept6`` with an IPv4 address (D9)."""
        return tuple(rule.text for rule in self.parsed if not rule.networks)

    @property
    def is_exit(self) -> bool:
        """Tell whether there is anything at all that the rules accept."""
        return any(self.glance_at(start).is_open for start in self._starts)

    def allows(self, ip: IPAddress, port: int) -> bool:
        """Tell whether the rules let a stream go to `ip` at `port`; port 0 never is."""
        return self.at(port).allows(ip)

    def opens(self, port: int) -> bool:
        """Tell whether any address at all may be allowed at `port`; for an exit's first look."""
        return self.at(port).is_open

    def might_allow(self, port: int) -> bool:
        """Tell whether a name is likely to be allowed at `port`; see ``PortRules``."""
        return self.at(port).is_mostly_open

    def at(self, port: int) -> "PortRules":
        """Return what counts at `port`: a look-up, once the policy is compiled."""
        if not 1 <= port <= MOST_PORT:
            return _NOTHING
        return self._table[bisect_right(self._starts, port) - 1]

    def glance_at(self, port: int) -> "PortRules":
        """Return the same without compiling: for who asks many policies about few ports."""
        if not 1 <= port <= MOST_PORT:
            return _NOTHING
        rules = [rule for rule in self.parsed if rule.covers(port)]
        return PortRules(*(_unshadowed(rules, version) for version in EVERYWHERE))

    @cached_property
    def summary(self) -> str:
        """Return in one line the ports at which names are likely to be allowed."""
        is_open = [self.might_allow(start) for start in self._starts]
        ends = (*self._starts[1:], MOST_PORT + 1)
        ranges = zip(self._starts, ends, is_open, strict=True)
        ports = _join(tuple((start, end - 1) for start, end, wanted in ranges if wanted))
        return f"accept {render_ports(ports)}" if ports else "reject *"

    @cached_property
    def _starts(self) -> list[int]:
        """Return the ports at which another set of rules begins to count; the first is 1."""
        bounds = {
            bound for rule in self.parsed for low, high in rule.ports for bound in (low, high + 1)
        }
        return sorted({1, *bounds} - {MOST_PORT + 1})

    @cached_property
    def _table(self) -> list["PortRules"]:
        return list(map(PortRules, *map(self._compile, EVERYWHERE)))

    def _compile(self, version: int) -> list[tuple[Span, ...]]:
        """Return for each range of ports the spans that count there, without shadowed ones."""
        everything = network_bounds(EVERYWHERE[version])
        cells: list[dict[tuple[int, int], bool]] = [{} for _ in self._starts]
        for rule in self.parsed:
            spans = rule.spans(version)
            for low, high in rule.ports:
                first = bisect_left(self._starts, low)
                for cell in cells[first : bisect_right(self._starts, high)]:
                    if everything not in cell:
                        for start, end, accepts in spans:
                            cell.setdefault((start, end), accepts)
        return [tuple((*bounds, accepts) for bounds, accepts in cell.items()) for cell in cells]


@dataclass(frozen=True, slots=True)
class PortRules:
    """Hold what a policy comes to at one port: its spans of each family, first match first.

    Policies that are equal here open the same at this port, however else they differ.
    """

    four: tuple[Span, ...]
    six: tuple[Span, ...]

    def allows(self, ip: IPAddress) -> bool:
        """Tell whether `ip` may be connected to."""
        value = int(ip)
        for low, high, accepts in self.four if ip.version == 4 else self.six:
            if low <= value <= high:
                return accepts
        return False

    @property
    def is_open(self) -> bool:
        """Tell whether any address at all may be."""
        return any(accepts for *_, accepts in (*self.four, *self.six))

    @property
    def is_mostly_open(self) -> bool:
        """Tell whether a name is likely to be allowed; for choosing an exit.

        It is when half of all IPv4 or half of all IPv6 addresses are: an exit that opens a port
        for a few addresses only is no help to somebody who does not know the address yet.
        """
        return _is_mostly_open(self.four, 4) or _is_mostly_open(self.six, 6)


_NOTHING = PortRules((), ())


def _unshadowed(rules: Iterable[ExitRule], version: int) -> tuple[Span, ...]:
    """Return the spans of `rules` that can decide anything."""
    everything = network_bounds(EVERYWHERE[version])
    found: dict[tuple[int, int], bool] = {}
    for rule in rules:
        for start, end, accepts in rule.spans(version):
            found.setdefault((start, end), accepts)
        if everything in found:
            break
    return tuple((*bounds, accepts) for bounds, accepts in found.items())


@lru_cache(maxsize=1024)
def _is_mostly_open(spans: tuple[Span, ...], version: int) -> bool:
    """Tell whether `spans` accept at least half of the public addresses of one family."""
    first, last = _PUBLIC[version]
    inner = (bound for low, high, _ in spans for bound in (low, high + 1))
    cuts = sorted({first, last + 1, *(bound for bound in inner if first < bound <= last)})
    accepted = 0
    for start, end in pairwise(cuts):
        # Between two cuts no span begins or ends, so the first address speaks for all of them.
        if next((accepts for low, high, accepts in spans if low <= start <= high), False):
            accepted += end - start
    return 2 * accepted >= last + 1 - first


def _join(ranges: PortRanges) -> PortRanges:
    """Return ascending `ranges` with those that touch made one."""
    joined: list[tuple[int, int]] = []
    for low, high in ranges:
        first = joined.pop()[0] if joined and low == joined[-1][1] + 1 else low
        joined.append((first, high))
    return tuple(joined)


def configured_policy(policy: str | Iterable[str]) -> ExitPolicy:
    """Make the policy that a user configured: the name of a profile, or rules.

    Port 25 stays rejected unless a rule that accepts names it by itself (EXT-7). Raises
    ConfigError.
    """
    return _configured("exit policy", policy, PROFILES, partial(_not_named, (_SMTP,)))


def configured_udp_policy(
    policy: str | Iterable[str] | None, tcp_policy: str | Iterable[str]
) -> ExitPolicy:
    """Make the policy for datagrams that a user configured: the name of a profile, or rules.

    None means the profile of the same name as `tcp_policy`, and nothing if that is rules. Ports
    that reflect stay rejected unless a rule that accepts names them (EXT-15). Raises ConfigError.
    """
    if policy is None:
        policy = tcp_policy if isinstance(tcp_policy, str) else "none"
    # Of a policy that accepts nothing there is nothing to close: it stays as short as it is.
    return _configured(
        "exit policy for datagrams",
        policy,
        UDP_PROFILES,
        lambda accepting: _not_named(REFLECTING_PORTS, accepting) if accepting else [],
    )


def _not_named(ports: Iterable[int], accepting: Sequence[ExitRule]) -> list[int]:
    """Return those of `ports` that no rule in `accepting` names by itself."""
    return [port for port in ports if not any(rule.names_port(port) for rule in accepting)]


def _configured(
    what: str,
    policy: str | Iterable[str],
    profiles: Mapping[str, tuple[str, ...]],
    to_close: Callable[[Sequence[ExitRule]], Sequence[int]],
) -> ExitPolicy:
    """Return the profile that is named, or the rules, behind one that rejects some ports.

    `to_close` tells which, given the rules that accept. Raises ConfigError, which names `what`.
    """
    if isinstance(policy, str):
        if policy not in profiles:
            raise ConfigError(
                f"{policy!r} is no exit policy: expected one of {', '.join(profiles)}, or rules in "
                'brackets, as in ["accept *:443"]'
            )
        return ExitPolicy(profiles[policy])
    try:
        policy = tuple(policy)
        parsed = ExitPolicy.parse(policy)
        for rule in policy:
            check_host_bits(rule)
        closed = to_close([rule for rule in parsed.parsed if rule.accepts])
        if not closed:
            return parsed
        return ExitPolicy((f"reject *:{','.join(map(str, closed))}", *parsed.rules))
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def check_target(
    target: Address,
    policy: ExitPolicy,
    own: Callable[[IPAddress], str | None],
    allow_targets: Set[Address] = frozenset(),
    nat64: Sequence[IPv6Network] = (),
) -> str | None:
    """Return why an exit must not connect to `target`, or None when it may.

    `target` is a literal: the resolved address. The table comes first, then `policy`, then what
    `own` says of the exit's host and networks (``OwnAddresses.contains``); IPv4 inside IPv6 counts
    as well.
    `allow_targets` exempts exactly these pairs (EXT-16). Whoever refuses ends the stream with
    ``EndReason.EXIT_POLICY``; re-entry and limits are the caller's (EXT-9, EXT-11).
    """
    ip, port = target.ip, target.port
    assert ip is not None, "names are resolved before they are checked"
    if port == 0:
        return "port 0"
    if target in allow_targets:
        return None
    if (denied := denied_reason(ip, nat64)) is not None:
        return f"never allowed: {denied}"
    embedded = embedded_addresses(ip, nat64)
    # Through a NAT64 the address reached is the embedded one, so that is what rules are for.
    final = embedded[0] if any(ip in prefix for prefix in nat64) else ip
    if not policy.allows(final, port):
        return f"the exit policy rejects port {port}"
    return next((f"never allowed: {why}" for face in (ip, *embedded) if (why := own(face))), None)
