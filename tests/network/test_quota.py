"""The quota: what is counted, when somebody has to go, who does, and when the pressure is over."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from warren.network.bucket import REPORT_SECONDS
from warren.network.quota import (
    CALM,
    LEAST_SECONDS,
    LOOK_SECONDS,
    MEBIBYTE,
    MOST_GROWTH,
    STALE_SECONDS,
    Holder,
    Quota,
    default_quota,
)
from warren.network.turn import Turn
from warren.protocol.backlog import Queue
from warren.protocol.credit import CreditBudget

LIMIT = 100 * MEBIBYTE


class NoTurn:
    """Be a turn in which nobody has anything to do."""

    def run(self) -> None:
        return


@dataclass(eq=False)
class Crowd:
    """Stand for those for whom memory is kept: MiB of each by name, and how many ever came."""

    kept: dict[str, int] = field(default_factory=dict)
    came: dict[str, int] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    #: Of those who are given up, but not gone, because that takes a while.
    are_slow: bool = False

    def leave(self, **mebibytes: int) -> None:
        for name, count in mebibytes.items():
            self.kept[name] = count
            self.came[name] = self.came.get(name, 0) + count

    def pass_through(self, *names: str) -> None:
        """Let all that waits leave, and as much come."""
        for name in names:
            self.came[name] += self.kept[name]

    def holders(self) -> Iterator[Holder]:
        for name, count in self.kept.items():
            came = self.came[name]
            queue = Queue(name, count * MEBIBYTE, came, came - count)
            yield Holder("circuits", name, [queue], partial(self._give_up, name))

    def _give_up(self, name: str) -> None:
        self.gone.append(name)
        if not self.are_slow:
            del self.kept[name]


class Names:
    """Stand for a cache."""

    def __init__(self, mebibytes: int) -> None:
        self.kept_bytes = mebibytes * MEBIBYTE

    def shrink(self, size: int) -> None:
        self.kept_bytes = size


class Process:
    """Stand for a process: its quota, the time, and how much memory it has at all."""

    def __init__(self) -> None:
        self.now, self.used = 1000.0, LIMIT
        self.budget, self.crowd = CreditBudget(1000), Crowd()
        self.quota = Quota(
            LIMIT,
            self.budget,
            cast(Turn, NoTurn()),
            used=lambda: self.used,
            now=lambda: self.now,
        )
        self.quota.sources.append(self.crowd.holders)

    def look(self, *, after: float = 1.0) -> float:
        self.now += after
        return self.quota.look()


@pytest.fixture
def process() -> Process:
    return Process()


# ---- who has to go


def test_nobody_has_to_go_at_the_quota(process: Process) -> None:
    process.crowd.leave(a=60, b=40)

    process.look()

    assert process.crowd.gone == []
    assert not process.quota.is_pressed


def test_one_more_brings_it_down_to_ninety_percent(process: Process) -> None:
    process.crowd.leave(**{f"n{number}": 1 for number in range(101)})

    process.look()

    assert sum(process.crowd.kept.values()) == 90


def test_whose_data_has_waited_longest_goes_first_however_little_it_is(process: Process) -> None:
    process.crowd.leave(old=5)
    process.look()
    process.crowd.leave(young=80, younger=20)
    process.look()

    assert process.crowd.gone[0] == "old"
    assert process.crowd.gone[1:] == ["young"]  # of those equally long: it keeps more


def test_data_that_passes_has_not_waited(process: Process) -> None:
    process.crowd.leave(busy=50, lying=20)
    process.look()
    for _ in range(100):
        process.crowd.pass_through("busy")
        process.look()

    process.crowd.leave(busy=85)
    process.crowd.pass_through("busy")
    process.look()

    assert process.crowd.gone == ["lying"]


def test_one_who_takes_a_little_now_and_then_is_no_younger_for_it(process: Process) -> None:
    process.crowd.leave(sipping=40)
    process.look()
    for _ in range(20):
        process.crowd.leave(sipping=40)  # a fortieth of what waits passes
        process.crowd.came["sipping"] += 1 - 40
        process.look()

    process.crowd.leave(young=70)
    process.look()

    assert process.crowd.gone == ["sipping"]


def test_who_is_on_the_way_out_is_counted_no_more(process: Process) -> None:
    process.crowd.are_slow = True
    process.crowd.leave(a=20)
    process.look()
    process.crowd.leave(b=85)

    for _ in range(5):
        process.look(after=0.05)

    assert process.crowd.gone == ["a"]


@given(st.lists(st.integers(0, 40), max_size=30), st.lists(st.integers(0, 29), max_size=20))
def test_after_a_look_there_is_room_and_the_old_went_before_the_young(
    sizes: list[int], late: list[int]
) -> None:
    process = Process()
    names = {f"n{number}": size for number, size in enumerate(sizes)}
    young = {f"n{number}" for number in late} & names.keys()
    process.crowd.leave(**{name: names[name] for name in names.keys() - young})
    process.quota.sources.clear()  # until all are there nobody has to go
    process.quota.sources.append(process.crowd.holders)
    process.quota.limit = 1 << 60
    process.used = 1 << 60
    process.look()
    process.crowd.leave(**{name: names[name] for name in young})
    process.quota.limit = LIMIT

    process.look()

    assert sum(process.crowd.kept.values()) <= 100
    if young & set(process.crowd.gone):
        assert not any(size for name, size in process.crowd.kept.items() if name not in young)


def test_large_caches_are_cut_before_anybody_goes(process: Process) -> None:
    names, addresses = Names(21), Names(15)
    process.quota.caches += [names, addresses]
    process.crowd.leave(a=65)

    process.look()

    assert (names.kept_bytes, addresses.kept_bytes) == (10 * MEBIBYTE, 15 * MEBIBYTE)
    assert process.crowd.gone == []
    assert process.quota.is_pressed


# ---- pressure


def pieces(first: int, behind: int) -> dict[str, int]:
    """Return holders of one MiB each, numbered from `first` on."""
    return {f"n{number}": 1 for number in range(first, behind)}


def test_pressure_comes_with_the_quota_and_stays_down_to_three_quarters(process: Process) -> None:
    seen = []
    for turn, kept in enumerate((99, 101, 80, 76, 75, 99)):
        process.crowd.kept.clear()
        process.crowd.leave(**pieces(1000 * turn, 1000 * turn + kept))
        process.look()
        seen.append(process.budget.is_pressed)

    assert seen == [False, True, True, True, False, False]
    assert process.quota.pressures == 1


def test_under_pressure_those_go_on_to_go_whose_data_lies(process: Process) -> None:
    """Or whoever leaves 90 % of the quota lying keeps all others out."""
    process.crowd.leave(**pieces(0, 101))
    process.look()

    process.look(after=STALE_SECONDS - 0.1)
    before = len(process.crowd.kept)
    process.look(after=0.2)

    assert (before, len(process.crowd.kept)) == (90, 75)
    assert not process.quota.is_pressed


def test_under_pressure_nobody_goes_whose_data_moves(process: Process) -> None:
    process.crowd.leave(**pieces(0, 101))
    process.look()

    for _ in range(60):
        process.crowd.pass_through(*process.crowd.kept)
        process.look()

    assert len(process.crowd.kept) == 90
    assert process.quota.is_pressed


def test_without_pressure_data_may_lie_as_long_as_it_likes(process: Process) -> None:
    process.crowd.leave(**pieces(0, 100))

    for _ in range(60):
        process.look(after=60)

    assert process.crowd.gone == []


# ---- how often it looks


def test_a_process_that_takes_little_is_not_looked_into(process: Process) -> None:
    def holders() -> Iterator[Holder]:
        raise AssertionError("somebody was counted")

    process.quota.sources[:] = [holders]
    process.used = LIMIT // 2 - 1

    process.look()

    assert not process.quota.is_pressed


def test_it_looks_again_before_the_rest_could_be_filled(process: Process) -> None:
    for kept, least in ((0, 0.1), (60, 0.05), (99, LEAST_SECONDS)):
        process.crowd.kept.clear()
        process.crowd.leave(a=kept)

        seconds = process.look()

        room = (LIMIT - kept * MEBIBYTE) / MOST_GROWTH
        assert least <= seconds <= max(room, LEAST_SECONDS) + 0.1  # what the look took, ten times


def test_with_a_large_quota_it_looks_once_a_second(process: Process) -> None:
    process.quota.limit = 1024 * MEBIBYTE
    process.used = 50 * MEBIBYTE

    assert process.look() == LOOK_SECONDS


@pytest.mark.parametrize(
    ("memory", "quota"), [(256, 64), (2048, 512), (4096, 1024), (1 << 20, 1024)]
)
def test_the_usual_quota_is_a_quarter_and_a_gibibyte_at_most(memory: int, quota: int) -> None:
    assert default_quota(memory * MEBIBYTE) == quota * MEBIBYTE


# ---- what is said of it


def test_the_log_says_it_once_a_minute(process: Process) -> None:  # DOS-9
    with structlog.testing.capture_logs() as logs:
        for number in range(600):
            process.crowd.leave(**{f"n{number}": 101})
            process.look(after=REPORT_SECONDS / 100)

    assert len(logs) == 6
    assert logs[-1]["limit"] == LIMIT
    assert logs[-1]["closed"] > 400


def test_the_statistics_count_who_went(process: Process) -> None:
    process.crowd.leave(**pieces(0, 101))
    process.look()

    assert process.quota.statistics() == {
        "limit": LIMIT,
        "kept": 90 * MEBIBYTE,
        "pressed": 1,
        "pressures": 1,
        "closed": {"circuits": 11},
    }
    assert CALM * 100 < 90
