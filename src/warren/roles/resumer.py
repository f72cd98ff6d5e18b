"""Resuming, seen from the client: when a circuit dies, its streams go on over another one.

The circuit that takes over leads to the same exit, through the same guard if that lives, over a
middle from the few kept for that exit. Streams wait for it, their applications notice a pause.
To keep that short, circuits of guard and middle, *stubs*, are built ahead for the exits of long
transfers, and lack only the exit. What cannot go on within 60 s is reset, never ended cleanly
(RES-1, SID-4). How streams move is in ``protocol.handover``, which circuits there are in ``pool``.
"""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import structlog
import trio

from warren.directory.consensus import Consensus
from warren.directory.path import choose_path
from warren.directory.relays import RelayEntry
from warren.errors import CircuitError, DirectoryError, GuardsRest, LayerError, LinkError
from warren.identity import PeerId
from warren.network.circuits import Circuit
from warren.network.quota import Holder
from warren.network.turn import Turn
from warren.protocol.backlog import give_up, stream_queues
from warren.protocol.handover import Handover
from warren.roles.backoff import Backoff
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.middles import Middles
from warren.roles.mirror import Directory
from warren.roles.own_relays import OwnRelays
from warren.roles.pool import Pool, Slot

logger = structlog.get_logger()

#: How long streams without a circuit wait for another one; an exit holds them as long.
RESUME_SECONDS = 60.0
#: For the exit's answer on a circuit that is to take over.
ANSWER_SECONDS = 10.0
#: Moves of one stream in so many seconds; whoever kills circuits learns no more (RES-1).
MOST_MOVES = 16
MOVES_SECONDS = 600.0
#: Refusals by the hops before an exit after which it counts as gone.
MOST_REFUSALS = 3
#: Circuits that are built at the same time, for all that were lost.
MOST_ATTEMPTS_AT_ONCE = 8
#: Stubs kept ready. A circuit that carries streams each time one looks is worth one: pages that
#: come one after the other mostly are not.
MOST_STUBS = 4
STUB_AFTER_LOOKS = 3
_UPKEEP_SECONDS = 1.0


@dataclass(frozen=True)
class Ways:
    """Hold what the client lends: how to build a circuit and what to do with it, whom to avoid.

    ``adopt`` makes the slot of a new circuit, given its path and the slot it stands in for.
    ``pause`` waits so many seconds, or until an interruption is over.
    """

    build: Callable[[tuple[RelayEntry, ...], Circuit | None], Awaitable[Circuit]]
    adopt: Callable[[Circuit, tuple[RelayEntry, ...], Slot], Slot]
    avoid: Callable[[PeerId], None]
    pause: Callable[[float], Awaitable[None]]
    own: OwnRelays
    hops: int


@dataclass(frozen=True)
class _Stub:
    """Hold a circuit that lacks its exit, and the relays it goes through."""

    circuit: Circuit
    path: tuple[RelayEntry, ...]


class Resumer:
    """Own the streams between two circuits, the middles kept for each exit, and the stubs.

    When it `is_off` there are none of these: streams end with their circuit.
    """

    def __init__(
        self,
        turn: Turn,
        directory: Directory,
        guards: GuardKeeper,
        pool: Pool,
        rng: Random,
        ways: Ways,
        *,
        is_off: bool = False,
    ) -> None:
        self._is_off = is_off
        self._turn = turn
        self._directory = directory
        self._guards = guards
        self._pool = pool
        self._rng = rng
        self._ways = ways
        self._middles = Middles(max(ways.hops - 2, 1))
        self._stubs: dict[PeerId, _Stub] = {}
        self._looks: dict[Slot, int] = {}  # at circuits that carried streams each time
        self._at_once = trio.CapacityLimiter(MOST_ATTEMPTS_AT_ONCE)
        self._between: dict[Handover, None] = {}  # those whose circuit is gone, for the moment
        self._pauses: deque[float] = deque(maxlen=64)
        self.deaths = self.resumed = self.lost = 0

    # ---- from one circuit to another

    async def resume(self, slot: Slot, handover: Handover) -> None:
        """Let the streams of a circuit that is gone go on over another one; 60 s at most."""
        began = trio.current_time()
        self.deaths += 1
        self._between[handover] = None
        self._let_rest(slot.path)
        try:
            with trio.move_on_after(RESUME_SECONDS):
                if not self._is_off and await self._try(slot, handover):
                    self._pauses.append(trio.current_time() - began)
        finally:
            del self._between[handover]
            handover.lose()
            self._turn.run()
            self.lost += handover.given_up

    async def _try(self, slot: Slot, handover: Handover) -> bool:
        """Try until another circuit has the streams; return False when there is no hope."""
        backoff = Backoff(self._rng, first=0.1, most=5.0)  # REL-3
        # Guards that cannot be reached rest by themselves: on to the next one.
        short = Backoff(self._rng, first=0.1, most=1.0)
        refusals = 0
        while handover.streams:
            try:
                async with self._at_once:
                    return await self._move(slot, handover)
            except CircuitError as error:
                logger.debug("! resume", error=str(error))
                seconds = backoff.next_wait()
                if error.hop == len(slot.path) - 1 and error.is_its_fault:
                    refusals += 1
                    self._ways.avoid(slot.exit_id)
                    # Their exit may be gone, and nobody has heard of these yet.
                    handover.lose_unconnected()
                    self._turn.run()
                    if refusals >= MOST_REFUSALS:
                        return False
            except GuardsRest as error:
                seconds = error.seconds
            except (LinkError, DirectoryError) as error:
                logger.debug("! resume", error=str(error))
                seconds = (short if isinstance(error, LinkError) else backoff).next_wait()
            await self._ways.pause(seconds)
            handover.drop_ended()
        return False

    async def _move(self, slot: Slot, handover: Handover) -> bool:
        """Move the streams to one more circuit; return False when none may move any more.

        Raises CircuitError when the circuit did not take them.
        """
        circuit, path = await self._next_circuit(slot)
        ticket = circuit.machine.ticket
        self._count_moves(slot, handover)
        if not handover.streams:
            circuit.close()
            return False
        successor = self._ways.adopt(circuit, path, slot)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await circuit.resume(handover)
        except trio.Cancelled:
            circuit.give_up()  # an answer that still comes would find streams that were reset
            raise
        except (CircuitError, trio.TooSlowError) as error:
            circuit.machine.destroy()
            circuit.turn.run()
            self._let_rest(path)
            handover.lost(ticket)
            fault = circuit.machine.error
            if fault is not None and not isinstance(fault, LayerError):
                self._ways.avoid(slot.exit_id)
                handover.lose()  # the exit answers what cannot be
            raise CircuitError(f"the streams did not move: {error}") from error
        self.resumed += 1
        if not circuit.machine.is_closed:
            self._pool.add(successor)
        return True

    def _count_moves(self, slot: Slot, handover: Handover) -> None:
        """Count one move of every stream; those that have moved too often are reset (RES-1)."""
        now = trio.current_time()
        for stream in list(handover.streams):
            moves = [
                then for then in slot.moves.get(stream.number, ()) if now - then < MOVES_SECONDS
            ]
            slot.moves[stream.number] = [*moves, now]
            if len(moves) >= MOST_MOVES:
                self._ways.avoid(slot.exit_id)
                handover.lose_one(stream)
        present = {stream.number for stream in handover.streams}
        for number in slot.moves.keys() - present:
            del slot.moves[number]

    # ---- circuits that take over

    async def _next_circuit(self, slot: Slot) -> tuple[Circuit, tuple[RelayEntry, ...]]:
        """Build a circuit to the exit of `slot`, from a stub if there is one."""
        consensus = await self._directory.wait_for_consensus()
        leaving = consensus.get(slot.exit_id) or slot.path[-1]
        stub = self._stubs.pop(slot.exit_id, None)
        if stub is not None and stub.circuit.is_open:
            path = (*stub.path, leaving)
            await self._build(path, stub.circuit)
            return stub.circuit, path
        path = (*self._choose(consensus, slot), leaving)
        return await self._build(path), path

    async def _build(self, path: tuple[RelayEntry, ...], stub: Circuit | None = None) -> Circuit:
        """Build a circuit over `path`, or extend `stub` by its last relay."""
        try:
            return await self._ways.build(path, stub)
        except CircuitError as error:
            if error.hop is None:
                self._let_rest(path)
            elif error.hop:
                # An exit that one middle cannot reach another one may.
                self._let_rest(path, min(error.hop, len(path) - 2))
            raise

    def _let_rest(self, path: tuple[RelayEntry, ...], first: int = 1) -> None:
        """Let the middles of a circuit that failed come after the others, from `first` on."""
        for relay in path[first:-1]:
            self._middles.failed(path[-1].peer_id, relay.peer_id, trio.current_time())

    def _choose(self, consensus: Consensus, slot: Slot) -> tuple[RelayEntry, ...]:
        """Choose guard and middles of a circuit that takes over from `slot`, without its exit."""
        exit_id, length = slot.exit_id, slot.hops
        unwanted = {relay.peer_id for relay in slot.path[1:-1]} | self._guards.unanswering
        everyone = frozenset(entry.peer_id for entry in consensus.relays)
        for allowed in self._middles.choices(exit_id, consensus, unwanted, trio.current_time()):
            if not allowed and length > 2:
                continue
            for guard in self._guards_for(consensus, slot):
                with contextlib.suppress(DirectoryError):
                    *others, _ = choose_path(
                        consensus,
                        [guard],
                        None,
                        length=length,
                        rng=self._rng,
                        own=self._ways.own.within(consensus),
                        avoid=everyone - allowed - {guard, exit_id},
                        exit_id=exit_id,
                        parameters=consensus.parameters,
                    )
                    self._middles.keep(exit_id, [relay.peer_id for relay in others[1:]])
                    return tuple(others)
        if seconds := self._guards.rest_seconds:
            raise GuardsRest(seconds)
        raise DirectoryError("no path leads to the exit of these streams any more")

    def _guards_for(self, consensus: Consensus, slot: Slot) -> Iterator[PeerId]:
        """Yield the guards to try: the one there was, as long as it answers, comes first."""
        candidates = self._guards.candidates(consensus)
        kept = slot.path[0].peer_id
        assert isinstance(slot.circuit, Circuit)
        # To dial one that fell silent would take as long as all else together.
        is_silent = slot.circuit.link.fell_silent
        if is_silent or kept not in candidates or not self._guards.is_ready(kept):
            yield from candidates
            return
        yield kept
        yield from (guard for guard in candidates if guard != kept)

    # ---- stubs

    async def run(self) -> None:
        """Keep stubs for the exits of long transfers; runs for ever."""
        backoff = Backoff(self._rng, first=2.0)
        while not self._is_off:
            await trio.sleep(_UPKEEP_SECONDS)
            try:
                await self._keep_stubs()
                backoff.reset()
            except (CircuitError, LinkError, DirectoryError, trio.TooSlowError) as error:
                logger.debug("! stub", error=str(error))
                await trio.sleep(backoff.next_wait())  # REL-3

    async def _keep_stubs(self) -> None:
        wanted = self._wanted_stubs()
        for exit_id, stub in list(self._stubs.items()):
            if exit_id not in wanted or not stub.circuit.is_open:
                stub.circuit.close()
                del self._stubs[exit_id]
        for exit_id, slot in wanted.items():
            if exit_id not in self._stubs:
                consensus = await self._directory.wait_for_consensus()
                path = self._choose(consensus, slot)
                circuit = await self._ways.build(path, None)
                self._stubs[exit_id] = _Stub(circuit, path)

    def _wanted_stubs(self) -> dict[PeerId, Slot]:
        """Return the exits worth a stub, each with a circuit that leads there."""
        busy = [slot for slot in self._pool if slot.circuit.stream_count]
        self._looks = {slot: self._looks.get(slot, 0) + 1 for slot in busy}
        wanted: dict[PeerId, Slot] = {}
        for slot, looks in self._looks.items():
            if looks >= STUB_AFTER_LOOKS and len(wanted) < MOST_STUBS:
                wanted.setdefault(slot.exit_id, slot)
        return wanted

    def backlogs(self) -> Iterator[Holder]:
        """Yield those without a circuit that something is kept for (DOS-5)."""
        for handover in self._between:
            if queues := list(stream_queues(handover.streams)):
                # They may be under way: what is told of them is their end, as by their programs.
                end = partial(give_up, tuple(handover.streams))
                yield Holder("circuits that had died", handover, queues, end)

    def leave(self, relays: Collection[PeerId]) -> None:
        """Close the stubs that go through one of `relays`."""
        for exit_id, stub in list(self._stubs.items()):
            if any(entry.peer_id in relays for entry in stub.path):
                stub.circuit.close()
                del self._stubs[exit_id]

    def close(self) -> None:
        """Close the stubs."""
        for stub in self._stubs.values():
            stub.circuit.close()
        self._stubs.clear()

    def statistics(self) -> dict[str, object]:
        """Return counters: of circuits that died with streams, and of what became of these."""
        return {
            "deaths": self.deaths,
            "resumed": self.resumed,
            "streams_lost": self.lost,
            "waiting": len(self._between),
            "stubs": len(self._stubs),
            "pause_seconds": [round(seconds, 6) for seconds in self._pauses],
        }
