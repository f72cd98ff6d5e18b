"""Sampled stacks become costs: who gets what, and that nothing is lost."""

import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import breakdown
from benchmarks.breakdown import (
    CALLER,
    COSTS,
    IDLE,
    RULES,
    Frame,
    Sample,
    break_down,
    cost_of,
    read_samples,
)

#: What every stack of a lab's process begins with.
TOP = "main (warren/cli/main.py:58);run (trio/_core/_run.py:2532)"
READ = "Link._read (warren/network/link.py:229);LinkProtocol.receive (warren/protocol/link.py:501)"


def stack(text: str) -> Sample:
    (sample,) = read_samples(f"{TOP};{text} 1")
    return sample


def test_a_line_is_read_as_calls_with_their_places() -> None:
    (sample,) = read_samples("main (a/b.py:3);<module> (<frozen runpy>:8);recv (libc.so.6) 17\n")

    assert sample.count == 17
    assert sample.frames == (
        Frame("main", "a/b.py", 3),
        Frame("<module>", "<frozen runpy>", 8),
        Frame("recv", "libc.so.6"),
    )


def test_a_call_without_a_place_is_kept() -> None:
    (sample,) = read_samples("process 12;0x55 (?) 2")

    assert sample.frames == (Frame("process 12", ""), Frame("0x55", "?"))


def test_text_that_is_not_of_this_format_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(read_samples("no number at the end"))


@pytest.mark.parametrize(
    ("calls", "cost"),
    [
        (f"{READ};RecordKey.open (warren/protocol/records.py:90)", breakdown.OPEN),
        (READ, breakdown.QUEUE),
        (
            f"{READ};CircuitEnd.receive (warren/protocol/circuit_end.py:48)",
            breakdown.STREAMS,
        ),
        (f"{READ};EndLayers.open_run (warren/protocol/onion.py:170)", breakdown.LAYERS),
        ("SocketStream.send_now (warren/network/sockets.py:174)", breakdown.SEND),
        ("SocketNetwork.dial (warren/network/dialling.py:95)", breakdown.SOCKETS),
        ("Task.step (trio/_core/_run.py:1)", breakdown.LOOP),
        ("EpollIOManager._epoll_wait (trio/_core/_io_epoll.py:300)", breakdown.WAITS),
        ("EpollIOManager.get_events (trio/_core/_io_epoll.py:243)", IDLE),
        ("KeyFiles.write (warren/key_files.py:1)", breakdown.OTHER),
    ],
)
def test_a_sample_belongs_to_its_innermost_call(calls: str, cost: str) -> None:
    assert cost_of(stack(calls)) == cost


def test_what_we_do_not_know_works_for_its_caller() -> None:
    seal = "RecordKey.seal (warren/protocol/records.py:84)"

    assert cost_of(stack(f"{seal};EVP_Cipher (_rust.abi3.so);0x7f (libc.so.6)")) == breakdown.SEAL
    assert cost_of(stack(f"{seal};expect (warren/errors.py:80)")) == breakdown.SEAL
    assert cost_of(stack("__init__ (outcome/_impl.py:9)")) == breakdown.LOOP


def test_the_collector_is_a_cost_of_its_own_whatever_set_it_off() -> None:
    collecting = stack(f"{READ};gc_collect_main (libpython3.11.so.1.0);0x7f (libc.so.6)")

    assert cost_of(collecting) == breakdown.GARBAGE


def test_a_stack_of_which_we_know_nothing_is_other() -> None:
    (sample,) = read_samples("clone (libc.so.6);0x55 (?) 1")

    assert cost_of(sample) == breakdown.OTHER


def test_idle_samples_are_counted_apart_and_are_no_share() -> None:
    poll = "EpollIOManager.get_events (trio/_core/_io_epoll.py:243);epoll_wait (libc.so.6)"
    found = break_down(read_samples(f"{poll} 30\n{READ} 6\n{TOP} 2"))

    assert found.idle == 30
    assert found.total == 8
    assert found.shares()[breakdown.QUEUE] == 0.75
    assert IDLE not in found.shares()
    assert not any("epoll_wait" in call for call, _ in found.hottest(9))


def test_samples_in_system_calls_are_counted() -> None:
    receive = "SocketStream.receive_into (warren/network/sockets.py:166)"
    found = break_down(read_samples(f"{receive};recv (libc.so.6) 3\n{receive} 1\n{READ} 4"))

    assert found.shares()[breakdown.RECEIVE] == 0.5
    assert found.in_kernel == 3


def test_without_samples_there_are_no_shares() -> None:
    found = break_down([])

    assert set(found.shares().values()) == {0.0}
    assert found.hottest(3) == []


frames = st.builds(
    Frame,
    st.sampled_from(["", "main", "gc_collect_main", "RecordKey.open", "SocketStream.send_now"]),
    st.sampled_from(["libc.so.6", *{module for module, _, _ in RULES}]),
)
samples = st.builds(Sample, st.lists(frames, min_size=1).map(tuple), st.integers(1, 99))


@given(st.lists(samples, min_size=1))
def test_every_sample_is_counted_once(taken: list[Sample]) -> None:
    found = break_down(taken)

    assert set(found.costs) <= set(COSTS)
    assert found.total + found.idle == sum(sample.count for sample in taken)
    assert sum(found.shares().values()) == pytest.approx(1 if found.total else 0)
    assert sum(found.calls.values()) == found.total


def test_the_hottest_functions_have_their_lines_taken_together() -> None:
    seal = "RecordKey.seal (warren/protocol/records.py:{})"
    found = break_down(
        read_samples(f"{seal.format(83)} 2\n{seal.format(84)} 3\n{seal.format(84)};0x7 (libc) 4\n")
    )

    assert found.hottest(9) == [
        ("RecordKey.seal (warren/protocol/records.py)", 5 / 9),
        ("? (libc) for RecordKey.seal", 4 / 9),
    ]
    assert len(found.hottest(1)) == 1


def test_names_that_tell_people_nothing_are_short() -> None:
    mangled, seal = "_RINvNt" + "C" * 200, "RecordKey.seal (warren/protocol/records.py:83)"
    found = break_down(read_samples(f"{seal};{mangled} (_rust.so) 2\n{seal};0x7f01 (libc) 1"))

    assert found.hottest(2) == [
        (f"{mangled[:50]}… (_rust.so) for RecordKey.seal", 2 / 3),
        ("? (libc) for RecordKey.seal", 1 / 3),
    ]


# ---- the rules


def test_rules_speak_of_known_costs() -> None:
    assert {cost for _, _, cost in RULES} == {*COSTS, IDLE, CALLER}


def modules_of(rule: str) -> list[Path]:
    """Return the modules that a rule is about."""
    package, _, rest = rule.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    return [
        path for path in root.rglob("*.py") if path.relative_to(root).as_posix().startswith(rest)
    ]


@pytest.mark.parametrize(("module", "function"), [rule[:2] for rule in RULES if rule[0]])
def test_every_rule_leads_somewhere(module: str, function: str) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in modules_of(module))
    *owner, name = function.split(".")

    assert source, f"{module} is gone: give its functions' new module a rule"
    assert all(re.search(rf"^class {each}\b", source, re.MULTILINE) for each in owner)
    assert re.search(rf"def {name}", source)


@pytest.mark.parametrize("at", range(len(RULES)))
def test_no_rule_hides_behind_an_earlier_one(at: int) -> None:
    module, function, _ = RULES[at]

    hidden = [
        before
        for before in RULES[:at]
        if module.startswith(before[0]) and function.startswith(before[1])
    ]

    assert not hidden
