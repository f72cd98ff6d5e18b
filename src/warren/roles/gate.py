"""Who may use the front door (FE-1), and what it uses no circuit for, however it was asked (FE-8).

Internal addresses and local names mean something else at the exit than where they were typed, and
asking for them would tell it what is here. Exemptions of a test network are single addresses for
streams, and their hosts for questions.
"""

from collections.abc import Collection, Iterable

from warren.addresses import Address, IPAddress, IPNetwork, is_loopback, unmapped
from warren.directory.exit_policy import denied_reason, forbidden_name
from warren.protocol import front
from warren.protocol.front import Failure


class Gate:
    """Judge targets and names; `allow_targets` may be reached though they are internal (EXT-16)."""

    def __init__(self, allow_targets: Collection[Address] = ()) -> None:
        self._targets = frozenset(allow_targets)
        self._hosts = frozenset(target.host for target in allow_targets)

    def objection_to_target(self, address: Address) -> Failure | None:
        """Return why no stream goes to `address`, or None."""
        if address.port == 0:
            return front.PORT_ZERO
        return None if address in self._targets else _objection(address)

    def objection_to_subject(self, subject: Address) -> Failure | None:
        """Return why nobody is asked what the name or the address `subject` stands for, or None."""
        return None if subject.host in self._hosts else _objection(subject)


def _objection(address: Address) -> Failure | None:
    if address.ip is not None:
        return front.INTERNAL_ADDRESS if denied_reason(address.ip) else None
    if address.host.endswith(".onion"):
        return front.ONION_SERVICE
    return front.INTERNAL_NAME if forbidden_name(address.host) else None


def lets_in(ip: IPAddress, allow_clients: Iterable[IPNetwork]) -> bool:
    """Tell whether a program at `ip` may use what listens here (FE-1): this machine always may.

    A listener for both families sees IPv4 inside of IPv6.
    """
    ip = unmapped(ip)
    return is_loopback(ip) or any(ip in network for network in allow_clients)
