"""Watches for programs that give their user away, and says so without naming a target.

A program that asks for an address has most likely resolved the name itself, in the open; one that
talks to an old mail or terminal port sends its passwords readably to the exit.
"""

from collections import Counter

import structlog

logger = structlog.get_logger()

#: Telnet, POP2, POP3 and IMAP without TLS (FE-14).
PLAINTEXT_PORTS = frozenset((23, 109, 110, 143))
_SECONDS_BETWEEN_REPORTS = 3600
_MOST_PORTS = 16


class LeakWatch:
    """Own the counts of suspicious requests, by target port, and when they were last told."""

    def __init__(self) -> None:
        self.total = 0
        self._by_port: Counter[int] = Counter()
        self._next_report = float("-inf")
        self._warned: set[int] = set()

    def watch(self, port: int, now: float, *, is_leak: bool) -> None:
        """Note a request to `port` at `now` (seconds); `is_leak`: it named an address (FE-9)."""
        if port in PLAINTEXT_PORTS and port not in self._warned:
            self._warned.add(port)
            logger.warning("the exit can read what is sent to this port", port=port)
        if is_leak:
            self.total += 1
            self._by_port[port] += 1
            if now >= self._next_report:
                self._report(now)

    def _report(self, now: float) -> None:
        self._next_report = now + _SECONDS_BETWEEN_REPORTS
        logger.warning(
            "programs asked for addresses: they may have looked up names in the open; "
            "let them use socks5h or SOCKS4a",
            ports=dict(self._by_port.most_common(_MOST_PORTS)),
        )
        self._by_port.clear()
