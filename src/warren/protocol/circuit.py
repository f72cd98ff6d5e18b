"""The life of a circuit: its states, what leads from one to the next, what its owner is told.

``TRANSITIONS`` is the whole life of both machines, the origin's (``origin_circuit``) and the
relay's (``relay_circuit``); anything not in it is a ProtocolError, and a machine that has raised is
destroyed by its link. What the owner must decide waits in ``events`` after ``wake`` was called.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from warren.errors import LayerError, ProtocolError, refuse
from warren.protocol.messages import Extend, ExtendStatus
from warren.protocol.resolution import Question


class CircuitState(Enum):
    """Name what a circuit can be, seen from one machine."""

    CREATING = "creating"  # origin: CREATE was sent
    OPEN = "open"  # its end is read here
    EXTENDING = "extending"  # EXTEND was sent (origin) or received (relay)
    FORWARDING = "forwarding"  # relay: has a next hop
    CLOSED = "closed"


_S = CircuitState
#: What may happen in which state, and what becomes of it.
TRANSITIONS: dict[tuple[CircuitState, str], CircuitState] = {
    (_S.CREATING, "created"): _S.OPEN,
    (_S.OPEN, "extend"): _S.EXTENDING,
    (_S.EXTENDING, "extended here"): _S.OPEN,  # the origin reads EXTENDED
    (_S.EXTENDING, "extended there"): _S.FORWARDING,  # the relay sends EXTENDED
    (_S.CREATING, "close"): _S.CLOSED,
    (_S.OPEN, "close"): _S.CLOSED,
    (_S.EXTENDING, "close"): _S.CLOSED,
    (_S.FORWARDING, "close"): _S.CLOSED,
}


@dataclass(frozen=True, slots=True)
class HopAdded:
    """The origin's circuit got one more hop."""


@dataclass(frozen=True, slots=True)
class ExtendFailed:
    """The last hop could not extend; the circuit is destroyed with it."""

    status: ExtendStatus


@dataclass(frozen=True, slots=True)
class ExtendRequested:
    """The origin asks to go on; answer with the circuit's ``extended`` or ``refuse_extend``."""

    extend: Extend


@dataclass(frozen=True, slots=True)
class NameAsked:
    """The origin asks the last hop what a name stands for; answer with its ``questions``."""

    question: Question


@dataclass(frozen=True, slots=True)
class Closed:
    """The circuit is gone; ``error`` says what was wrong, None for the other side's DESTROY."""

    error: ProtocolError | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The exit has answered a RESUME: the streams it knows go on here."""


Event = HopAdded | ExtendFailed | ExtendRequested | NameAsked | Resumed | Closed


def _nothing() -> None:
    return


class CircuitMachine:
    """Own the state of a circuit, and the events that its owner has not taken yet.

    What changes it is for the machine itself: ``move``, and ``tell``.
    """

    def __init__(self, state: CircuitState) -> None:
        self.state = state
        self.events: deque[Event] = deque()
        self.wake: Callable[[], None] = _nothing
        self.error: ProtocolError | None = None

    def move(self, what: str) -> None:
        """Go on to the state that `what` leads to; raise ProtocolError if it leads nowhere."""
        new = TRANSITIONS.get((self.state, what))
        if new is None:
            refuse(f"{what} while {self.state.value}")
        self.state = new

    def tell(self, event: Event) -> None:
        """Leave `event` to the owner."""
        self.events.append(event)
        wake = self.wake
        if isinstance(event, Closed):
            self.wake = _nothing  # the last news: whoever owns the circuit is let go
        wake()

    def loses_streams(self) -> bool:
        """Tell whether what was wrong leaves nothing to go on with: an end broke the rules.

        A layer that does not open comes from any hop, and a link may break (protocol §5.4).
        """
        return self.error is not None and not isinstance(self.error, LayerError)

    @property
    def is_closed(self) -> bool:
        """Tell whether the circuit is gone."""
        return self.state is CircuitState.CLOSED
