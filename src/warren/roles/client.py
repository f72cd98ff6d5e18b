"""The client: streams, names and associations through circuits, at exits that can serve them.

``open_stream``, ``open_association`` and ``resolve`` are all the proxy needs. What an exit says is
looked at here: whether it may be true, and whether another exit could know better. How often one
is asked again is decided in ``attempts``, which circuit there is in ``circuit_keeper``, how streams
go on when theirs dies in ``resumer``. What was sent with a stream's opening is kept until then.
"""

from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random, SystemRandom

import trio

from warren.addresses import Address
from warren.directory.exit_index import Datagrams
from warren.directory.exit_policy import denied_reason
from warren.errors import CircuitError, EndReason, ExitError
from warren.network.associations import CircuitAssociation
from warren.network.circuits import Circuit
from warren.network.expiry import Expiring, Expiry
from warren.network.links import Links
from warren.network.quota import Holder
from warren.network.streams import CircuitStream
from warren.protocol.handover import Handover
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.resolution import LONGEST_TTL, SHORTEST_TTL, Resolved
from warren.roles.attempts import Attempts
from warren.roles.background import Background
from warren.roles.bias_watch import BiasWatch
from warren.roles.circuit_builder import CircuitBuilder
from warren.roles.circuit_keeper import CircuitKeeper
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.idleness import LOOK_SECONDS, IdleLimits, IdleWatch
from warren.roles.mirror import Directory
from warren.roles.own_relays import OwnRelays
from warren.roles.paths import Paths
from warren.roles.pool import Pool, Slot
from warren.roles.resumer import Resumer, Ways
from warren.roles.sessions import Sessions

CONNECT_SECONDS = 10.0

#: What another exit may know better of a stream.
_ELSEWHERE = frozenset(
    (
        EndReason.MISC,
        EndReason.RESOLVE_FAILED,
        EndReason.EXIT_POLICY,
        EndReason.NO_ROUTE,
        EndReason.HIBERNATING,
        EndReason.INTERNAL,
        EndReason.RESOURCE_LIMIT,
    )
)
#: Of a name: its DNS servers are others.
_ASK_ELSEWHERE = _ELSEWHERE | {EndReason.TIMEOUT}
#: Of an association, which is about no target yet.
_ASSOCIATE_ELSEWHERE = frozenset(EndReason)


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """Hold a stream that was begun and is not CONNECTED yet."""

    slot: Slot
    isolation: Hashable
    stream: CircuitStream
    expiring: Expiring


class Client:
    """Own what this peer has of circuits as a client, and the requests that wait for an answer.

    Streams to `allow_targets` may reach internal addresses (EXT-16). `is_offline` tells whether
    this machine has no network, so that silence is no fault of a guard. Unless it `resumes`,
    streams end with their circuit. No path has any of this user's `own` relays. ``is_usable`` is
    set once there was a circuit.
    """

    def __init__(
        self,
        links: Links,
        directory: Directory,
        guards: GuardKeeper,
        *,
        hops: int = 3,
        own: OwnRelays | None = None,
        allow_targets: Collection[Address] = (),
        rng: Random | None = None,
        is_offline: Callable[[], bool] = bool,
        resumes: bool = True,
        idle: IdleLimits | None = None,
    ) -> None:
        rng, own = rng or SystemRandom(), own or OwnRelays()
        self._directory, self._guards, self._own = directory, guards, own
        own.on_more.append(self._leave_own_relays)
        self._allow_targets = frozenset(allow_targets)
        exempt, sessions = self._allow_targets.__contains__, Sessions()
        paths = Paths(guards, own=own, exempt=exempt, rng=rng)
        bias = BiasWatch(guards.circuit, is_offline)
        builder = CircuitBuilder(
            links,
            directory,
            guards,
            paths,
            sessions,
            bias,
            hops=hops,
            rng=rng,
            is_offline=is_offline,
        )
        pool = Pool(exempt)
        self._expiry = Expiry(links.turn.nursery, CONNECT_SECONDS)
        self._circuits = CircuitKeeper(
            builder,
            paths,
            sessions,
            pool,
            bias,
            on_orphans=self._resume,
            on_doubt=self._expiry.hurry,
            rng=rng,
        )
        ways = Ways(builder.build_path, self._circuits.adopt, paths.avoid, builder.pause, own, hops)
        self._resumer = Resumer(links.turn, directory, guards, pool, rng, ways, is_off=not resumes)
        self._attempts = Attempts(self._circuits, directory)
        self._turn = links.turn
        self._idle = IdleWatch(idle or IdleLimits())
        self._background = Background(links.turn.nursery)
        self.is_usable = self._circuits.is_usable
        self.opened = self.resolved = 0

    # ---- streams

    async def open_stream(
        self,
        address: Address,
        isolation: Hashable,
        early: bytes = b"",
        flags: BeginFlags = ANY_FAMILY,
        begun: "Beginning | None" = None,
    ) -> CircuitStream:
        """Return a stream that is CONNECTED to `address`; `early` (64 KiB at most) was sent.

        `flags` say which of a name's addresses may be used. The first attempt is the one that
        was `begun` with the same arguments, if any. Waits for circuits and for the exit, 60 s at
        most. Raises ExitError with the exit's reason, CircuitError or DirectoryError.
        """
        first = begun.slot if begun is not None else None

        async def use(slot: Slot, is_hasty: bool) -> CircuitStream:
            nonlocal begun
            beginning, begun = begun or self._begin(slot, isolation, address, early, flags), None
            if not is_hasty:
                beginning.expiring.stay()
            return await self._wait_connected(beginning)

        return await self._attempts.run(isolation, address, use, _ELSEWHERE, first)

    def begin_stream(
        self,
        address: Address,
        isolation: Hashable,
        early: bytes = b"",
        flags: BeginFlags = ANY_FAMILY,
    ) -> "Beginning | None":
        """Begin what ``open_stream`` does, without waiting; None when no circuit is ready."""
        slot = self._circuits.pick(isolation, address, ())
        if slot is None:
            return None
        try:
            return self._begin(slot, isolation, address, early, flags)
        except CircuitError:
            return None

    def connected(self, begun: "Beginning") -> CircuitStream | None:
        """Return the stream once it is CONNECTED, None before; it has its news of that.

        Raises ExitError when the exit refuses it, TooSlowError when it did not answer in time;
        ``open_stream`` knows what to do then.
        """
        stream, expiring = begun.stream, begun.expiring
        if expiring.has_expired:
            raise trio.TooSlowError
        connected = stream.protocol.connected
        if connected is None:
            if not stream.is_ended:
                return None
            expiring.end()
            raise ExitError(stream.reason or EndReason.MISC)
        expiring.end()
        ip = connected.address.ip
        assert ip is not None
        if denied_reason(ip) is not None and connected.address not in self._allow_targets:
            stream.reset(EndReason.EXIT_POLICY)
            # EXT-14: an exit that says so is lying or was lied to.
            raise ExitError(EndReason.EXIT_POLICY, "the exit names an internal address")
        self.opened += 1
        self._circuits.served(begun.isolation, begun.slot)
        return stream

    def _begin(
        self, slot: Slot, isolation: Hashable, address: Address, early: bytes, flags: BeginFlags
    ) -> "Beginning":
        """Begin a stream on the circuit of `slot`; raise CircuitError when that is gone or full."""
        circuit = slot.circuit
        assert isinstance(circuit, Circuit)
        stream = circuit.open_stream(address, flags)
        if early:
            stream.protocol.write(early)
            circuit.turn.run()
        # What was sent is sent again when there is no other way; not where the answer is late.
        expiring = self._expiry.watch(stream.reset, waits_for=None if early else slot)
        return Beginning(slot, isolation, stream, expiring)

    async def _wait_connected(self, beginning: "Beginning") -> CircuitStream:
        """Return the stream when it is CONNECTED; raise as ``connected``."""
        try:
            while (stream := self.connected(beginning)) is None:
                await beginning.stream.wait_news()
        except (ExitError, trio.TooSlowError):
            raise
        except BaseException:
            beginning.expiring.end()
            beginning.stream.reset()
            raise
        return stream

    # ---- names

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        """Return the addresses of the name `subject`, or the name of the address; its port is 0.

        Waits and raises like ``open_stream``; NotFound when two exits know of none.
        """
        use = partial(self._ask, isolation=isolation, subject=subject)
        return await self._attempts.run(isolation, None, use, _ASK_ELSEWHERE)

    async def _ask(
        self, slot: Slot, is_hasty: bool, isolation: Hashable, subject: Address
    ) -> Resolved:
        """Ask the exit of `slot`; raise ExitError when it knows nothing, TooSlowError as above."""
        circuit = slot.circuit
        assert isinstance(circuit, Circuit)
        with trio.CancelScope() as scope:
            expiring = self._expiry.watch(scope.cancel, waits_for=slot if is_hasty else None)
            try:
                answer = await circuit.resolve(subject)
            finally:
                expiring.end()
        if scope.cancelled_caught:
            raise trio.TooSlowError
        self.resolved += 1
        exempt = {target.host for target in self._allow_targets}
        for ip in (address.ip for address in answer.addresses):
            if ip is not None and denied_reason(ip) is not None and str(ip) not in exempt:
                # EXT-14 holds for what a name stands for as well.
                raise ExitError(EndReason.EXIT_POLICY, "the exit names an internal address")
        ttl = min(max(answer.ttl, SHORTEST_TTL), LONGEST_TTL)
        self._circuits.served(isolation, slot)
        return Resolved(answer.addresses, ttl)

    # ---- associations

    async def open_association(
        self, address: Address | None, isolation: Hashable
    ) -> tuple[CircuitAssociation, Callable[[Address], bool]]:
        """Return an association that reaches `address`, and what tells where else it may go.

        With None its exit is one that sends any datagrams. Waits and raises as ``open_stream``.
        """
        target = Datagrams(None if address in self._allow_targets else address)
        use = partial(self._associate, isolation=isolation)
        return await self._attempts.run(isolation, target, use, _ASSOCIATE_ELSEWHERE)

    async def _associate(
        self, slot: Slot, is_hasty: bool, isolation: Hashable
    ) -> tuple[CircuitAssociation, Callable[[Address], bool]]:
        """Begin an association; raise ExitError when it is refused, TooSlowError as ``_ask``."""
        assert isinstance(slot.circuit, Circuit)
        association = slot.circuit.open_association()
        expiring = self._expiry.watch(association.end, waits_for=slot if is_hasty else None)
        try:
            await association.wait_connected()
        except ExitError:
            if expiring.has_expired:  # silence is no refusal: the way there may be dead
                raise trio.TooSlowError from None
            raise
        except BaseException:
            association.end()
            raise
        finally:
            expiring.end()
        self.opened += 1
        self._circuits.served(isolation, slot)
        return association, partial(self._sends_to, slot)

    def _sends_to(self, slot: Slot, address: Address) -> bool:
        """Tell whether the exit of `slot` sends datagrams to `address`."""
        return address in self._allow_targets or slot.allows(Datagrams(address))

    # ---- its life

    def _resume(self, slot: Slot, orphans: Handover) -> None:
        self._background.start(self._resumer.resume, slot, orphans)

    async def run(self) -> None:
        """Keep circuits ready, and streams going when theirs dies; runs for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_idle)
            nursery.start_soon(self._circuits.run)
            nursery.start_soon(self._resumer.run)

    async def _end_idle(self) -> None:
        """Reset streams that are idle, or half-open for long (FE-11); runs for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            for stream in self._idle.overdue(self._circuits.streams(), trio.current_time()):
                stream.end(EndReason.TIMEOUT)
                stream.on_news()
            self._turn.run()

    def backlogs(self) -> Iterator[Holder]:
        """Yield the circuits that something is kept for, those lost a moment ago too (DOS-5)."""
        yield from self._circuits.backlogs()
        yield from self._resumer.backlogs()

    def interrupted(self) -> None:
        """Try everything again at once: the machine slept, or is in another network.

        The links are gone by now, and their circuits with them.
        """
        self._circuits.interrupted()

    def _leave_own_relays(self) -> None:
        """Leave circuits that were built before it was known whose their relays are (P2P-2)."""
        consensus = self._directory.current
        relays = self._own.ids if consensus is None else self._own.within(consensus)
        self._circuits.leave_relays(relays)
        self._resumer.leave(relays)

    def close(self) -> None:
        """Close all circuits, their streams first."""
        self._circuits.close()
        self._resumer.close()
        self._guards.save()

    def statistics(self) -> dict[str, object]:
        """Return counters and the circuits with their paths; no target is named."""
        return {
            "opened": self.opened,
            "resolved": self.resolved,
            "retried": self._attempts.retried,
            "own_relays": sorted(map(str, self._own.ids)),
            **self._circuits.statistics(),
            "resuming": self._resumer.statistics(),
        }
