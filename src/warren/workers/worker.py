"""A worker: it answers the connections that the main process hands over, and dials next hops.

It is told everything: its keys, the newest consensus, its share of the limits. It reads and
writes no state, so it can be killed and started again at any moment; only its circuits break.
The main process starts it as ``python -m warren.workers.worker`` (``foreman``).
"""

import os
import socket
import sys
from functools import partial

import structlog
import trio

from warren.addresses import Address
from warren.config.relay import ExitConfig
from warren.directory.network_file import parse_network_file
from warren.errors import DirectoryError, LinkError, ProtocolError
from warren.identity import Identity, Suite
from warren.network import reserve
from warren.network.byte_streams import Accept, ByteStream, Listener
from warren.network.link import RelayKeys
from warren.network.sockets import MakeStream
from warren.network.throttle import Throttle, throttled_network
from warren.peer import Peer, World, running_peer
from warren.roles.archive import Archive
from warren.service import Announcer, LogStyle, run_process
from warren.serving import Serving
from warren.workers.channel import (
    Assignment,
    Channel,
    Connection,
    Count,
    Counted,
    NewConsensus,
    NewKeys,
    Over,
    Started,
    Taken,
    TakeNoMore,
    ToWorker,
    Usable,
)

logger = structlog.get_logger()


class HandedConnections(Listener):
    """Own the connections handed over, of which `make` makes streams.

    It tells the main process of each that ends.
    """

    def __init__(self, channel: Channel[ToWorker], address: Address, make: MakeStream) -> None:
        self.local = address
        self._channel = channel
        self._make = make
        self._share = reserve.here().links
        self._entrance, self._exit = trio.open_memory_channel[ByteStream](sys.maxsize)

    def give(self, connection: socket.socket | None) -> None:
        """Take a connection; None for one that was lost on the way."""
        self._channel.send(Taken())
        try:
            if connection is None:
                raise LinkError("too many files are open")
            if not self._share.has_room:  # DOS-8
                connection.close()
                self._share.refuse()
                raise LinkError("too many sockets are open")
            self._entrance.send_nowait(self._make(connection, None, self._share))
        except LinkError as error:
            logger.debug("! connection", error=str(error))
            self._channel.send(Over())

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        async for stream in self._exit:
            nursery.start_soon(self._carry, accept, stream)

    async def _carry(self, accept: Accept, stream: ByteStream) -> None:
        try:
            await accept(stream)
        finally:
            self._channel.send(Over())

    def close(self) -> None:
        self._entrance.close()


async def work(channel: Channel[ToWorker], _announcer: Announcer) -> None:
    """Be a worker of the main process at the other end of `channel`, until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.write)
        first = await channel.receive()
        if first is not None:
            assignment, _ = first
            assert isinstance(assignment, Assignment)
            await _carry_out(assignment, channel)
        # The main process is gone, and the end of its pipe ends us (``service.run_process``).


async def _carry_out(assignment: Assignment, channel: Channel[ToWorker]) -> None:
    suites = tuple(map(Suite, assignment.suites))
    keys = RelayKeys(Identity(assignment.seed), [], [], suites)
    assignment.keys.put_into(keys)
    network = parse_network_file(assignment.network)
    bandwidth = assignment.bandwidth
    throttle = Throttle(bandwidth) if bandwidth is not None else None
    sockets = throttled_network(throttle)
    world = World(network=sockets)
    memory = assignment.memory
    async with running_peer(network, None, keys=keys, memory=memory, world=world) as peer:
        if assignment.consensus is not None:
            _learn(peer.archive, assignment.consensus)
        address = Address.parse(assignment.address)
        connections = HandedConnections(channel, address, sockets.make)
        serving = Serving(
            peer, _exits_of(assignment), assignment.limits, address, connections, throttle=throttle
        )
        peer.turn.nursery.start_soon(serving.run)
        peer.turn.nursery.start_soon(_tell_usable, peer, channel)
        channel.send(Started())
        while (received := await channel.receive()) is not None:
            message, connection = received
            if isinstance(message, Connection):
                connections.give(connection)
            elif isinstance(message, NewConsensus):
                _learn(peer.archive, message.document)
            elif isinstance(message, NewKeys):
                message.put_into(keys)
            elif isinstance(message, Count):
                channel.send(Counted(await serving.statistics()))
            elif isinstance(message, TakeNoMore):
                serving.take_no_more()


async def _tell_usable(peer: Peer, channel: Channel[ToWorker]) -> None:
    await peer.archive.wait_for_consensus()
    channel.send(Usable())


def _learn(archive: Archive, document: bytes) -> None:
    """Take a consensus that the main process has, unless it has run out meanwhile."""
    try:
        archive.offer(document)
    except (ProtocolError, DirectoryError) as error:
        logger.debug("! consensus", error=str(error))


def _exits_of(assignment: Assignment) -> ExitConfig:
    return ExitConfig(
        policy=assignment.policy,
        udp_policy=assignment.udp_policy,
        resolvers=tuple(map(Address.parse, assignment.resolvers)),
        allow_targets=tuple(map(Address.parse, assignment.allow_targets)),
    )


def main(arguments: list[str]) -> int:
    """Run a worker; the arguments are two descriptors and how to log, see ``foreman``."""
    descriptor, lifeline, level, form = arguments
    os.set_inheritable(int(descriptor), False)
    sock = socket.socket(fileno=int(descriptor))
    channel: Channel[ToWorker] = Channel(sock, ToWorker)
    style = LogStyle(level, json=form == "json")
    return run_process(partial(work, channel), style=style, while_open=int(lifeline))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
