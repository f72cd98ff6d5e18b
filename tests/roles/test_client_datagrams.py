"""The client's associations: which exit they are had from, and what happens when it will not."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from tests.support.imagined import consensus
from tests.support.small_network import Origin, RelayPeer, SmallNetwork, small_network
from tests.support.wayward import swallow
from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.path_bias import Outcome
from warren.directory.relays import Flag, RelayEntry
from warren.errors import DirectoryError, EndReason, ExitError
from warren.identity import PeerId
from warren.network.associations import CircuitAssociation
from warren.protocol.messages import BeginFlags
from warren.roles.client import CONNECT_SECONDS, Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.mirror import Directory
from warren.roles.passing_circuit import PassingCircuit

SITE, VOICE = Address("site.example", 443), Address("stun.example", 3478)
EXEMPT = Address("127.0.0.1", 5300)


@dataclass
class FarEnd:
    """Be what an exit does with associations, and count them."""

    refusal: EndReason | None = None
    is_silent: bool = False
    asked: int = 0

    async def serve(
        self, circuit: PassingCircuit, association: CircuitAssociation, flags: BeginFlags
    ) -> None:
        self.asked += 1
        if self.refusal is not None:
            raise ExitError(self.refusal)
        if not self.is_silent:
            assert circuit.machine.streams is not None
            circuit.machine.streams.associate_here(association.protocol)
            association.turn.run()
        await association.wait_ended()


@dataclass
class KnownGuards:
    """Be guards that are what they are."""

    guards: list[PeerId]
    rest_seconds: float = 0.0
    unanswering: frozenset[PeerId] = frozenset()

    def candidates(self, _: Consensus) -> list[PeerId]:
        return self.guards

    def has_better(self, peer_id: PeerId) -> bool:
        return False

    def slow(self, peer_id: PeerId, *, is_slow: bool) -> None:
        return

    def contacted(self, _: PeerId) -> None:
        return

    failed = succeeded = refused = took = contacted

    def circuit(self, peer_id: PeerId, outcome: Outcome) -> None:
        return

    def save(self) -> None:
        return


@dataclass
class KnownDirectory:
    """Be a directory that has its consensus."""

    consensus: Consensus

    @property
    def current(self) -> Consensus:
        return self.consensus

    async def wait_for_consensus(self) -> Consensus:
        return self.consensus


@dataclass
class Scene:
    """Hold a client and its exits, by the policies they have for datagrams."""

    net: SmallNetwork
    origin: Origin
    client: Client
    ends: dict[str, FarEnd] = field(default_factory=dict)

    @property
    def built(self) -> int:
        """Return how many circuits the client has built."""
        return self.client._circuits._builder.built

    async def associate(self, address: Address | None, isolation: str = "me") -> CircuitAssociation:
        association, _ = await self.client.open_association(address, isolation)
        return association

    @property
    def asked(self) -> dict[str, int]:
        return {policy: end.asked for policy, end in self.ends.items() if end.asked}


@asynccontextmanager
async def client_scene(*policies: str) -> AsyncIterator[Scene]:
    """Run a guard, a middle and an exit for each of `policies`; an empty one sends none."""
    async with small_network(relays=2) as net:
        ends = {f"{policy}#{n}": FarEnd() for n, policy in enumerate(policies)}
        entries = [_entry(peer) for peer in net.relays]
        for name, end in ends.items():
            peer = await net.add_relay(serve_datagrams=end.serve)
            rule = name.partition("#")[0]
            entries.append(_entry(peer, udp_policy=(rule,) if rule else ()))
        origin = await net.add_origin()
        client = Client(
            origin.links,
            cast(Directory, KnownDirectory(consensus(entries, subnet_v4_prefix=24))),
            cast(GuardKeeper, KnownGuards([net.relays[0].peer_id])),
            allow_targets=(EXEMPT,),
            rng=Random(1),
        )
        yield Scene(net, origin, client, ends)
        client.close()


def silence(scene: Scene, exit_name: str) -> None:
    """Let an exit swallow what comes on its circuits."""
    swallow(scene.net.relays[2 + list(scene.ends).index(exit_name)])


def _entry(peer: RelayPeer, udp_policy: Iterable[str] | None = None) -> RelayEntry:
    flags = {Flag.RUNNING, Flag.GUARD} if udp_policy is None else {Flag.RUNNING, Flag.EXIT}
    return RelayEntry(
        peer.hop,
        frozenset(flags),
        weight=100,
        policy=() if udp_policy is None else ("accept *:*",),
        udp_policy=tuple(udp_policy or ()),
    )


WEB, CALLS = "accept *:443", "accept *:443,3478"


async def test_the_exit_is_one_that_sends_there(autojump_clock: MockClock) -> None:
    async with client_scene("", WEB, CALLS) as scene:
        for _ in range(3):
            await scene.associate(VOICE)

        assert scene.asked == {f"{CALLS}#2": 3}


async def test_associations_of_one_isolation_share_a_circuit(autojump_clock: MockClock) -> None:
    async with client_scene(CALLS) as scene:
        for address in (None, SITE, VOICE):
            await scene.associate(address)
        await scene.associate(SITE, "you")

        assert scene.built == 2


async def test_what_else_an_exit_sends_to_is_told(autojump_clock: MockClock) -> None:
    async with client_scene(WEB) as scene:
        _, fits = await scene.client.open_association(None, "me")

        assert [fits(address) for address in (SITE, VOICE, EXEMPT)] == [True, False, True]


async def test_an_exempt_target_needs_an_exit_that_sends_anything(
    autojump_clock: MockClock,
) -> None:
    """EXT-16."""
    async with client_scene("", WEB) as scene:
        await scene.associate(EXEMPT)

        assert scene.asked == {f"{WEB}#1": 1}


@pytest.mark.parametrize("address", [SITE, None])
async def test_without_an_exit_that_sends_there_nothing_is_built(
    address: Address | None, autojump_clock: MockClock
) -> None:
    async with client_scene("", "") as scene:
        with pytest.raises(DirectoryError, match="no exit allows datagrams"):
            await scene.associate(address)

        assert scene.built == 0


async def test_an_exit_that_refuses_is_followed_by_another(autojump_clock: MockClock) -> None:
    async with client_scene(WEB, WEB) as scene:
        for end in scene.ends.values():
            end.refusal = EndReason.RESOURCE_LIMIT

        with pytest.raises(ExitError) as caught:
            await scene.associate(SITE)
        both = dict(scene.asked)
        scene.ends[f"{WEB}#1"].refusal = None
        await scene.associate(SITE)

        assert caught.value.reason is EndReason.RESOURCE_LIMIT
        assert both == {f"{WEB}#0": 1, f"{WEB}#1": 1}


async def test_exits_that_are_about_to_end_are_asked_once_and_do_not_count_as_refusals(
    autojump_clock: MockClock,
) -> None:  # security F, SIGTERM
    async with client_scene(WEB, WEB, WEB) as scene:
        leaving = [scene.ends[f"{WEB}#{number}"] for number in range(2)]
        for end in leaving:
            end.refusal = EndReason.HIBERNATING

        for number in range(20):
            await scene.associate(SITE, f"user {number}")

        assert [end.asked for end in leaving] == [1, 1]
        assert scene.asked[f"{WEB}#2"] == 20


async def test_an_exit_that_says_nothing_is_followed_by_another(autojump_clock: MockClock) -> None:
    async with client_scene(WEB, WEB) as scene:
        for end in scene.ends.values():
            end.is_silent = True
        before = trio.current_time()

        with pytest.raises(ExitError) as caught:
            await scene.associate(SITE)

        assert caught.value.reason is EndReason.TIMEOUT
        assert list(scene.asked.values()) == [2, 2]
        assert trio.current_time() - before == pytest.approx(4 * CONNECT_SECONDS, abs=1)


async def test_silence_of_a_while_is_outlasted(autojump_clock: MockClock) -> None:
    """Streams and names outlast it as well: silence is no refusal."""
    async with client_scene(WEB, WEB) as scene, trio.open_nursery() as nursery:
        for end in scene.ends.values():
            end.is_silent = True

        async def speak_again() -> None:
            await trio.sleep(2.5 * CONNECT_SECONDS)
            for end in scene.ends.values():
                end.is_silent = False

        nursery.start_soon(speak_again)
        association = await scene.associate(SITE)

        assert not association.is_ended


async def test_with_its_circuit_an_association_is_over_and_the_next_is_had_anew(
    autojump_clock: MockClock,
) -> None:
    async with client_scene("", WEB) as scene:
        first = await scene.associate(SITE)
        middle = next(
            peer
            for peer in scene.net.relays[1:-1]
            if str(peer.peer_id) in str(scene.client.statistics()["circuits"])
        )

        middle.crash()
        await first.wait_ended()
        second = await scene.associate(SITE)

        assert first.reason is EndReason.DESTROY
        assert not second.is_ended


async def test_an_association_is_over_soon_when_its_circuit_falls_silent(
    autojump_clock: MockClock,
) -> None:
    """Datagrams that nobody answers are no silence: the exit is asked whether it is there."""
    async with client_scene(WEB, WEB) as scene, trio.open_nursery() as nursery:
        nursery.start_soon(scene.client._circuits.run)
        first = await scene.associate(SITE)
        for _ in range(60):
            first.send(SITE, b"nobody answers this")
            await trio.sleep(1)
        was_ended, before = first.is_ended, trio.current_time()
        silence(scene, next(iter(scene.asked)))

        first.send(SITE, b"?")
        await first.wait_ended()
        took = trio.current_time() - before
        second = await scene.associate(SITE)
        nursery.cancel_scope.cancel()

        assert not was_ended
        assert first.reason is EndReason.DESTROY
        assert took <= 25  # as for streams
        assert not second.is_ended
