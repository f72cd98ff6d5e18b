"""Keys made ahead: each is given away once, few lie ready, and none for long."""

import contextlib
import weakref
from collections.abc import Callable
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.memory_network import Line
from tests.support.paper import FixedKeys
from tests.support.small_network import SeededKeys, small_network
from warren.errors import CircuitError, LinkError
from warren.identity import KemKey, KeyPair, KeySource, PeerId, Suite, SystemKeys
from warren.network.keys_ahead import KEEP_SECONDS, MOST_KEYS, PAUSE_SECONDS, KeysAhead
from warren.network.link import Link, OnCreate
from warren.protocol.handshake import CircuitInitiator
from warren.protocol.link import CreateRequested
from warren.roles.relay import Relay

NETWORK_ID = bytes(32)
PEER = PeerId(bytes(range(32)))
ONION_KEY = KeyPair.from_private(bytes(range(1, 33)))


class WatchedKeys(SystemKeys):
    """Be a ``KeySource`` that remembers, without keeping them, which keys it made."""

    def __init__(self) -> None:
        self.pairs: list[weakref.ref[KeyPair]] = []
        self.kem_keys: list[weakref.ref[KemKey]] = []

    def key_pair(self) -> KeyPair:
        pair = super().key_pair()
        self.pairs.append(weakref.ref(pair))
        return pair

    def kem_key(self) -> KemKey:
        key = super().kem_key()
        self.kem_keys.append(weakref.ref(key))
        return key

    @property
    def alive(self) -> tuple[int, int]:
        """Return how many pairs and ML-KEM keys are still in memory."""
        return (
            sum(each() is not None for each in self.pairs),
            sum(each() is not None for each in self.kem_keys),
        )


async def test_no_key_is_given_twice(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    keys, rng = KeysAhead(SystemKeys()), Random(1)
    nursery.start_soon(keys.run)
    pairs: list[bytes] = []
    kem_keys: list[bytes] = []

    for _ in range(60):
        await trio.sleep(rng.choice((0, PAUSE_SECONDS / 2, PAUSE_SECONDS * 2, KEEP_SECONDS)))
        for _ in range(rng.randrange(5)):
            pairs.append(keys.key_pair().public)
            kem_keys.append(keys.kem_key().public)

    assert len(set(pairs)) == len(pairs) > 60
    assert len(set(kem_keys)) == len(kem_keys)


async def test_a_bounded_number_lies_ready(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    source = WatchedKeys()
    keys = KeysAhead(source)
    nursery.start_soon(keys.run)

    for _ in range(50):
        await trio.sleep(PAUSE_SECONDS * 3)
        assert source.alive == (MOST_KEYS, MOST_KEYS)
        keys.key_pair()
        keys.kem_key()

    assert len(source.pairs) == len(source.kem_keys) == MOST_KEYS + 49


async def test_keys_that_nobody_takes_are_gone_from_memory_in_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    source = WatchedKeys()
    keys = KeysAhead(source)
    nursery.start_soon(keys.run)
    await trio.sleep(1)
    first = source.pairs + source.kem_keys

    await trio.sleep(KEEP_SECONDS * 1.5)

    assert len(first) == 2 * MOST_KEYS
    assert not any(each() for each in first)
    assert source.alive == (MOST_KEYS, MOST_KEYS)


async def test_a_key_that_is_too_old_is_not_given_away_even_if_nobody_cleaned_up(
    autojump_clock: MockClock,
) -> None:
    source = WatchedKeys()
    keys = KeysAhead(source)
    with trio.move_on_after(1):
        await keys.run()
    await trio.sleep(KEEP_SECONDS)
    made = len(source.pairs)

    pair = keys.key_pair()

    assert len(source.pairs) == made + 1
    assert source.pairs[-1]() is pair


async def test_when_none_is_ready_one_is_made_at_once(autojump_clock: MockClock) -> None:
    source = WatchedKeys()
    keys = KeysAhead(source)

    pairs = [keys.key_pair() for _ in range(3)]

    assert [each() for each in source.pairs] == pairs


@pytest.mark.parametrize("suite", Suite)
async def test_a_handshake_with_keys_made_ahead_is_the_same(
    suite: Suite, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ahead = KeysAhead(FixedKeys(b"known"))
    nursery.start_soon(ahead.run)
    await trio.sleep(1)

    def message(keys: KeySource) -> bytes:
        return CircuitInitiator(NETWORK_ID, PEER, ONION_KEY.public, 1, suite, keys).message

    assert message(ahead) == message(FixedKeys(b"known"))


def note_ephemerals(seen: list[bytes]) -> Callable[[Relay], OnCreate]:
    """Let a relay note the ephemeral key of each message 1 it gets."""

    def on_create(relay: Relay) -> OnCreate:
        def create(link: Link, request: CreateRequested) -> None:
            seen.append(bytes(request.message[:32]))
            relay.create(link, request)

        return create

    return on_create


async def test_circuits_that_are_given_up_or_fail_leave_no_key_to_the_next(
    autojump_clock: MockClock,
) -> None:
    rng = Random(7)
    seen: list[bytes] = []
    async with small_network(relays=0, line=Line(latency=0.01)) as net:
        for _ in range(3):
            await net.add_relay(on_create=note_ephemerals(seen))
        origin = await net.add_origin()
        origin.settings.keys = keys = KeysAhead(SeededKeys("ahead"))
        origin.nursery.start_soon(keys.run)

        async def build_for(seconds: float) -> None:
            with trio.move_on_after(seconds), contextlib.suppress(CircuitError, LinkError):
                await origin.build(net.hops)

        for _ in range(40):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(build_for, rng.uniform(0, 0.2))
            if rng.random() < 0.2:
                net.memory.cut(origin.host)
        await wait_all_tasks_blocked()

        assert len(seen) > 120
        assert len(set(seen)) == len(seen)
