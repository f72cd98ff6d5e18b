"""Conversations: an exchange is driven by what arrives, and nothing behind it is read."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.network.test_byte_streams import World, world
from tests.support.memory_network import receive
from warren.errors import LinkError, ProtocolError
from warren.network.byte_streams import ByteStream
from warren.network.conversation import Conversation
from warren.protocol.exchange import Exchange, Peek, Receive, ReceiveUntil, Send

__all__ = ["world"]  # a fixture


def greet() -> Exchange[tuple[bytes, ...]]:
    first = yield Peek(1)
    version = yield Receive(2)
    yield Send(b"welcome")
    name = yield ReceiveUntil(b"\0", 16)
    return first, version, name


@dataclass
class Talk:
    """Own both ends of a connection, and what became of the conversation at the far one."""

    near: ByteStream
    far: ByteStream
    nursery: trio.Nursery
    buffer: bytearray = field(default_factory=bytearray)
    results: list[object] = field(default_factory=list)
    is_over: trio.Event = field(default_factory=trio.Event)

    def begin(self) -> None:
        Conversation(self.far, greet(), self.buffer, self.nursery, self._end, self._end).go_on()

    def _end(self, result: object) -> None:
        self.results.append(result)
        self.is_over.set()


@pytest.fixture
async def talk(world: World, nursery: trio.Nursery) -> AsyncIterator[Talk]:
    near, far = await world.pair()
    yield Talk(near, far, nursery)
    near.close()
    far.close()


async def test_what_was_asked_for_is_the_result_and_the_rest_stays(talk: Talk) -> None:
    talk.begin()
    await talk.near.send_all(b"15")
    assert await receive(talk.near, 7) == b"welcome"
    await talk.near.send_all(b"warren\0early")
    await talk.is_over.wait()

    assert talk.results == [(b"1", b"15", b"warren\0")]
    assert talk.buffer == b"early"


async def test_what_comes_when_it_is_over_is_left_to_its_owner(talk: Talk) -> None:
    talk.begin()
    await talk.near.send_all(b"15warren\0")
    await talk.is_over.wait()

    await talk.near.send_all(b"later")
    await wait_all_tasks_blocked(0.01)

    assert talk.buffer == b""
    assert await receive(talk.far, 5) == b"later"


async def test_everything_may_be_there_before_it_begins(talk: Talk) -> None:
    await talk.near.send_all(b"15warren\0")
    await talk.far.wait_readable()

    talk.begin()

    assert talk.results == [(b"1", b"15", b"warren\0")]


async def test_a_violation_is_told_and_nothing_more_is_read(talk: Talk) -> None:
    talk.begin()
    await talk.near.send_all(b"15" + b"x" * 20)
    await talk.is_over.wait()

    (error,) = talk.results
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("is_clean", [True, False])
async def test_an_early_end_is_a_link_error(talk: Talk, is_clean: bool) -> None:
    talk.begin()
    await talk.near.send_all(b"1")
    if is_clean:
        talk.near.close()
    else:
        talk.near.reset()
    await talk.is_over.wait()

    (error,) = talk.results
    assert isinstance(error, LinkError)
