"""The door of a listener: how many links each address has, and how fast it may ask for more.

To connect costs nothing, to answer a handshake half a millisecond of a processor, and to keep a
link open a file and its buffers. So who comes too often, or has too many, is refused before
anything is read from him. Clients are told apart by their address, of IPv6 by its first 64 bits;
behind one there may be a school, so it has much. Where the network has a relay or an authority
nobody is counted, nor is a link whose peer has shown that it is a listed relay (DOS-2). What
becomes of those let in is for ``strangers``, ``unready`` and ``evictions``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from warren.addresses import Address, host_of
from warren.network.bucket import Buckets, SeldomLine

logger = structlog.get_logger()


@dataclass(frozen=True)
class LinkLimits:
    """Bound what clients of one address may have, and how fast they may come."""

    links_per_address: int = 256
    connects_per_second: int = 10
    connect_burst: int = 256


def _nobody(host: str) -> bool:
    return False


class LinkDoor:
    """Own how many links clients of each address have, and how often they came lately.

    `is_known` tells whether the network has a relay or authority at what ``host_of`` returns.
    """

    def __init__(
        self, limits: LinkLimits | None = None, is_known: Callable[[str], bool] = _nobody
    ) -> None:
        self._limits = limits or LinkLimits()
        self._is_known = is_known
        self._connects = Buckets(self._limits.connects_per_second, self._limits.connect_burst)
        self._open: Counter[str] = Counter()
        self._line = SeldomLine()
        self.turned_away = 0

    def admit(self, remote: Address, now: float) -> str | None:
        """Count a connection from `remote`, and return for whom, for ``leave``; None: refuse it.

        It is "" for those who are not counted.
        """
        host = host_of(remote)
        if not host or self._is_known(host):
            return ""
        has_many = self._open[host] >= self._limits.links_per_address
        if has_many or not self._connects.take(host, now):
            self._turn_away(now)
            return None
        self._open[host] += 1
        return host

    def leave(self, host: str) -> None:
        """Note that a connection of `host` is gone, or has shown that it is no client's."""
        if host:
            self._open[host] -= 1
            if not self._open[host]:
                del self._open[host]

    def _turn_away(self, now: float) -> None:
        self.turned_away += 1
        if self._line.is_due(now):
            logger.warning(
                "connections of an address that has or wants too many are refused: if nobody "
                "attacks, raise links_per_address or connects_per_second in [relay.limits]",
                so_far=self.turned_away,
            )
