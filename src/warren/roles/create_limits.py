"""What others may ask a relay to carry: how many circuits, and how fast they may begin them.

To ask for a circuit costs nothing, to answer half a millisecond of a processor. Clients are told
apart by their address, of IPv6 by its first 64 bits; a peer that a consensus lists by who it is,
because it asks for many (DOS-3, DOS-4).
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from warren.addresses import Address, lasting_part, unmapped
from warren.identity import PeerId
from warren.roles.bucket import Bucket

#: What one listed relay may ask for, on behalf of all whose circuits it extends.
RELAY_CREATES_PER_SECOND = 100
RELAY_CREATE_BURST = 1000
#: Of so many at most it is remembered what they asked for lately.
_MOST_BUCKETS = 4096


@dataclass(frozen=True)
class CreateLimits:
    """Bound what one client address may ask for, and how many ``circuits`` there may be in all."""

    creates_per_second: int = 10
    create_burst: int = 500
    circuits_per_address: int = 1024
    circuits: int = 20_000


class CreateDoor:
    """Own how much everybody has asked for lately, and how many circuits each client has.

    `is_relay` tells whether a usable consensus lists a peer.
    """

    def __init__(self, limits: CreateLimits, is_relay: Callable[[PeerId], bool]) -> None:
        self._limits = limits
        self._is_relay = is_relay
        self._buckets: dict[Hashable, Bucket] = {}
        self._open: Counter[Hashable] = Counter()
        self.circuits = 0

    def admit(self, peer_id: PeerId | None, remote: Address, now: float) -> Hashable | None:
        """Count a circuit for whoever asks, and return who that is, for ``leave``; None: refuse it.

        `peer_id` is None for an anonymous client. Whoever is on this machine may ask for more.
        """
        limits = self._limits
        if self.circuits >= limits.circuits:
            return None
        if peer_id is not None and self._is_relay(peer_id):
            asker: Hashable = peer_id
            if not self._bucket(asker, RELAY_CREATES_PER_SECOND, RELAY_CREATE_BURST, now):
                return None
        else:
            asker = host_of(remote)
            if asker and (
                self._open[asker] >= limits.circuits_per_address
                or not self._bucket(asker, limits.creates_per_second, limits.create_burst, now)
            ):
                return None
        self._open[asker] += 1
        self.circuits += 1
        return asker

    def leave(self, asker: Hashable) -> None:
        """Note that a circuit of `asker` is gone."""
        self.circuits -= 1
        self._open[asker] -= 1
        if not self._open[asker]:
            del self._open[asker]

    def _bucket(self, asker: Hashable, rate: float, burst: float, now: float) -> bool:
        bucket = self._buckets.get(asker)
        if bucket is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._forget_some(now)
            bucket = self._buckets[asker] = Bucket(rate, burst, now)
        return bucket.take(now)

    def _forget_some(self, now: float) -> None:
        """Forget who has asked for nothing lately; if that is nobody, who came first."""
        self._buckets = {who: each for who, each in self._buckets.items() if not each.is_full(now)}
        while len(self._buckets) >= _MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]


def host_of(remote: Address) -> str:
    """Return by what a client is told from others; nothing for one on this machine."""
    if remote.ip is None:
        return ""
    ip = unmapped(remote.ip)
    return "" if ip.is_loopback else str(lasting_part(ip))
