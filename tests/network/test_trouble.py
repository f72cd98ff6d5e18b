"""Trouble: many streams at once, on lines and in networks where anything may break at any time.

Whatever happens, a transfer that ends cleanly was whole, nobody waits for ever, and when it is
over no circuit, task or socket is left (T29, T82).
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
import trio
from trio.testing import MockClock

from tests.support.memory_network import Line, MemoryStream, receive
from tests.support.small_network import Origin, SmallNetwork, pattern, small_network
from warren.addresses import Address
from warren.errors import CircuitError, ExitError, LinkError
from warren.network.byte_streams import ByteStream
from warren.network.circuits import Circuit

VISITS = 12
SIZES = (0, 1, 5000, 120_000)
FAULTS = ("crash", "cut", "stall", "close", "destroy")
#: What an application may do with its socket; these keep their word to read everything.
HONEST = ("quick", "quick", "slow")
LEAVING = ("reset", "vanish")


@dataclass
class Trouble:
    """Hold a network, the circuits through it, and what became of the transfers."""

    net: SmallNetwork
    origin: Origin
    circuits: list[Circuit]
    rng: Random
    outcomes: Counter[str] = field(default_factory=Counter)

    def target(self) -> Address:
        """Start a target that is told what to expect and what to send."""
        listener = self.net.target()
        self.net.nursery.start_soon(listener.serve, self._accept, self.net.nursery)
        return listener.local

    async def _accept(self, stream: ByteStream) -> None:
        try:
            await self._serve(stream)
        except* LinkError:
            stream.reset()
        finally:
            stream.close()

    async def _serve(self, stream: ByteStream) -> None:
        head = await receive(stream, 9)
        if len(head) < 9:
            return
        may_vanish, up, down = head[0], int.from_bytes(head[1:5]), int.from_bytes(head[5:])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream, pattern(down))
            upload = await receive(stream)
        if upload != pattern(up) and not may_vanish:
            self.outcomes["a short upload that ended cleanly"] += 1

    async def _send(self, stream: ByteStream, data: bytes) -> None:
        await stream.send_all(data)
        stream.send_eof()

    async def browse(self, address: Address) -> None:
        """Be one application, from its first byte to its last."""
        rng = self.rng
        await trio.sleep(rng.uniform(0, 2))
        habit, up, down = rng.choice(HONEST + LEAVING), rng.choice(SIZES), rng.choice(SIZES)
        try:
            stream = await self.origin.browse(rng.choice(self.circuits), address)
        except (CircuitError, ExitError):
            self.outcomes["refused"] += 1
            return
        head = bytes((habit == "vanish",)) + up.to_bytes(4) + down.to_bytes(4)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream, head + pattern(up))
                await self._take(stream, habit, down)
        except* LinkError:
            if habit not in LEAVING:
                self.outcomes["broken"] += 1
        if habit in LEAVING:
            self.outcomes["left"] += 1
        stream.close()

    async def _take(self, stream: MemoryStream, habit: str, down: int) -> None:
        if habit in LEAVING:
            await trio.sleep(self.rng.uniform(0, 1))
            stream.reset() if habit == "reset" else stream.close()
            return
        if habit == "slow":
            await trio.sleep(self.rng.uniform(0, 30))
        is_whole = await receive(stream) == pattern(down)
        self.outcomes["whole" if is_whole else "a short download that ended cleanly"] += 1

    async def make_it(self) -> None:
        """Let something break now and then."""
        for _ in range(self.rng.randrange(3)):
            await trio.sleep(self.rng.uniform(0, 3))
            await self._break(self.rng.choice(FAULTS))

    async def _break(self, fault: str) -> None:
        relay = self.rng.choice(self.net.relays)
        if fault == "crash":
            relay.crash()
        elif fault == "cut":
            self.net.memory.cut(relay.host)
        elif fault == "stall":
            self.net.memory.stall(relay.host)
            await trio.sleep(self.rng.choice([3, 40]))
            self.net.memory.resume(relay.host)
        elif fault == "close":
            self.rng.choice(self.circuits).close()
        elif relay.circuits:
            self.rng.choice(relay.circuits).machine.destroy()
            relay.turn.run()


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_mistaken_and_nothing_is_left(
    seed: int, autojump_clock: MockClock
) -> None:
    rng = Random(seed)
    line = Line(rng.choice([0, 0.02]), rng.choice([1e5, 1e9]), rng.choice([3000, 65536, 300_000]))
    async with small_network(4, seed=seed, line=line, window=rng.choice([8, 64])) as net:
        origin = await net.add_origin()
        circuits = [await origin.build(rng.sample(net.hops, hops)) for hops in (2, 3)]
        trouble = Trouble(net, origin, circuits, rng)
        address = trouble.target()

        with trio.fail_after(2000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trouble.make_it)
                for _ in range(VISITS):
                    nursery.start_soon(trouble.browse, address)
        for circuit in circuits:
            circuit.close()
        await trio.sleep(400)

        assert trouble.outcomes.keys() <= {"broken", "whole", "refused", "left"}
        assert trouble.outcomes.total() == VISITS
        assert not net.memory.streams
        assert not any(peer.circuits for peer in net.relays)
