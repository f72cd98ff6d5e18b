"""Onion encryption: one authenticated layer per hop, around a body of constant size.

A hop opens its layer and leaves zeros where the tag was, so every link sees the same length and
a changed body is noticed at the very next hop. With *n* hops a payload has 4088 - 16·n bytes;
at 0-based depth *d* the ciphertext is the first 4088 - 16·d bytes of a body (protocol §4).

A *run* is a number of whole cells of one circuit in one buffer. Everything here works on runs:
one call, one buffer, and per cell only the AEAD itself. The nonce is a counter for each hop and
direction, so the order of calls is the order on the link (ONI-1).
"""

from collections.abc import Sequence
from functools import cache
from itertools import count as count_from

from cryptography.exceptions import InvalidTag

from warren.errors import LayerError, refuse
from warren.identity import Suite
from warren.protocol import ciphers
from warren.protocol.cells import BODY_LENGTH, CELL_LENGTH, HEADER_LENGTH, ZEROS, Command
from warren.protocol.ciphers import TAG_LENGTH

MOST_CELLS_PER_KEY = 1 << 32
_ASSOCIATED = {command: bytes((command,)) for command in (Command.RELAY, Command.RELAY_EARLY)}


class LayerKey:
    """Hold one hop's key for one direction and the number of cells it has been used for."""

    __slots__ = ("count", "most", "nonce", "open_into", "seal_into")

    def __init__(self, suite: Suite, key: bytes) -> None:
        aead = ciphers.make_aead(suite, key)
        self.seal_into = aead.encrypt_into
        self.open_into = aead.decrypt_into
        self.nonce = ciphers.nonce_maker(suite)
        self.count = 0
        self.most = MOST_CELLS_PER_KEY

    def advance(self, count: int) -> int:
        """Use up `count` nonces; return the first. Raises ProtocolError at the key's end."""
        first = self.count
        if first + count > self.most:
            refuse("the cells of a circuit's key are used up")
        self.count = first + count
        return first


def payload_length(hops: int) -> int:
    """Return the bytes of a payload that `hops` layers are put round."""
    return BODY_LENGTH - TAG_LENGTH * hops


class RelayLayer:
    """Be a hop's own layer on a circuit that goes on: take it off forward, put it on backward."""

    __slots__ = ("_inner", "_outer", "backward", "forward")

    def __init__(self, forward: LayerKey, backward: LayerKey, depth: int) -> None:
        self.forward, self.backward = forward, backward
        self._outer = payload_length(depth)
        self._inner = payload_length(depth + 1)

    def open_run(
        self, command: Command, cells: memoryview, start: int, count: int, header: bytes
    ) -> memoryview:
        """Open `count` cells at `cells[start:]` into a fresh run under `header`.

        Raises ProtocolError when one does not open or its tail is not zero.
        """
        outer, open_into, nonce = self._outer, self.forward.open_into, self.forward.nonce
        tail = ZEROS[: BODY_LENGTH - outer]
        associated = _ASSOCIATED[command]
        number = self.forward.advance(count)
        run = memoryview(bytearray(count * CELL_LENGTH))
        end = HEADER_LENGTH + self._inner
        try:
            for at in range(0, count * CELL_LENGTH, CELL_LENGTH):
                body = start + at + HEADER_LENGTH
                if tail and cells[body + outer : start + at + CELL_LENGTH] != tail:
                    refuse("bytes in the zero tail of an onion body")
                open_into(
                    nonce(number),
                    cells[body : body + outer],
                    associated,
                    run[at + HEADER_LENGTH : at + end],
                )
                run[at : at + HEADER_LENGTH] = header
                number += 1
        except InvalidTag:
            raise LayerError("an onion layer that does not open") from None
        return run

    def seal_run(self, cells: memoryview, start: int, count: int, header: bytes) -> memoryview:
        """Seal `count` backward cells at `cells[start:]` into a fresh run under `header`."""
        inner, seal_into, nonce = self._inner, self.backward.seal_into, self.backward.nonce
        tail = ZEROS[: BODY_LENGTH - inner]
        associated = _ASSOCIATED[Command.RELAY]
        number = self.backward.advance(count)
        run = memoryview(bytearray(count * CELL_LENGTH))
        end = HEADER_LENGTH + self._outer
        for at in range(0, count * CELL_LENGTH, CELL_LENGTH):
            body = start + at + HEADER_LENGTH
            if cells[body + inner : start + at + CELL_LENGTH] != tail:
                refuse("bytes in the zero tail of an onion body")
            seal_into(
                nonce(number),
                cells[body : body + inner],
                associated,
                run[at + HEADER_LENGTH : at + end],
            )
            run[at : at + HEADER_LENGTH] = header
            number += 1
        return run


#: Cells that an end seals or opens in one go; longer runs are done in parts.
MOST_RUN = 15


@cache
def _places(which: int, size: int) -> tuple[memoryview, ...]:
    """Return room for the bodies of a run, `size` bytes each, in scratch area `which` (0 to 2).

    Every call of an end uses up what it puts there before it returns and none waits, so one set
    serves all circuits of the process.
    """
    area = _AREAS[which]
    return tuple(area[at : at + size] for at in range(0, len(area), BODY_LENGTH))


_AREAS = tuple(memoryview(bytearray(MOST_RUN * BODY_LENGTH)) for _ in range(3))


class EndLayers:
    """Be all the layers that one end of a circuit puts on and takes off.

    The origin has one for each hop; the last hop has only its own, at its depth, which is the
    same work with a single layer. `outgoing` and `incoming` run from the innermost layer out.
    ``places`` are up to 15 payloads of ``payload`` bytes to be filled and then sealed.
    """

    __slots__ = ("_incoming", "_outer", "_outgoing", "payload", "places")

    def __init__(
        self, outgoing: Sequence[LayerKey], incoming: Sequence[LayerKey], depth: int = 0
    ) -> None:
        assert len(outgoing) == len(incoming) >= 1
        self._outgoing = tuple(outgoing)
        self._incoming = tuple(reversed(incoming))
        self._outer = payload_length(depth)
        self.payload = payload_length(depth + len(outgoing))
        self.places = _places(2, self.payload)

    def seal_run(
        self, command: Command, payloads: Sequence[memoryview], header: bytes
    ) -> memoryview:
        """Seal `payloads`, at most 15 of exactly ``payload`` bytes, into a fresh run of cells.

        Layer by layer, not cell by cell: what is the same for all cells is looked up once.
        """
        associated, count = _ASSOCIATED[command], len(payloads)
        run = memoryview(bytearray(count * CELL_LENGTH))
        end = HEADER_LENGTH + self._outer
        bodies = [run[at + HEADER_LENGTH : at + end] for at in range(0, len(run), CELL_LENGTH)]
        size, last = self.payload, len(self._outgoing) - 1
        sources = payloads
        for index, key in enumerate(self._outgoing):
            size += TAG_LENGTH
            targets = bodies if index == last else _places(index & 1, size)
            seal_into, nonce = key.seal_into, key.nonce
            first = key.advance(count)
            for number, source, target in zip(count_from(first), sources, targets, strict=False):
                seal_into(nonce(number), source, associated, target)
            sources = targets[:count]
        for at in range(0, len(run), CELL_LENGTH):
            run[at : at + HEADER_LENGTH] = header
        return run

    def open_run(self, command: Command, cells: memoryview, start: int, count: int) -> memoryview:
        """Open `count` cells at `cells[start:]`; return their payloads in one fresh buffer.

        Raises ProtocolError when a layer does not open or a tail is not zero.
        """
        payloads = memoryview(bytearray(count * self.payload))
        for done in range(0, count, MOST_RUN):
            part = min(count - done, MOST_RUN)
            opened = payloads[done * self.payload : (done + part) * self.payload]
            self._open_part(command, cells, start + done * CELL_LENGTH, part, opened)
        return payloads

    def _open_part(
        self, command: Command, cells: memoryview, start: int, count: int, payloads: memoryview
    ) -> None:
        outer, associated = self._outer, _ASSOCIATED[command]
        tail = ZEROS[: BODY_LENGTH - outer]
        begins = range(start + HEADER_LENGTH, start + count * CELL_LENGTH, CELL_LENGTH)
        if tail:
            for body in begins:
                if cells[body + outer : body + BODY_LENGTH] != tail:
                    refuse("bytes in the zero tail of an onion body")
        sources: Sequence[memoryview] = [cells[body : body + outer] for body in begins]
        size, last = outer, len(self._incoming) - 1
        try:
            for index, key in enumerate(self._incoming):
                size -= TAG_LENGTH
                targets: Sequence[memoryview]
                if index == last:
                    targets = [payloads[at : at + size] for at in range(0, len(payloads), size)]
                else:
                    targets = _places(index & 1, size)
                open_into, nonce = key.open_into, key.nonce
                first = key.advance(count)
                for number, source, target in zip(
                    count_from(first), sources, targets, strict=False
                ):
                    open_into(nonce(number), source, associated, target)
                sources = targets[:count]
        except InvalidTag:
            raise LayerError("an onion layer that does not open") from None
