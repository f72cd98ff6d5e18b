"""The client: streams through circuits that it builds, keeps ready, and replaces.

``open_stream``, ``open_association`` and ``resolve`` are all the proxy needs. A stream that is not
CONNECTED is begun again on another circuit, and through another exit where the exit was the reason,
up to four times (security F); what was sent with its opening is kept until then. A name is asked
for in the same way. Which circuit a stream may use is decided in ``roles.pool``, which path a
circuit takes in ``directory.path``, how streams go on when their circuit dies in ``roles.resumer``.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from random import Random, SystemRandom
from typing import TypeVar

import structlog
import trio

from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.exit_index import Datagrams, Target
from warren.directory.exit_policy import denied_reason
from warren.directory.path import choose_path, read_policy
from warren.directory.relays import Flag, RelayEntry
from warren.errors import (
    CircuitError,
    DirectoryError,
    EndReason,
    ExitError,
    LinkError,
    NoConsensus,
)
from warren.identity import PeerId
from warren.network.associations import CircuitAssociation
from warren.network.circuits import Circuit, build_circuit
from warren.network.expiry import Expiring, Expiry
from warren.network.link import Link
from warren.network.links import Links
from warren.network.streams import CircuitStream
from warren.protocol.choice import ANYTHING, Choice
from warren.protocol.front import choice_of
from warren.protocol.messages import ANY_FAMILY, BeginFlags
from warren.protocol.resolution import LONGEST_TTL, SHORTEST_TTL, Resolved
from warren.roles.background import Background
from warren.roles.backoff import Backoff
from warren.roles.circuit_watch import QUIET_SECONDS, CircuitWatch
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.mirror import Directory
from warren.roles.pool import NO_POLICY, Pool, Slot, Wisher
from warren.roles.resumer import Resumer, Ways
from warren.roles.sessions import Sessions

logger = structlog.get_logger()

T = TypeVar("T")

BUILD_SECONDS = 15.0
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
MOST_ATTEMPTS = 5
#: Attempts where the exit gave the same kind of answer: another one may know better, once.
MOST_REFUSALS = 2
#: Before an exit that refused is asked again because there is no other.
ASK_AGAIN_SECONDS = 0.5
MOST_BUILDS = 8
#: How long a relay that failed as a hop is not chosen again.
AVOID_SECONDS = 300.0
#: Before another try while this machine has no network.
OUTAGE_SECONDS = 1.0
_UPKEEP_SECONDS = 10.0
_NOBODY: frozenset[PeerId] = frozenset()
#: Before a spare replaces one that was taken: the stream that took it is opened first.
_SPARE_PAUSE_SECONDS = 0.02
#: Spares that the next one shares no middle with.
_UNLIKE = 3

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
#: What another exit may know better of a name: its DNS servers are others.
_ASK_ELSEWHERE = _ELSEWHERE | {EndReason.TIMEOUT}
#: Of an association, which is about no target yet: anything.
_ASSOCIATE_ELSEWHERE = frozenset(EndReason)


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """Hold a stream that was begun and is not CONNECTED yet."""

    slot: Slot
    isolation: Hashable
    stream: CircuitStream
    expiring: Expiring


class Client:
    """Own the circuits of this peer as a client: their pool, and who is avoided for a while.

    Streams to `allow_targets` may reach internal addresses (EXT-16). `is_offline` tells whether
    this machine has no network, so that silence is no fault of a guard.
    """

    def __init__(
        self,
        links: Links,
        directory: Directory,
        guards: GuardKeeper,
        *,
        hops: int = 3,
        own: PeerId | None = None,
        allow_targets: Collection[Address] = (),
        rng: Random | None = None,
        is_offline: Callable[[], bool] = bool,
    ) -> None:
        self._links = links
        self._is_offline = is_offline
        self._directory = directory
        self._guards = guards
        self._hops = hops
        self._own = own
        self._allow_targets = frozenset(allow_targets)
        self._rng = rng or SystemRandom()
        self._pool = Pool(exempt=self._allow_targets.__contains__)
        ways = Ways(self._link_to, self._adopt, self._avoid, own, hops)
        self._resumer = Resumer(links.turn, directory, guards, self._pool, self._rng, ways)
        self._background = Background(links.turn.nursery)
        self._sessions = Sessions()
        self._expiry = Expiry(links.turn.nursery, CONNECT_SECONDS)
        self._avoided: dict[PeerId, float] = {}
        self._building: dict[Hashable, trio.Event] = {}
        self._watch = CircuitWatch(self._open_circuits, self._give_up)
        self._needs_spares = trio.Event()
        self._interrupted = trio.Event()
        self.is_usable = trio.Event()
        self.built = self.failed = self.opened = self.resolved = self.retried = 0
        self._numbers = count(1)
        self._build_seconds: deque[float] = deque(maxlen=64)

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

        async def use(slot: Slot) -> CircuitStream:
            nonlocal begun
            beginning, begun = begun or self._begin(slot, isolation, address, early, flags), None
            return await self._wait_connected(beginning)

        return await self._try_exits(isolation, address, use, _ELSEWHERE, first)

    def begin_stream(
        self,
        address: Address,
        isolation: Hashable,
        early: bytes = b"",
        flags: BeginFlags = ANY_FAMILY,
    ) -> "Beginning | None":
        """Begin what ``open_stream`` does, without waiting; None when no circuit is ready."""
        slot = self._pick(isolation, address, ())
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
        self._served(begun.isolation, begun.slot)
        return stream

    async def resolve(self, subject: Address, isolation: Hashable) -> Resolved:
        """Return the addresses of the name `subject`, or the name of the address; its port is 0.

        Waits and raises like ``open_stream``; NotFound when two exits know of none.
        """
        use = partial(self._ask, isolation=isolation, subject=subject)
        return await self._try_exits(isolation, None, use, _ASK_ELSEWHERE)

    async def _try_exits(
        self,
        isolation: Hashable,
        target: Target | None,
        use: Callable[[Slot], Awaitable[T]],
        elsewhere: Collection[EndReason],
        first: Slot | None = None,
    ) -> T:
        """Return what `use` makes of a circuit to `target`, or of another one where that failed.

        The `first` circuit may be chosen already. After one of the reasons `elsewhere` the exit is
        another one. Raises like ``open_stream``.
        """
        failure: Exception = CircuitError("no circuit reached the target in time")
        avoid: set[PeerId] = set()
        refusals = 0
        end = trio.current_time() + REQUEST_SECONDS
        for _ in range(MOST_ATTEMPTS):
            slot, first = first, None
            try:
                if slot is None:
                    slot = self._pick(isolation, target, avoid)
                if slot is None:
                    with trio.fail_at(end):
                        slot = await self._slot_for(isolation, target, avoid)
                return await use(slot)
            except DirectoryError:
                if not avoid:
                    raise
                avoid.clear()  # a small network has no other exit: ask the same again
                await trio.sleep(ASK_AGAIN_SECONDS)
                continue
            except ExitError as error:
                if error.reason not in elsewhere and error.reason is not EndReason.DESTROY:
                    raise
                failure = error
                if error.reason is not EndReason.DESTROY:
                    assert slot is not None
                    self._not_served(isolation, slot, avoid)
                    refusals += not self._is_leaving(slot, error)
            except (CircuitError, trio.TooSlowError) as error:
                if isinstance(error, trio.TooSlowError) and slot is not None:
                    self._not_served(isolation, slot, avoid)
                    if slot.exit_id not in avoid:
                        slot.retire()  # to the same exit by another way
                failure = error
            self.retried += 1
            if refusals >= MOST_REFUSALS or trio.current_time() >= end:
                break
        self._expect_consensus(failure)
        if isinstance(failure, trio.TooSlowError):
            raise ExitError(EndReason.TIMEOUT) from failure
        raise failure

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
        return Beginning(slot, isolation, stream, self._expiry.watch(stream.reset))

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

    async def open_association(
        self, address: Address | None, isolation: Hashable
    ) -> tuple[CircuitAssociation, Callable[[Address], bool]]:
        """Return an association that reaches `address`, and what tells where else it may go.

        With None its exit is one that sends any datagrams. Waits and raises as ``open_stream``.
        """
        target = Datagrams(None if address in self._allow_targets else address)
        use = partial(self._associate, isolation=isolation)
        return await self._try_exits(isolation, target, use, _ASSOCIATE_ELSEWHERE)

    def _expect_consensus(self, failure: Exception) -> None:
        """Raise NoConsensus if that is behind `failure`, which is no exit's."""
        if self._directory.current is None and not isinstance(failure, ExitError):
            raise NoConsensus from failure

    def _sends_to(self, slot: Slot, address: Address) -> bool:
        """Tell whether the exit of `slot` sends datagrams to `address`."""
        return address in self._allow_targets or slot.allows(Datagrams(address))

    async def _associate(
        self, slot: Slot, isolation: Hashable
    ) -> tuple[CircuitAssociation, Callable[[Address], bool]]:
        """Begin an association; raise ExitError when it is refused, also for want of an answer."""
        assert isinstance(slot.circuit, Circuit)
        association = slot.circuit.open_association()
        expiring = self._expiry.watch(association.end)
        try:
            await association.wait_connected()
        except BaseException:
            association.end()
            raise
        finally:
            expiring.end()
        self.opened += 1
        self._served(isolation, slot)
        return association, partial(self._sends_to, slot)

    async def _ask(self, slot: Slot, isolation: Hashable, subject: Address) -> Resolved:
        """Ask the exit of `slot`; raise ExitError when it knows nothing, TooSlowError as above."""
        circuit = slot.circuit
        assert isinstance(circuit, Circuit)
        with trio.fail_after(CONNECT_SECONDS):
            answer = await circuit.resolve(subject)
        self.resolved += 1
        exempt = {target.host for target in self._allow_targets}
        for ip in (address.ip for address in answer.addresses):
            if ip is not None and denied_reason(ip) is not None and str(ip) not in exempt:
                # EXT-14 holds for what a name stands for as well.
                raise ExitError(EndReason.EXIT_POLICY, "the exit names an internal address")
        ttl = min(max(answer.ttl, SHORTEST_TTL), LONGEST_TTL)
        self._served(isolation, slot)
        return Resolved(answer.addresses, ttl)

    def _served(self, isolation: Hashable, slot: Slot) -> None:
        """Note that the slot's exit did what was asked: a session stays with it."""
        if choice_of(isolation).keeps_exit:
            self._sessions.worked(isolation, slot.exit_id)

    def _not_served(self, isolation: Hashable, slot: Slot, avoid: set[PeerId]) -> None:
        """Note that the slot's exit did not serve a stream; `avoid` it if another one may."""
        if not choice_of(isolation).binds_exit:
            avoid.add(slot.exit_id)
        elif self._sessions.refused(isolation, slot.exit_id):
            slot.retire()

    def _is_leaving(self, slot: Slot, error: ExitError) -> bool:
        """Tell whether the exit of `slot` takes no streams because it ends soon; avoid it then."""
        if error.reason is not EndReason.HIBERNATING:
            return False
        for each in self._pool:
            if each.exit_id == slot.exit_id:
                each.retire()
        self._avoid(slot.exit_id)
        return True

    def _wish(self, isolation: Hashable) -> Choice | None:
        """Return what `isolation` asks of a path now, None for nothing."""
        choice = choice_of(isolation)
        if choice is ANYTHING:
            return None
        if choice.keeps_exit and (kept := self._sessions.exit_of(isolation)) is not None:
            return replace(choice, exit_id=kept)
        return choice

    def _pick(
        self, isolation: Hashable, address: Target | None, avoid: Collection[PeerId]
    ) -> Slot | None:
        """Return a circuit that there is for the stream, or None."""
        now = trio.current_time()
        wish = self._wish(isolation)
        slot = self._pool.pick(isolation, address, now, avoid, wish)
        if slot is None:
            return None
        if slot.first_used == now:
            self._needs_spares.set()
        if wish is not None and wish.keeps_exit:
            self._sessions.begin(isolation, slot.exit_id)
        return slot

    async def _slot_for(
        self, isolation: Hashable, address: Target | None, avoid: Collection[PeerId]
    ) -> Slot:
        """Return a circuit for the stream; build one when none fits.

        Streams of one isolation that come at the same time wait for one circuit together.
        """
        while True:
            slot = self._pick(isolation, address, avoid)
            if slot is not None:
                return slot
            building = self._building.get(isolation)
            if building is not None:
                await building.wait()
                continue
            done = self._building[isolation] = trio.Event()
            try:
                slot = await self._build(address, avoid, isolation)
                self._pool.claim(slot, isolation, trio.current_time())
                if choice_of(isolation).keeps_exit:
                    self._sessions.begin(isolation, slot.exit_id)
                return slot
            finally:
                del self._building[isolation]
                done.set()

    # ---- circuits

    async def _build(
        self,
        target: Target | None,
        avoid: Collection[PeerId] = (),
        isolation: Hashable | None = None,
    ) -> Slot:
        """Build a circuit whose exit lets `target` through; the pool has it then.

        Its path is one that `isolation` asks for.
        """
        failure: Exception | None = None
        hop: int | None = None
        attempts = 0
        while attempts < MOST_BUILDS:
            try:
                slot = await self._build_once(target, avoid, isolation)
            except (CircuitError, LinkError) as error:
                self.failed += 1
                failure = error
                hop = error.hop if isinstance(error, CircuitError) else 0
                logger.debug("! circuit", error=str(error))
                if isinstance(error, LinkError) and error.is_local:
                    await self._pause(OUTAGE_SECONDS)  # the caller's deadline says for how long
                else:
                    await self._pause(self._rng.uniform(0, min(0.05 * 2**attempts, 5.0)))  # REL-3
                    attempts += 1
                continue
            self.built += 1
            self._pool.add(slot)
            self.is_usable.set()
            return slot
        raise CircuitError(f"no circuit could be built: {failure}", hop=hop)

    async def _build_once(
        self, target: Target | None, avoid: Collection[PeerId], isolation: Hashable | None
    ) -> Slot:
        consensus = await self._directory.wait_for_consensus()
        wish = self._wish_from(consensus, isolation)
        hops = wish.hops or self._hops
        path = self._choose_path(consensus, target, avoid, wish, hops)
        guard = path[0]
        try:
            with trio.fail_after(BUILD_SECONDS):
                link = await self._link_to(guard)
                started = trio.current_time()
                circuit = await build_circuit(link, [entry.hop for entry in path])
                self._build_seconds.append(trio.current_time() - started)
        except trio.TooSlowError:
            raise CircuitError("the circuit took too long to build") from None
        except CircuitError as error:
            if error.hop and error.is_its_fault:
                self._avoid(path[error.hop].peer_id)
            if error.hop == len(path) - 1:
                self._sessions.missed(isolation, path[-1].peer_id)
            raise
        return self._own_circuit(circuit, path, hops)

    def _own_circuit(self, circuit: Circuit, path: tuple[RelayEntry, ...], hops: int) -> Slot:
        """Make the slot of a circuit that was built; its streams outlive it."""
        slot = Slot(
            circuit,
            path,
            read_policy(path[-1].policy) or NO_POLICY,
            trio.current_time(),
            next(self._numbers),
            hops,
            udp_policy=read_policy(path[-1].udp_policy) or NO_POLICY,
        )
        circuit.machine.keeps_streams = True
        circuit.on_closed = lambda _: self._lost(slot)
        return slot

    def _adopt(self, circuit: Circuit, path: tuple[RelayEntry, ...], lost: Slot) -> Slot:
        """Make the slot of a circuit that takes over what `lost` carried, and whose it was."""
        slot = self._own_circuit(circuit, path, lost.hops)
        slot.isolation, slot.moves = lost.isolation, lost.moves
        slot.first_used, slot.last_used = lost.first_used, trio.current_time()
        return slot

    def _avoid(self, peer_id: PeerId) -> None:
        self._avoided.pop(peer_id, None)  # so that the last one comes last
        self._avoided[peer_id] = trio.current_time() + AVOID_SECONDS

    async def _link_to(self, guard: RelayEntry) -> Link:
        """Find or dial the link to the guard, and let the guards learn how it went."""
        link = self._links.find(guard.peer_id, is_anonymous=True)
        if link is None:
            self._guards.contacted(guard.peer_id)
            try:
                link = await self._links.get(guard.hop, is_anonymous=True)
            except LinkError as error:
                if not error.is_local:
                    self._guards.failed(guard.peer_id)
                raise
            self._guards.succeeded(guard.peer_id)
        link.on_silence = self._guard_fell_silent
        return link

    def _guard_fell_silent(self, link: Link) -> None:
        """Neither dial it next nor go through it: that takes long, and is most likely in vain.

        There may be no circuit on the link, but one that is being built.
        """
        peer_id = link.protocol.peer_id
        if peer_id is not None and not self._is_offline():
            self._guards.failed(peer_id)
            self._avoid(peer_id)

    def _wish_from(self, consensus: Consensus, isolation: Hashable | None) -> Choice:
        """Return what `isolation` asks of a path, which may be its session's exit if that lives."""
        kept = self._sessions.exit_of(isolation)
        if kept is not None:
            entry, country = consensus.get(kept), choice_of(isolation).country
            if (
                entry is None
                or Flag.RUNNING not in entry.flags
                or country not in (None, entry.country)
            ):
                self._sessions.lost(isolation)
        return self._wish(isolation) or ANYTHING

    def _choose_path(
        self,
        consensus: Consensus,
        target: Target | None,
        avoid: Collection[PeerId],
        wish: Choice,
        hops: int,
    ) -> tuple[RelayEntry, ...]:
        now = trio.current_time()
        self._avoided = {peer: until for peer, until in self._avoided.items() if until > now}
        wanted = None if target in self._allow_targets else target
        guards = self._guards.candidates(consensus)
        never = frozenset(avoid)
        # In a small network the avoided ones may be all there is; the last one least likely lives.
        for avoided in (frozenset(self._avoided), frozenset(tuple(self._avoided)[-1:]), _NOBODY):
            try:
                return choose_path(
                    consensus,
                    guards,
                    wanted,
                    length=hops,
                    rng=self._rng,
                    own=self._own,
                    avoid=avoided | never,
                    exit_id=wish.exit_id,
                    country=wish.country,
                    parameters=consensus.parameters,
                )
            except DirectoryError:
                if not avoided:
                    raise
        raise AssertionError("unreachable")

    def _open_circuits(self) -> Iterator[Circuit]:
        for slot in self._pool:
            assert isinstance(slot.circuit, Circuit)
            if slot.circuit.is_open:
                yield slot.circuit

    def _give_up(self, circuit: Circuit) -> None:
        """Destroy a circuit that is silent, and avoid those behind the guard: one of them is it.

        Unless the guard has said nothing at all since: then its link will be judged, soon.
        """
        silence = trio.current_time() - circuit.link.last_heard
        suspects = {hop.peer_id for hop in circuit.hops[1:]} if silence < QUIET_SECONDS else set()
        for suspect in suspects:
            self._avoid(suspect)
        for slot in self._pool:
            if slot.first_used is None and not suspects.isdisjoint(e.peer_id for e in slot.path):
                assert isinstance(slot.circuit, Circuit)
                slot.circuit.close()  # a spare through one of them
        circuit.give_up()

    def _lost(self, slot: Slot) -> None:
        self._pool.remove(slot)
        assert isinstance(slot.circuit, Circuit)
        self._needs_spares.set()
        orphans = slot.circuit.machine.orphans
        if orphans is not None:
            self._background.start(self._resumer.resume, slot, orphans)

    # ---- interruptions

    def interrupted(self) -> None:
        """Try everything again at once: the machine slept, or is in another network.

        The links are gone by now, and their circuits with them.
        """
        self._avoided.clear()
        self._guards.interrupted()
        self._interrupted.set()
        self._interrupted = trio.Event()
        self._needs_spares.set()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until ``interrupted``."""
        with trio.move_on_after(seconds):
            await self._interrupted.wait()

    # ---- upkeep

    async def run(self) -> None:
        """Keep circuits ready and close those that are over; runs for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_old)
            nursery.start_soon(self._watch.run)
            nursery.start_soon(self._resumer.run)
            while True:
                await self._keep_spares()
                await self._needs_spares.wait()
                await trio.sleep(_SPARE_PAUSE_SECONDS)
                self._needs_spares = trio.Event()

    async def _keep_spares(self) -> None:
        backoff = Backoff(self._rng, first=0.1, most=60.0)
        failures = 0
        while missing := self._pool.spares_missing(trio.current_time()):
            try:
                await self._build_spare(missing[failures % len(missing)])
                backoff.reset()
                failures = 0
            except (CircuitError, DirectoryError) as error:
                failures += 1  # what one asks for there may be none of; the others want theirs
                logger.info("no circuit yet", error=str(error))
                await self._pause(backoff.next_wait())

    async def _build_spare(self, wisher: Wisher) -> None:
        """Build a spare as `wisher` asks, through other middles than the last ones, if any.

        In a small network there are no others; of all of them, exits would have to be middles.
        """
        spares = [slot for slot in self._pool if slot.isolation is None][-_UNLIKE:]
        middles = frozenset(relay.peer_id for slot in spares for relay in slot.path[1:-1])  # REL-2
        try:
            slot = await self._build(None, middles, wisher)
        except DirectoryError:
            if not middles:
                raise
            slot = await self._build(None, isolation=wisher)
        slot.wish = choice_of(wisher)

    async def _close_old(self) -> None:
        while True:
            await trio.sleep(_UPKEEP_SECONDS)
            for slot in self._pool.over(trio.current_time()):
                assert isinstance(slot.circuit, Circuit)
                slot.circuit.close()
            if self._pool.spares_missing(trio.current_time()):
                self._needs_spares.set()

    def close(self) -> None:
        """Close all circuits, their streams first."""
        for slot in self._pool:
            assert isinstance(slot.circuit, Circuit)
            slot.circuit.close()
        self._resumer.close()

    def statistics(self) -> dict[str, object]:
        """Return counters and the circuits with their paths; no target is named."""
        return {
            "built": self.built,
            "failed": self.failed,
            "opened": self.opened,
            "resolved": self.resolved,
            "retried": self.retried,
            "given_up": self._watch.given_up,
            "sessions": len(self._sessions),
            "build_seconds": [round(seconds, 6) for seconds in self._build_seconds],
            "resuming": self._resumer.statistics(),
            "circuits": [_describe(slot) for slot in self._pool],
        }


def _describe(slot: Slot) -> dict[str, object]:
    circuit = slot.circuit
    assert isinstance(circuit, Circuit)
    return {
        "id": slot.number,
        "path": [str(entry.peer_id) for entry in slot.path],
        "countries": [entry.country for entry in slot.path],
        "streams": circuit.stream_count,
        "state": circuit.machine.state.value,
        "used": slot.first_used is not None,
    }
