"""The client: names asked through circuits, and what is tried elsewhere.

Relays, circuits and messages are real; only the consensus and the guards are made up.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.imagined import consensus
from tests.support.small_network import SmallNetwork, small_network
from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.path_bias import Outcome
from warren.directory.relays import Flag, RelayEntry
from warren.errors import CircuitError, EndReason, ExitError, NotFound
from warren.identity import PeerId
from warren.network.circuits import Circuit
from warren.protocol.resolution import Resolved
from warren.roles.client import CONNECT_SECONDS, Client
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.mirror import Directory
from warren.roles.passing_circuit import PassingCircuit

NAME, FOUR = Address("a.example", 0), Address("93.184.216.34", 0)
ANSWER = Resolved((FOUR,), 300)


class OneConsensus:
    """Be a directory with a consensus that never changes."""

    def __init__(self, known: Consensus) -> None:
        self._known = known

    @property
    def current(self) -> Consensus:
        return self._known

    async def wait_for_consensus(self) -> Consensus:
        return self._known


class AnyGuard:
    """Be guards that are always well: every relay that has the flag."""

    unanswering: frozenset[PeerId] = frozenset()
    rest_seconds = 0.0

    def __init__(self, guards: Iterable[PeerId]) -> None:
        self._guards = tuple(guards)
        self.troubles = 0

    def candidates(self, known: Consensus) -> tuple[PeerId, ...]:
        return self._guards

    def has_better(self, peer_id: PeerId) -> bool:
        return False

    def slow(self, peer_id: PeerId, *, is_slow: bool) -> None:
        return

    def contacted(self, peer_id: PeerId) -> None:
        return

    def succeeded(self, peer_id: PeerId) -> None:
        return

    took = refused = succeeded

    def failed(self, peer_id: PeerId) -> None:
        self.troubles += 1

    def circuit(self, peer_id: PeerId, outcome: Outcome) -> None:
        return

    def save(self) -> None:
        return


class Oracle:
    """Be the exits' names: each question gets the next of ``outcomes``, the last one for ever.

    ``asked`` has who was asked what.
    """

    def __init__(self) -> None:
        self.outcomes: list[Resolved | ExitError | float] = [ANSWER]
        self.asked: list[tuple[int, Address]] = []

    def of(self, number: int) -> "Oracle.At":
        return Oracle.At(self, number)

    @dataclass
    class At:
        oracle: "Oracle"
        number: int

        async def __call__(self, circuit: PassingCircuit, subject: Address) -> Resolved:
            oracle = self.oracle
            oracle.asked.append((self.number, subject))
            outcome = oracle.outcomes[0]
            if len(oracle.outcomes) > 1:
                oracle.outcomes.pop(0)
            if isinstance(outcome, float):
                await trio.sleep(outcome)
                return ANSWER
            if isinstance(outcome, ExitError):
                raise outcome
            return outcome


@dataclass
class Scene:
    """Hold a client, and the exits that it asks."""

    net: SmallNetwork
    client: Client
    oracle: Oracle

    @property
    def exits_asked(self) -> list[int]:
        return [number for number, _ in self.oracle.asked]


@asynccontextmanager
async def client_scene(exits: int = 3, **options: object) -> AsyncIterator[Scene]:
    """Run two relays and some exits, and a client that is told of all of them."""
    oracle = Oracle()
    async with small_network(relays=2) as net:
        for number in range(exits):
            await net.add_relay(serve_names=oracle.of(number))
        flags = [{Flag.GUARD, Flag.RUNNING}] * 2 + [{Flag.EXIT, Flag.RUNNING}] * exits
        entries = [
            RelayEntry(
                hop, frozenset(each), 100, policy=("accept *:*",) if Flag.EXIT in each else ()
            )
            for hop, each in zip(net.hops, flags, strict=True)
        ]
        known = consensus(sorted(entries, key=lambda e: e.peer_id), subnet_v4_prefix=24)
        origin = await net.add_origin()
        client = Client(
            origin.links,
            cast(Directory, OneConsensus(known)),
            cast(GuardKeeper, AnyGuard(hop.peer_id for hop in net.hops[:2])),
            rng=Random(1),
            **options,  # type: ignore[arg-type]
        )
        yield Scene(net, client, oracle)
        client.close()


async def test_a_name_is_asked_through_a_circuit(autojump_clock: MockClock) -> None:
    async with client_scene() as scene:
        answer = await scene.client.resolve(NAME, "me")

        assert answer == ANSWER
        assert [subject for _, subject in scene.oracle.asked] == [NAME]
        (circuit,) = cast(list[dict[str, object]], scene.client.statistics()["circuits"])
        assert circuit["used"]
        assert scene.client.statistics()["resolved"] == 1


async def test_questions_of_one_isolation_share_a_circuit_and_others_do_not(
    autojump_clock: MockClock,
) -> None:  # FE-10
    async with client_scene() as scene:
        for isolation in ("me", "me", "you"):
            await scene.client.resolve(NAME, isolation)

        assert scene.client.statistics()["built"] == 2


@pytest.mark.parametrize(
    "refusal",
    [
        ExitError(EndReason.EXIT_POLICY),
        ExitError(EndReason.RESOLVE_FAILED),
        ExitError(EndReason.TIMEOUT),
        Resolved((), 60),
        Resolved((Address("10.0.0.1", 0),), 300),  # EXT-14: it lies, or was lied to
    ],
    ids=["policy", "failed", "timeout", "nothing", "internal"],
)
async def test_another_exit_is_asked_when_one_has_no_answer(
    refusal: Resolved | ExitError, autojump_clock: MockClock
) -> None:
    async with client_scene() as scene:
        scene.oracle.outcomes = [refusal, ANSWER]

        assert await scene.client.resolve(NAME, "me") == ANSWER

        assert len(set(scene.exits_asked)) == 2


async def test_two_exits_that_know_of_nothing_are_believed(autojump_clock: MockClock) -> None:
    async with client_scene() as scene:
        scene.oracle.outcomes = [Resolved((), 60)]

        with pytest.raises(NotFound):
            await scene.client.resolve(NAME, "me")

        assert len(scene.exits_asked) == 2


async def test_an_exit_that_does_not_answer_is_given_ten_seconds(
    autojump_clock: MockClock,
) -> None:
    async with client_scene() as scene:
        scene.oracle.outcomes = [1000.0, ANSWER]
        began = trio.current_time()

        assert await scene.client.resolve(NAME, "me") == ANSWER

        assert CONNECT_SECONDS <= trio.current_time() - began < CONNECT_SECONDS + 2
        assert len(set(scene.exits_asked)) == 2


async def test_a_question_outlives_its_circuit(autojump_clock: MockClock) -> None:
    async with client_scene() as scene:
        scene.oracle.outcomes = [1000.0, ANSWER]
        answers = []

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def ask() -> None:
                    answers.append(await scene.client.resolve(NAME, "me"))

                await trio.sleep(1)
                (slot,) = scene.client._circuits._pool
                assert isinstance(slot.circuit, Circuit)
                slot.circuit.close()

        assert answers == [ANSWER]


async def test_a_question_that_waits_holds_up_no_other(autojump_clock: MockClock) -> None:
    async with client_scene() as scene, trio.open_nursery() as nursery:
        scene.oracle.outcomes = [9.0, ANSWER]
        nursery.start_soon(scene.client.resolve, NAME, "me")
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        began = trio.current_time()

        assert await scene.client.resolve(NAME, "me") == ANSWER

        assert trio.current_time() - began < 1


async def test_times_to_live_are_bounded(autojump_clock: MockClock) -> None:  # EXT-13
    async with client_scene() as scene:
        for told, kept in ((0, 300), (1000, 1000), (10**9, 3600)):
            scene.oracle.outcomes = [Resolved((FOUR,), told)]

            assert (await scene.client.resolve(NAME, "me")).ttl == kept


async def test_the_host_of_an_exempt_target_may_be_internal(
    autojump_clock: MockClock,
) -> None:  # EXT-16
    inside = Resolved((Address("127.0.0.1", 0),), 300)
    async with client_scene(allow_targets=[Address("127.0.0.1", 8000)]) as scene:
        scene.oracle.outcomes = [inside]

        assert await scene.client.resolve(NAME, "me") == inside


async def test_a_circuit_that_cannot_be_built_names_the_hop(autojump_clock: MockClock) -> None:
    async with client_scene() as scene:
        for relay in scene.net.relays[2:]:
            scene.net.memory.refuse(relay.host)

        with pytest.raises(CircuitError) as caught:
            await scene.client.resolve(NAME, "me")

        assert caught.value.hop == 2
