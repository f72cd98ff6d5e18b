"""What is looked at in the moment it happens: nonces, paths, broken rules, bugs that are logged.

For as long as a simulation runs, some functions of Warren are wrapped by ones that look and pass
on: the one that makes an AEAD, the one that chooses a path, and what ends a circuit whose other
end broke the rules. The rules are checked by code of
their own here, not by that which they check.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_network
from itertools import combinations
from typing import Any

import structlog

from simulation.targets import Complain
from warren.directory.consensus import Consensus
from warren.directory.path import choose_path
from warren.directory.relays import Flag, RelayEntry
from warren.identity import PeerId, Suite
from warren.protocol import ciphers
from warren.protocol.ciphers import AEAD
from warren.protocol.origin_circuit import OriginCircuit
from warren.protocol.relay_circuit import RelayCircuit
from warren.roles import paths

#: No rule was broken: an exit whose clock is wrong has no consensus, and knows no relay (EXT-8).
_UNKNOWN_RELAY = "a RESUME to a relay that is no exit"
_BYTE_ORDER = {Suite.AESGCM: "big", Suite.CHACHAPOLY: "little"}


class NonceLedger:
    """Own the highest counter that each key has sealed under; counters ascend (ONI-1)."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self._pages: dict[bytes, _Page] = {}

    @property
    def sealed(self) -> int:
        """Return how much was sealed."""
        return sum(page.sealed for page in self._pages.values())

    def page(self, key: bytes) -> "_Page":
        """Return what is known of `key`, which several may seal under."""
        return self._pages.setdefault(key, _Page(self._complain))


class _Page:
    """Own the highest counter of one key, and how often it was used."""

    __slots__ = ("_complain", "highest", "sealed")

    def __init__(self, complain: Complain) -> None:
        self.highest, self.sealed = -1, 0
        self._complain = complain

    def note(self, counter: int) -> None:
        """Note that something is sealed; complain when the counter was used before."""
        self.sealed += 1
        if counter <= self.highest:
            self._complain("nonce", f"counter {counter} of a key is used again")
        self.highest = counter


class WatchedAead:
    """Be an AEAD whose seals are noted."""

    __slots__ = ("_note", "_order", "_seal", "decrypt_into")

    def __init__(self, suite: Suite, aead: AEAD, page: _Page) -> None:
        self._order: Any = _BYTE_ORDER[suite]
        self._seal = aead.encrypt_into
        self._note = page.note
        self.decrypt_into = aead.decrypt_into

    def encrypt_into(self, nonce: bytes, data: Any, associated: Any, out: Any) -> int:
        """Seal, as ``cryptography`` does."""
        self._note(int.from_bytes(nonce[4:], self._order))
        return self._seal(nonce, data, associated, out)


def check_path(
    path: Iterable[RelayEntry], consensus: Consensus, guards: Iterable[object], avoid: object = ()
) -> str | None:
    """Return what is wrong with a path, or None (PATH-1)."""
    entries, parameters = tuple(path), consensus.parameters
    for entry in entries:
        if Flag.RUNNING not in entry.flags:
            return f"{entry.peer_id!r} is not running"
        if isinstance(avoid, frozenset | set) and entry.peer_id in avoid:
            return f"{entry.peer_id!r} should have been avoided"
    if entries[0].peer_id not in set(guards):
        return "it does not begin with a guard"
    if Flag.EXIT not in entries[-1].flags:
        return "it does not end with an exit"
    for one, other in combinations(entries, 2):
        if one.peer_id == other.peer_id:
            return f"{one.peer_id!r} is in it twice"
        if other.peer_id in one.family or one.peer_id in other.family:
            return "two of one family"
        if _subnet(one, parameters.subnet_v4_prefix) == _subnet(other, parameters.subnet_v4_prefix):
            return "two in one network"
    return None


def _subnet(entry: RelayEntry, prefix: int) -> object:
    return ip_network((entry.hop.address.host, prefix), strict=False)


def _watch_paths(choose: Callable[..., tuple[RelayEntry, ...]], complain: Complain) -> Any:
    def watched(
        consensus: Consensus, guards: Iterable[PeerId], *arguments: Any, **options: Any
    ) -> tuple[RelayEntry, ...]:
        guards = list(guards)
        path = choose(consensus, guards, *arguments, **options)
        wrong = check_path(path, consensus, guards, options.get("avoid", ()))
        if wrong is not None:
            complain("path", f"a path is against the rules: {wrong}")
        return path

    return watched


@contextmanager
def probing(complain: Complain) -> Iterator[NonceLedger]:
    """Look at every seal, every path and every log line while inside."""
    ledger = NonceLedger(complain)
    make = ciphers.make_aead

    def make_watched(suite: Suite, key: bytes) -> Any:
        return WatchedAead(suite, make(suite, key), ledger.page(bytes(key)))

    before = structlog.get_config()
    structlog.configure(processors=[partial(_heed, complain)])
    try:
        with (
            replaced(ciphers, "make_aead", make_watched),
            replaced(paths, "choose_path", _watch_paths(choose_path, complain)),
            _hearing_violations(complain),
        ):
            yield ledger
    finally:
        structlog.configure(**before)


@contextmanager
def _hearing_violations(complain: Complain) -> Iterator[None]:
    """Complain of every circuit that is destroyed because of what came on it: all are honest here.

    Bits that are changed on the wire never get so far, for the link's record does not open.
    """

    def heard(pass_on: Callable[..., None]) -> Any:
        def violation(user: object, leg: object, error: Exception) -> None:
            if not str(error).startswith(_UNKNOWN_RELAY):
                complain("rules", f"{user!r} was told {error}")
            pass_on(user, leg, error)

        return violation

    with (
        replaced(OriginCircuit, "violation", heard(OriginCircuit.violation)),
        replaced(RelayCircuit, "violation", heard(RelayCircuit.violation)),
    ):
        yield


def _heed(
    complain: Complain, logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Complain of what is logged as an error: a bug, or authorities at odds (DIR-7)."""
    if method in ("error", "exception", "critical"):
        error = event.pop("exc_info", None)
        if error is True:
            error = sys.exc_info()[1]
        details = ", ".join(f"{name}={event[name]}" for name in sorted(event) if name != "event")
        complain("bug", f"{event['event']}: {error!r} {details}".strip())
    raise structlog.DropEvent


@contextmanager
def replaced(place: object, name: str, new: object) -> Iterator[None]:
    """Let `place` have something else under `name` while inside."""
    old = getattr(place, name)
    setattr(place, name, new)
    try:
        yield
    finally:
        setattr(place, name, old)
