"""A relay as the authorities list it: how to reach it, and what it is good for.

What the relay says of itself stands in its ``Descriptor``; this is what the network believes.
"""

from dataclasses import dataclass
from enum import StrEnum

from warren.errors import refuse
from warren.identity import Hop, PeerId

#: The country of a relay of which nobody knows it.
UNKNOWN_COUNTRY = "??"


class Flag(StrEnum):
    """Name what the authorities found a relay to be; the values are those in documents."""

    RUNNING = "running"
    GUARD = "guard"
    EXIT = "exit"
    STABLE = "stable"
    MIRROR = "mirror"


def is_country(text: str) -> bool:
    """Tell whether `text` is two lower-case letters or the unknown country."""
    return text == UNKNOWN_COUNTRY or (
        len(text) == 2 and text.isascii() and text.isalpha() and text.islower()
    )


@dataclass(frozen=True, slots=True)
class RelayEntry:
    """Hold one relay of a consensus.

    ``weight`` is its share of the traffic (bytes per second that it is trusted to carry),
    ``country`` two lower-case letters or ``??``. ``family`` are listed relays that belong to
    the same operator by the word of both sides, without itself. ``policy`` holds the rules of
    its exit policy, first match first; a relay without rules is no exit. ``udp_policy`` is the
    same for datagrams. A relay with ``gateways`` cannot be dialled: a circuit reaches it through
    one of them (protocol §8).
    """

    hop: Hop
    flags: frozenset[Flag]
    weight: int
    country: str = UNKNOWN_COUNTRY
    family: tuple[PeerId, ...] = ()
    policy: tuple[str, ...] = ()
    gateways: tuple[PeerId, ...] = ()
    udp_policy: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weight < 0:
            refuse(f"a relay of weight {self.weight}, expected 0 or more")
        if not is_country(self.country):
            refuse(f"{self.country[:16]!r} is no country code")

    @property
    def peer_id(self) -> PeerId:
        """Return the relay's id."""
        return self.hop.peer_id
