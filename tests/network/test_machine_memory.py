"""How much memory there is for a process: the machine's, or that of a control group around it."""

import os
from pathlib import Path

import pytest

from warren.network.machine_memory import used_memory, whole_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def proc(folder: Path, groups: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc" / "cgroup").write_text(groups)
    return folder / "proc"


def limit(folder: Path, place: str, text: str) -> None:
    path = folder / "cgroup" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    limit(tmp_path, "a/memory.max", "max")

    assert whole_memory(tmp_path / "cgroup", proc(tmp_path, "0::/a\n")) == MACHINE
    assert whole_memory(tmp_path / "none", tmp_path / "none") == MACHINE


def test_the_least_of_all_groups_around_it_counts(tmp_path: Path) -> None:
    limit(tmp_path, "memory.max", "max")
    limit(tmp_path, "a/memory.max", "1000000")
    limit(tmp_path, "a/b/memory.max", "2000000")

    assert whole_memory(tmp_path / "cgroup", proc(tmp_path, "0::/a/b\n")) == 1_000_000


def test_a_container_that_sees_its_own_group_only_has_that_ones(tmp_path: Path) -> None:
    limit(tmp_path, "memory.max", "3000000")

    outside = "0::/docker/0123\n"
    assert whole_memory(tmp_path / "cgroup", proc(tmp_path, outside)) == 3_000_000


def test_the_first_version_of_control_groups_has_the_memory_apart(tmp_path: Path) -> None:
    limit(tmp_path, "memory/x/memory.limit_in_bytes", "4000000")
    limit(tmp_path, "memory/memory.limit_in_bytes", "9223372036854771712")

    groups = "12:cpu,cpuacct:/y\n5:memory:/x\n1:name=systemd:/z\n"
    assert whole_memory(tmp_path / "cgroup", proc(tmp_path, groups)) == 4_000_000


@pytest.mark.parametrize("groups", ["", "junk", "0::", "0::relative", "0::/../../etc\n", ":::\n"])
def test_what_makes_no_sense_is_no_limit(tmp_path: Path, groups: str) -> None:
    limit(tmp_path, "memory.min", "1")

    assert whole_memory(tmp_path / "cgroup", proc(tmp_path, groups)) == MACHINE


def test_what_a_process_has_is_what_is_resident_and_what_is_swapped_out(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(
        "Name:\tx\nVmRSS:\t  2048 kB\nRssAnon:\t 7 kB\nVmSwap:\t 4 kB\n"
    )

    assert used_memory(tmp_path) == 2052 * 1024


def test_this_process_has_some() -> None:
    held = bytearray(os.urandom(1)) * (32 << 20)

    assert 32 << 20 < used_memory() < MACHINE
    assert held


def test_where_nobody_says_a_process_may_have_any_number(tmp_path: Path) -> None:
    assert used_memory(tmp_path) > MACHINE
