"""A network on paper: real handshakes, links and circuits, with no socket, task or clock.

``PaperNetwork`` has an origin and a row of relays. ``settle`` passes bytes along all links until
nothing moves. A test may look at or change the plain cells of a hop through ``taps``, which is
how the malicious peers of the security tests work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.paper import converse
from warren.addresses import Address
from warren.identity import Hop, Identity, KeyPair, PeerId, Suite, SystemKeys
from warren.protocol.cells import LINK_VERSION, Ready, RelayReady
from warren.protocol.circuit import ExtendRequested, OriginCircuit, RelayCircuit
from warren.protocol.credit import CreditBudget
from warren.protocol.handshake import (
    CircuitInitiator,
    accept_link,
    answer_circuit,
    certify_link_key,
    initiate_link,
)
from warren.protocol.link import CreateRequested, Leg, LinkProtocol
from warren.protocol.messages import ExtendStatus

NETWORK_ID = bytes(range(32))
KEYS = SystemKeys()
NOW = 1_800_000_000.0


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

    def act(self, link: LinkProtocol) -> None:
        """Answer what a link leaves to its owner."""
        for event in link.events:
            if isinstance(event, CreateRequested):
                message, secrets = answer_circuit(
                    NETWORK_ID, self.identity.peer_id, [self.onion_key], event.depth,
                    event.suite, event.message, KEYS,
                )  # fmt: skip
                link.send_created(event.leg, message)
                self.circuits.append(RelayCircuit(event.leg, event.depth, secrets))
        link.events.clear()
        for circuit in self.circuits:
            while circuit.events:
                event = circuit.events.popleft()
                if isinstance(event, ExtendRequested):
                    self._extend(circuit, event)

    def _extend(self, circuit: RelayCircuit, event: ExtendRequested) -> None:
        assert self.network is not None
        other = self.network.by_id.get(event.extend.peer_id)
        if other is None:
            circuit.refuse_extend(ExtendStatus.UNKNOWN_PEER)
            return
        link = self.links.get(other.identity.peer_id) or self.network.connect(self, other)
        leg = link.create(circuit.depth + 1, event.extend.suite, event.extend.message)
        leg.user = _Extending(circuit)


class _Extending:
    """Wait for the CREATED of an extension."""

    def __init__(self, circuit: RelayCircuit) -> None:
        self.circuit = circuit

    def receive_created(self, leg: Leg, message: bytes) -> None:
        self.circuit.extended(leg, message)

    def leg_lost(self, leg: Leg) -> None:
        self.circuit.refuse_extend(ExtendStatus.REFUSED)

    def violation(self, leg: Leg, error: Exception) -> None:
        raise error

    def receive_run(self, *_: object) -> None:
        raise AssertionError("cells before CREATED")


Tap = Callable[[bytearray], list[bytearray]]


@dataclass
class Wire:
    """Carry the bytes of one link both ways; ``error`` is what closed it."""

    initiator: LinkProtocol
    responder: LinkProtocol
    owner: "PaperRelay | None"
    relay: PaperRelay
    rest: dict[int, bytearray] = field(default_factory=lambda: {0: bytearray(), 1: bytearray()})
    error: Exception | None = None

    def move(self) -> bool:
        """Carry what both sides have to send; return whether anything moved."""
        moved = False
        for index, (source, target) in enumerate(
            ((self.initiator, self.responder), (self.responder, self.initiator))
        ):
            out = memoryview(bytearray(1 << 18))
            size = source.fill(out)
            if size and self.error is None:
                moved = True
                buffer = self.rest[index]
                buffer += out[:size]
                try:
                    used = target.receive(memoryview(bytes(buffer)))
                except Exception as error:  # noqa: BLE001
                    self.error = error
                    self.initiator.close()
                    self.responder.close()
                    break
                del buffer[:used]
        return moved


class PaperNetwork:
    """Own an origin, `relays` relays and every link between them."""

    def __init__(self, relays: int, *, suite: Suite = Suite.AESGCM, window: int = 64) -> None:
        self.window = window
        self.relays = [PaperRelay(number + 1, suite) for number in range(relays)]
        self.by_id = {relay.identity.peer_id: relay for relay in self.relays}
        self.wires: list[Wire] = []
        for relay in self.relays:
            relay.network = self

    def connect(self, source: PaperRelay | None, target: PaperRelay) -> LinkProtocol:
        """Link `source` (None: the origin, anonymous) to `target`; return its end."""
        credentials = None
        if source is not None:
            credentials = certify_link_key(
                source.identity, NETWORK_ID, source.link_key, int(NOW) + 3600
            )
        mine, theirs = converse(
            initiate_link(NETWORK_ID, target.hop, KEYS, credentials),
            accept_link(NETWORK_ID, target.identity.peer_id, [target.link_key], KEYS, NOW),
        )
        options = {"is_anonymous": source is None, "now": 0.0, "budget": CreditBudget(1 << 20)}
        initiator = LinkProtocol(mine, self._ready(source), is_initiator=True, **options)
        responder = LinkProtocol(theirs, self._ready(target), is_initiator=False, **options)
        wire = Wire(initiator, responder, source, target)
        self.wires.append(wire)
        wire.move()
        wire.move()
        assert initiator.ready and responder.ready, wire.error
        initiator.events.clear()
        responder.events.clear()
        if source is not None:
            source.links[target.identity.peer_id] = initiator
            target.links[source.identity.peer_id] = responder
        return initiator

    def _ready(self, relay: PaperRelay | None) -> Ready:
        if relay is None:
            return Ready((LINK_VERSION,), self.window)
        said = RelayReady(
            relay.onion_key.public, (relay.suite,), int(NOW), Address("5.5.5.5", 1), 0, bytes(32)
        )
        return Ready((LINK_VERSION,), self.window, said)

    def settle(self) -> None:
        """Pass bytes along until nothing moves."""
        moved = True
        while moved:
            moved = False
            for wire in list(self.wires):
                moved |= wire.move()
                wire.relay.act(wire.responder)
                if wire.owner is not None:
                    wire.owner.act(wire.initiator)

    def build(self, hops: int = 3) -> OriginCircuit:
        """Build a circuit through the first `hops` relays."""
        link = self.connect(None, self.relays[0])
        first = self.relays[0]
        initiator = CircuitInitiator(
            NETWORK_ID, first.identity.peer_id, first.onion_key.public, 0, first.suite, KEYS
        )
        circuit = OriginCircuit(link.create(0, first.suite, initiator.message), initiator)
        self.settle()
        for depth in range(1, hops):
            self.extend(circuit, self.relays[depth], depth)
        return circuit

    def extend(self, circuit: OriginCircuit, relay: PaperRelay, depth: int) -> None:
        """Extend `circuit` to `relay`."""
        initiator = CircuitInitiator(
            NETWORK_ID, relay.identity.peer_id, relay.onion_key.public, depth, relay.suite, KEYS
        )
        circuit.extend(relay.identity.peer_id, relay.suite, initiator)
        self.settle()

    @property
    def exit_circuit(self) -> RelayCircuit:
        """Return the circuit at the last relay that has one."""
        return next(r.circuits[-1] for r in reversed(self.relays) if r.circuits)


def key_pair(number: int) -> KeyPair:
    """Return the same key pair for the same number."""
    return KeyPair.from_private(bytes([number]) * 32)
