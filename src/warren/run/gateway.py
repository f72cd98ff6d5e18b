"""The gateway: what the command opens in its network is opened through the proxy.

It stays in the network of the machine. A visitor who came through the door of a synthetic
address gets a connection to the name behind it, one at the proxy's own address gets the proxy
itself (programs may have been told of it), everybody else one to the address the door is at.
What the proxy refuses is reset, which is all that can be told to a program that is connected.

It goes on as long as there is a process in the command's network, and until what these have sent
is through.
"""

import contextlib
import os
import secrets
from collections.abc import Callable

import trio

from warren.addresses import Address
from warren.errors import LinkError, ProtocolError
from warren.network.byte_streams import ByteStream
from warren.network.dialling import SocketNetwork
from warren.run.calls import Calls
from warren.run.doors import Doors
from warren.run.names import OWN_4, OWN_6, SyntheticNames, is_synthetic
from warren.run.proxy_client import Login, open_target
from warren.run.questions import PORT, Questions
from warren.run.sockets import SocketMaker
from warren.service import raise_limits

#: How long what was sent may take to get through when everybody has gone.
LINGER_SECONDS = 30.0
_LAST_LOOK_SECONDS = 0.02
_STANDARD_ERROR = 2

# What is read is written, or copied out, in the same step.
_READ = memoryview(bytearray(256 * 1024))


class Gateway:
    """Own the visitors; `report` is told of each whom the proxy refused."""

    def __init__(
        self, proxy: Address, names: SyntheticNames, report: Callable[[str], None]
    ) -> None:
        self._proxy = proxy
        self._names = names
        self._report = report
        self._network = SocketNetwork()
        self._login = Login(b"warren-run", secrets.token_hex(16).encode())
        self._visitors = 0
        self.is_empty = trio.Event()
        self.is_empty.set()

    async def enter(self, door: Address, visitor: ByteStream) -> None:
        """Connect `visitor`, who came through `door`, until either side has had enough."""
        self._visitors += 1
        self.is_empty = trio.Event() if self._visitors == 1 else self.is_empty
        try:
            await self._serve(door, visitor)
        finally:
            visitor.reset()  # if it was not closed
            self._visitors -= 1
            if self._visitors == 0:
                self.is_empty.set()

    async def _serve(self, door: Address, visitor: ByteStream) -> None:
        target = self._target_of(door)
        if target is None:
            self._report(f"{door}: no name has that address any more")
            return
        try:
            outside = await self._network.dial(self._proxy)
        except (LinkError, OSError) as error:  # no number left for a socket is the visitor's end
            self._report(f"{target}: the proxy: {error}")
            return
        try:
            await self._join(visitor, outside, None if door == self._proxy else target)
        except (LinkError, ProtocolError) as error:
            self._report(f"{target}: {error}")
        finally:
            outside.reset()  # if it was not closed

    def _target_of(self, door: Address) -> Address | None:
        assert door.ip is not None
        if not is_synthetic(door.ip):
            return door
        name = self._names.name_of(door.ip)
        return None if name is None else Address(name, door.port)

    async def _join(self, visitor: ByteStream, outside: ByteStream, target: Address | None) -> None:
        """Ask for `target`, if any, and carry bytes both ways to the end of both."""
        early = bytearray()
        if target is not None:
            await outside.converse(open_target(target, self._login), early)
        await visitor.send_all(early)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, outside, visitor, nursery.cancel_scope)
            nursery.start_soon(_carry, visitor, outside, nursery.cancel_scope)
        if not nursery.cancel_scope.cancel_called:
            visitor.close()
            outside.close()


async def _carry(source: ByteStream, sink: ByteStream, both: trio.CancelScope) -> None:
    """Move bytes up to their end and pass that on; when one side breaks, end both directions."""
    try:
        while True:
            count = source.receive_into(_READ)
            if count is None:
                await source.wait_readable()
            elif count == 0:
                sink.send_eof()
                return
            else:
                sent = sink.send_now(_READ[:count])
                if sent < count:
                    await sink.send_all(bytes(_READ[sent:count]))
                await trio.lowlevel.checkpoint()
    except LinkError:
        both.cancel()


def run_gateway(
    listener: int,
    maker: SocketMaker,
    proxy: Address,
    *,
    has_ipv6: bool,
    is_verbose: bool,
    on_ready: Callable[[], None],
) -> None:
    """Be the gateway until nobody is left in the command's network.

    `listener` is where the command's calls are told, `maker` makes sockets in its network;
    `on_ready` is called when it may start. Raises OSError when the sockets cannot be made.
    """
    raise_limits()

    def report(text: str) -> None:
        with contextlib.suppress(OSError):  # nobody need read it
            if is_verbose:
                os.write(_STANDARD_ERROR, f"warren run: {text}\n".encode())

    names = SyntheticNames(has_ipv6=has_ipv6)
    gateway = Gateway(proxy, names, report)
    own = [Address(str(ip), PORT) for ip in ((OWN_4, OWN_6) if has_ipv6 else (OWN_4,))]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            doors = Doors(maker, gateway.enter, nursery, taken=own)
            await nursery.start(Questions(names).serve_all, maker, own)
            doors.keep(proxy)
            on_ready()
            await Calls(listener, doors).answer_all()
            # Who came last may still wait at a door; it takes one round of the loop to see them.
            await trio.sleep(_LAST_LOOK_SECONDS)
            doors.close()
            # Whoever waits for the end of what is written there need not wait for us.
            os.dup2(os.open(os.devnull, os.O_WRONLY), _STANDARD_ERROR)
            with trio.move_on_after(LINGER_SECONDS):
                await gateway.is_empty.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
