"""The places of a network: where usable consensuses and the network file say that its peers are."""

from collections.abc import Set

from warren.addresses import Address, host_of
from warren.directory.consensus import Consensus
from warren.roles.archive import Archive


class KnownPlaces:
    """Give the addresses of all relays and authorities, read once per consensus."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._consensuses: tuple[Consensus, ...] | None = None
        self._places: frozenset[Address] = frozenset()
        self._hosts: frozenset[str] = frozenset()

    def __call__(self) -> Set[Address]:
        """Return the addresses as of now: no exit opens them (EXT-9)."""
        self._look()
        return self._places

    def knows(self, host: str) -> bool:
        """Tell whether a peer of the network is at `host`, which ``host_of`` gave (DOS-2)."""
        self._look()
        return host in self._hosts

    def _look(self) -> None:
        usable = self._archive.usable
        if usable is not self._consensuses and usable != self._consensuses:
            relays = (entry.hop for consensus in usable for entry in consensus.relays)
            authorities = (each.hop for each in self._archive.network.authorities)
            self._places = frozenset(hop.address for hop in (*relays, *authorities))
            self._hosts = frozenset(map(host_of, self._places))
        self._consensuses = usable
