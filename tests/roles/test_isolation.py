"""Who shares a circuit with whom, from the application's bytes to what the exit sees (T50)."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.support.choosing_network import ClientNetwork, client_network
from tests.support.memory_network import MemoryListener
from warren.addresses import Address
from warren.roles.listener_rules import ListenerRules
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.proxy import Proxy

PAIRS = 500
NAME = b"a.example"
TOKENS = (b"", b"a", b"b", b"ab", b"a+session=1", b"a+country=de")
AUTHENTICATIONS = ("none", "socks4", "legacy", "extended", "authorization", "isolation", "x")


@dataclass(frozen=True)
class Way:
    """Hold how a request is made; what its authentication has no place for is empty."""

    listener: str
    authentication: str
    user: bytes = b""
    password: bytes = b""

    def words(self, port: int) -> bytes:
        """Return the request for `port` of the target, as an application says it."""
        head = b"CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n" % (NAME, port, NAME, port)
        connect5 = b"\x05\x01\x00\x03%c%s" % (len(NAME), NAME) + port.to_bytes(2, "big")
        login = b"%s:%s" % (self.user, self.password)
        match self.authentication:
            case "none":
                return b"\x05\x01\x00" + connect5
            case "socks4":
                head4a = b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\x01"
                return head4a + self.user + b"\0" + NAME + b"\0"
            case "legacy":
                return b"\x05\x01\x02" + _login(self.user, self.password) + connect5
            case "extended":
                return b"\x05\x01\x02" + _login(b"<torS0X>0", self.password) + connect5
            case "authorization":
                value = base64.b64encode(login)
                return head + b"Proxy-Authorization: Basic " + value + b"\r\n\r\n"
            case "isolation":
                return head + b"Tor-Stream-Isolation: " + login + b"\r\n\r\n"
            case _:
                return head + b"X-Tor-Stream-Isolation: " + login + b"\r\n\r\n"


def _login(user: bytes, password: bytes) -> bytes:
    return b"\x01%c%s%c%s" % (len(user), user, len(password), password)


def draw(rng: Random) -> Way:
    listener, authentication = rng.choice("xy"), rng.choice(AUTHENTICATIONS)
    user, password = rng.choice(TOKENS), rng.choice(TOKENS)
    if authentication == "none":
        user = password = b""
    elif authentication == "socks4":
        password = b""
    elif authentication == "extended":
        user = b""
    return Way(listener, authentication, user, password)


async def find_nobody(end: Address, other_end: Address) -> str | None:
    """Name no program: there is none in memory, and a thread would let the clock jump."""
    return None


class Doors:
    """Own the listeners of a proxy that uses the client of `net`."""

    def __init__(self, net: ClientNetwork) -> None:
        self.net = net
        self.proxy = Proxy(net.client, find_program=find_nobody)
        self._listeners: dict[str, MemoryListener] = {}
        self._port = 0

    def open(self, name: str, rules: ListenerRules) -> None:
        """Listen at one more address."""
        listener = self.net.network.memory.at("127.0.0.1").listen(Address("127.0.0.1", 0))
        self._listeners[name] = listener
        nursery = self.net.origin.nursery
        nursery.start_soon(self.proxy.serve, listener, nursery, name, rules)

    async def circuit_of(self, way: Way, client: str = "127.0.0.1") -> PassingCircuit:
        """Make a request; return the circuit by which the exit saw it come, and end it."""
        self._port += 1
        memory = self.net.network.memory.at(client)
        application = await memory.dial(self._listeners[way.listener].local)
        await application.send_all(way.words(self._port))
        with trio.fail_after(60):
            circuit = await self.net.exits.wait_for(self._port)
        application.reset()
        return circuit


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    async with client_network(tmp_path, 6, {4: "de", 5: "de", 6: "fr"}) as net:
        doors = Doors(net)
        for name in "xy":
            doors.open(name, ListenerRules())
        yield doors


@pytest.mark.timeout(120)
async def test_equal_ways_share_a_circuit_and_others_never_do(  # T50
    doors: Doors, autojump_clock: MockClock
) -> None:
    rng = Random(50)
    pairs = [(draw(rng), draw(rng)) for _ in range(PAIRS)]
    owners: dict[int, Way] = {}
    shared = 0

    for pair in pairs:
        one, other = [await doors.circuit_of(way) for way in pair]

        assert (one is other) == (pair[0] == pair[1]), pair
        for way, circuit in zip(pair, (one, other), strict=True):
            assert owners.setdefault(id(circuit), way) == way
            shared += one is other

    assert shared, "some pairs should have been equal"
    assert len(owners) == len(set(owners.values())), "equal ways had a circuit each"
    assert len(doors.net.exits.came_by) == 2 * PAIRS


@pytest.mark.parametrize(
    ("isolate", "circuits"), [(("client_address",), 2), ((), 1), (("destination_port",), 4)]
)
async def test_a_listener_may_keep_more_apart(
    doors: Doors, autojump_clock: MockClock, isolate: tuple[str, ...], circuits: int
) -> None:
    doors.open("z", ListenerRules(isolate=isolate))
    way = Way("z", "none")

    seen = {
        id(await doors.circuit_of(way, client))
        for client in ("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2")
    }

    assert len(seen) == circuits
