"""A network on paper: real handshakes, links and circuits, with no socket, task or clock.

A ``PaperNetwork`` has an origin and a row of relays; ``settle`` passes bytes along all links
until nothing moves. Malicious peers come in three kinds. A tap changes the cells that one peer
sends to another, inside the link's encryption: what a guard can do. ``inject`` lets an end of a
circuit send any message, sealed with its real keys: what an exit or a client can do. A ``Rogue``
is the other side of a single link and sends any cell: what a neighbour can do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.paper import converse
from warren.addresses import Address
from warren.errors import ProtocolError
from warren.identity import Hop, Identity, PeerId, Suite, SystemKeys
from warren.protocol.cells import (
    BODY_LENGTH,
    CELL_LENGTH,
    HEADER,
    LINK_VERSION,
    Command,
    Ready,
    RelayReady,
    encode_ready,
    make_cell,
)
from warren.protocol.ciphers import TAG_LENGTH
from warren.protocol.circuit import ExtendRequested
from warren.protocol.credit import CreditBudget
from warren.protocol.handshake import (
    CircuitInitiator,
    LinkSecrets,
    accept_link,
    answer_circuit,
    certify_link_key,
    initiate_link,
)
from warren.protocol.holdings import Holdings
from warren.protocol.leg import Leg
from warren.protocol.link import CreateRequested, LinkProtocol
from warren.protocol.messages import Connected, ExtendStatus
from warren.protocol.origin_circuit import OriginCircuit
from warren.protocol.records import MOST_RECORD, MOST_RECORD_CELLS, RecordKey
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.stream import StreamProtocol

NETWORK_ID = bytes(range(32))
KEYS = SystemKeys()
NOW = 1_800_000_000.0
TARGET = Address("target.example", 80)
REACHED = Connected(Address("5.6.7.8", 80), 60)

#: Gets each cell that arrives, and returns what is read in its place.
Tap = Callable[[bytearray], Iterable[bytes]]

# Every fill is carried over before the next one, so one buffer serves all wires.
_OUT = memoryview(bytearray(4 * MOST_RECORD))


class PaperLink(LinkProtocol):
    """Be a link's machine whose other side may be malicious: ``tap`` changes what it sends."""

    tap: Tap | None = None

    def _receive_cells(self, cells: memoryview) -> None:
        if self.tap is not None:
            cells = memoryview(b"".join(new for cell in cut(cells) for new in self.tap(cell)))
        if cells:
            super()._receive_cells(cells)


def cut(cells: bytes | bytearray | memoryview) -> list[bytearray]:
    """Return the cells of a run, each in a buffer of its own."""
    return [bytearray(cells[at : at + CELL_LENGTH]) for at in range(0, len(cells), CELL_LENGTH)]


def read_header(cell: bytes | bytearray) -> tuple[int, int]:
    """Return the circuit and the command of a cell."""
    circuit, word = HEADER.unpack_from(cell)
    return circuit, word >> 24


def is_relay(cell: bytes | bytearray) -> bool:
    """Tell whether a cell carries an onion body."""
    return read_header(cell)[1] in (Command.RELAY, Command.RELAY_EARLY)


class PaperRelay:
    """Be a relay: keys, circuits, and the links it has."""

    def __init__(self, number: int, suite: Suite = Suite.AESGCM) -> None:
        self.identity = Identity(bytes([number]) * 32)
        self.link_key, self.onion_key = KEYS.key_pair(), KEYS.key_pair()
        self.suite = suite
        self.hop = Hop(
            self.identity.peer_id,
            Address(f"5.5.{number}.5", 9000),
            self.link_key.public,
            self.onion_key.public,
            (suite,),
        )
        self.links: dict[PeerId, LinkProtocol] = {}
        self.circuits: list[RelayCircuit] = []
        self.network: PaperNetwork | None = None
        self.holdings = Holdings(CreditBudget(1 << 20))
        self._awake: list[RelayCircuit] = []

    @property
    def peer_id(self) -> PeerId:
        """Return the relay's name."""
        return self.identity.peer_id

    @property
    def circuit(self) -> RelayCircuit:
        """Return the newest circuit through this relay."""
        return self.circuits[-1]

    def act(self, link: LinkProtocol) -> None:
        """Answer what a link leaves to its owner."""
        for happening in link.events:
            if isinstance(happening, CreateRequested):
                self._create(link, happening)
        link.events.clear()
        awake, self._awake = self._awake, []
        for circuit in awake:
            while circuit.events:
                event = circuit.events.popleft()
                if isinstance(event, ExtendRequested):
                    self._extend(circuit, event)

    def _create(self, link: LinkProtocol, request: CreateRequested) -> None:
        try:
            message, secrets = answer_circuit(
                NETWORK_ID, self.peer_id, [self.onion_key], request.depth, request.suite,
                request.message, KEYS,
            )  # fmt: skip
        except ProtocolError:
            request.leg.destroy()
            return
        link.send_created(request.leg, message)
        barred = [self.peer_id, *([link.peer_id] if link.peer_id is not None else [])]
        circuit = RelayCircuit(request.leg, request.depth, secrets, barred=barred)
        circuit.wake = lambda: self._awake.append(circuit)
        if request.depth and self.network is not None and self.network.holds:
            circuit.holdings = self.holdings
        self.circuits.append(circuit)

    def _extend(self, circuit: RelayCircuit, event: ExtendRequested) -> None:
        assert self.network is not None
        if circuit.is_closed:
            return
        other = self.network.by_id.get(event.extend.peer_id)
        if other is None:
            circuit.refuse_extend(ExtendStatus.UNKNOWN_PEER)
            return
        link = self.links.get(other.peer_id) or self.network.connect(self, other)
        leg = link.create(circuit.depth + 1, event.extend.suite, event.extend.message)
        leg.user = _Extending(circuit)


class _Extending:
    """Wait for the CREATED of an extension."""

    def __init__(self, circuit: RelayCircuit) -> None:
        self.circuit = circuit

    def receive_created(self, leg: Leg, message: bytes) -> None:
        if self.circuit.is_closed:
            leg.destroy()
        else:
            self.circuit.extended(leg, message)

    def leg_lost(self, leg: Leg) -> None:
        self.circuit.refuse_extend(ExtendStatus.REFUSED)

    def violation(self, leg: Leg, error: ProtocolError) -> None:
        leg.destroy()
        self.circuit.refuse_extend(ExtendStatus.REFUSED)

    def receive_run(self, *_: object) -> None:
        raise ProtocolError("a cell from a hop that was not joined yet")


@dataclass
class Wire:
    """Carry the bytes of one link both ways; ``error`` is what closed it."""

    initiator: PaperLink
    responder: PaperLink
    owner: PaperRelay | None
    relay: PaperRelay
    rest: dict[int, bytearray] = field(default_factory=lambda: {0: bytearray(), 1: bytearray()})
    error: ProtocolError | None = None

    def move(self) -> bool:
        """Carry what both sides have to send; return whether anything moved."""
        moved = False
        for index, (source, target) in enumerate(
            ((self.initiator, self.responder), (self.responder, self.initiator))
        ):
            size = source.fill(_OUT)
            if size and self.error is None:
                moved = True
                buffer = self.rest[index]
                buffer += _OUT[:size]
                try:
                    used = target.receive(memoryview(bytes(buffer)))
                except ProtocolError as error:
                    self.error = error
                    self.initiator.close()
                    self.responder.close()
                    break
                del buffer[:used]
        return moved


class PaperNetwork:
    """Own an origin, `relays` relays and every link between them.

    `window` is the cells of a new circuit's credit, `growth` what windows may grow by in all.
    With `holds`, relays hold the streams of circuits that died there, as exits do.
    """

    def __init__(
        self,
        relays: int,
        *,
        suite: Suite = Suite.AESGCM,
        window: int = 64,
        growth: int = 1 << 20,
        holds: bool = False,
    ) -> None:
        self.holds = holds
        self.window = window
        self.budget = CreditBudget(growth)
        self.relays = [PaperRelay(number + 1, suite) for number in range(relays)]
        self.by_id = {relay.peer_id: relay for relay in self.relays}
        self.wires: list[Wire] = []
        for relay in self.relays:
            relay.network = self

    @property
    def exit(self) -> PaperRelay:
        """Return the last relay of the row."""
        return self.relays[-1]

    def connect(self, source: PaperRelay | None, target: PaperRelay) -> LinkProtocol:
        """Link `source` (None: the origin, anonymous) to `target`; return its end."""
        credentials = None
        if source is not None:
            credentials = certify_link_key(
                source.identity, NETWORK_ID, source.link_key, int(NOW) + 3600
            )
        mine, theirs = converse(
            initiate_link(NETWORK_ID, target.hop, KEYS, credentials),
            accept_link(NETWORK_ID, target.peer_id, [target.link_key], KEYS, NOW),
        )
        initiator, responder = (
            PaperLink(
                secrets,
                ready_of(owner, self.window),
                is_initiator=owner is source,
                is_anonymous=source is None,
                budget=self.budget,
                now=0.0,
            )
            for secrets, owner in ((mine, source), (theirs, target))
        )
        wire = Wire(initiator, responder, source, target)
        self.wires.append(wire)
        wire.move()
        wire.move()
        assert initiator.ready is not None, wire.error
        assert responder.ready is not None, wire.error
        initiator.events.clear()
        responder.events.clear()
        if source is not None:
            source.links[target.peer_id] = initiator
            target.links[source.peer_id] = responder
        return initiator

    def wire(self, source: PaperRelay | None, target: PaperRelay) -> Wire:
        """Return the wire between the two, whoever dialled."""
        ends = ((source, target), (target, source))
        return next(wire for wire in self.wires if (wire.owner, wire.relay) in ends)

    def tap(self, source: PaperRelay | None, target: PaperRelay | None, tap: Tap | None) -> None:
        """Change what `source` sends to `target` from now on (None: the origin)."""
        if target is None:
            assert source is not None
            self.wire(None, source).initiator.tap = tap
            return
        wire = self.wire(source, target)
        (wire.responder if wire.relay is target else wire.initiator).tap = tap

    def tap_origin(self, tap: Tap | None) -> None:
        """Change what the origin sends from now on, over all its links."""
        for wire in self.wires:
            if wire.owner is None:
                wire.responder.tap = tap

    def step(self, number: int) -> bool:
        """Let bytes pass along one wire, once each way; return whether anything moved."""
        if number >= len(self.wires):
            return False
        wire = self.wires[number]
        moved = wire.move()
        wire.relay.act(wire.responder)
        if wire.owner is not None:
            wire.owner.act(wire.initiator)
        return moved

    def settle(self) -> None:
        """Pass bytes along until nothing moves."""
        moved = True
        while moved:
            moved = False
            for number in range(len(self.wires)):
                moved |= self.step(number)

    def start(self) -> OriginCircuit:
        """Send a CREATE to the first relay, over the link there is or a new one."""
        first = self.relays[0]
        open_links = [w.initiator for w in self.wires if w.owner is None and w.error is None]
        link = open_links[0] if open_links else self.connect(None, first)
        initiator = CircuitInitiator(
            NETWORK_ID, first.peer_id, first.onion_key.public, 0, first.suite, KEYS
        )
        return OriginCircuit(link.create(0, first.suite, initiator.message), initiator)

    def build(self, hops: int = 3) -> OriginCircuit:
        """Build a circuit through the first `hops` relays."""
        circuit = self.start()
        self.settle()
        for relay in self.relays[1:hops]:
            self.extend(circuit, relay)
        return circuit

    def extend(self, circuit: OriginCircuit, relay: PaperRelay) -> None:
        """Ask the last hop of `circuit` to extend it to `relay`."""
        initiator = CircuitInitiator(
            NETWORK_ID, relay.peer_id, relay.onion_key.public, circuit.hops, relay.suite, KEYS
        )
        circuit.extend(relay.peer_id, relay.suite, initiator)
        self.settle()

    def open_stream(self, circuit: OriginCircuit) -> tuple[StreamProtocol, StreamProtocol]:
        """Open a stream to the end of `circuit`, connected; return both its ends."""
        near = circuit.streams.begin(TARGET)
        self.settle()
        streams = self.end_of(circuit).streams
        assert streams is not None
        ((far, _),) = streams.opened
        streams.opened.clear()
        far.accept(REACHED)
        self.settle()
        return near, far

    def end_of(self, circuit: OriginCircuit) -> RelayCircuit:
        """Return the newest circuit at the relay that is the last hop of `circuit`."""
        return self.relays[circuit.hops - 1].circuit


def ready_of(relay: PaperRelay | None, window: int) -> Ready:
    """Return what a relay, or a client (None), says in READY."""
    if relay is None:
        return Ready((LINK_VERSION,), window)
    said = RelayReady(
        relay.onion_key.public, (relay.suite,), int(NOW), Address("5.5.5.5", 1), 0, bytes(32)
    )
    return Ready((LINK_VERSION,), window, said)


def inject(
    circuit: OriginCircuit | RelayCircuit, payload: bytes, command: Command = Command.RELAY
) -> None:
    """Let an end of `circuit` send `payload`, one cell of messages of the test's choice."""
    end = circuit._end
    assert end is not None
    end.leg.enqueue(end.seal_alone(command, payload))


def read_all(stream: StreamProtocol) -> bytes:
    """Take over, as its application, everything that arrived on a stream."""
    data = b"".join(stream.incoming)
    stream.incoming.clear()
    stream.consume(len(data))
    return data


class Rogue:
    """Be the other side of one link, past its handshake: send any cell, read every cell.

    ``link`` is the honest side. `is_initiator` and `is_anonymous` speak of the rogue.
    """

    def __init__(
        self,
        *,
        is_initiator: bool = True,
        is_anonymous: bool = True,
        suite: Suite = Suite.AESGCM,
        window: int = 64,
        greets: bool = True,
    ) -> None:
        to_link, to_rogue = bytes([1]) * 32, bytes([2]) * 32
        peer_id = None if is_anonymous and is_initiator else PeerId(bytes([9]) * 32)
        is_client = is_anonymous and not is_initiator  # whether the honest side is one
        self.relay = PaperRelay(7, suite)
        self.link = LinkProtocol(
            LinkSecrets(suite, to_rogue, to_link, bytes(32), peer_id),
            ready_of(None if is_client else self.relay, window),
            is_initiator=not is_initiator,
            is_anonymous=is_anonymous,
            budget=CreditBudget(0),
            now=0.0,
        )
        self.sealer, self.opener = RecordKey(suite, to_link), RecordKey(suite, to_rogue)
        self.ready = ready_of(None if is_anonymous and is_initiator else self.relay, window)
        if greets:
            self.hear()
            self.say(self.greeting)
            self.link.events.clear()

    @property
    def greeting(self) -> bytes:
        """Return the READY that a rogue sends to look harmless."""
        return make_cell(0, Command.READY, encode_ready(self.ready))

    def seal(self, cells: Iterable[bytes]) -> bytes:
        """Return the records that carry `cells`."""
        waiting, records = list(cells), b""
        while waiting:
            plain = b"".join(waiting[:MOST_RECORD_CELLS])
            del waiting[:MOST_RECORD_CELLS]
            ciphertext = memoryview(bytearray(len(plain) + TAG_LENGTH))
            self.sealer.seal(plain, ciphertext)
            records += len(ciphertext).to_bytes(2, "big") + ciphertext
        return records

    def say(self, *cells: bytes) -> None:
        """Send `cells`; raises what the honest side raises."""
        records = self.seal(cells)
        assert self.link.receive(memoryview(records)) == len(records)

    def hear_record(self) -> list[bytearray]:
        """Return the cells of the next record that the honest side sends; [] when none is due."""
        size = self.link.fill(_OUT[:MOST_RECORD])
        if not size:
            return []
        plain = bytearray(size - 2 - TAG_LENGTH)
        self.opener.open(_OUT[2:size], memoryview(plain))
        return cut(plain)

    def hear(self) -> list[bytearray]:
        """Return the cells that the honest side has to send now."""
        cells: list[bytearray] = []
        while more := self.hear_record():
            cells += more
        return cells

    def hear_headers(self) -> list[tuple[int, int]]:
        """Return circuit and command of the cells that the honest side has to send now."""
        return [read_header(cell) for cell in self.hear()]


def relay_cell(circuit: int, command: Command = Command.RELAY, body: bytes = b"") -> bytes:
    """Return a RELAY cell with a body that opens nowhere."""
    return make_cell(circuit, command, body or bytes([0xA5]) * BODY_LENGTH)


def with_byte(cell: bytes, at: int, value: int = 1) -> bytes:
    """Return `cell` with one byte changed."""
    changed = bytearray(cell)
    changed[at] ^= value
    return bytes(changed)
