"""Which stream may share which circuit, which circuits are kept ready, which are over.

Pure: it decides, ``roles.client`` builds and closes. A circuit belongs to nobody until the first
stream claims it for an isolation; from then on only streams of equal isolation use it (FE-10),
and no new ones ten minutes after the first.
"""

from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from warren.directory.exit_index import Datagrams, Target, fits
from warren.directory.exit_policy import ExitPolicy
from warren.directory.relays import RelayEntry
from warren.identity import PeerId
from warren.protocol.choice import Choice

#: Circuits kept built that nobody uses yet (REL-2).
SPARES = 2
#: Seconds after a circuit's first stream until it takes no new ones.
DIRTY_SECONDS = 600.0
#: Seconds a circuit without streams is kept: one nobody used, and one somebody did.
SPARE_SECONDS = 1800.0
IDLE_SECONDS = 300.0

NO_POLICY = ExitPolicy(())


class Carrier(Protocol):
    """Be what the pool needs to know of a circuit."""

    @property
    def is_open(self) -> bool:
        """Tell whether it is built and alive."""

    @property
    def has_room(self) -> bool:
        """Tell whether one more stream fits."""

    @property
    def stream_count(self) -> int:
        """Return how many streams it carries."""


@dataclass(eq=False)
class Slot:
    """Own a circuit's place in the pool: its path, whose it is, since when."""

    circuit: Carrier
    path: tuple[RelayEntry, ...]
    policy: ExitPolicy
    made_at: float
    number: int = 0  # of all circuits of this node; those of a link are used again on another
    hops: int = 3  # positions of the path that were asked for; gateways do not count
    isolation: Hashable | None = None
    first_used: float | None = None
    last_used: float = 0.0
    udp_policy: ExitPolicy = NO_POLICY
    #: When each stream, by its number, moved here or to a circuit before this one (RES-1).
    moves: dict[int, list[float]] = field(default_factory=dict)

    @property
    def exit_id(self) -> PeerId:
        """Return the id of the last hop."""
        return self.path[-1].peer_id

    def allows(self, target: Target) -> bool:
        """Tell whether the exit's policy lets `target` through, or may, for a name."""
        if isinstance(target, Datagrams):
            return fits(self.udp_policy, target.address)
        return fits(self.policy, target)

    def serves(self, choice: Choice) -> bool:
        """Tell whether the path is one that `choice` asks for."""
        last = self.path[-1]
        return (
            choice.hops in (None, self.hops)
            and choice.country in (None, last.country)
            and choice.exit_id in (None, last.peer_id)
        )

    def retire(self) -> None:
        """Let no new streams come on."""
        self.first_used = float("-inf")

    def takes_streams(self, now: float) -> bool:
        """Tell whether a new stream may still come on."""
        if not (self.circuit.is_open and self.circuit.has_room):
            return False
        return self.first_used is None or now - self.first_used < DIRTY_SECONDS

    def is_over(self, now: float) -> bool:
        """Tell whether the circuit should be closed."""
        if not self.circuit.is_open:
            return True
        if self.circuit.stream_count:
            return False
        if self.first_used is None:
            return now - self.made_at > SPARE_SECONDS
        return now - self.first_used > DIRTY_SECONDS or now - self.last_used > IDLE_SECONDS


@dataclass
class Pool:
    """Own the slots of all built circuits.

    `exempt` tells of a target that no policy is asked about (EXT-16).
    """

    exempt: Callable[[Target], bool]
    _slots: list[Slot] = field(default_factory=list)

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots))

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        """Take a circuit that was just built."""
        self._slots.append(slot)

    def remove(self, slot: Slot) -> None:
        """Drop a circuit that is gone; one that is not here is fine."""
        if slot in self._slots:
            self._slots.remove(slot)

    def pick(
        self,
        isolation: Hashable,
        target: Target | None,
        now: float,
        avoid: Collection[PeerId] = (),
        choice: Choice | None = None,
    ) -> Slot | None:
        """Return the circuit for a stream: its isolation's own first, then a spare, or None.

        The slot counts as used by `isolation` from then on. Without a `choice` any path will do;
        without a `target` any exit that is one: the question is for itself.
        """
        spare = None
        for slot in self._slots:
            if slot.isolation is not None and slot.isolation != isolation:
                continue
            if slot.exit_id in avoid or not slot.takes_streams(now):
                continue
            if not (target is None or slot.allows(target) or self.exempt(target)):
                continue
            if choice is not None and not slot.serves(choice):
                continue
            if slot.isolation is not None:
                slot.last_used = now
                return slot
            spare = spare or slot
        if spare is not None:
            self.claim(spare, isolation, now)
        return spare

    def claim(self, slot: Slot, isolation: Hashable, now: float) -> None:
        """Give a slot that is nobody's to `isolation`."""
        assert slot.isolation is None
        assert isolation is not None
        slot.isolation = isolation
        slot.first_used = slot.last_used = now

    def spares_missing(self, now: float) -> int:
        """Return how many more circuits should be built ahead of need."""
        ready = sum(s.isolation is None and s.takes_streams(now) for s in self._slots)
        return max(0, SPARES - ready)

    def over(self, now: float) -> list[Slot]:
        """Return the slots whose circuits should be closed; they are dropped."""
        over = [slot for slot in self._slots if slot.is_over(now)]
        self._slots = [slot for slot in self._slots if slot not in over]
        return over
