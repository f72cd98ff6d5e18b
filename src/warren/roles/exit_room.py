"""Room at an exit: which circuits lose their streams when sockets run short (EXT-12).

An open target costs a descriptor, and so does an association. A socket is drawn among all of them,
and its whole circuit is closed (``evictions``). Its origin is told RESOURCE_LIMIT for each of its
streams, so that it does not try to go on with them elsewhere.
"""

from collections import Counter
from random import Random

from warren.network.evictions import choose_circuits
from warren.roles.exit import Exit
from warren.roles.relay import Relay


class ExitRoom:
    """Choose and close circuits of `relay` that hold sockets of `tcp_exit`."""

    def __init__(self, relay: Relay, tcp_exit: Exit, rng: Random) -> None:
        self._relay, self._exit, self._rng = relay, tcp_exit, rng

    def make_room(self, count: int) -> Counter[str]:
        """Close circuits until about `count` sockets are free; return what was closed.

        Connections under way are no candidates: they end in seconds, and are few (EXT-11).
        """
        with_socket = {stream.protocol for stream in self._exit.open_streams}
        ends = []
        for end in self._relay.ends():
            sockets = len(with_socket.intersection(end.streams)) + end.associations
            if sockets:
                ends.append((end, sockets))
        closed: Counter[str] = Counter()
        for place in choose_circuits([sockets for _, sockets in ends], count, self._rng):
            end, sockets = ends[place]
            end.give_up()
            closed["circuits at the exit"] += 1
            closed["streams at the exit"] += sockets
        self._relay.turn.run()
        return closed
