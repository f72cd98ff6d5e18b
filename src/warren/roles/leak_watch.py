"""Watches for programs that give their user away, and says so without naming a target.

A program that asks for an address has most likely resolved the name itself, in the open; one that
talks to an old mail or terminal port sends its passwords readably to the exit. Each program is
named once; how often it happened is told once an hour. An address that was found out through the
network, for whoever, is none of that.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable

import structlog

from warren.addresses import Address

logger = structlog.get_logger()

#: Telnet, POP2, POP3 and IMAP without TLS (FE-14).
PLAINTEXT_PORTS = frozenset((23, 109, 110, 143))
UNKNOWN_PROGRAM = "unknown"
_SECONDS_BETWEEN_REPORTS = 3600
#: Doubled with every look that finds nobody new: each costs the request that waits for it, and
#: the processor, up to tens of milliseconds on a busy machine.
_SECONDS_BETWEEN_LOOKS = 1.0
_MOST_BETWEEN_LOOKS = 64.0
_MOST_PORTS = 16
_MOST_PROGRAMS = 64
_MOST_TOLD = 4096


class LeakWatch:
    """Own the counts of suspicious requests by target port, who was told about, and what we told.

    What we told are the addresses that names were resolved to, the last few thousand of them.
    """

    def __init__(self) -> None:
        self.total = 0
        self._by_port: Counter[int] = Counter()
        self._next_report: float | None = None
        self._last_look = float("-inf")
        self._pause = _SECONDS_BETWEEN_LOOKS
        self._programs: set[str] = set()
        self._warned: set[int] = set()
        self._told: OrderedDict[str, None] = OrderedDict()

    def tell(self, addresses: Iterable[Address]) -> None:
        """Note what a program has been told: it may ask for these addresses."""
        for address in addresses:
            self._told[address.host] = None
            self._told.move_to_end(address.host)
        while len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)

    def is_leak(self, address: Address) -> bool:
        """Tell whether a program that asks for `address` must have resolved a name elsewhere."""
        return address.ip is not None and address.host not in self._told

    def watch(self, port: int, now: float, *, is_leak: bool) -> bool:
        """Note a request to `port` at `now` (seconds); `is_leak`: it named an address (FE-9).

        Returns whether it is worth finding out which program that was, and telling ``leaked``.
        """
        if port in PLAINTEXT_PORTS and port not in self._warned:
            self._warned.add(port)
            logger.warning("the exit can read what is sent to this port", port=port)
        if not is_leak:
            return False
        self.total += 1
        self._by_port[port] += 1
        if self._next_report is None:
            self._next_report = now + _SECONDS_BETWEEN_REPORTS
        if now >= self._next_report:
            self._report(now)
        if now < self._last_look + self._pause or len(self._programs) >= _MOST_PROGRAMS:
            return False
        self._last_look = now
        self._pause = min(2 * self._pause, _MOST_BETWEEN_LOOKS)
        return True

    def leaked(self, program: str) -> None:
        """Warn of `program`, which asked for an address, unless that was done before."""
        if program in self._programs:
            return
        self._programs.add(program)
        self._pause = _SECONDS_BETWEEN_LOOKS
        logger.warning(
            "a program asked for an address: it may have looked up the name in the open; let it "
            "use socks5h or SOCKS4a",
            program=program,
        )

    def _report(self, now: float) -> None:
        self._next_report = now + _SECONDS_BETWEEN_REPORTS
        logger.warning(
            "programs went on asking for addresses",
            ports=dict(self._by_port.most_common(_MOST_PORTS)),
        )
        self._by_port.clear()
