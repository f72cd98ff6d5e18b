"""Doors: our listening sockets in the command's network, one at each address and port it goes to.

A door is at one exact address, so a program may listen at the same port of 127.0.0.1 and reach
itself there. Before it does, ``give_way`` closes the doors at that port, because nobody can
listen at all addresses of a port beside us. Doors that have not been used for longest are closed
when there are many.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from errno import EADDRINUSE

import trio

from warren.addresses import Address, is_loopback
from warren.network.byte_streams import ByteStream
from warren.network.listening import SocketListener
from warren.run.sockets import SocketMaker

MOST_DOORS = 2048
#: How long a port of loopback is left to whoever was about to bind it.
LEFT_SECONDS = 1.0

Enter = Callable[[Address, ByteStream], Awaitable[None]]


class Doors:
    """Own the doors; whoever comes through one is handed to `enter` with where the door is.

    What runs for the doors and their visitors runs in `nursery`. At the addresses `taken`
    somebody else of ours listens.
    """

    def __init__(
        self,
        maker: SocketMaker,
        enter: Enter,
        nursery: trio.Nursery,
        *,
        taken: Iterable[Address] = (),
        most: int = MOST_DOORS,
    ) -> None:
        self._maker = maker
        self._enter = enter
        self._nursery = nursery
        self._most = most
        self._open: OrderedDict[Address, SocketListener] = OrderedDict()
        self._kept: dict[Address, SocketListener | None] = dict.fromkeys(taken)
        self._left: dict[int, float] = {}  # ports of loopback, until when

    def keep(self, address: Address) -> None:
        """Open a door that stays; raise OSError when that is impossible."""
        self._kept[address] = self._listen(address)

    def open(self, address: Address) -> bool:
        """Let there be somebody who listens at `address`; return whether that is so.

        On loopback the command itself may be the one, or will be: it is left to it.
        """
        if address in self._kept:
            return True
        if address in self._open:
            self._open.move_to_end(address)
            return True
        if is_loopback(address.ip) and self._is_left(address.port):
            return True
        try:
            listener = self._listen(address)
        except OSError as error:
            # Where it listens at all addresses of the port it would reach itself, not the other.
            return is_loopback(address.ip) and error.errno == EADDRINUSE
        self._open[address] = listener
        if len(self._open) > self._most:
            _, oldest = self._open.popitem(last=False)
            oldest.close()
        return True

    def give_way(self, port: int) -> None:
        """Close the doors at `port`, so that the command can listen there."""
        for address in [address for address in self._open if address.port == port]:
            self._open.pop(address).close()
        # Whoever waits for it to listen may ask again before it has bound the port.
        now = trio.current_time()
        self._left = {port: end for port, end in self._left.items() if end > now}
        self._left[port] = now + LEFT_SECONDS

    def close(self) -> None:
        """Close all doors; who came through one stays."""
        for listener in (*self._open.values(), *self._kept.values()):
            if listener is not None:
                listener.close()
        self._open.clear()
        self._kept.clear()

    def _is_left(self, port: int) -> bool:
        return self._left.get(port, 0.0) > trio.current_time()

    def _listen(self, address: Address) -> SocketListener:
        # A program that has bound 127.0.0.1 and listens in a moment must not find us there.
        made = self._maker.listen(address, may_be_left=not is_loopback(address.ip))
        listener = SocketListener(made)

        async def accept(stream: ByteStream) -> None:
            await self._enter(address, stream)

        self._nursery.start_soon(listener.serve, accept, self._nursery)
        return listener
