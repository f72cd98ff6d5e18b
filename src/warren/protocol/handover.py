"""Handover: what an origin does with the streams of a circuit that is gone, until another has them.

It asks the exit for them over the new circuit, in the words of ``resume``, and lets those go on
that the exit knows. It knows no time: who waits for how long is decided in ``roles``.
"""

from collections.abc import Sequence

from warren.errors import EndReason, expect
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.resume import MOST_NAMES, Ticket, decode_standings, encode_resume
from warren.protocol.stream import StreamProtocol, StreamState


class Handover:
    """Own the streams of an origin's circuit that is gone, until another circuit has them.

    ``tickets`` name the circuits at which the exit may look for them, the newest first.
    """

    def __init__(
        self, ticket: Ticket, streams: Sequence[StreamProtocol], first_unused: int
    ) -> None:
        self.tickets: tuple[Ticket, ...] = (ticket,)
        self.streams = list(streams)
        self.first_unused = first_unused
        self.given_up = 0  # connected streams that do not go on, for any reason but their own
        self._asked: list[StreamProtocol] = []

    def __repr__(self) -> str:
        return f"<Handover of {len(self.streams)} streams, {len(self.tickets)} names>"

    def drop_ended(self) -> None:
        """Forget the streams whose applications have given them up meanwhile."""
        self.streams = [stream for stream in self.streams if stream.can_go_on]

    def ask(self, handshake_hash: bytes) -> bytes:
        """Return the body of a RESUME over the circuit whose last hop's hash this is."""
        self.drop_ended()
        self._asked = sorted(self.streams, key=lambda stream: stream.number)
        standings = [stream.tell_standing() for stream in self._asked]
        return encode_resume(self.tickets, handshake_hash, standings)

    def lost(self, ticket: Ticket) -> None:
        """Note that the circuit of `ticket` is gone as well, and its answer with it."""
        self.tickets = (ticket, *self.tickets)[:MOST_NAMES]

    def answered(self, body: bytes, home: Multiplexer) -> None:
        """Let the streams go on in `home` as the RESUMED with `body` says; lose the unknown ones.

        Raises ProtocolError, with nothing changed, for an answer that cannot be.
        """
        standings = decode_standings(body)
        asked, self._asked = self._asked, []
        expect(
            [each.number for each in standings] == [stream.number for stream in asked],
            "a RESUMED about other streams than were asked for",
        )
        for stream, standing in zip(asked, standings, strict=True):
            if standing.flags:
                stream.check_standing(standing)
        home.first_unused = self.first_unused
        self.streams = []
        for stream, standing in zip(asked, standings, strict=True):
            if standing.flags:
                stream.go_on(standing)
                home.adopt(stream)
            else:
                self._lose(stream)

    def lose(self) -> None:
        """Give all of them up: their applications' sockets are reset (SID-4)."""
        streams, self.streams = self.streams, []
        for stream in streams:
            self._lose(stream)

    def lose_one(self, stream: StreamProtocol) -> None:
        """Give up one of them."""
        self.streams.remove(stream)
        self._lose(stream)

    def lose_unconnected(self) -> None:
        """Give up those that are not CONNECTED: whoever waits for them begins them elsewhere."""
        for stream in [each for each in self.streams if each.connected is None]:
            self.lose_one(stream)

    def _lose(self, stream: StreamProtocol) -> None:
        is_over = stream.state is StreamState.ENDED  # cleanly, and only the last END was missing
        self.given_up += stream.connected is not None and stream.can_go_on and not is_over
        stream.lose(EndReason.DESTROY)
