"""Onion encryption: one authenticated layer per hop, around a body of constant size.

A hop opens its layer and leaves zeros where the tag was, so every link sees the same length and
a changed body is noticed at the very next hop. With *n* hops a payload has 4088 - 16·n bytes;
at 0-based depth *d* the ciphertext is the first 4088 - 16·d bytes of a body (protocol §4).

A *run* is a number of whole cells of one circuit in one buffer. Everything here works on runs:
one call, one buffer, and per cell only the AEAD itself. The nonce is a counter for each hop and
direction, so the order of calls is the order on the link (ONI-1).
"""

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag

from warren.errors import expect, refuse
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
        expect(first + count <= self.most, "the cells of a circuit's key are used up")
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
            refuse("an onion layer that does not open")
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


# Between layers a body rests in one of two scratch buffers. Every call uses them up before it
# returns and none waits, so one pair serves all circuits.
_SCRATCH = (memoryview(bytearray(BODY_LENGTH)), memoryview(bytearray(BODY_LENGTH)))


class EndLayers:
    """Be all the layers that one end of a circuit puts on and takes off.

    The origin has one for each hop; the last hop has only its own, at its depth, which is the
    same work with a single layer. `outgoing` and `incoming` run from the innermost layer out.
    """

    __slots__ = ("_incoming", "_outer", "_outgoing", "payload")

    def __init__(
        self, outgoing: Sequence[LayerKey], incoming: Sequence[LayerKey], depth: int = 0
    ) -> None:
        assert len(outgoing) == len(incoming) >= 1
        self._outgoing = tuple(outgoing)
        self._incoming = tuple(reversed(incoming))
        self._outer = payload_length(depth)
        self.payload = payload_length(depth + len(outgoing))

    def seal(self, command: Command, payload: memoryview, body: memoryview) -> None:
        """Seal a payload of exactly ``payload`` bytes into a fresh body of 4088 zero bytes."""
        associated = _ASSOCIATED[command]
        size, last = self.payload, len(self._outgoing) - 1
        source = payload
        for index, key in enumerate(self._outgoing):
            size += TAG_LENGTH
            target = body[:size] if index == last else _SCRATCH[index & 1][:size]
            key.seal_into(key.nonce(key.advance(1)), source, associated, target)
            source = target

    def open_run(self, command: Command, cells: memoryview, start: int, count: int) -> memoryview:
        """Open `count` cells at `cells[start:]`; return their payloads in one fresh buffer.

        Raises ProtocolError when a layer does not open or a tail is not zero.
        """
        outer, payload, associated = self._outer, self.payload, _ASSOCIATED[command]
        tail = ZEROS[: BODY_LENGTH - outer]
        payloads = memoryview(bytearray(count * payload))
        last = len(self._incoming) - 1
        try:
            for index in range(count):
                body = start + index * CELL_LENGTH + HEADER_LENGTH
                if tail and cells[body + outer : body + BODY_LENGTH] != tail:
                    refuse("bytes in the zero tail of an onion body")
                source, size = cells[body : body + outer], outer
                for layer, key in enumerate(self._incoming):
                    size -= TAG_LENGTH
                    if layer == last:
                        target = payloads[index * payload : (index + 1) * payload]
                    else:
                        target = _SCRATCH[layer & 1][:size]
                    key.open_into(key.nonce(key.advance(1)), source, associated, target)
                    source = target
        except InvalidTag:
            refuse("an onion layer that does not open")
        return payloads
