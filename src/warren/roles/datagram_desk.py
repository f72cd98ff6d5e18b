"""The front door for datagrams: SOCKS5's UDP ASSOCIATE (FE-13).

A program keeps a connection open, and as long as it does, sends datagrams to a socket of its own
on this machine. Each says whom it is for; it goes through an association with an exit whose
policy fits, one that there is or a new one. So a program may talk to remotes that no single exit
reaches, and an exit that ended an idle association is asked again when there is something to say.
The address in the request, where a program may say where its datagrams will come from, is not
relied upon: few fill it in, and some put the target there.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Hashable
from functools import partial
from ipaddress import IPv6Address
from typing import Protocol

import trio

from warren.addresses import Address
from warren.errors import LinkError, ProtocolError, WarrenError
from warren.network.associations import CircuitAssociation
from warren.network.byte_streams import ByteStream
from warren.network.datagram_sockets import DatagramSocket, UdpSocket
from warren.protocol.datagrams import MOST_DATAGRAM
from warren.protocol.front import Failure
from warren.protocol.socks import SocksRequest
from warren.protocol.socks_datagrams import read_datagram, write_datagram
from warren.roles.doorstep import Visit

Fits = Callable[[Address], bool]

#: Datagrams that wait for an association, and how long one may take to be had.
_MOST_WAITING = 64
_OPEN_SECONDS = 20.0
#: Associations that one program has at a time, and remotes whose way is remembered.
_MOST_WAYS = 8
_MOST_KNOWN = 256
#: Datagrams read from a socket before others have their turn.
_BATCH = 32


_COUNTERS = (
    "associations", "sent", "received", "foreign", "malformed", "too_long", "refused", "unsent",
    "undelivered",
)  # fmt: skip


class AssociationOpener(Protocol):
    """Be the client: give associations through circuits."""

    async def open_association(
        self, address: Address | None, isolation: Hashable
    ) -> tuple[CircuitAssociation, Fits]:
        """Return an association that reaches `address` (None: anything), and what else it may.

        Raises ExitError, CircuitError or DirectoryError.
        """


class Objection(Protocol):
    """Be what says why no circuit may be used for an address (FE-8, FE-9)."""

    def __call__(self, visit: Visit, address: Address) -> Failure | None:
        """Return the objection to `address` for the program that visits, or None."""


class DatagramDesk:
    """Own the sockets that programs send their datagrams to, and count what becomes of them."""

    def __init__(
        self,
        opener: AssociationOpener,
        objection: Objection,
        *,
        open_socket: Callable[[str], DatagramSocket] = UdpSocket,
    ) -> None:
        self.opener = opener
        self.objection = objection
        self.counts = Counter(dict.fromkeys(_COUNTERS, 0))
        self._open_socket = open_socket
        self._open = 0

    async def serve(self, visit: Visit, request: SocksRequest, isolation: Hashable) -> None:
        """Answer `request` and carry datagrams until the program closes its connection.

        Raises, before it has answered, what ``open_association`` does, or LinkError.
        """
        first = await self.opener.open_association(None, isolation)
        try:
            sock = self._open_socket(_literal(visit.stream.local))
        except BaseException:
            first[0].end()
            raise
        self.counts["associations"] += 1
        self._open += 1
        try:
            async with trio.open_nursery() as nursery:
                talk = _Talk(self, sock, visit, isolation)
                try:
                    talk.start(*first, nursery)
                    visit.is_attached = True
                    visit.scope.deadline = float("inf")
                    with contextlib.suppress(LinkError):  # reset is as good as closed
                        await visit.stream.send_all(request.granted(sock.local))
                        nursery.start_soon(talk.find_ways)
                        await _wait_closed(visit.stream)
                finally:
                    talk.close()
                    nursery.cancel_scope.cancel()
        finally:
            self._open -= 1
        visit.is_attached = False

    def statistics(self) -> dict[str, int]:
        """Return counters; datagrams are counted by what was done, or why they were dropped."""
        return {"udp_open": self._open, **{f"udp_{k}": n for k, n in self.counts.items()}}


class _Talk:
    """Own one program's socket, and the associations that its datagrams take."""

    def __init__(
        self, desk: DatagramDesk, sock: DatagramSocket, visit: Visit, isolation: Hashable
    ) -> None:
        self._desk = desk
        self._socket = sock
        self._visit = visit
        self._host = _literal(visit.stream.remote)
        self._isolation = isolation
        self._program: Address | None = None  # once it has sent something (FE-13)
        self._ways: dict[CircuitAssociation, Fits] = {}
        self._known: dict[Address, CircuitAssociation | None] = {}  # None: not to be asked for
        self._waiting: deque[tuple[Address, bytes]] = deque()
        self._wanted = trio.Event()

    def start(self, association: CircuitAssociation, fits: Fits, nursery: trio.Nursery) -> None:
        """Begin with the one association there is."""
        self._add(association, fits)
        self._socket.read_with(self._read, nursery)

    def close(self) -> None:
        """Send on what is there already, and end it all."""
        self._read()
        self._socket.close()
        for association in self._ways:
            association.on_news = None
            association.end()

    # ---- from the program

    def _read(self) -> None:
        for _ in range(_BATCH):
            datagram = self._socket.receive_now()
            if datagram is None:
                return
            self._receive(*datagram)

    def _receive(self, datagram: bytes, source: Address) -> None:
        """Send on a datagram of the program; all others are dropped (FE-13)."""
        counts = self._desk.counts
        if source.host != self._host or source != (self._program or source):
            counts["foreign"] += 1
            return
        try:
            address, data = read_datagram(datagram)
        except ProtocolError:
            counts["malformed"] += 1
            return
        self._program = source
        if len(data) > MOST_DATAGRAM:
            counts["too_long"] += 1
            return
        association = self._known.get(address)
        if association is not None and not association.is_ended:
            association.send(address, data)
            counts["sent"] += 1
        elif association is None and address in self._known:
            counts["refused"] += 1
        else:
            self._send_new(address, data)

    def _send_new(self, address: Address, data: bytes) -> None:
        """Send to whom nothing was sent before, or not lately."""
        counts = self._desk.counts
        if self._desk.objection(self._visit, address) is not None:
            self._know(address, None)
            counts["refused"] += 1
            return
        if self._send(address, data):
            return
        self._waiting.append((address, data))
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            counts["unsent"] += 1
        self._wanted.set()

    def _send(self, address: Address, data: bytes) -> bool:
        """Send over an association that there is; return False when none fits."""
        for association, fits in self._ways.items():
            if not association.is_ended and fits(address):
                self._know(address, association)
                association.send(address, data)
                self._desk.counts["sent"] += 1
                return True
        return False

    def _know(self, address: Address, association: CircuitAssociation | None) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[address] = association

    async def find_ways(self) -> None:
        """Open an association for what fits none; runs until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._waiting:
                address = self._waiting[0][0]
                await self._open_way(address)
                waiting, self._waiting = self._waiting, deque()
                for other, data in waiting:
                    if self._send(other, data):
                        continue
                    if other == address:
                        self._desk.counts["unsent"] += 1
                    else:
                        self._waiting.append((other, data))

    async def _open_way(self, address: Address) -> None:
        """Open an association that reaches `address`, if there is one to be had."""
        with trio.move_on_after(_OPEN_SECONDS), contextlib.suppress(WarrenError):
            self._add(*await self._desk.opener.open_association(address, self._isolation))

    def _add(self, association: CircuitAssociation, fits: Fits) -> None:
        """Take one more association; those that ended are forgotten, and the oldest if too many."""
        self._ways = {way: fits for way, fits in self._ways.items() if not way.is_ended}
        if len(self._ways) >= _MOST_WAYS:
            oldest = next(iter(self._ways))
            del self._ways[oldest]
            oldest.end()
        self._ways[association] = fits
        association.on_news = partial(self._deliver, association)

    # ---- to the program

    def _deliver(self, association: CircuitAssociation) -> None:
        program, counts = self._program, self._desk.counts
        for address, data in association.take():
            if program is not None and self._socket.send_now(
                write_datagram(address, data), program
            ):
                counts["received"] += 1
            else:
                counts["undelivered"] += 1


def _literal(address: Address) -> str:
    """Return the host of `address`; a listener for both families sees IPv4 inside of IPv6."""
    ip = address.ip
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return address.host


async def _wait_closed(stream: ByteStream) -> None:
    """Wait until the other side has closed; what it says meanwhile means nothing."""
    chunk = bytearray(4096)
    while (count := stream.receive_into(chunk)) != 0:
        if count is None:
            await stream.wait_readable()
        else:
            await trio.lowlevel.checkpoint()
