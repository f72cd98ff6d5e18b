"""Links that were answered and have not said READY: a handshake costs little and proves nothing.

So they are few, as those before them are (``network.strangers``), and for seconds only: after ten
to fifteen ``links`` closes them (DOS-7).
"""

from warren.addresses import host_of
from warren.errors import LinkError
from warren.network.evictions import oldest_of_the_busiest
from warren.network.link import Link

#: More than handshakes: behind one that a near peer did in no time stands one from far away.
MOST_UNREADY = 256


class Unready:
    """Own the answered links whose READY is awaited, at most ``MOST_UNREADY``.

    One more than that makes room for itself: the oldest goes, of whichever host has most of them,
    so that one host cannot shut all others out (DOS-2).
    """

    def __init__(self) -> None:
        self._links: dict[Link, str] = {}  # oldest first, with the host

    def __len__(self) -> int:
        return len(self._links)

    def enter(self, link: Link) -> None:
        """Count `link` until it leaves; close another one where that makes too many."""
        if len(self._links) >= MOST_UNREADY:
            oldest = oldest_of_the_busiest(self._links)
            self.leave(oldest)
            oldest.close(LinkError("it made room for another link: there was no READY yet"))
        self._links[link] = host_of(link.remote)

    def leave(self, link: Link) -> None:
        """Count `link` no more: its READY is here, or it is gone."""
        self._links.pop(link, None)
