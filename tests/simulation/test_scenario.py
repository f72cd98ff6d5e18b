from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.clock import SimulatedClock
from simulation.faults import CALM_SHARE, cost_no_stream, draw_faults
from simulation.run import Simulation
from simulation.scenario import INSTANT, KINDS, Fault, Scenario, parse_faults, parse_kinds
from warren.errors import ConfigError

HOSTS = [f"{what}{n}" for what in ("authority", "relay", "client", "target") for n in range(1, 4)]


@given(st.integers(0, 1 << 32), st.sampled_from([3.0, 200.0, 86_400.0]))
def test_a_fault_is_read_as_it_is_written(seed: int, seconds: float) -> None:
    scenario = Scenario(seed, peers=12, seconds=seconds, fault_seconds=seconds / 20)
    faults = draw_faults(scenario, HOSTS)

    read = parse_faults("; ".join(map(str, faults)))

    assert read == faults
    assert scenario.with_faults(read).faults == faults


@given(st.integers(0, 1 << 32))
def test_faults_are_over_before_the_calm_at_the_end(seed: int) -> None:
    scenario = Scenario(seed, peers=12, seconds=500.0, fault_seconds=3.0)

    faults = draw_faults(scenario, HOSTS)

    calm = scenario.seconds * (1 - CALM_SHARE)
    assert faults
    assert all(fault.at + fault.seconds <= calm + 1 for fault in faults)
    assert all((fault.seconds == 0) == (fault.kind in INSTANT) for fault in faults)


def test_fewer_kinds_are_drawn_alone() -> None:
    scenario = Scenario(1, peers=12, seconds=500.0, kinds=("cut", "stall"))

    assert {fault.kind for fault in draw_faults(scenario, HOSTS)} == {"cut", "stall"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("crash relay1", "is no fault: expected something like"),
        ("at 5 explode relay1", "unknown fault 'explode': expected one of crash, cut"),
        ("at 5 stall relay1+relay2 for 3", "stall: 2 hosts, expected 1 to 1"),
        ("at 5 stall relay1", "expected 'for' so many seconds"),
        ("at 5 stall relay1 for 0", "expected 'for' so many seconds"),
        ("at 5 cut relay1 for 3", "expected no 'for': it is over at once"),
        ("at 5 clock relay1 for 3", "expected 'by' so many seconds"),
        ("at 5 stall relay1 for 3 by 5", "expected no 'by'"),
        ("at 5 cut relay1+relay1", "names a host twice"),
        ("at \N{ARABIC-INDIC DIGIT FIVE} cut relay1", "is no fault"),
    ],
)
def test_what_is_no_fault_is_refused_with_what_would_be(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_faults(text)


def test_a_fault_of_a_machine_that_is_not_there_is_refused() -> None:
    scenario = Scenario(1, peers=12, faults=parse_faults("at 5 crash target1 for 3"))

    with pytest.raises(ConfigError, match="there is no target1 for that, only authority1"):
        Simulation(scenario, SimulatedClock(), 1)


def test_a_fault_that_would_come_too_late_is_refused() -> None:
    with pytest.raises(ConfigError, match="at 60 cut relay1: the simulation is over after 60 s"):
        Scenario(1, seconds=60.0, faults=parse_faults("at 5 cut relay1; at 60 cut relay1"))


def test_a_fault_that_would_outlast_the_simulation_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected that the fault is by then"):
        Scenario(1, seconds=60.0, faults=parse_faults("at 5 stall relay1 for 999999"))


@pytest.mark.parametrize(
    "more", [{"peers": 5001}, {"seconds": 1e9}, {"traffic": 1e9}, {"fault_seconds": 0.01}]
)
def test_what_would_never_come_to_an_end_is_refused(more: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        replace(Scenario(1, seconds=36_000.0), **more)  # type: ignore[arg-type]


def test_what_costs_no_stream_is_on_the_way_to_the_exits_and_short() -> None:
    short = "at 5 cut relay2; at 6 cut relay1+relay4; at 7 crash relay3 for 5"

    assert cost_no_stream(())
    assert cost_no_stream(parse_faults(short))
    for other in (
        "at 8 cut relay1",
        "at 8 cut relay1+target1",
        "at 8 crash relay4 for 5",
        "at 8 crash relay3 for 50",
        "at 8 crash client1 for 5",
        "at 8 stall relay2 for 5",
    ):
        assert not cost_no_stream(parse_faults(f"{short}; {other}"))


@pytest.mark.parametrize("what", ["seconds", "fault_seconds", "traffic"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_figure_that_is_none_is_refused(what: str, value: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        replace(Scenario(1), **{what: value})  # type: ignore[arg-type]


def test_kinds_are_listed_by_name() -> None:
    assert parse_kinds("all") == tuple(KINDS)
    assert parse_kinds("none") == ()
    assert parse_kinds("cut,crash") == ("cut", "crash")
    with pytest.raises(ConfigError, match="unknown fault 'flood'"):
        parse_kinds("cut,flood")


def test_a_scenario_tells_the_command_that_repeats_it() -> None:
    scenario = Scenario(7, peers=20, seconds=60.0, faults=(Fault(1.5, "cut", ("relay1",)),))

    assert scenario.command == (
        "scripts/simulate --seed 7 --peers 20 --seconds 60 --traffic 1 --script 'at 1.5 cut relay1'"
    )
