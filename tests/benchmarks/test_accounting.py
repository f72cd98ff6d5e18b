"""Who used the processors, as the kernel tells it."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks import accounting
from benchmarks.accounting import (
    Watch,
    busy_seconds,
    cpu_seconds,
    kernel_seconds,
    memory,
    with_descendants,
)

BURN = "import time\nwhile time.process_time() < 0.15: pass"


def test_the_time_of_a_process_grows_as_it_works() -> None:
    before, busy = cpu_seconds(os.getpid()), busy_seconds()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass

    assert 0.03 < cpu_seconds(os.getpid()) - before < 1
    assert busy_seconds() > busy


def test_time_in_system_calls_is_a_part_of_all_time() -> None:
    before = kernel_seconds(os.getpid())
    end = os.times().system + 0.05
    while os.times().system < end:
        os.getppid()

    assert kernel_seconds(os.getpid()) - before > 0.03
    assert kernel_seconds(os.getpid()) <= cpu_seconds(os.getpid())


def test_descendants_are_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = set(with_descendants(os.getpid()))
        child.communicate(b"\n")

    assert {os.getpid(), child.pid} <= found


def test_what_is_gone_used_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()

    assert cpu_seconds(child.pid) == kernel_seconds(child.pid) == 0
    assert memory(child.pid).current == 0


def test_memory_has_a_peak_that_is_no_less_than_what_there_is() -> None:
    found = memory(os.getpid())

    assert found.peak >= found.current > 1


def test_a_watch_names_who_used_the_time() -> None:
    program = [sys.executable, "-c", f"{BURN}\ninput()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as child:
        with Watch({"under test": child.pid}) as watch:
            time.sleep(0.4)
        child.communicate(b"\n")

    assert watch.cpu["under test"] > 0
    assert watch.seconds >= 0.4


def test_the_load_is_what_neither_we_nor_our_children_did(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = [0.0]
    monkeypatch.setattr(accounting, "busy_seconds", lambda: sum(os.times()[:4]) + elsewhere[0])

    with Watch({}) as watch:
        subprocess.run([sys.executable, "-c", BURN], check=True)
        elsewhere[0] = 0.5

    assert watch.load * watch.seconds == pytest.approx(0.5, abs=0.05)
