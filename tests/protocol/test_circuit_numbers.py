"""Numbers of circuits: two sides that begin circuits at will never mean two by one number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.errors import LinkError, ProtocolError
from warren.protocol import circuit_numbers
from warren.protocol.cells import INITIATOR_NUMBERS
from warren.protocol.circuit_numbers import CircuitNumbers

#: Who of the two does it, and whether a circuit of its own begins or is over.
Steps = list[tuple[bool, bool]]


def both() -> tuple[CircuitNumbers, CircuitNumbers]:
    return CircuitNumbers(is_initiator=True), CircuitNumbers(is_initiator=False)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50))
def test_two_sides_agree_whatever_begins_and_ends_and_use_no_number_twice(steps: Steps) -> None:
    sides = both()
    used: list[int] = []
    alive: tuple[list[int], list[int]] = ([], [])

    for who, begins in steps:
        if begins:
            number = sides[who].take()
            sides[not who].taken(number)
            used.append(number)
            alive[who].append(number)
        elif alive[who]:
            number = alive[who].pop()
            for side in sides:
                side.forget(number)

    assert len(set(used)) == len(used)


def test_a_circuit_that_is_over_makes_room_for_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_numbers, "MOST_CIRCUITS", 2)
    ours, theirs = both()
    numbers = [ours.take() for _ in range(2)]
    for number in numbers:
        theirs.taken(number)

    with pytest.raises(LinkError):
        ours.take()
    with pytest.raises(ProtocolError):
        theirs.taken(numbers[-1] + 1)
    for side in (ours, theirs):
        side.forget(numbers[0])

    theirs.taken(ours.take())


def test_numbers_end_before_they_would_be_those_of_the_other_side() -> None:
    ours, theirs = both()
    ours._next_own = theirs._next_theirs = 2**32 - 2
    theirs._next_own = ours._next_theirs = INITIATOR_NUMBERS - 1

    theirs.taken(ours.take())
    ours.taken(theirs.take())

    for side in (ours, theirs):
        with pytest.raises(LinkError):
            side.take()


@pytest.mark.parametrize("number", [0, INITIATOR_NUMBERS, 2**32 - 1])
def test_the_numbers_of_one_side_are_not_the_others(number: int) -> None:
    ours, _ = both()

    with pytest.raises(ProtocolError, match="wrong side"):
        ours.taken(number)
