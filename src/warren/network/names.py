"""The exit's resolver: a small DNS client over configured servers, and nothing of the system's.

The system's resolver reads a hosts file, appends search domains and asks the local network
(EXT-3), so what a stranger sends us never goes there. A query carries a random number, leaves
from a random port and writes the name in random case; an answer counts only when it repeats the
question exactly (EXT-13). What addresses mean, and which of them may be connected to, is decided
in ``directory.exit_policy``, for every address of the answer.

Lookups of one name at one time share a query, and what was learned, of names and of addresses, is
kept (``lookups``) for a while that nobody outside can tell exactly.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from warren.addresses import Address, IPAddress, parse_ip
from warren.errors import ConfigError, EndReason, ExitError, NotFound
from warren.network.dns_client import Chance, Reply, Unusable, ask, pointer_name, warm_up
from warren.network.lookups import Lookups
from warren.protocol.resolution import LONGEST_TTL, MOST_ADDRESSES, SHORTEST_TTL

logger = structlog.get_logger()

T = TypeVar("T")

DNS_PORT = 53
# EXT-13
TRY_SECONDS = 5.0
TOTAL_SECONDS = 10.0
MOST_CACHED = 4096
MOST_CACHED_POINTERS = 1024
NEGATIVE_SECONDS = 60.0
TTL_FUZZ_SECONDS = 4 * 60
# EXT-11
MOST_LOOKUPS = 32
MOST_LOOKUPS_EACH = 4

#: What an entry of the cache takes, with several addresses.
_ENTRY_BYTES = 1024
#: Once one family is known, how long the other may take; without it the answer is not kept.
_OTHER_FAMILY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what a name resolved to: IPv4 first, at most 16; ``ttl`` is 300 to 3600 seconds."""

    addresses: tuple[IPAddress, ...]
    ttl: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """Hold the name of an address, at port 0; ``ttl`` is 300 to 3600 seconds."""

    name: Address
    ttl: int


@dataclass(frozen=True, slots=True)
class ResolverStatistics:
    """Count what a resolver did since it was made."""

    lookups: int
    from_cache: int
    failed: int
    cached: int
    running: int


@dataclass(slots=True)
class _Share:
    """Limit the lookups of one circuit."""

    slots: trio.Semaphore
    users: int = 0


class Resolver:
    """Resolve names over `servers`, in their order; own the cache and the limits of EXT-11.

    Raises ConfigError when there is no server, or one that is not an IP address.
    """

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        rng: Chance | None = None,
        most_lookups: int = MOST_LOOKUPS,
        most_lookups_each: int = MOST_LOOKUPS_EACH,
    ) -> None:
        if not servers:
            raise ConfigError("no DNS server to resolve names with: write some in exit.resolvers")
        for server in servers:
            if server.ip is None:
                raise ConfigError(f"DNS server {server} is a name, expected an IP address")
        warm_up()
        self._servers = tuple(servers)
        self._first = 0  # the server that answered last is asked first
        self._rng = rng or random.SystemRandom()
        self._addresses = Lookups[Answer](MOST_CACHED)
        self._pointers = Lookups[Pointer](MOST_CACHED_POINTERS)
        self._slots = trio.Semaphore(most_lookups)
        self._most_each = most_lookups_each
        self._shares: dict[Hashable, _Share] = {}
        self._lookups = self._failed = 0

    async def resolve(self, host: str, key: Hashable = None) -> Answer:
        """Return the addresses of the name `host`, from the cache where it is known.

        At most four lookups of one `key`, a circuit, run at a time; more wait their turn. Waits
        at most ten seconds. Raises NotFound, or ExitError: RESOLVE_FAILED, or TIMEOUT.
        """
        self._lookups += 1
        name, turn = host.lower(), partial(self._turn, key)
        return await self._within_deadline(
            lambda: self._addresses.find(name, turn, lambda: self._look_up(name))
        )

    async def reverse(self, ip: IPAddress, key: Hashable = None) -> Pointer:
        """Return the name of `ip`, as its owner has it; waits and raises like ``resolve``."""
        self._lookups += 1
        subject, turn = pointer_name(ip), partial(self._turn, key)
        return await self._within_deadline(
            lambda: self._pointers.find(subject, turn, lambda: self._look_up_pointer(subject))
        )

    def statistics(self) -> ResolverStatistics:
        """Return what happened so far."""
        return ResolverStatistics(
            lookups=self._lookups,
            from_cache=self._addresses.from_cache + self._pointers.from_cache,
            failed=self._failed,
            cached=len(self._addresses) + len(self._pointers),
            running=self._addresses.running + self._pointers.running,
        )

    @property
    def kept_bytes(self) -> int:
        """Return about how many bytes the cache takes."""
        return (len(self._addresses) + len(self._pointers)) * _ENTRY_BYTES

    def shrink(self, size: int) -> None:
        """Forget what was not used lately, until the cache takes at most `size` bytes (DOS-5)."""
        for known in (self._addresses, self._pointers):
            known.forget(len(known) - size // _ENTRY_BYTES // 2)

    async def _within_deadline(self, look_up: Callable[[], Awaitable[T]]) -> T:
        try:
            with trio.move_on_after(TOTAL_SECONDS):
                return await look_up()
            raise ExitError(EndReason.TIMEOUT, "the DNS servers took too long")
        except ExitError:
            self._failed += 1
            raise

    @asynccontextmanager
    async def _turn(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for a slot of `key`, then for one of all, so that who waits blocks nobody else."""
        if key is None:
            async with self._slots:
                yield
            return
        share = self._shares.setdefault(key, _Share(trio.Semaphore(self._most_each)))
        share.users += 1
        try:
            async with share.slots, self._slots:
                yield
        finally:
            share.users -= 1
            if share.users == 0:
                del self._shares[key]

    async def _look_up(self, name: str) -> Answer:
        four, six = await self._try_servers(lambda server: self._ask_both(server, name))
        found = [reply for reply in (four, six) if reply is not None and reply.values]
        if not found:
            self._addresses.put(name, None, NEGATIVE_SECONDS)
            raise NotFound
        ips = [parse_ip(text) for reply in found for text in reply.values[: MOST_ADDRESSES // 2]]
        ttl = _clipped(min(reply.ttl for reply in found))
        answer = Answer(tuple(ip for ip in ips if ip is not None), ttl)
        if four is not None and six is not None:
            self._addresses.put(name, answer, self._fuzzed(ttl))
        return answer

    async def _look_up_pointer(self, subject: str) -> Pointer:
        reply = await self._try_servers(lambda server: ask(server, subject, "PTR", self._rng))
        try:
            pointer = Pointer(Address(reply.values[0], 0), _clipped(reply.ttl))
            if pointer.name.ip is not None:
                raise ValueError("an address where a name is due")
        except (ValueError, IndexError):
            self._pointers.put(subject, None, NEGATIVE_SECONDS)
            raise NotFound from None
        self._pointers.put(subject, pointer, self._fuzzed(pointer.ttl))
        return pointer

    def _fuzzed(self, ttl: int) -> float:
        """Return for how long to keep an answer.

        Whoever can try names here must not learn when others did (TROVE-2021-009).
        """
        return ttl + self._rng.uniform(-TTL_FUZZ_SECONDS, TTL_FUZZ_SECONDS)

    async def _ask_both(self, server: Address, name: str) -> tuple[Reply | None, Reply | None]:
        """Ask one server for both families; None for one that did not come in time."""
        replies: dict[str, Reply] = {}
        failures: list[Unusable] = []

        async def ask_one(rdtype: str) -> None:
            try:
                reply = replies[rdtype] = await ask(server, name, rdtype, self._rng)
            except Unusable as error:
                failures.append(error)
                return
            if reply.values:
                limit = trio.current_time() + _OTHER_FAMILY_SECONDS
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, limit)
            elif not reply.exists:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_one, "A")
            nursery.start_soon(ask_one, "AAAA")
        is_final = any(reply.values or not reply.exists for reply in replies.values())
        if failures and not is_final:
            raise failures[0]
        return replies.get("A"), replies.get("AAAA")

    async def _try_servers(self, ask_server: Callable[[Address], Awaitable[T]]) -> T:
        """Ask one server after the other until one says something usable.

        A single one is asked twice.
        """
        has_timed_out = False
        count = len(self._servers)
        start = self._first
        for attempt in range(max(2, count)):
            index = (start + attempt) % count
            with trio.move_on_after(TRY_SECONDS) as scope:
                try:
                    return await ask_server(self._servers[index])
                except Unusable as error:
                    logger.debug("a DNS server gave no usable answer", why=str(error))
            has_timed_out |= scope.cancelled_caught
            if self._first == index:
                self._first = (index + 1) % count
        if has_timed_out:
            raise ExitError(EndReason.TIMEOUT, "the DNS servers did not answer in time")
        raise ExitError(EndReason.RESOLVE_FAILED, "the DNS servers gave no usable answer")


def _clipped(ttl: int) -> int:
    return min(max(ttl, SHORTEST_TTL), LONGEST_TTL)


def system_servers(path: Path = Path("/etc/resolv.conf")) -> tuple[Address, ...]:
    """Return the servers of the ``nameserver`` lines in `path`; the rest of it is not for us.

    There are none when it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    words = (line.split() for line in lines)
    hosts = (parts[1] for parts in words if len(parts) >= 2 and parts[0] == "nameserver")
    return tuple(Address(host, DNS_PORT) for host in hosts if parse_ip(host) is not None)
