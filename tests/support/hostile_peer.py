"""A peer that knows the protocol, has the keys, and does not keep the rules: over real sockets.

``HostileLink`` is a link whose handshake is done, as a client or as a relay with its identity;
it sends any cells. ``HostileCircuit`` is a circuit on it whose layer is right, so that what is
wrong is read by the last hop. ``Mischief`` draws what such a peer does, all of it from its seed.
"""

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.support.paper import Side
from warren.addresses import Address
from warren.errors import EndReason, ProtocolError
from warren.identity import Hop, Identity, PeerId, Suite, SystemKeys
from warren.protocol.cells import (
    BODY_LENGTH,
    CELL_LENGTH,
    HEADER,
    HEADER_LENGTH,
    LINK_VERSION,
    Command,
    Ready,
    RelayReady,
    decode_ready,
    encode_create,
    encode_credit,
    encode_ready,
    make_cell,
)
from warren.protocol.ciphers import TAG_LENGTH, make_aead, nonce_maker
from warren.protocol.handshake import (
    CircuitInitiator,
    HopSecrets,
    LinkCredentials,
    certify_link_key,
    initiate_link,
)
from warren.protocol.messages import (
    Begin,
    Connected,
    Extend,
    Message,
    Standing,
    StandingFlags,
    encode_message,
    encode_stream_credit,
)
from warren.protocol.records import MOST_RECORD_CELLS, RecordKey
from warren.protocol.resume import Ticket, encode_resume

KEYS = SystemKeys()
#: How long a peer has to answer before this one goes on.
SECONDS = 5.0
_FIRST_NUMBER = 0x8000_0000
#: What is said to directories, and to targets.
_WORDS = (
    b"GET /consensus HTTP/1.1\r\nHost: directory\r\n\r\n",
    b"GET /consensus/newer/" + b"9" * 90 + b" HTTP/1.1\r\nHost: directory\r\n\r\n",
    b"GET /signatures/" + b"9" * 90 + b" HTTP/1.1\r\nHost: directory\r\n\r\n",
    b"POST /vote HTTP/1.1\r\nHost: directory\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /descriptor HTTP/1.1\r\nHost: directory\r\nContent-Length: 900\r\n\r\n" + bytes(900),
    b"POST /signature HTTP/1.1\r\nHost: directory\r\nContent-Length: 104\r\n\r\n" + bytes(104),
    b"POST /vote HTTP/1.1\r\nHost: directory\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"x" * 3000,
)


def credentials_of(identity: Identity, network_id: bytes) -> LinkCredentials:
    """Return what shows that a fresh link key is `identity`'s."""
    return certify_link_key(identity, network_id, KEYS.key_pair(), int(time.time()) + 3600)


class HostileLink:
    """Own one end of a link: the socket, and the keys of its records."""

    def __init__(
        self, network_id: bytes, hop: Hop, credentials: LinkCredentials | None = None
    ) -> None:
        """Dial `hop` and do the handshake, as a client unless there are `credentials`."""
        self.network_id, self.peer_id = network_id, hop.peer_id
        self.is_relay = credentials is not None
        self.onion_key, self.suite = b"", Suite.AESGCM
        self.sock = socket.create_connection((hop.address.host, hop.address.port), SECONDS)
        side = Side(initiate_link(network_id, hop, KEYS, credentials))
        self.sock.sendall(side.sent)
        while not side.is_done:
            piece = self.sock.recv(65536)
            if not piece:
                raise ConnectionResetError
            self.sock.sendall(side.receive(piece))
        secrets = side.result
        self._sealer = RecordKey(secrets.suite, secrets.send_key)
        self._opener = RecordKey(secrets.suite, secrets.receive_key)
        self._rest = side.buffer
        self._next = _FIRST_NUMBER
        self.circuits: list[HostileCircuit] = []

    def ready(self) -> bytes:
        """Return a READY as it should be."""
        relay = None
        if self.is_relay:
            place = Address("127.0.0.1", 1)
            relay = RelayReady(bytes(32), (Suite.AESGCM,), int(time.time()), place, 0, bytes(32))
        return make_cell(0, Command.READY, encode_ready(Ready((LINK_VERSION,), 64, relay)))

    def greet(self) -> None:
        """Exchange READY as a peer should, and learn the onion key."""
        self.send(self.ready())
        told = decode_ready(memoryview(self.wait_for(Command.READY)))
        assert told.relay is not None
        self.onion_key, self.suite = told.relay.onion_key, told.relay.suites[0]

    def take_number(self) -> int:
        """Return a number for a circuit that was not used yet."""
        self._next += 1
        return self._next - 1

    def record(self, *cells: bytes) -> bytes:
        """Return a record with these cells."""
        plain = b"".join(cells)
        sealed = memoryview(bytearray(len(plain) + TAG_LENGTH))
        self._sealer.seal(plain, sealed)
        return len(sealed).to_bytes(2, "big") + bytes(sealed)

    def send(self, *cells: bytes) -> None:
        """Send any number of cells."""
        for at in range(0, len(cells), MOST_RECORD_CELLS):
            self.sock.sendall(self.record(*cells[at : at + MOST_RECORD_CELLS]))

    def receive(self) -> list[tuple[int, int, bytes]]:
        """Return the cells of the next record: number, command, body."""
        while len(self._rest) < 2 or len(self._rest) < 2 + int.from_bytes(self._rest[:2], "big"):
            piece = self.sock.recv(65536)
            if not piece:
                raise ConnectionResetError
            self._rest += piece
        size = int.from_bytes(self._rest[:2], "big")
        plain = memoryview(bytearray(size - TAG_LENGTH))
        self._opener.open(memoryview(bytes(self._rest[2 : 2 + size])), plain)
        del self._rest[: 2 + size]
        cells = []
        for at in range(0, len(plain), CELL_LENGTH):
            number, word = HEADER.unpack_from(plain, at)
            cells.append((number, word >> 24, bytes(plain[at + HEADER_LENGTH : at + CELL_LENGTH])))
        return cells

    def wait_for(self, command: Command, number: int = 0) -> bytes:
        """Return the body of the next such cell; all else is passed over."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for each, what, body in self.receive():
                if (each, what) == (number, command):
                    return body
                if each == number and what == Command.DESTROY:
                    raise ProtocolError("destroyed")
        raise TimeoutError

    def create(self) -> "HostileCircuit":
        """Make a circuit that ends at the peer, behind this one if this is a relay."""
        depth, number, suite = int(self.is_relay), self.take_number(), self.suite
        initiator = CircuitInitiator(
            self.network_id, self.peer_id, self.onion_key, depth, suite, KEYS
        )
        body = encode_create(depth, suite, initiator.message)
        self.send(make_cell(number, Command.CREATE, body))
        secrets = initiator.finish(self.wait_for(Command.CREATED, number)[:1152])
        circuit = HostileCircuit(number, depth, secrets)
        self.circuits.append(circuit)
        return circuit

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class HostileCircuit:
    """Own the forward layer of a circuit, which is right, whatever is in it."""

    def __init__(self, number: int, depth: int, secrets: HopSecrets) -> None:
        self.number, self.secrets = number, secrets
        self._aead = make_aead(secrets.suite, secrets.forward_key)
        self._nonce = nonce_maker(secrets.suite)
        self._count = 0
        self.payload = BODY_LENGTH - TAG_LENGTH * (depth + 1)
        self.next_stream = 1

    def cell(self, payload: bytes, command: Command = Command.RELAY) -> bytes:
        """Return a cell with this payload, filled up with zeros."""
        plain = payload[: self.payload].ljust(self.payload, b"\0")
        sealed = self._aead.encrypt(self._nonce(self._count), plain, bytes((command,)))
        self._count += 1
        return make_cell(self.number, command, sealed)


@dataclass
class Mischief:
    """Own a hostile peer's will: ``step`` does one thing to a link, right or wrong."""

    rng: random.Random
    targets: list[Address]
    peers: list[PeerId]
    tickets: list[Ticket]

    def step(self, link: HostileLink) -> None:
        """Do something; what was wrong costs the circuit or the link, sooner or later."""
        rng = self.rng
        if not link.circuits or rng.random() < 0.1:
            circuit = link.create()
            self.tickets = [Ticket.of(circuit.secrets), *self.tickets[:5]]
            return
        circuit = rng.choice(link.circuits)
        if rng.random() < 0.9:
            link.send(*(self._relay_cell(circuit) for _ in range(rng.choice([1, 1, 1, 3]))))
        else:
            rng.choice(self._on_the_link(link, circuit))()

    def _relay_cell(self, circuit: HostileCircuit) -> bytes:
        rng, payload = self.rng, b""
        for _ in range(rng.choice([1, 1, 2, 4])):
            payload += self._message(circuit)
        command = Command.RELAY_EARLY if rng.random() < 0.02 else Command.RELAY
        if rng.random() < 0.01:
            payload = rng.randbytes(circuit.payload)
        return circuit.cell(payload, command)

    def _message(self, circuit: HostileCircuit) -> bytes:
        rng = self.rng
        last = circuit.next_stream - 1
        known = (
            max(last, 1)
            if rng.random() < 0.8
            else rng.choice([max(last - 1, 0), rng.randrange(1, 9), 0])
        )
        opening = circuit.next_stream
        if rng.random() < 0.03:
            opening = rng.choice([0, last, opening + 1000, 0xFFFF_FFFF])
        circuit.next_stream = max(circuit.next_stream, opening % 0xFFFF_FFFF + 1)
        target = rng.choice(self.targets)
        reason = rng.choice([EndReason.MISC, EndReason.MISC, EndReason.DONE, EndReason.TIMEOUT])
        say = partial(encode_message, stream=known)
        open_ = partial(encode_message, stream=opening)
        size = rng.choice([0, 1, 100, 3000, 4000])
        words: list[Callable[[], bytes]] = [
            *[lambda: open_(Message.BEGIN, data=Begin(target).encode())] * 24,
            lambda: open_(Message.BEGIN_DIR),
            lambda: open_(Message.ASSOCIATE, data=b"\0"),
            lambda: open_(Message.RESOLVE, data=Address(target.host, 0).encode()),
            *[lambda: say(Message.DATA, data=rng.randbytes(size))] * 6,
            *[lambda: say(Message.DATA, data=rng.choice(_WORDS))] * 4,
            *[lambda: say(Message.EOF)] * 2,
            *[lambda: say(Message.END, data=bytes((reason,)))] * 3,
            lambda: say(Message.CREDIT, data=encode_stream_credit(0, rng.randrange(1 << 40))),
            lambda: say(Message.CREDIT, data=encode_stream_credit(5, 5)),
            lambda: say(Message.CONNECTED, data=Connected(Address("5.5.5.5", 80)).encode()),
            lambda: say(Message.RESOLVED, data=b"\0\4\5\5\5\5"),
            lambda: say(Message.DATAGRAM, data=target.encode() + rng.randbytes(size % 1400)),
            lambda: encode_message(Message.DROP, 0),
            lambda: encode_message(Message.EXTEND, 0, self._extend()),
            *[lambda: encode_message(Message.RESUME, 0, self._resume(circuit))] * 2,
            lambda: encode_message(Message.RESUMED, 0, b"\0" + rng.randbytes(31)),
            lambda: encode_message(Message.EXTENDED, 0, b"\1"),
            lambda: bytes((rng.randrange(19, 256),)) + rng.randbytes(6),
        ]
        return rng.choice(words)()

    def _extend(self) -> bytes:
        return Extend(self.rng.choice(self.peers), Suite.AESGCM, self.rng.randbytes(1248)).encode()

    def _resume(self, circuit: HostileCircuit) -> bytes:
        """Return a RESUME's only part: for what was this peer's once, or with a wrong MAC."""
        rng = self.rng
        standings = [
            Standing(n, StandingFlags(rng.choice([1, 3, 7])), *sorted(rng.choices(range(9), k=3)))
            for n in range(1, rng.randrange(1, 9))
        ]
        standings = [Standing(s.number, s.flags, s.received, 0, 1 << 20) for s in standings]
        ticket = rng.choice(self.tickets)
        if rng.random() < 0.3:
            ticket = Ticket(ticket.name, rng.randbytes(32))
        body = encode_resume([ticket], circuit.secrets.handshake_hash, standings)
        return rng.choice([b"\0", b"\0", b"\1", b"\2"]) + body[: rng.choice([1, 9, 4000, 4000])]

    def _on_the_link(
        self, link: HostileLink, circuit: HostileCircuit
    ) -> list[Callable[[], object]]:
        rng, number = self.rng, circuit.number
        odd = rng.choice([0, 1, number, number ^ 1, link.take_number(), rng.randrange(1 << 32)])

        def send(number: int, command: int, body: bytes = b"") -> Callable[[], None]:
            cell = HEADER.pack(number, command << 24) + body.ljust(BODY_LENGTH, b"\0")
            return lambda: link.send(cell)

        create = encode_create(rng.randrange(9), Suite.AESGCM, rng.randbytes(1248))
        return [
            send(odd, Command.CREATE, create),
            send(number, Command.CREATE, create),
            send(odd, Command.CREATED, rng.randbytes(1152)),
            send(number, Command.CREATED, rng.randbytes(1152)),
            send(odd, Command.DESTROY),
            send(number, Command.DESTROY),
            send(number, Command.DESTROY),
            send(odd, Command.RELAY, rng.randbytes(BODY_LENGTH)),
            send(0, Command.CREDIT, encode_credit([(number, rng.choice([1, 64, 1 << 20]))])),
            send(0, Command.CREDIT, encode_credit([(odd or 1, 1)])),
            send(0, Command.PING, rng.randbytes(8)),
            send(0, Command.PONG, rng.randbytes(8)),
            send(0, Command.PADDING, rng.randbytes(BODY_LENGTH)),
            send(0, Command.READY, rng.randbytes(40)),
            send(odd, rng.randrange(256), rng.randbytes(40)),
            lambda: link.send(*(circuit.cell(b"") for _ in range(100))),
            lambda: link.send(
                *(circuit.cell(encode_message(Message.DROP, 0)) for _ in range(1100))
            ),
            lambda: link.sock.sendall(link.record(bytes(CELL_LENGTH))[: rng.randrange(4000)]),
            lambda: link.sock.sendall(rng.randbytes(rng.choice([1, 2, 5000]))),
        ]
