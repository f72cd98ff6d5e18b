"""Which stream may share which circuit, which circuits are kept ready, which are over.

Pure: it decides, ``roles.circuit_keeper`` has them built and closes them. A circuit belongs to
nobody until the first stream claims it for an isolation; from then on only streams of equal
isolation use it (FE-10), and no new ones ten minutes after the first.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from warren.directory.exit_index import Datagrams, Target, fits
from warren.directory.exit_policy import ExitPolicy
from warren.directory.relays import RelayEntry
from warren.identity import PeerId
from warren.protocol.choice import ANYTHING, Choice
from warren.protocol.front import choice_of

#: Circuits kept built that nobody uses yet, for each isolation in use (REL-2), and for all of them.
SPARES = 2
MOST_SPARES = 8
#: Seconds after the last stream began in which an isolation without any counts as in use.
IN_USE_SECONDS = 60.0
#: Seconds after a circuit's first stream until it takes no new ones.
DIRTY_SECONDS = 600.0
#: Seconds a circuit without streams is kept: one nobody used, and one somebody did.
SPARE_SECONDS = 1800.0
IDLE_SECONDS = 300.0

NO_POLICY = ExitPolicy(())

Wisher = Hashable | None


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
        """Return how many streams it carries, ending ones included."""

    @property
    def is_wanted(self) -> bool:
        """Tell whether it carries any that this end has not ended."""


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
    #: What the path of a spare was chosen for.
    wish: Choice = ANYTHING
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

    def is_in_use(self, now: float) -> bool:
        """Tell whether it carries streams of its isolation, or did a moment ago."""
        if self.isolation is None:
            return False
        return self.circuit.stream_count > 0 or now - self.last_used < IN_USE_SECONDS

    def is_over(self, now: float) -> bool:
        """Tell whether the circuit should be closed."""
        if not self.circuit.is_open:
            return True
        if self.circuit.stream_count:
            # An exit that keeps back what it owes us keeps no circuit standing (decision 34).
            return now - self.last_used > IDLE_SECONDS and not self.circuit.is_wanted
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
            if slot.wish is not ANYTHING and slot.isolation is None and slot.wish != choice:
                continue  # kept for those who ask for such a path
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

    def spares_missing(self, now: float) -> list[Wisher]:
        """Return whom spares should be built for ahead of need, the most urgent first.

        None stands for all who ask for nothing, an isolation for all who ask for what it does.
        """
        ready = Counter(
            slot.wish for slot in self._slots if slot.isolation is None and slot.takes_streams(now)
        )
        return [
            wisher
            for wish, (wisher, wanted) in self._spares_wanted(now).items()
            for _ in range(wanted - ready[wish])
        ]

    def _spares_wanted(self, now: float) -> dict[Choice, tuple[Wisher, int]]:
        """Return for whom there should be spares, and how many, by what they ask for."""
        wishers: dict[Choice, list[Wisher]] = {ANYTHING: []}
        for isolation in {slot.isolation: None for slot in self._slots if slot.is_in_use(now)}:
            choice = choice_of(isolation)
            if not choice.keeps_exit:  # which exit that is shows only when a circuit is needed
                wishers.setdefault(choice, []).append(isolation)
        room, wanted = MOST_SPARES, {}
        for choice, members in wishers.items():
            count = min(SPARES * (len(members) or 1), room)
            room -= count
            wanted[choice] = (None if choice is ANYTHING else members[0], count)
        return wanted

    def over(self, now: float) -> list[Slot]:
        """Return the slots whose circuits should be closed; they are dropped."""
        wanted = {wish: count for wish, (_, count) in self._spares_wanted(now).items()}
        over = []
        for slot in self._slots:
            if slot.is_over(now):
                over.append(slot)
            elif slot.isolation is None:
                wanted[slot.wish] = wanted.get(slot.wish, 0) - 1
                if wanted[slot.wish] < 0 and now - slot.made_at > IDLE_SECONDS:
                    over.append(slot)  # those whom it was kept for are idle by now
        self._slots = [slot for slot in self._slots if slot not in over]
        return over
