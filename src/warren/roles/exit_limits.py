"""What an exit lets clients ask, and how fast: streams begun, and connections under way.

A page opens more connections at once than may be under way, so streams wait for a place; how many
may is bounded as well (DOS-7, decision 33).
"""

from collections import Counter
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import trio

from warren.errors import EndReason, ExitError
from warren.network.bucket import Bucket
from warren.network.streams import CircuitStream
from warren.protocol.relay_circuit import RelayCircuit
from warren.roles.idleness import IdleLimits


@dataclass(frozen=True)
class ExitLimits:
    """Bound what clients can ask of an exit (EXT-10, EXT-11).

    ``begin_burst`` is how many streams and questions a circuit may begin at once, behind which
    come ``begins_per_second``; ``streams_per_address`` are those open to one target's address.
    """

    streams_per_circuit: int = 512
    begins_per_second: int = 2000
    begin_burst: int = 4000
    pending_connects: int = 256
    pending_connects_per_circuit: int = 16
    waiting_connects_per_circuit: int = 240
    streams_per_address: int = 4096
    connect_seconds: float = 8
    idle: IdleLimits = field(default_factory=IdleLimits)


class Admission:
    """Own how much each circuit has begun lately, and who has a place to connect, or waits for one.

    Circuits are told apart by the ``id`` of their machines.
    """

    def __init__(self, limits: ExitLimits) -> None:
        self._limits = limits
        self._connecting: Counter[int] = Counter()
        self._waiting: dict[int, trio.Event] = {}  # circuits with more to connect than may be
        self._queued: Counter[int] = Counter()  # how many of a circuit's streams do that
        self._buckets: WeakKeyDictionary[RelayCircuit, Bucket] = WeakKeyDictionary()

    @property
    def connecting(self) -> int:
        """Return how many streams have a place."""
        return self._connecting.total()

    def count_begin(self, machine: RelayCircuit) -> None:
        """Raise ExitError when a circuit begins more, or faster, than it may (EXT-11)."""
        limits, now = self._limits, trio.current_time()
        bucket = self._buckets.get(machine)
        if bucket is None:
            bucket = Bucket(limits.begins_per_second, limits.begin_burst, now)
            self._buckets[machine] = bucket
        streams = machine.streams
        is_full = streams is not None and streams.count > limits.streams_per_circuit
        if is_full or not bucket.take(now):
            raise ExitError(EndReason.RESOURCE_LIMIT)

    def has_place(self, circuit: int) -> bool:
        """Tell whether one more stream of the circuit may connect now."""
        limits, connecting = self._limits, self._connecting
        is_free = connecting[circuit] < limits.pending_connects_per_circuit
        return is_free and connecting.total() < limits.pending_connects

    def enter(self, circuit: int) -> None:
        """Take a place for one stream of the circuit."""
        self._connecting[circuit] += 1

    async def wait_place(self, circuit: int, stream: CircuitStream) -> None:
        """Wait until one more of the circuit's streams may connect (EXT-11).

        A page opens more connections at once than may be pending, so the others wait. Raises
        ExitError when too many of the circuit do, or the whole exit is full.
        """
        connecting = self._connecting
        if connecting[circuit] >= self._limits.pending_connects_per_circuit:
            await self._wait_turn(circuit, stream)
        if connecting.total() >= self._limits.pending_connects:
            raise ExitError(EndReason.RESOURCE_LIMIT)
        self.enter(circuit)

    async def _wait_turn(self, circuit: int, stream: CircuitStream) -> None:
        """Wait as ``wait_place`` does; only so many streams of a circuit may (DOS-7)."""
        limits, queued = self._limits, self._queued
        if queued[circuit] >= limits.waiting_connects_per_circuit:
            raise ExitError(EndReason.RESOURCE_LIMIT)
        queued[circuit] += 1
        try:
            while self._connecting[circuit] >= limits.pending_connects_per_circuit:
                await self._waiting.setdefault(circuit, trio.Event()).wait()
                expect_wanted(stream)
        finally:
            queued[circuit] -= 1
            if not queued[circuit]:
                del queued[circuit]

    def leave(self, circuit: int) -> None:
        """Give a place back; streams of the circuit that wait try again."""
        connecting = self._connecting
        connecting[circuit] -= 1
        if not connecting[circuit]:
            del connecting[circuit]
        if circuit in self._waiting:
            self._waiting.pop(circuit).set()


def expect_wanted(stream: CircuitStream) -> None:
    """Raise ExitError when the client is gone; a dead circuit's streams take no place here."""
    if stream.is_ended:
        raise ExitError(EndReason.MISC, "the stream ended before its target was reached")
