"""Bugs that were put there are found, and the faults they need are told from the others."""

from dataclasses import replace

import pytest

from simulation.nodes import Node
from simulation.run import Outcome, simulate
from simulation.scenario import Fault, Scenario
from simulation.shrink import shrink
from tests.simulation import planted
from tests.simulation.planted import Plant

#: A small, busy network, in which a seed takes a second or two.
BUSY = Scenario(0, peers=12, seconds=90.0, traffic=6.0, fault_seconds=12.0)
#: One in which exits die with streams on them, all the time.
DEADLY = replace(BUSY, kinds=("crash",), fault_seconds=4.0)
#: One in which the ways to the exits break, and nothing else.
BROKEN_WAYS = BUSY.with_faults(
    tuple(Fault(4.0 + 8 * n, "cut", (f"relay{(2, 3, 5)[n % 3]}",)) for n in range(10))
)
#: One in which links fall silent.
SILENT = replace(BUSY, kinds=("stall",), fault_seconds=8.0)

#: Where each is looked for, and what may be noticed first of it.
BUGS: list[tuple[Plant, Scenario, set[str]]] = [
    (planted.lost_credit, BUSY, {"credit", "window", "hanging"}),
    (planted.offset_off_by_one, BUSY, {"wrong byte", "bug"}),
    (planted.leaked_task, BUSY, {"leak"}),
    (planted.reused_nonce, BUSY, {"nonce"}),
    (planted.forgotten_end, BUSY, {"leak", "hanging"}),
    (planted.clean_end_of_a_loss, DEADLY, {"truncated"}),
    (planted.near_relays, BUSY, {"path"}),
    (planted.free_credit, BUSY, {"quota"}),
    (planted.one_failure_too_many, BUSY, {"recovery"}),
    (planted.stream_window_granted_twice, BUSY, {"rules"}),
    (planted.number_used_twice, BUSY, {"rules"}),
    (planted.one_byte_too_many, BROKEN_WAYS, {"rules", "wrong byte", "truncated"}),
    (planted.kept_for_ever, BUSY, {"window"}),
    (planted.forgotten_timer, SILENT, {"noticing"}),
    (planted.destroy_that_stops_half_way, BUSY, {"leak"}),
    (planted.nothing_is_resumed, BROKEN_WAYS, {"lost"}),
]


def first_broken(scenario: Scenario, seeds: int) -> Outcome:
    """Return the outcome of the first seed that breaks an invariant."""
    for seed in range(1, seeds + 1):
        outcome = simulate(replace(scenario, seed=seed))
        if outcome.violations:
            return outcome
    raise AssertionError(f"none of {seeds} seeds broke an invariant")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("plant", "scenario", "kinds"), BUGS, ids=lambda bug: getattr(bug, "__name__", "")
)
def test_a_planted_bug_is_found_within_a_hundred_seeds(
    plant: Plant, scenario: Scenario, kinds: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)

    outcome = first_broken(scenario, seeds=100)

    assert outcome.violations[0].kind in kinds


@pytest.mark.timeout(300)
def test_only_the_fault_that_a_bug_needs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    restart, crash = Node.run, Fault(12.0, "crash", ("relay2",), 5.0)
    others = tuple(Fault(5.0 * n, "cut", (f"relay{n}",)) for n in range(1, 5))
    scenario = replace(BUSY, seed=1, seconds=40.0).with_faults((*others, crash))

    async def fail_to_start_again(self: Node) -> None:
        if self.starts:
            raise ValueError("planted")
        await restart(self)

    monkeypatch.setattr(Node, "run", fail_to_start_again)
    broken = simulate(scenario)

    shortest, tries = shrink(broken, simulate)

    assert "planted" in broken.violations[0].what
    assert shortest.faults == (crash,)
    assert tries <= 12
    assert f"--script '{crash}'" in shortest.scenario.command
