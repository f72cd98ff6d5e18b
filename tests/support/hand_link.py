"""A peer that speaks to a relay by hand: a real handshake, then whatever the test wants.

A ``HandLink`` seals any cells at all into records and reads what the relay says. The handshake
can be left unfinished or said twice with ``first_message``.
"""

from trio.testing import wait_all_tasks_blocked

from tests.support.memory_network import MemoryNetwork, MemoryStream
from tests.support.paper import Side
from tests.support.small_network import NETWORK_ID, RelayPeer, SeededKeys, wall_clock
from warren.identity import Hop, Identity
from warren.protocol.cells import (
    CELL_LENGTH,
    HEADER,
    HEADER_LENGTH,
    LINK_VERSION,
    Command,
    Ready,
    encode_create,
    encode_ready,
    make_cell,
)
from warren.protocol.ciphers import make_aead, nonce_maker
from warren.protocol.exchange import Exchange
from warren.protocol.handshake import (
    CircuitInitiator,
    LinkCredentials,
    LinkSecrets,
    certify_link_key,
    initiate_link,
)

FIRST_NUMBER = 0x8000_0000
READY = make_cell(0, Command.READY, encode_ready(Ready((LINK_VERSION,), 64)))

Cell = tuple[int, Command, bytes]


def credentials_of(identity: Identity, seed: object = "link") -> LinkCredentials:
    """Return what shows that a link key is `identity`'s; the same key for the same `seed`."""
    link_key = SeededKeys(seed).key_pair()
    return certify_link_key(identity, NETWORK_ID, link_key, int(wall_clock()) + 3600)


def greet(hop: Hop, credentials: LinkCredentials | None = None) -> Exchange[LinkSecrets]:
    """Return the initiator's side of a handshake with `hop`."""
    return initiate_link(NETWORK_ID, hop, SeededKeys("by hand"), credentials)


def first_message(hop: Hop, credentials: LinkCredentials | None = None) -> bytes:
    """Return the first thing an initiator sends, as it stands on the wire."""
    return Side(greet(hop, credentials)).sent


class HandLink:
    """Own one end of a link: the socket, and the keys of its records."""

    def __init__(self, stream: MemoryStream, secrets: LinkSecrets, rest: bytes = b"") -> None:
        self.stream = stream
        self._sealer = make_aead(secrets.suite, secrets.send_key)
        self._opener = make_aead(secrets.suite, secrets.receive_key)
        self._nonce = nonce_maker(secrets.suite)
        self._sealed = self._opened = 0
        self._rest = bytearray(rest)

    @classmethod
    async def dial(
        cls,
        network: MemoryNetwork,
        relay: RelayPeer,
        credentials: LinkCredentials | None = None,
        *,
        is_ready: bool = True,
    ) -> "HandLink":
        """Do the handshake with `relay`; say READY as a client, unless not `is_ready`."""
        stream = await network.dial(relay.hop.address)
        rest = bytearray()
        secrets = await stream.converse(greet(relay.hop, credentials), rest)
        link = cls(stream, secrets, bytes(rest))
        if is_ready:
            link.send(READY)
            await link.receive()
        return link

    def seal(self, *cells: bytes) -> bytes:
        """Return a record with these cells."""
        record = self._sealer.encrypt(self._nonce(self._sealed), b"".join(cells), None)
        self._sealed += 1
        return len(record).to_bytes(2, "big") + record

    def send(self, *cells: bytes) -> None:
        """Send these cells, at most 15, as one record."""
        record = self.seal(*cells)
        assert self.stream.send_now(record) == len(record)

    async def receive(self) -> list[Cell]:
        """Return the cells that the relay sends until it has nothing more to say.

        Raises LinkError when it has closed the link and everything was read.
        """
        await wait_all_tasks_blocked()
        chunk = bytearray(1 << 20)
        while count := self.stream.receive_into(chunk):
            self._rest += chunk[:count]
        cells: list[Cell] = []
        while len(self._rest) >= 2:
            size = int.from_bytes(self._rest[:2], "big")
            record, self._rest = bytes(self._rest[2 : 2 + size]), self._rest[2 + size :]
            plain = self._opener.decrypt(self._nonce(self._opened), record, None)
            self._opened += 1
            for at in range(0, len(plain), CELL_LENGTH):
                number, word = HEADER.unpack_from(plain, at)
                body = bytes(plain[at + HEADER_LENGTH : at + CELL_LENGTH])
                cells.append((number, Command(word >> 24), body))
        return cells

    @property
    def is_closed(self) -> bool:
        """Tell whether the relay has closed the link."""
        assert self.stream.peer is not None
        return self.stream.peer.is_closed


def create_cell(relay: RelayPeer, number: int = FIRST_NUMBER) -> bytes:
    """Return a CREATE for a circuit of one hop."""
    hop = relay.hop
    assert hop.onion_key is not None
    suite = hop.suites[0]
    initiator = CircuitInitiator(
        NETWORK_ID, hop.peer_id, hop.onion_key, 0, suite, SeededKeys(number)
    )
    return make_cell(number, Command.CREATE, encode_create(0, suite, initiator.message))
