import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imagined import NOON, peer
from warren.directory.guard_state import (
    SCHEMA,
    Guard,
    dump_guards,
    load_guards,
)
from warren.directory.path_bias import PathBias, Tally, Verdict
from warren.errors import DirectoryError, NewerSchema

HOUR = 3600

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def state(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "peer": str(peer(1)),
        "added": NOON,
        "confirmed": None,
        "unlisted_since": None,
        "contacted": None,
    }
    return {"schema": SCHEMA, "guards": [fields | changes]}


def test_guards_come_back_from_json_in_their_order() -> None:
    guards = [
        Guard(peer(2), NOON, confirmed=NOON + 1, has_served=True),
        Guard(peer(1), NOON, unlisted_since=NOON + 2),
    ]

    restored = load_guards(json.loads(json.dumps(dump_guards(guards))))

    assert restored == guards


def test_what_became_of_circuits_is_kept_and_judged_again() -> None:  # PATH-4
    guard = Guard(peer(1), NOON, bias=PathBias(Tally(200, 80), Tally(9, 8)))

    (restored,) = load_guards(json.loads(json.dumps(dump_guards([guard]))))

    assert restored == guard
    assert restored.bias.verdict is Verdict.VERY_LOW


def test_a_file_from_before_circuits_were_counted_is_read() -> None:
    older = state() | {"schema": 1}

    assert load_guards(older) == [Guard(peer(1), NOON)]


@pytest.mark.parametrize(
    "kept",
    [[1, 2], [-1, -1], [301, 3], [1], [2, 1, 0], "many", {"tried": 1}, [2.0, 1], 7, [None, 0]],
)
def test_counts_that_cannot_be_right_begin_anew_and_cost_no_guard(kept: object) -> None:  # T40
    assert load_guards(state(builds=kept, uses=[5, 4])) == [
        Guard(peer(1), NOON, bias=PathBias(uses=Tally(5, 4)))
    ]


def test_what_failed_is_not_kept() -> None:
    guard = Guard(peer(1), NOON, failures=3, failed_at=NOON, retry_at=NOON + 60)

    (restored,) = load_guards(dump_guards([guard]))

    assert restored == Guard(peer(1), NOON)


def test_the_file_tells_the_hour_of_a_contact_and_counts_it_long_enough() -> None:
    guard = Guard(peer(1), NOON, contacted=NOON + 1.5)

    (restored,) = load_guards(dump_guards([guard]))

    assert restored.contacted is not None
    assert restored.contacted % HOUR == 0
    assert NOON + 1.5 <= restored.contacted < NOON + 1.5 + HOUR


def test_a_later_schema_says_what_to_do() -> None:
    with pytest.raises(NewerSchema, match="use a newer version, or move the file away"):
        load_guards({"schema": SCHEMA + 1, "guards": "something new"})


@pytest.mark.parametrize(
    "changes",
    [
        {"peer": "no peer"},
        {"peer": str(peer(1)).upper()},
        {"peer": "é" * 52},
        {"added": -1},
        {"added": 1 << 40},
        {"added": "today"},
        {"confirmed": 1.5},
        {"extra": 1},
    ],
)
def test_a_damaged_guard_is_refused(changes: dict[str, Any]) -> None:  # T40
    with pytest.raises(DirectoryError, match="cannot be read"):
        load_guards(state(**changes))


def test_a_guard_that_is_there_twice_is_refused() -> None:
    twice = state()
    twice["guards"] *= 2

    with pytest.raises(DirectoryError, match="twice"):
        load_guards(twice)


def test_more_guards_than_any_sample_has_are_refused() -> None:
    crowd = [Guard(peer(number), NOON) for number in range(61)]

    with pytest.raises(DirectoryError):
        load_guards(dump_guards(crowd))


@given(JSON)
def test_anything_else_raises_a_directory_error_and_nothing_else(data: Any) -> None:  # T40
    with pytest.raises(DirectoryError):
        load_guards(data)


@given(
    st.dictionaries(st.sampled_from(["peer", "added", "confirmed", "contacted", "builds"]), JSON)
)
def test_any_damaged_field_raises_a_directory_error_or_is_valid(changes: dict[str, Any]) -> None:
    try:
        guards = load_guards(state(**changes))
    except DirectoryError:
        return

    assert load_guards(dump_guards(guards)) is not None
