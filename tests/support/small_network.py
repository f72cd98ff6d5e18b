"""A small network in memory, built of the real links, relays, circuits and streams.

There is no directory: every relay knows where every other one is. An ``Origin`` builds circuits
through them, and targets are in memory as well. ``small_network`` gives it all, runs it while
inside, and at the end demands that no bug was logged and that no socket was left open.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random

import structlog.testing
import trio
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from tests.support.memory_network import Line, MemoryListener, MemoryNetwork, MemoryStream, receive
from warren.addresses import Address
from warren.errors import EndReason, ExitError, LinkError
from warren.identity import Hop, Identity, KemKey, KeyPair, PeerId, Suite, SystemKeys
from warren.network.byte_streams import ByteStream
from warren.network.circuits import Circuit, build_circuit
from warren.network.link import LinkSettings, OnCreate, RelayKeys
from warren.network.links import Links
from warren.network.splice import splice
from warren.network.streams import CircuitStream
from warren.network.turn import Turn
from warren.protocol.messages import Begin, Connected
from warren.protocol.stream import StreamProtocol
from warren.roles.last_hop import (
    LastHop,
    ServeDatagrams,
    ServeDirectory,
    ServeExit,
    ServeNames,
    refuse_datagrams,
    refuse_names,
)
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.relay import Relay

NETWORK_ID = bytes(range(32))
START = 1_800_000_000
TARGET_HOST = "5.6.0.1"
ORIGIN_HOST = "5.5.0.1"


#: Serves a stream, whatever circuit it came over.
ServeStream = Callable[[CircuitStream], Awaitable[None]]


def to_each_circuit(serve: ServeStream) -> ServeDirectory:
    """Return what serves the directory's streams of every circuit with `serve`."""

    async def serve_directory(_: PassingCircuit, stream: CircuitStream) -> None:
        await serve(stream)

    return serve_directory


class SeededKeys(SystemKeys):
    """Be a ``KeySource`` whose own keys repeat; ciphertexts do not, which changes no length."""

    def __init__(self, seed: object) -> None:
        self._rng = Random(repr(seed))

    def key_pair(self) -> KeyPair:
        return KeyPair.from_private(self._rng.randbytes(32))

    def kem_key(self) -> KemKey:
        return KemKey(MLKEM768PrivateKey.from_seed_bytes(self._rng.randbytes(64)))


def wall_clock() -> float:
    """Return Unix seconds that follow trio's clock."""
    return START + trio.current_time()


@dataclass
class Peer:
    """Hold one node: its links, and the nursery and turn they share."""

    host: str
    network: MemoryNetwork
    settings: LinkSettings
    links: Links
    turn: Turn
    nursery: trio.Nursery

    def crash(self) -> None:
        """End the node as a killed process does: its sockets are closed, nobody says goodbye."""
        self.network.refuse(self.host)
        for stream in tuple(self.network.streams):
            if stream.local.host == self.host:
                stream.reset()
        self.nursery.cancel_scope.cancel()


@dataclass
class RelayPeer(Peer):
    """Hold a node that others build circuits through."""

    hop: Hop
    relay: Relay
    listener: MemoryListener

    @property
    def peer_id(self) -> PeerId:
        return self.hop.peer_id

    @property
    def circuits(self) -> list[PassingCircuit]:
        return list(self.relay._circuits)

    @property
    def circuit(self) -> PassingCircuit:
        """Return the one circuit there is."""
        (circuit,) = self.circuits
        return circuit

    @property
    def streams(self) -> list[StreamProtocol]:
        """Return the streams that end here."""
        ends = [circuit.machine.streams for circuit in self.circuits]
        return [stream for end in ends if end is not None for stream in end.streams.values()]


@dataclass
class SmallNetwork:
    """Hold the relays, an origin and what was logged."""

    memory: MemoryNetwork
    nursery: trio.Nursery
    window: int
    seed: int
    logs: list[structlog.typing.EventDict]
    relays: list[RelayPeer] = field(default_factory=list)

    # ---- nodes

    async def add_relay(
        self,
        *,
        serve_exit: ServeExit | None = None,
        serve_datagrams: ServeDatagrams = refuse_datagrams,
        serve_names: ServeNames = refuse_names,
        serve_directory: ServeStream | None = None,
        on_create: Callable[[Relay], OnCreate] | None = None,
        suite: Suite = Suite.AESGCM,
    ) -> RelayPeer:
        """Start one more relay; it is an exit to every target unless `serve_exit` is given."""
        number = len(self.relays) + 1
        host, keys = f"5.5.{number}.5", SeededKeys((self.seed, number))
        identity = Identity(bytes([number]) * 32)
        link_key, onion_key = keys.key_pair(), keys.key_pair()
        relay_keys = RelayKeys(identity, [link_key], [onion_key], (suite,))
        settings = self._settings(keys, relay_keys)
        turn = Turn(await self.nursery.start(_keep_nursery))
        network = self.memory.at(host)
        relay = Relay(
            turn,
            settings,
            LastHop(
                to_each_circuit(serve_directory or _serve_nothing),
                serve_exit or in_a_task(OpenExit(network)),
                serve_datagrams,
                serve_names,
            ),
            find_hops=self.find_hops,
        )
        links = Links(
            network, settings, turn, on_create=on_create(relay) if on_create else relay.create
        )
        relay.links = links
        listener = network.listen(Address(host, 9000))
        suites = relay_keys.suites
        hop = Hop(identity.peer_id, listener.local, link_key.public, onion_key.public, suites)
        peer = RelayPeer(host, network, settings, links, turn, turn.nursery, hop, relay, listener)
        self.relays.append(peer)
        turn.nursery.start_soon(links.serve, listener)
        turn.nursery.start_soon(links.watch)
        return peer

    async def add_origin(self, host: str = ORIGIN_HOST) -> "Origin":
        """Start a node that builds circuits and is no relay."""
        settings = self._settings(SeededKeys((self.seed, host)), None)
        turn = Turn(await self.nursery.start(_keep_nursery))
        network = self.memory.at(host)
        links = Links(network, settings, turn)
        turn.nursery.start_soon(links.watch)
        return Origin(host, network, settings, links, turn, turn.nursery)

    def _settings(self, keys: SeededKeys, relay: RelayKeys | None) -> LinkSettings:
        return LinkSettings(
            NETWORK_ID,
            keys=keys,
            relay=relay,
            window=self.window,
            wall_clock=wall_clock,
            rng=Random(self.seed),
        )

    def find_hops(self, peer_id: PeerId) -> Iterable[Hop]:
        """Tell where `peer_id` is, as a consensus would."""
        return [peer.hop for peer in self.relays if peer.hop.peer_id == peer_id]

    @property
    def hops(self) -> list[Hop]:
        return [peer.hop for peer in self.relays]

    # ---- targets

    def target(self, port: int = 80) -> MemoryListener:
        """Listen at a target that the test plays itself."""
        return self.memory.listen(Address(TARGET_HOST, port))

    def echo(self, port: int = 7) -> Address:
        """Start a target that says everything back."""
        return self._serve(port, _echo)

    def sink(self, port: int = 9) -> Address:
        """Start a target that reads everything, then ends."""
        return self._serve(port, _swallow)

    def source(self, size: int, port: int = 19) -> Address:
        """Start a target that sends ``pattern(size)`` and ends, then reads to the end."""

        async def serve(stream: ByteStream) -> None:
            await stream.send_all(pattern(size))
            stream.send_eof()
            await receive(stream)

        return self._serve(port, serve)

    def _serve(self, port: int, serve: "ServeTarget") -> Address:
        listener = self.target(port)

        async def accept(stream: ByteStream) -> None:
            try:
                await serve(stream)
            except LinkError:
                stream.reset()
            finally:
                stream.close()

        self.nursery.start_soon(listener.serve, accept, self.nursery)
        return listener.local

    # ---- what was logged

    def take_bugs(self) -> list[str]:
        """Return the bugs that were logged, which are then forgiven."""
        bugs = [str(entry["event"]) for entry in self.logs if entry["log_level"] == "error"]
        self.logs.clear()
        return bugs


ServeTarget = Callable[[ByteStream], Awaitable[None]]


@dataclass
class Origin(Peer):
    """Hold a node that circuits begin at."""

    async def build(self, hops: Iterable[Hop]) -> Circuit:
        """Build a circuit through `hops` over a link of this origin."""
        path = list(hops)
        link = await self.links.get(path[0], is_anonymous=True)
        return await build_circuit(link, path)

    async def connect(self, circuit: Circuit, address: Address) -> CircuitStream:
        """Open a stream to `address` and wait until it is connected."""
        stream = circuit.open_stream(address)
        await stream.wait_connected()
        return stream

    async def attach(self, stream: CircuitStream, *, early: bytes = b"") -> MemoryStream:
        """Splice `stream` to an application; return the application's end."""
        listener = self.network.listen(Address("127.0.0.1", 0))
        application = await self.network.at("127.0.0.1").dial(listener.local)
        accepted = await listener.accept()
        listener.close()
        self.nursery.start_soon(splice, accepted, stream, early)
        return application

    async def browse(self, circuit: Circuit, address: Address) -> MemoryStream:
        """Return an application that talks to `address`."""
        return await self.attach(await self.connect(circuit, address))


def in_a_task(
    serve: Callable[[PassingCircuit, CircuitStream, Begin], Awaitable[None]],
) -> ServeExit:
    """Return what serves every stream of an exit with a task from its first moment on."""
    return lambda circuit, stream, begin: partial(serve, circuit, stream, begin)


class OpenExit:
    """Be an exit that connects to every literal address at once."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    async def __call__(self, circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        try:
            connection = await self._network.dial(begin.address)
        except LinkError as error:
            raise ExitError(EndReason.CONNECT_REFUSED) from error
        if stream.is_ended:  # its circuit may be another one by now
            connection.reset()
            return
        connect(circuit, stream, begin.address)
        await splice(connection, stream)


def connect(circuit: PassingCircuit, stream: CircuitStream, address: Address) -> None:
    """Say CONNECTED for a stream that ends at this hop."""
    stream.protocol.accept(Connected(address))
    stream.turn.run()


class FarEnds:
    """Be an exit that says CONNECTED and leaves the stream to the test: ``await next()``."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[CircuitStream](1000)

    def __call__(self, circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        connect(circuit, stream, begin.address)
        self._put.send_nowait(stream)

    async def next(self) -> CircuitStream:
        """Return the next stream that was begun."""
        return await self._get.receive()


@asynccontextmanager
async def small_network(
    relays: int = 3,
    *,
    seed: int = 1,
    window: int = 64,
    line: Line | None = None,
    serve_exit: ServeExit | None = None,
) -> AsyncIterator[SmallNetwork]:
    """Run a network of `relays` relays while inside; every one of them is an exit."""
    memory = MemoryNetwork(line=line)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            network = SmallNetwork(memory, nursery, window, seed, logs)
            for _ in range(relays):
                await network.add_relay(serve_exit=serve_exit)
            yield network
            nursery.cancel_scope.cancel()
    bugs = [entry for entry in logs if entry["log_level"] == "error"]
    assert not bugs, bugs


def pattern(size: int) -> bytes:
    """Return `size` bytes in which every place can be told from its neighbours."""
    return Random(size).randbytes(size)


async def _keep_nursery(
    task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED,
) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


async def _serve_nothing(stream: CircuitStream) -> None:
    stream.reset(EndReason.NOT_DIRECTORY)


async def _echo(stream: ByteStream) -> None:
    chunk = bytearray(64 * 1024)
    while (count := stream.receive_into(chunk)) != 0:
        if count is None:
            await stream.wait_readable()
        else:
            await stream.send_all(chunk[:count])
    stream.send_eof()


async def _swallow(stream: ByteStream) -> None:
    await receive(stream)


def tasks_in(nursery: trio.Nursery) -> int:
    """Return the number of tasks below `nursery`, at any depth."""
    return sum(
        1 + sum(tasks_in(inner) for inner in task.child_nurseries) for task in nursery.child_tasks
    )
