"""Which exits open a target, asked of all of them at once.

A path to a port must not cost a question to every policy of the network. Policies that are equal
at a port are asked as one there, and what was found is kept: for names there is one answer for
each port, for addresses one for each set of policies that agree. Few ports are in use.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from warren.addresses import Address, IPAddress
from warren.directory.exit_policy import ExitPolicy, PortRules
from warren.directory.relays import RelayEntry

#: Ports, and sets of policies, for which answers are kept; somebody else may choose them.
_MOST_PORTS = 64
_MOST_SETS = 256


@dataclass(frozen=True, slots=True)
class Datagrams:
    """Be a target that datagrams go to: ``address``, or None for wherever an exit sends any."""

    address: Address | None = None

    def __str__(self) -> str:
        return f"datagrams to {self.address or 'anywhere'}"


Target = Address | Datagrams


class Exits:
    """Hold the exits that open a target; there is one object for each set of them."""

    def __init__(self, relays: Iterable[RelayEntry]) -> None:
        self.relays = tuple(relays)

    def __repr__(self) -> str:
        return f"<Exits: {len(self.relays)} relays>"

    def within(self, country: str | None) -> Sequence[RelayEntry]:
        """Return those in `country`, or all; only the first to ask for one looks at them all."""
        return self.relays if country is None else self._by_country.get(country, ())

    @cached_property
    def _by_country(self) -> Mapping[str, Sequence[RelayEntry]]:
        countries: dict[str, list[RelayEntry]] = {}
        for entry in self.relays:
            countries.setdefault(entry.country, []).append(entry)
        return countries


_Answers = tuple[bool, ...]


class ExitIndex:
    """Own what is known of the policies of the relays `exits`; unreadable ones open nothing.

    With `by_udp` it is their policies for datagrams.
    """

    def __init__(self, exits: Iterable[RelayEntry], *, by_udp: bool = False) -> None:
        by_policy: dict[ExitPolicy, list[RelayEntry]] = {}
        for entry in exits:
            policy = read_policy(entry.udp_policy if by_udp else entry.policy)
            if policy is not None:
                by_policy.setdefault(policy, []).append(entry)
        self._policies = tuple(by_policy)
        self._relays = tuple(by_policy.values())
        self._ports: dict[int, _Port] = {}
        self._sets: dict[tuple[int, ...], Exits] = {}

    def __bool__(self) -> bool:
        return bool(self._policies)

    def find(self, target: Address | None) -> Exits:
        """Return the exits that open `target`, or, when it is None, anything at all.

        A name is judged by its port alone, see ``PortRules.is_mostly_open``.
        """
        if target is None:
            return self._anywhere
        port = self._port(target.port)
        answers = port.for_names if target.ip is None else port.ask(target.ip)
        exits = port.found.get(answers)
        if exits is None:
            if len(port.found) >= _MOST_SETS:
                port.found.clear()
            exits = port.found[answers] = self._set(port.numbers(answers))
        return exits

    @cached_property
    def _anywhere(self) -> Exits:
        return self._set(i for i, policy in enumerate(self._policies) if policy.is_exit)

    def _port(self, number: int) -> "_Port":
        port = self._ports.get(number)
        if port is None:
            if len(self._ports) >= _MOST_PORTS:
                self._ports.clear()
            port = self._ports[number] = _Port(self._policies, number)
        return port

    def _set(self, numbers: Iterable[int]) -> Exits:
        """Return the exits with the policies `numbers`, the same object for equal ones."""
        key = tuple(sorted(numbers))
        exits = self._sets.get(key)
        if exits is None:
            if len(self._sets) >= _MOST_SETS:
                self._sets.clear()
            relays = (entry for number in key for entry in self._relays[number])
            exits = self._sets[key] = Exits(relays)
        return exits


class _Port:
    """Hold the policies as they are at one port, equal ones together, and what was found.

    An answer is one yes or no for each group of policies.
    """

    def __init__(self, policies: Iterable[ExitPolicy], port: int) -> None:
        groups: dict[PortRules, list[int]] = {}
        for number, policy in enumerate(policies):
            groups.setdefault(policy.glance_at(port), []).append(number)
        self._rules = tuple(groups)
        self._numbers = tuple(groups.values())
        self.for_names = tuple(rules.is_mostly_open for rules in self._rules)
        self.found: dict[_Answers, Exits] = {}

    def ask(self, ip: IPAddress) -> _Answers:
        """Return who allows `ip`."""
        return tuple([rules.allows(ip) for rules in self._rules])

    def numbers(self, answers: _Answers) -> Iterator[int]:
        """Yield the numbers of the policies that `answers` are yes for."""
        for is_open, numbers in zip(answers, self._numbers, strict=True):
            if is_open:
                yield from numbers


@lru_cache(maxsize=1024)
def read_policy(rules: tuple[str, ...]) -> ExitPolicy | None:
    """Return the policy of a listed relay; one that cannot be read opens nothing for us."""
    try:
        return ExitPolicy.parse(rules) if rules else None
    except ValueError:
        return None


def fits(policy: ExitPolicy, target: Address | None) -> bool:
    """Tell whether an exit with `policy` is one for `target`; see ``ExitIndex.find``."""
    if target is None:
        return policy.is_exit
    if target.ip is not None:
        return policy.allows(target.ip, target.port)
    return policy.might_allow(target.port)
