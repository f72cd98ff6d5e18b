"""The channel: messages keep their order and borders, however long, and carry connections."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from warren.identity import Identity, Suite, SystemKeys
from warren.network.link import RelayKeys
from warren.workers.channel import (
    PACKET_BYTES,
    Channel,
    Connection,
    Count,
    Counted,
    FromWorker,
    NewConsensus,
    NewKeys,
    Taken,
    ToWorker,
)


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[Channel[FromWorker], Channel[ToWorker]]]:
    """Give both ends of a channel while they write."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    main: Channel[FromWorker] = Channel(ours, FromWorker)
    worker: Channel[ToWorker] = Channel(theirs, ToWorker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(main.write)
        nursery.start_soon(worker.write)
        yield main, worker
        nursery.cancel_scope.cancel()
    main.close()
    worker.close()


async def test_messages_arrive_in_the_order_they_were_sent() -> None:
    sent = [Count(), NewConsensus(b"one"), NewKeys((bytes(32),), (b"\x01" * 32,)), Count()]
    async with talking() as (main, worker):
        for message in sent:
            main.send(message)

        received = [await worker.receive() for _ in sent]

    assert received == [(message, None) for message in sent]


@pytest.mark.parametrize("length", [0, 1, PACKET_BYTES - 1, PACKET_BYTES, 3_000_000])
async def test_a_message_of_any_length_comes_whole(length: int) -> None:
    document = os.urandom(length)
    async with talking() as (main, worker):
        main.send(NewConsensus(document))
        main.send(Count())

        assert await worker.receive() == (NewConsensus(document), None)
        assert await worker.receive() == (Count(), None)


async def test_a_connection_arrives_beside_its_message() -> None:
    near, far = socket.socketpair()
    async with talking() as (main, worker):
        with near, far:
            main.send(Connection(), far)
            received = await worker.receive()
            assert received is not None
            message, connection = received
            assert connection is not None
            with connection:
                connection.sendall(b"through another descriptor")

                assert message == Connection()
                assert near.recv(100) == b"through another descriptor"
                assert not connection.get_inheritable()


async def test_both_directions_are_one_talk() -> None:
    async with talking() as (main, worker):
        main.send(Count())
        assert await worker.receive() == (Count(), None)
        worker.send(Taken())
        worker.send(Counted({"links": {"open": 3}}))

        assert await main.receive() == (Taken(), None)
        assert await main.receive() == (Counted({"links": {"open": 3}}), None)


async def test_the_end_of_the_other_process_is_told_after_its_last_words() -> None:
    async with talking() as (main, worker):
        worker.send(Taken())
        await trio.testing.wait_all_tasks_blocked()
        worker.close()

        assert await main.receive() == (Taken(), None)
        assert await main.receive() is None


@given(private=st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=4))
def test_keys_replace_those_that_all_links_share(private: list[bytes]) -> None:
    keys = RelayKeys(Identity(bytes(32)), [SystemKeys().key_pair()], [], (Suite.AESGCM,))
    links, onions = keys.link_keys, keys.onion_keys
    told = NewKeys(tuple(private[:1]), tuple(private[1:]))

    told.put_into(keys)

    assert NewKeys.of(keys) == told
    assert keys.link_keys is links
    assert keys.onion_keys is onions
