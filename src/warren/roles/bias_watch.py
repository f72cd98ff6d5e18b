"""What becomes of the circuits through each guard, as far as the guard can be behind it (PATH-4).

Counted is what a guard could bring about and say that it was another: circuits that were never
finished once it had answered, spares that were destroyed, circuits in use that were destroyed soon
or fell silent. Not counted is what this client gave up itself, what happened while it had no
network, and what a relay behind the guard says of the next one, as nobody but that relay could seal
it. A link that breaks counts once, however many circuits it had: that may be the line. The shares
are judged in ``directory.path_bias``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

import trio

from warren.directory.path_bias import Outcome
from warren.identity import PeerId
from warren.network.circuits import Circuit
from warren.network.link import Link
from warren.roles.paths import FailedLately
from warren.roles.pool import Slot

#: A circuit that was in use for so long has done what it was built for, whatever ends it.
SOON_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Unheard:
    """Hold a failure that is the guard's only if it lives: it was not heard `since`."""

    circuit: Circuit
    outcome: Outcome
    since: float


class BiasWatch:
    """Own what is still to be counted, and what must not be counted twice.

    `note` is told of each guard whose circuit came to something; `is_offline` tells whether this
    machine has no network.
    """

    def __init__(
        self, note: Callable[[PeerId, Outcome], None], is_offline: Callable[[], bool]
    ) -> None:
        self._note = note
        self._is_offline = is_offline
        self._unheard: list[_Unheard] = []
        self._built: WeakSet[Circuit] = WeakSet()  # those that were counted as such
        self._silent: WeakSet[Circuit] = WeakSet()
        self._broken: WeakSet[Link] = WeakSet()  # links that were counted
        self._blamed = FailedLately()  # they may have ended a circuit that was in use

    def built(self, circuit: Circuit) -> None:
        """Note that a circuit stands."""
        self._built.add(circuit)
        self._tell(circuit, Outcome.BUILT)

    def not_built(self, circuit: Circuit) -> None:
        """Note that a circuit was destroyed, or refused, before it stood."""
        hops = circuit.machine.hops
        is_word_of_another = circuit.refusal is not None and hops > 1
        # Before it has answered, a guard knows nothing to choose by.
        if hops and not is_word_of_another and self._is_by_others(circuit):
            self._tell(circuit, Outcome.NOT_BUILT)

    def stuck(self, circuit: Circuit) -> None:
        """Note that a circuit is given up because the next hop did not answer."""
        if circuit.machine.hops:
            self._wait(circuit, Outcome.NOT_BUILT)

    def silent(self, circuit: Circuit) -> None:
        """Note that a circuit in use will be given up because its far end is silent."""
        self._silent.add(circuit)

    def ended(self, slot: Slot) -> None:
        """Note that a circuit that stood is gone."""
        circuit = slot.circuit
        assert isinstance(circuit, Circuit)
        if circuit in self._silent:
            self._wait(circuit, Outcome.FAILED)
            return
        is_lost = circuit.machine.is_lost
        if is_lost and not self._is_by_others(circuit):
            return
        # An exit whose sockets run short ends hundreds, a link between relays that breaks as many.
        # What succeeds with one of them does not count either, or the share would be too good.
        if self._blamed.is_behind_guard(slot.path):
            return
        is_cut = is_lost and circuit.machine.carried > 0
        if is_cut:
            for relay in slot.path[1:]:
                self._blamed.note(relay.peer_id)
        if slot.first_used is None:
            if is_lost and circuit in self._built:
                self._tell(circuit, Outcome.LOST)
            return
        # Streams that move here bring with them since when their first circuit was used.
        seconds = trio.current_time() - max(slot.first_used, slot.made_at)
        if is_cut and seconds < SOON_SECONDS:
            self._tell(circuit, Outcome.FAILED)
        elif circuit.cells_received:
            self._tell(circuit, Outcome.SERVED)

    def _is_by_others(self, circuit: Circuit) -> bool:
        """Tell whether others ended the circuit, and it is worth counting."""
        link = circuit.link
        if self._is_offline() or not circuit.machine.is_lost:
            return False
        if not link.is_closed:
            return True
        error = link.error
        is_ours = error is None or getattr(error, "is_local", False)
        if is_ours or link.fell_silent or link in self._broken:
            return False
        self._broken.add(link)
        return True

    def _wait(self, circuit: Circuit, outcome: Outcome) -> None:
        """Count a silence once the guard is heard again; if it is not, its link is dead (T42)."""
        if not self._is_offline():
            self._unheard.append(_Unheard(circuit, outcome, trio.current_time()))

    def _tell(self, circuit: Circuit, outcome: Outcome) -> None:
        self.settle()
        self._note(circuit.hops[0].peer_id, outcome)

    def settle(self, stuck_in: Link | None = None) -> None:
        """Count what has waited for a guard to be heard since, and drop what its link died of.

        Of a link that circuits get `stuck_in` it is known that its guard lives.
        """
        waiting, self._unheard = self._unheard, []
        for each in waiting:
            link = each.circuit.link
            if link.last_heard > each.since or link is stuck_in:
                self._note(each.circuit.hops[0].peer_id, each.outcome)
            elif not link.is_closed:
                self._unheard.append(each)
