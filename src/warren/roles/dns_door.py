"""The DNS door: answers the DNS queries of local programs through circuits.

It asks exits as the proxy does for RESOLVE, and never anybody else: a name that no exit may be
asked for does not exist, and when no exit answers, nor do we. Those who ask for the same at the
same time (a program wants A and AAAA together) share a question. Nothing is kept: what somebody
has looked up is nothing that the next one may find out.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import dns.rcode
import structlog
import trio

from warren.addresses import Address, IPAddress, IPNetwork, is_loopback
from warren.errors import (
    ConfigError,
    EndReason,
    ExitError,
    NotFound,
    ProtocolError,
    WarrenError,
)
from warren.network.dns_client import warm_up
from warren.network.dns_port import DnsLimits, DnsPort, bind_dns
from warren.network.lookups import Lookups
from warren.protocol.choice import ANYTHING
from warren.protocol.dns_queries import DnsQuery, read_query
from warren.protocol.front import Authentication, Credentials, Isolation
from warren.protocol.resolution import Resolved
from warren.roles.gate import Gate, lets_in

logger = structlog.get_logger()

#: How long a program may wait: longer than most of them do.
ANSWER_SECONDS = 20.0
_COUNTERS = ("queries", "answered", "not_found", "failed", "refused", "malformed")


class NameAsker(Protocol):
    """Be the client: ask exits for names."""

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        """Return what the name or the address `subject`, at port 0, stands for.

        Raises NotFound, ExitError, CircuitError or DirectoryError.
        """


class DnsDoor:
    """Own the ports where programs ask, and the questions under way.

    `tell` is called with every address that was told. `allow_clients` names the networks besides
    this machine that may ask, `allow_targets` the internal addresses whose hosts may be asked for
    (EXT-16).
    """

    def __init__(
        self,
        client: NameAsker,
        *,
        tell: Callable[[Iterable[Address]], None] = lambda _: None,
        allow_clients: Sequence[IPNetwork] = (),
        allow_targets: Collection[Address] = (),
        limits: DnsLimits | None = None,
    ) -> None:
        warm_up()
        self._client = client
        self._tell = tell
        self._allow_clients = tuple(allow_clients)
        self._gate = Gate(allow_targets)
        self._limits = limits
        self._questions = Lookups[Resolved](0)
        self._counts = Counter(dict.fromkeys(_COUNTERS, 0))
        self._ports: list[DnsPort] = []

    def __repr__(self) -> str:
        return f"<DnsDoor {len(self._ports)} ports, {self._questions.running} questions>"

    def statistics(self) -> dict[str, int]:
        """Return counters since the start, and what is under way."""
        at_ports = sum((port.counts for port in self._ports), Counter[str]())
        return {
            **self._counts,
            "turned_away": at_ports["turned_away"],
            "bugs": at_ports["bugs"],
            "asking": self._questions.running,
        }

    def listen(self, address: Address) -> DnsPort:
        """Bind `address`; ``serve`` of what is returned answers there.

        Raises ConfigError when it cannot be bound, or when others can reach it and nobody else
        is allowed (FE-1).
        """
        if not is_loopback(address.ip):
            if not self._allow_clients:
                raise ConfigError(
                    f"the DNS port would be at {address}, which other machines can reach: say "
                    "which of them may use it, or listen at 127.0.0.1"
                )
            logger.warning("other machines can use the DNS port", listen=str(address))
        try:
            sockets = bind_dns(address.host, address.port)
        except OSError as error:
            raise ConfigError(
                f"cannot answer DNS at {address}: {error.strerror}: choose another address or port"
            ) from error
        port = DnsPort(self._answer, sockets, allows=self._lets_in, limits=self._limits)
        self._ports.append(port)
        return port

    def _lets_in(self, ip: IPAddress) -> bool:
        return lets_in(ip, self._allow_clients)

    async def _answer(self, data: bytes, is_datagram: bool) -> bytes | None:
        """Return the answer to one query, None for silence."""
        self._counts["queries"] += 1
        try:
            query = read_query(data, is_datagram=is_datagram)
        except ProtocolError:
            self._counts["malformed"] += 1
            return None
        if isinstance(query, bytes):
            self._counts["malformed"] += 1
            return query
        if query.refusal is not None:
            self._counts["refused"] += 1
            return query.refuse(query.refusal)
        assert query.subject is not None
        if self._gate.objection_to_subject(query.subject) is not None:
            self._counts["refused"] += 1
            return query.refuse(dns.rcode.NXDOMAIN)
        return await self._ask(query, query.subject)

    async def _ask(self, query: DnsQuery, subject: Address) -> bytes:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                found = await self._questions.find(
                    subject.host, _at_once, lambda: self._resolve(subject)
                )
        except (ExitError, trio.TooSlowError) as error:
            # Where all exits find something internal only, there is nothing for us either. A
            # failure makes programs ask another server: only what is one is told as one.
            is_over = isinstance(error, NotFound) or (
                isinstance(error, ExitError) and error.reason is EndReason.EXIT_POLICY
            )
            self._counts["not_found" if is_over else "failed"] += 1
            return query.refuse(dns.rcode.NXDOMAIN if is_over else dns.rcode.SERVFAIL)
        self._counts["answered"] += 1
        self._tell(found.addresses)
        return query.answer(found.addresses, found.ttl)

    async def _resolve(self, subject: Address) -> Resolved:
        try:
            return await self._client.resolve(subject, _ISOLATION)
        except ExitError:
            raise
        except WarrenError as error:  # those who wait for the same fail with it
            raise ExitError(EndReason.MISC, str(error)) from error


#: Names share circuits with each other, and with nothing else.
_ISOLATION = Isolation("<dns>", Credentials(Authentication.NONE), (), ANYTHING)


@asynccontextmanager
async def _at_once() -> AsyncIterator[None]:
    yield
