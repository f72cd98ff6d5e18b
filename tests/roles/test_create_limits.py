"""What others may ask of a relay: each client its share, listed relays more, all so much."""

import pytest

from tests.support.directories import identity
from warren.addresses import Address
from warren.identity import PeerId
from warren.network.bucket import MOST_BUCKETS
from warren.roles.create_limits import (
    CreateDoor,
    CreateLimits,
)

LISTED, UNLISTED = identity(1).peer_id, identity(2).peer_id
CLIENT, NEIGHBOUR = Address("192.0.2.1", 5000), Address("192.0.2.2", 5000)
LIMITS = CreateLimits(creates_per_second=2, create_burst=5, circuits_per_address=8, circuits=10_000)


@pytest.fixture
def door() -> CreateDoor:
    return CreateDoor(LIMITS, lambda peer_id: peer_id == LISTED)


def ask(
    door: CreateDoor,
    times: int,
    now: float,
    remote: Address = CLIENT,
    peer_id: PeerId | None = None,
) -> int:
    """Ask so often, and leave each circuit at once; return how often it was admitted."""
    admitted = 0
    for _ in range(times):
        asker = door.admit(peer_id, remote, now)
        if asker is not None:
            admitted += 1
            door.leave(asker)
    return admitted


def test_a_client_may_ask_for_so_many_at_once_and_so_many_a_second(door: CreateDoor) -> None:
    assert ask(door, 100, 0.0) == 5
    assert ask(door, 100, 0.4) == 0
    assert [ask(door, 1, 1 + second / 2) for second in range(6)] == [1] * 6
    assert ask(door, 100, 1000.0) == 5


def test_what_one_client_asks_for_costs_no_other_one(door: CreateDoor) -> None:
    ask(door, 100, 0.0)

    assert ask(door, 5, 0.0, NEIGHBOUR) == 5


def test_who_names_himself_and_is_not_listed_is_a_client(door: CreateDoor) -> None:
    ask(door, 3, 0.0, peer_id=UNLISTED)

    assert ask(door, 100, 0.0) == 2


def test_a_listed_relay_may_ask_for_more_wherever_it_is(door: CreateDoor) -> None:
    ask(door, 100, 0.0)

    assert ask(door, 10_000, 0.0, peer_id=LISTED) == CreateLimits().relay_create_burst
    assert ask(door, 10_000, 1.0, NEIGHBOUR, LISTED) == CreateLimits().relay_creates_per_second


def test_a_client_has_so_many_circuits_and_one_more_when_one_is_gone(door: CreateDoor) -> None:
    askers = [door.admit(None, CLIENT, 10.0 * n) for n in range(8)]

    assert all(askers)
    assert door.admit(None, CLIENT, 1000.0) is None
    door.leave(askers[0])
    assert door.admit(None, CLIENT, 1010.0) is not None


def test_all_together_have_so_many_circuits() -> None:
    door = CreateDoor(CreateLimits(circuits=3), lambda _: True)

    askers = [door.admit(LISTED, CLIENT, 0.0), *(door.admit(None, CLIENT, 0.0) for _ in range(3))]

    assert [asker is not None for asker in askers] == [True, True, True, False]
    assert door.circuits == 3


def test_programs_of_this_machine_are_not_told_apart_and_have_no_share(door: CreateDoor) -> None:
    askers = [door.admit(None, Address("127.0.0.1", n + 1), 0.0) for n in range(100)]

    assert None not in askers


def test_who_has_left_is_forgotten(door: CreateDoor) -> None:
    for number in range(6000):
        ask(door, 2, number / 100, Address(f"10.1.{number // 250}.{number % 250}", 1))

    assert len(door._clients) <= MOST_BUCKETS
    assert not door._open
    assert door.circuits == 0
