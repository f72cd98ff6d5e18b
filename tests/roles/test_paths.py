"""Who is avoided on new paths, for how long, and what gives way where there is nobody else."""

from random import Random
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from tests.support.imagined import consensus, peer, relay
from warren.addresses import Address
from warren.directory.consensus import Consensus
from warren.directory.exit_index import Target
from warren.directory.relays import Flag
from warren.errors import DirectoryError, GuardsRest
from warren.identity import PeerId
from warren.protocol.choice import ANYTHING, Choice
from warren.roles.guard_keeper import GuardKeeper
from warren.roles.own_relays import OwnRelays
from warren.roles.paths import AVOID_SECONDS, Paths

WEB, INSIDE = Address("site.example", 443), Address("127.0.0.1", 5300)
#: Relay 1 is the guard, 2 to 4 are middles, 5 and 6 exits.
NETWORK = consensus(
    [
        relay(1, Flag.GUARD),
        *(relay(number) for number in (2, 3, 4)),
        *(relay(number, Flag.EXIT) for number in (5, 6)),
    ]
)


class OneGuard:
    """Be guards of which one is left, and may have to wait a while."""

    primary = (peer(1),)
    rest_seconds = 0.0
    unanswering: frozenset[PeerId] = frozenset()

    def candidates(self, _: Consensus) -> list[PeerId]:
        return [] if self.rest_seconds else [peer(1)]


@pytest.fixture
async def paths() -> Paths:
    return paths_from(OneGuard())


def paths_from(guards: OneGuard, own: OwnRelays | None = None) -> Paths:
    return Paths(
        cast(GuardKeeper, guards),
        own=own or OwnRelays(),
        exempt=lambda target: target == INSIDE,
        rng=Random(1),
    )


def chosen(
    paths: Paths, target: Target | None = WEB, wish: Choice = ANYTHING, never: tuple[int, ...] = ()
) -> list[set[int]]:
    """Return the relays that stand at each of three places, in many paths."""
    tries = [
        paths.choose(NETWORK, target, wish, hops=3, never=[peer(number) for number in never])
        for _ in range(60)
    ]
    return [{int.from_bytes(path[at].peer_id, "big") for path in tries} for at in range(3)]


async def test_a_relay_that_failed_is_left_out_for_five_minutes(
    paths: Paths, autojump_clock: MockClock
) -> None:
    paths.avoid(peer(5))

    assert chosen(paths)[2] == {6}
    await trio.sleep(AVOID_SECONDS - 1)
    assert chosen(paths)[2] == {6}
    await trio.sleep(2)
    assert chosen(paths)[2] == {5, 6}
    assert not paths.avoided


async def test_where_all_failed_only_the_last_one_is_left_out(paths: Paths) -> None:
    for number in (6, 5, 6):
        paths.avoid(peer(number))

    assert paths.avoided == (peer(5), peer(6))
    assert chosen(paths)[2] == {5}


async def test_the_only_guard_is_taken_though_it_failed(paths: Paths) -> None:
    paths.avoid(peer(1))

    assert chosen(paths)[0] == {1}


async def test_a_guard_that_has_just_failed_is_worth_waiting_for() -> None:
    guards = OneGuard()
    guards.rest_seconds = 2.5

    with pytest.raises(GuardsRest) as caught:
        chosen(paths_from(guards))

    assert caught.value.seconds == 2.5


async def test_no_guard_is_waited_for_where_there_is_no_path_from_it() -> None:
    guards = OneGuard()
    guards.rest_seconds = 2.5

    with pytest.raises(DirectoryError) as caught:
        chosen(paths_from(guards), Address("site.example", 22))

    assert not isinstance(caught.value, GuardsRest)


async def test_whoever_is_never_wanted_does_not_give_way(paths: Paths) -> None:
    assert chosen(paths, never=(5,))[2] == {6}
    with pytest.raises(DirectoryError):
        chosen(paths, never=(5, 6))


async def test_when_the_fault_was_our_own_nobody_is_avoided(paths: Paths) -> None:
    paths.avoid(peer(5))

    paths.forgive()

    assert chosen(paths)[2] == {5, 6}


async def test_policies_say_where_to_but_for_targets_that_are_exempt(paths: Paths) -> None:
    with pytest.raises(DirectoryError):
        chosen(paths, Address("site.example", 22))
    assert chosen(paths, INSIDE)[2] == {5, 6}


async def test_a_wish_for_an_exit_is_kept_though_it_failed(paths: Paths) -> None:
    paths.avoid(peer(5))

    assert chosen(paths, wish=Choice(exit_id=peer(5)))[2] == {5}
