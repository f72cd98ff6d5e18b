"""What an exit says of names and addresses to those who ask without connecting (RESOLVE).

The answer can be used anywhere, so what a name means inside of the exit's own network is not
told: only addresses come back that a stream might go to as well (EXT-6), and the names of the
others are not looked up. Exemptions of a test network hold for the host at every port.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from ipaddress import IPv6Network

from warren.addresses import Address, IPAddress
from warren.directory.address_tables import denied_reason, embedded_addresses
from warren.directory.exit_policy import forbidden_name
from warren.errors import EndReason, ExitError
from warren.network.names import Resolver
from warren.protocol.resolution import Resolved

OwnPlaces = Callable[[IPAddress], str | None]


class ExitNames:
    """Answer questions with `resolver`; `own` says why an address is of the exit's own places."""

    def __init__(
        self, resolver: Resolver, own: OwnPlaces, allow_targets: Collection[Address]
    ) -> None:
        self._resolver = resolver
        self._own = own
        self._exempt = frozenset(target.host for target in allow_targets)

    async def resolve(
        self, subject: Address, key: Hashable, nat64: Sequence[IPv6Network] = ()
    ) -> Resolved:
        """Return the addresses of the name `subject`, or the name of the address.

        Waits for the DNS servers, ten seconds at most. Raises NotFound, or ExitError: EXIT_POLICY
        when only our own network knows the answer, RESOLVE_FAILED or TIMEOUT. `key` is who asks.
        """
        if subject.ip is not None:
            self._expect_public(subject.ip, nat64)
            pointer = await self._resolver.reverse(subject.ip, key)
            return Resolved((pointer.name,), pointer.ttl)
        reason = forbidden_name(subject.host)
        if reason is not None:
            raise ExitError(EndReason.EXIT_POLICY, reason)  # EXT-2
        answer = await self._resolver.resolve(subject.host, key)
        told = [ip for ip in answer.addresses if self._why_not(ip, nat64) is None]
        if not told:
            self._expect_public(answer.addresses[0], nat64)
        return Resolved(tuple(Address(str(ip), 0) for ip in told), answer.ttl)

    def _expect_public(self, ip: IPAddress, nat64: Sequence[IPv6Network]) -> None:
        reason = self._why_not(ip, nat64)
        if reason is not None:
            raise ExitError(EndReason.EXIT_POLICY, reason)

    def _why_not(self, ip: IPAddress, nat64: Sequence[IPv6Network]) -> str | None:
        if str(ip) in self._exempt:
            return None
        denied = denied_reason(ip, nat64)
        if denied is not None:
            return denied
        faces = (ip, *embedded_addresses(ip, nat64))
        return next((why for face in faces if (why := self._own(face))), None)
