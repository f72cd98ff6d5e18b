"""Circuits that fall silent: is the far end still there? If not, the circuit is given up.

A link says no more than that the guard is alive. Of a dead relay further on its neighbour tells
with a DESTROY; but one that answers PINGs and passes nothing on is noticed by nobody else. So a
circuit whose streams have moved cells and which then falls silent is asked once: a stream to the
last hop's directory is begun, which every relay answers at once, and ended again (protocol §5).
What that took before says how long it may take.

A late answer is doubt enough for what can still go another way: where the guard is heard meanwhile,
requests that wait for the far end's first word are told, long before the circuit is given up.

A far end that talks may still hear nothing, so a circuit on which both sides talk is asked as well,
seldom, and has more time: the answer may stand behind much that was sent before it.
"""

from collections.abc import Callable, Iterable

import structlog
import trio

from warren.errors import CircuitError
from warren.network.circuits import Circuit
from warren.network.streams import CircuitStream
from warren.protocol.round_trips import RoundTrips

logger = structlog.get_logger()

LOOK_SECONDS = 1.0
#: Silence after which a circuit in use is asked, and how long one that answered is left in peace.
QUIET_SECONDS = 3.0
PEACE_SECONDS = 10.0
#: How much longer one that is heard is left in peace, and when it must have answered.
DEAF_SECONDS = 20.0
MOST_DEAF_SECONDS = 60.0
#: Its beginning and its end.
_CELLS_OF_A_QUESTION = 2


class _Watched:
    """Own what is known of one circuit: when it was heard, and the question under way."""

    def __init__(self, circuit: Circuit, now: float) -> None:
        self.circuit = circuit
        self.round_trips = RoundTrips()
        self.round_trips.note(circuit.round_trip)  # and some of the far end's time
        self._heard, self._heard_at = circuit.cells_received, now
        # Cells sent when the last question was ended, and received when that was answered.
        self._proved_sent: int | None = 0
        self._proved_received = 0
        self._ask_at = now
        self._asked_at = 0.0  # or when the END was sent
        self._sent_before = 0  # cells, when the last question was asked
        self._question: CircuitStream | None = None
        self._is_doubted = False  # whether this question's answer was said to be late

    def look(self, now: float) -> bool:
        """Ask, or take the answer; return False when there is none and the circuit is dead."""
        circuit = self.circuit
        if circuit.cells_received != self._heard:
            self._heard, self._heard_at = circuit.cells_received, now
        if self._question is not None:
            return self._wait(self._question, now)
        if now - self._heard_at >= QUIET_SECONDS:
            if now >= self._ask_at:
                self._ask(now)
        elif now >= self._ask_at + DEAF_SECONDS and circuit.cells_sent != self._proved_sent:
            self._ask(now)
        return True

    def _ask(self, now: float) -> None:
        circuit = self.circuit
        is_proved = circuit.cells_received == self._proved_received
        if not circuit.stream_count or (is_proved and circuit.cells_sent == self._proved_sent):
            return
        self._sent_before = circuit.cells_sent
        try:
            self._question = circuit.open_directory()
        except CircuitError:
            return
        self._asked_at, self._proved_sent, self._is_doubted = now, None, False

    def becomes_doubtful(self, now: float) -> bool:
        """Tell, once for each question, that its answer is late although the guard is there.

        A guard that was not heard since is asked for that: it may be us who hear nothing.
        """
        if self._question is None or self._is_doubted:
            return False
        link = self.circuit.link
        if link.last_heard <= self._asked_at:
            link.ping()
            return False
        self._is_doubted = now - max(self._asked_at, self._heard_at) > self.round_trips.doubt
        return self._is_doubted

    def _wait(self, question: CircuitStream, now: float) -> bool:
        """Look for the answer, then for the END that answers ours: what moves by then is our own.

        That, too, may get lost, and with it what a stream sent meanwhile.
        """
        circuit = self.circuit
        is_over = question.protocol not in circuit.machine.streams.streams.values()
        if not question.is_ended and question.protocol.connected is not None:
            self.round_trips.note(now - self._asked_at)
            question.reset()
            self._asked_at, self._proved_sent = now, circuit.cells_sent
        elif is_over:
            if self._proved_sent is None:  # the far end has ended it, which proves what was before
                is_ours = circuit.cells_sent - self._sent_before <= _CELLS_OF_A_QUESTION
                self._proved_sent = circuit.cells_sent if is_ours else self._sent_before
            self._question = None
            self._proved_received = circuit.cells_received
            self._ask_at = now + PEACE_SECONDS
        else:
            silence = now - max(self._asked_at, self._heard_at)
            is_deaf = now - self._asked_at > MOST_DEAF_SECONDS
            return silence <= self.round_trips.patience and not is_deaf
        return True


class CircuitWatch:
    """Own the watch over `circuits`, those that are open now.

    `doubt` is told of one whose far end is late with an answer, `give_up` of a dead one.
    """

    def __init__(
        self,
        circuits: Callable[[], Iterable[Circuit]],
        doubt: Callable[[Circuit], None],
        give_up: Callable[[Circuit], None],
    ) -> None:
        self._circuits = circuits
        self._doubt = doubt
        self._give_up = give_up
        self._watched: dict[Circuit, _Watched] = {}
        self.given_up = 0

    async def run(self) -> None:
        """Look once a second, for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.look(trio.current_time())

    def look(self, now: float) -> None:
        """Look at every circuit, which takes a microsecond for each."""
        before = self._watched
        self._watched = {}
        for circuit in self._circuits():
            watched = before.get(circuit) or _Watched(circuit, now)
            if watched.look(now):
                self._watched[circuit] = watched
                if watched.becomes_doubtful(now):
                    self._doubt(circuit)
            else:
                self.given_up += 1
                logger.debug("x circuit", circuit=repr(circuit), error="its far end is silent")
                self._give_up(circuit)
