"""What interrupts a peer from outside: it slept, its clock was set, its network is another one.

After a sleep, or over another network, old links are dead and do not know it: no reset comes, and
TCP goes on for minutes. So a peer looks once a second, and whoever keeps something that such an
event makes worthless is told. Two clocks tell of sleep: one that counts it and one that does not.
Of the network they are the addresses that this host would send from to the authorities; asking
the routing table for that sends nothing, and works on every system.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import structlog
import trio

from warren.addresses import Address, IPAddress, lasting_part
from warren.network.own_addresses import address_towards

logger = structlog.get_logger()

LOOK_SECONDS = 1.0
#: A sleep at least so long counts (security F).
SLEEP_SECONDS = 5.0
#: So long without running (SIGSTOP, a debugger), and the others have given us up.
STOPPED_SECONDS = 20.0
#: By so much a wall clock is set; less is a correction.
CLOCK_SET_SECONDS = 60.0


class Interruption(Enum):
    """Name what happened."""

    SLEPT = "this machine slept, or this process was stopped"
    CLOCK_SET = "the clock of this machine was set"
    NETWORK_CHANGED = "this machine is in another network, or back in one"

    @property
    def breaks_links(self) -> bool:
        """Tell whether links from before are worth nothing any more."""
        return self is not Interruption.CLOCK_SET


@dataclass(frozen=True)
class Clocks:
    """Hold what three clocks say, in seconds: `awake` stands still in a sleep, `since_boot` not."""

    awake: float
    since_boot: float
    wall: float


def read_clocks() -> Clocks:
    """Ask the system; where it does not count sleep, a wall clock that was set looks like one."""
    awake, wall = time.monotonic(), time.time()
    if hasattr(time, "CLOCK_BOOTTIME"):
        return Clocks(awake, time.clock_gettime(time.CLOCK_BOOTTIME), wall)
    return Clocks(awake, wall, wall)


class ClockWatch:
    """Own what the clocks said last."""

    def __init__(self, clocks: Clocks) -> None:
        self._last = clocks

    def look(self, clocks: Clocks) -> Interruption | None:
        """Return what happened since the last look, which should be ``LOOK_SECONDS`` ago."""
        last, self._last = self._last, clocks
        ran = clocks.awake - last.awake
        passed = clocks.since_boot - last.since_boot
        if passed - ran > SLEEP_SECONDS or ran > STOPPED_SECONDS:
            return Interruption.SLEPT
        if abs(clocks.wall - last.wall - passed) > CLOCK_SET_SECONDS:
            return Interruption.CLOCK_SET
        return None


class NetworkWatch:
    """Own what is known of the network this host is in: from where it sends to `places`.

    `towards` gives the host's own address for one of them, None when there is no way.
    """

    def __init__(
        self,
        places: Iterable[IPAddress],
        towards: Callable[[IPAddress], IPAddress | None] = address_towards,
    ) -> None:
        self._places = tuple(places)
        self._towards = towards
        self._last = self._look()
        self.is_down = self._is_nowhere

    def look(self) -> Interruption | None:
        """Return NETWORK_CHANGED when the host sends from another address, or can send again.

        That it cannot send at all is only noted: a way that comes back soon may be the old one.
        """
        was_down, last, self._last = self.is_down, self._last, self._look()
        self.is_down = self._is_nowhere
        if self.is_down:
            return None
        return Interruption.NETWORK_CHANGED if was_down or self._last != last else None

    def _look(self) -> tuple[IPAddress | None, ...]:
        return tuple(self._from_where(place) for place in self._places)

    def _from_where(self, place: IPAddress) -> IPAddress | None:
        ip = self._towards(place)
        return None if ip is None else lasting_part(ip)

    @property
    def _is_nowhere(self) -> bool:
        return bool(self._places) and not any(self._last)


OnInterruption = Callable[[Interruption], None]


class Interruptions:
    """Own the looking: ``run`` tells everybody in ``on_interruption``, in their order."""

    def __init__(
        self,
        places: Iterable[Address] = (),
        *,
        clocks: Callable[[], Clocks] = read_clocks,
        towards: Callable[[IPAddress], IPAddress | None] = address_towards,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Watch the clocks, and the ways to `places`, which have literal addresses."""
        self.on_interruption: list[OnInterruption] = []
        self.seen = dict.fromkeys(Interruption, 0)
        self._look_seconds = look_seconds
        self._read_clocks = clocks
        self._clocks = ClockWatch(clocks())
        ips = dict.fromkeys(place.ip for place in places if place.ip is not None)
        self._network = NetworkWatch(ips, towards)

    @property
    def is_down(self) -> bool:
        """Tell whether this host has no network at all."""
        return self._network.is_down

    async def run(self) -> None:
        """Look every so many seconds, for ever."""
        while True:
            await trio.sleep(self._look_seconds)
            self.look()

    def look(self) -> None:
        """Look now, and tell what happened."""
        for what in (self._clocks.look(self._read_clocks()), self._network.look()):
            if what is not None:
                self._tell(what)

    def _tell(self, what: Interruption) -> None:
        self.seen[what] += 1
        logger.info("an interruption", what=what.value)
        for tell in self.on_interruption:
            try:
                tell(what)
            except Exception:
                logger.exception("a bug after an interruption")  # DOS-1

    def statistics(self) -> dict[str, object]:
        """Return how often each happened, and whether there is a network."""
        counts = {what.name.lower(): count for what, count in self.seen.items()}
        return {**counts, "network_is_down": self.is_down}
