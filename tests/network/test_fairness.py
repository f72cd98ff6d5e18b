"""Fairness: what one link may do in one turn, and that the others have theirs then (DOS-10)."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import pytest
import trio

from tests.support.hand_link import READY, HandLink
from tests.support.small_network import NETWORK_ID, SeededKeys
from warren.addresses import Address
from warren.identity import Hop, Identity, Suite
from warren.network import readiness
from warren.network.dialling import SocketNetwork
from warren.network.link import Link, LinkSettings, RelayKeys
from warren.network.links import Links
from warren.network.listening import SocketListener, listening_socket
from warren.network.readiness import LoopClock
from warren.network.turn import Turn
from warren.protocol.cells import Command, make_cell

#: What one link may have in a turn, in cells: a read of 256 KiB and a record.
MOST_CELLS = 64 + 15
MOST_SECONDS = 20


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test as a process runs."""

    async def bounded() -> None:
        with trio.fail_after(MOST_SECONDS):
            await main()

    trio.run(bounded, clock=LoopClock())


@dataclass
class Relay:
    """Hold a relay on real sockets."""

    hop: Hop
    turn: Turn
    links: Links


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Link, int]]:
    """Return which link did how many cells in a turn, one turn after the other."""
    served: list[tuple[Link, int]] = []
    work = Link._work

    def note(link: Link, count: int) -> None:
        before = link.protocol.cells_received
        work(link, count)
        served.append((link, link.protocol.cells_received - before))

    monkeypatch.setattr(Link, "_work", note)
    return served


async def start_relay(nursery: trio.Nursery, listening: socket.socket) -> Relay:
    """Start the links of a relay that takes no circuits."""
    keys, identity = SeededKeys("fair"), Identity(bytes(32))
    link_key, onion_key = keys.key_pair(), keys.key_pair()
    suites = (Suite.AESGCM,)
    relay_keys = RelayKeys(identity, [link_key], [onion_key], suites)
    settings = LinkSettings(NETWORK_ID, relay=relay_keys, rng=Random(1))
    turn = Turn(nursery)
    links = Links(SocketNetwork(), settings, turn)
    listener = SocketListener(listening)
    nursery.start_soon(links.serve, listener)
    hop = Hop(identity.peer_id, listener.local, link_key.public, onion_key.public, suites)
    return Relay(hop, turn, links)


async def dial(relay: Relay) -> tuple[HandLink, Link]:
    """Return both ends of a new link to `relay`."""
    known = set(relay.links)
    link = await HandLink.dial(SocketNetwork(), relay, is_ready=False)  # type: ignore[arg-type]
    link.send(READY)
    while not (new := [each for each in relay.links if each not in known]):  # noqa: ASYNC110
        await trio.sleep(0.001)
    while new[0].protocol.ready is None:  # noqa: ASYNC110  it is no task that hears it
        await trio.sleep(0.001)
    return link, new[0]


def fill(link: HandLink, cell: bytes) -> int:
    """Send `cell` for as long as the socket takes it; return how often, about."""
    sent = 0
    while True:
        record = link.seal(*[cell] * 15)
        if link.stream.send_now(record) < len(record):
            return sent
        sent += 15


def test_a_busy_link_has_a_turn_of_so_many_cells_and_then_the_others_have_theirs(
    watched: list[tuple[Link, int]],
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with listening_socket(Address("127.0.0.1", 0)) as listening:
                relay = await start_relay(nursery, listening)
                busy, at_busy = await dial(relay)
                quiet, at_quiet = await dial(relay)
                await trio.sleep(0.05)
                watched.clear()

                sent = fill(busy, make_cell(0, Command.PADDING, b""))
                quiet.send(make_cell(0, Command.PING, b"12345678"))
                while not any(link is at_quiet for link, _ in watched):
                    await trio.lowlevel.checkpoint()
                turns_before = [link for link, _ in watched].index(at_quiet)
                await trio.sleep(0.05)

                turns = [count for link, count in watched if link is at_busy]
                assert sent > 3 * MOST_CELLS
                assert turns_before <= 1
                assert len(turns) > 2
                assert max(turns) <= MOST_CELLS
                busy.stream.close()
                quiet.stream.close()
                relay.links.close()
                nursery.cancel_scope.cancel()

    run(main)


def test_of_many_sockets_that_always_have_something_each_has_as_many_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where there are more than the system tells of at once."""
    monkeypatch.setattr(readiness, "_MOST_EVENTS", 4)

    async def main() -> None:
        here, turns = readiness.here(), [0] * 9
        with ExitStack() as undo:
            for number in range(len(turns)):
                near, far = socket.socketpair()
                undo.enter_context(near)
                undo.enter_context(far)
                far.send(b"never read")

                def serve(number: int = number) -> None:
                    turns[number] += 1

                here.read_with(near.fileno(), serve)
                undo.callback(here.forget, near.fileno())
            await trio.sleep(0.05)

            assert min(turns) > 10
            assert max(turns) - min(turns) <= 1

    run(main)
