"""What can go wrong, named after where.

    WarrenError
    ├── ProtocolError     a peer or a program broke the rules of what it speaks
    │   └── LayerError    some hop of a circuit changed a cell
    ├── LinkError         a peer could not be reached, or its link broke
    ├── CircuitError      a circuit could not be built or has died
    ├── ExitError         the far end refused or lost a stream; ``reason`` says why
    │   └── NotFound      a name has no address, or an address no name
    ├── DirectoryError    no usable consensus or document
    │   ├── TooSoon       a directory asks to wait; ``seconds`` says how long
    │   ├── NoConsensus   none is held that can be used now
    │   └── NoPathError   no relays of the consensus make the path that was asked for
    │       └── GuardsRest    but for guards that have just failed
    └── ConfigError       a file, key or command-line value is wrong
        └── NewerSchema   a file is the work of a later version of this program

A message says what was found, what was expected and, to a user, what to do next. Foreign
exceptions become one of these once, at the edge where they appear. Our own misuse is a bug
and fails an ``assert`` instead.
"""

from enum import IntEnum
from typing import NoReturn


class WarrenError(Exception):
    """Be the root of everything Warren raises on purpose."""


class ProtocolError(WarrenError):
    """Tell that the other side broke the rules; its object is finished and must be closed."""


class LayerError(ProtocolError):
    """Tell that an onion layer did not open; nobody can say which hop of the circuit did it."""


class LinkError(WarrenError):
    """Tell that a peer could not be reached or that its link broke.

    ``is_local`` tells that the reason is on this side, and says nothing about the peer.
    """

    def __init__(self, message: str, *, is_local: bool = False) -> None:
        super().__init__(message)
        self.is_local = is_local


class CircuitError(WarrenError):
    """Tell that a circuit could not be built or has died.

    ``hop`` is the 0-based position of the hop that could not be joined, where that is known, and
    ``is_its_fault`` tells whether that relay is better avoided for a while.
    """

    def __init__(self, message: str, *, hop: int | None = None, is_its_fault: bool = True) -> None:
        super().__init__(message)
        self.hop = hop
        self.is_its_fault = is_its_fault


class EndReason(IntEnum):
    """Name why a stream ended; the values are those of Tor's RELAY_END (SID-3)."""

    MISC = 1
    RESOLVE_FAILED = 2
    CONNECT_REFUSED = 3
    EXIT_POLICY = 4
    DESTROY = 5
    DONE = 6
    TIMEOUT = 7
    NO_ROUTE = 8
    HIBERNATING = 9
    INTERNAL = 10
    RESOURCE_LIMIT = 11
    CONNECTION_RESET = 12
    PROTOCOL = 13
    NOT_DIRECTORY = 14


class ExitError(WarrenError):
    """Tell that the far end refused a stream or lost it, and why."""

    def __init__(self, reason: EndReason, message: str = "") -> None:
        super().__init__(message or f"the stream ended: {reason.name.lower().replace('_', ' ')}")
        self.reason = reason


class NotFound(ExitError):
    """Tell that the DNS was asked and says that there is nothing."""

    def __init__(self, message: str = "the name has no address, or the address no name") -> None:
        super().__init__(EndReason.RESOLVE_FAILED, message)


class DirectoryError(WarrenError):
    """Tell that a directory document is unusable, or that there is none."""


class TooSoon(DirectoryError):
    """Tell that a directory was asked too often, and answers again in so many ``seconds``."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class NoConsensus(DirectoryError):
    """Tell a user that there is no consensus that can be used now, and `why` if that is known."""

    def __init__(self, why: str | None = None) -> None:
        why = why or "the authorities are out of reach, or the clock of this machine is wrong"
        super().__init__(f"no consensus can be used: {why}")


class NoPathError(DirectoryError):
    """Tell that no path fits what was asked for; the message says what is missing, to its user."""


class GuardsRest(NoPathError):
    """Tell that a path there is begins at a guard that has just failed and should wait.

    That is over in so many ``seconds``.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("no guard to begin a path with answers")
        self.seconds = seconds


class ConfigError(WarrenError):
    """Tell a user which file, key or value is wrong and what is expected."""


class NewerSchema(ConfigError):
    """Tell that a file was written by a later version of the program (REL-5)."""


def expect(condition: bool, message: str) -> None:
    """Raise ``ProtocolError`` with `message` unless `condition` holds."""
    if not condition:
        raise ProtocolError(message)


def refuse(message: str) -> NoReturn:
    """Raise ``ProtocolError`` with `message`."""
    raise ProtocolError(message)
