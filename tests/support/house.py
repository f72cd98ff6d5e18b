"""A house with a front door: a proxy in memory, above a client with circuits to real exits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.support.choosing_network import ClientNetwork, client_network
from tests.support.memory_network import MemoryStream, receive
from warren.addresses import Address
from warren.roles.listener_rules import PLAIN, ListenerRules
from warren.roles.proxy import Proxy
from warren.roles.requests import ProxyLimits

GRANTED = b"\x00\x5a\0\0\0\0\0\0"
REFUSED = b"\x00\x5b"


def words(port: int, host: bytes = b"a.example") -> bytes:
    """Return a SOCKS4a request."""
    return b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\x01user\0" + host + b"\0"


@dataclass
class House:
    """Own a proxy and the client of `net` below it."""

    net: ClientNetwork
    limits: ProxyLimits = field(default_factory=ProxyLimits)
    rules: ListenerRules = PLAIN
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __post_init__(self) -> None:
        self.proxy = Proxy(self.net.client, limits=self.limits)
        memory = self.net.network.memory.at("127.0.0.1")
        self.listener = memory.listen(Address("127.0.0.1", 0))
        self._is_open = trio.Event()

    async def serve(self) -> None:
        """Serve applications until ``scope`` is cancelled."""
        async with trio.open_nursery() as self.nursery:
            self.scope = self.nursery.cancel_scope
            self._is_open.set()
            await self.proxy.serve(self.listener, self.nursery, rules=self.rules)

    async def wait_open(self) -> None:
        """Wait until the proxy can be used, and one visit has claimed a circuit for all others."""
        await self._is_open.wait()
        await self.net.client.is_usable.wait()
        await trio.sleep(5)
        await self.enter(words(999))

    async def dial(self) -> MemoryStream:
        """Return the connection of an application that has not said anything."""
        memory = self.net.network.memory.at("127.0.0.1")
        return await memory.dial(self.listener.local)

    async def visit(self, said: bytes) -> MemoryStream:
        """Return the connection of an application that has `said` something."""
        application = await self.dial()
        await application.send_all(said)
        return application

    async def enter(self, said: bytes) -> MemoryStream:
        """Return the connection of an application that `said` something and was let through."""
        application = await self.visit(said)
        assert await receive(application, len(GRANTED)) == GRANTED
        return application

    @property
    def tasks(self) -> int:
        """Return how many tasks the visits have."""
        return len(self.nursery.child_tasks)


@asynccontextmanager
async def open_house(
    folder: Path,
    nursery: trio.Nursery,
    limits: ProxyLimits | None = None,
    rules: ListenerRules = PLAIN,
) -> AsyncIterator[House]:
    """Serve applications while inside, over six relays of which three are exits."""
    async with client_network(folder, 6, {4: "de", 5: "de", 6: "fr"}) as net:
        house = House(net, limits or ProxyLimits(), rules)
        nursery.start_soon(house.serve)
        await house.wait_open()
        yield house
        house.scope.cancel()
