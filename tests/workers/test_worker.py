"""A worker answers what it is handed, with the keys and the consensus it was told last."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio

from tests.support.directories import NETWORK, consensus_document, identity
from warren.addresses import Address
from warren.config.file import Config
from warren.config.relay import RelayConfig
from warren.errors import DirectoryError
from warren.identity import Hop, KeyPair, Suite, SystemKeys
from warren.network import loop_lag, reserve
from warren.network.link import RelayKeys
from warren.network.listening import SocketListener, listening_socket
from warren.peer import Peer, running_peer
from warren.service import Announcer
from warren.serving import Serving
from warren.workers.channel import (
    Channel,
    Connection,
    Count,
    Counted,
    FromWorker,
    NewConsensus,
    NewKeys,
    Over,
    Started,
    Taken,
    TakeNoMore,
    ToWorker,
    Usable,
)
from warren.workers.shares import make_assignment
from warren.workers.worker import work

SUITES = (Suite.AESGCM, Suite.CHACHAPOLY)
FOLDERLESS = Config(relay=RelayConfig(listen=Address("127.0.0.1", 0)))
PATIENCE_SECONDS = 30


def new_keys() -> RelayKeys:
    """Return the keys of a relay: two of each kind."""
    pairs = [SystemKeys().key_pair() for _ in range(4)]
    return RelayKeys(identity(7), pairs[:2], pairs[2:], SUITES)


def consensus(age_seconds: int = 0) -> bytes:
    """Return a consensus that is usable now."""
    return consensus_document(valid_after=int(time.time()) - 100 - age_seconds)


@dataclass
class Boss:
    """Stand for the main process: the other end of the channel, and a peer that dials."""

    channel: Channel[FromWorker]
    peer: Peer
    address: Address
    listening: socket.socket
    told: list[FromWorker] = field(default_factory=list)
    heard: trio.Event = field(default_factory=trio.Event)

    def hop(self, link: KeyPair, onion: KeyPair) -> Hop:
        return Hop(identity(7).peer_id, self.address, link.public, onion.public, SUITES)

    async def fetch(self, hop: Hop) -> bytes:
        return await self.peer.fetch(hop, "GET", "/consensus", b"", limit=1 << 20)

    async def wait_for(self, message: FromWorker) -> None:
        while message not in self.told:
            await self.heard.wait()

    async def wait_for_counts(self) -> dict[str, Any]:
        """Wait for the answer to a ``Count``."""
        while not (found := [told.counts for told in self.told if isinstance(told, Counted)]):
            await self.heard.wait()
        return found[0]

    async def listen(self) -> None:
        while (received := await self.channel.receive()) is not None:
            self.told.append(received[0])
            self.heard.set()
            self.heard = trio.Event()

    async def hand_over(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.listening)
            connection, _ = self.listening.accept()
            with connection:
                self.channel.send(Connection(), connection)
                taken = self.told.count(Taken())
                while self.told.count(Taken()) == taken:
                    await self.heard.wait()


@asynccontextmanager
async def running_worker(keys: RelayKeys, document: bytes | None) -> AsyncIterator[Boss]:
    """Run a worker in this process while inside, and a peer that knows where it is."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel: Channel[FromWorker] = Channel(ours, FromWorker)
    workers_channel: Channel[ToWorker] = Channel(theirs, ToWorker)
    with trio.fail_after(PATIENCE_SECONDS), listening_socket(Address("127.0.0.1", 0)) as listening:
        address = SocketListener(listening).local
        assignment = make_assignment(FOLDERLESS, NETWORK, address, 4096, keys, document)
        channel.send(assignment)
        async with running_peer(NETWORK, None) as peer, trio.open_nursery() as nursery:
            boss = Boss(channel, peer, address, listening)
            nursery.start_soon(work, workers_channel, Announcer())
            nursery.start_soon(channel.write)
            nursery.start_soon(boss.listen)
            nursery.start_soon(boss.hand_over)
            yield boss
            nursery.cancel_scope.cancel()
    channel.close()
    workers_channel.close()


async def test_it_answers_with_the_current_and_the_previous_keys() -> None:
    keys, document = new_keys(), consensus()
    async with running_worker(keys, document) as boss:
        for link, onion in zip(keys.link_keys, keys.onion_keys, strict=True):
            assert await boss.fetch(boss.hop(link, onion)) == document


async def test_keys_that_it_is_told_count_from_the_next_connection_on() -> None:
    before, after, document = new_keys(), new_keys(), consensus()
    async with running_worker(before, document) as boss:
        boss.channel.send(NewKeys.of(after))

        hop = boss.hop(after.link_keys[0], after.onion_keys[0])
        await boss.peer.links.probe(hop)
        assert await boss.fetch(hop) == document
        outdated = replace(hop, onion_key=before.onion_keys[0].public)
        with pytest.raises(DirectoryError):
            await boss.fetch(outdated)


async def test_while_its_loop_is_late_it_takes_no_circuits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DOS-10: the main process hears of it, and it is all over as soon as it keeps up again."""
    monkeypatch.setattr(loop_lag, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(loop_lag, "LASTING_SECONDS", 0.0)
    keys, document = new_keys(), consensus()
    async with running_worker(keys, document) as boss:
        hop = boss.hop(keys.link_keys[0], keys.onion_keys[0])
        assert await boss.fetch(hop) == document

        monkeypatch.setattr(loop_lag, "LATE_SECONDS", -1.0)  # whatever is measured is late
        await trio.sleep(0.3)
        with pytest.raises(DirectoryError, match="cannot be asked"):
            await boss.fetch(hop)
        boss.channel.send(Count())
        counts = await boss.wait_for_counts()
        monkeypatch.setattr(loop_lag, "LATE_SECONDS", 1000.0)
        await trio.sleep(0.3)

        assert await boss.fetch(hop) == document
        assert counts["load"] == {"overloaded": 1, "overloads": 1}
        assert counts["turned_away"] == 1


async def test_a_consensus_that_it_is_told_replaces_the_one_before() -> None:
    keys, older, newer = new_keys(), consensus(age_seconds=50), consensus()
    async with running_worker(keys, older) as boss:
        hop = boss.hop(keys.link_keys[0], keys.onion_keys[0])
        assert await boss.fetch(hop) == older

        boss.channel.send(NewConsensus(newer))
        boss.channel.send(NewConsensus(older))
        boss.channel.send(NewConsensus(b"garbage"))
        boss.channel.send(Count())
        await boss.wait_for_counts()

        assert await boss.fetch(hop) == newer


async def test_it_is_usable_with_its_first_consensus() -> None:
    async with running_worker(new_keys(), None) as boss:
        await boss.wait_for(Started())
        assert Usable() not in boss.told

        boss.channel.send(NewConsensus(consensus()))

        await boss.wait_for(Usable())


async def test_the_end_of_a_connection_is_told() -> None:
    keys = new_keys()
    async with running_worker(keys, consensus()) as boss:
        await boss.fetch(boss.hop(keys.link_keys[0], keys.onion_keys[0]))
        assert Over() not in boss.told

        boss.peer.links.close()

        await boss.wait_for(Over())


async def test_a_connection_lost_on_the_way_is_over() -> None:
    async with running_worker(new_keys(), consensus()) as boss:
        boss.channel.send(Connection())

        await boss.wait_for(Taken())
        await boss.wait_for(Over())


async def test_a_connection_for_which_there_is_no_room_is_over() -> None:  # DOS-8
    async with running_worker(new_keys(), consensus()) as boss:
        await boss.wait_for(Started())
        here = reserve.here()
        left = here.most - here.open
        for _ in range(left):
            here.links.take()

        with socket.create_connection((boss.address.host, boss.address.port)) as sock:
            await boss.wait_for(Over())
            await trio.lowlevel.wait_readable(sock)
            assert sock.recv(1) == b""
        for _ in range(left):
            here.links.give_back()

        assert here.links.refused == 1


async def test_it_takes_no_more_once_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Serving] = []

    def take_no_more(serving: Serving) -> None:
        told.append(serving)

    monkeypatch.setattr(Serving, "take_no_more", take_no_more)
    async with running_worker(new_keys(), consensus()) as boss:
        boss.channel.send(TakeNoMore())
        boss.channel.send(Count())
        await boss.wait_for_counts()

    assert len(told) == 1


async def test_it_counts_what_it_carries() -> None:
    keys = new_keys()
    async with running_worker(keys, consensus()) as boss:
        await boss.fetch(boss.hop(keys.link_keys[0], keys.onion_keys[0]))

        boss.channel.send(Count())
        counts = await boss.wait_for_counts()

        assert counts["created"] == 1
        assert counts["links"]["accepted"] == 1
        assert counts["exit"] is None
