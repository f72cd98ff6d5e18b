"""What others may ask a relay to carry: how many circuits, and how fast they may begin them.

To ask for a circuit costs nothing, to answer half a millisecond of a processor. Clients are told
apart by their address, of IPv6 by its first 64 bits; a peer that a consensus lists by who it is,
because it asks for many (DOS-3, DOS-4).
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from warren.addresses import Address, host_of
from warren.identity import PeerId
from warren.network.bucket import Buckets


@dataclass(frozen=True)
class CreateLimits:
    """Bound what one client address may ask for, and how many ``circuits`` there may be in all.

    A listed relay asks on behalf of all whose circuits it extends.
    """

    creates_per_second: int = 10
    create_burst: int = 500
    circuits_per_address: int = 1024
    circuits: int = 20_000
    relay_creates_per_second: int = 100
    relay_create_burst: int = 1000


class CreateDoor:
    """Own how much everybody has asked for lately, and how many circuits each client has.

    `is_relay` tells whether a usable consensus lists a peer.
    """

    def __init__(self, limits: CreateLimits, is_relay: Callable[[PeerId], bool]) -> None:
        self._limits = limits
        self._is_relay = is_relay
        self._clients = Buckets(limits.creates_per_second, limits.create_burst)
        self._relays = Buckets(limits.relay_creates_per_second, limits.relay_create_burst)
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
            if not self._relays.take(asker, now):
                return None
        else:
            asker = host_of(remote)
            if asker and (
                self._open[asker] >= limits.circuits_per_address
                or not self._clients.take(asker, now)
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
