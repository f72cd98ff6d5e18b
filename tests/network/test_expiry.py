"""Expiry: each entry ends at its own time or not at all, and one task serves them all."""

from functools import partial

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from warren.network.expiry import Expiry


async def test_what_is_not_over_ends_at_its_own_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    expiry, ends = Expiry(nursery, 10.0), list[float]()

    for _ in range(3):
        expiry.watch(lambda: ends.append(trio.current_time()))
        await trio.sleep(2.0)
    await trio.sleep(20.0)

    start = trio.current_time() - 26.0
    assert [round(end - start, 3) for end in ends] == [10.0, 12.0, 14.0]


async def test_what_is_over_is_left_alone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    expiry, ends = Expiry(nursery, 10.0), list[str]()
    first, second = (expiry.watch(partial(ends.append, name)) for name in "ab")

    first.end()
    await trio.sleep(11.0)

    assert ends == ["b"]
    assert (first.has_expired, second.has_expired) == (False, True)


async def test_one_task_serves_all_and_ends_with_the_last(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    expiry = Expiry(nursery, 10.0)
    await wait_all_tasks_blocked()
    before = len(nursery.child_tasks)

    for _ in range(100):
        expiry.watch(lambda: None)

    assert len(nursery.child_tasks) == before + 1
    await trio.sleep(11.0)
    assert len(nursery.child_tasks) == before


async def test_an_entry_watched_when_another_ends_ends_too(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    expiry, ends = Expiry(nursery, 10.0), list[str]()

    def watch_again() -> None:
        expiry.watch(lambda: ends.append("again"))

    expiry.watch(watch_again)
    await trio.sleep(21.0)

    assert ends == ["again"]


async def test_what_waits_for_something_is_ended_sooner_when_that_is_in_doubt(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    expiry, ends = Expiry(nursery, 10.0), list[str]()
    this, that = object(), object()
    mine, over, stays, others = (
        expiry.watch(partial(ends.append, name), waits_for)
        for name, waits_for in (("mine", this), ("over", this), ("stays", this), ("others", that))
    )
    over.end()
    stays.stay()

    expiry.hurry(this)

    assert ends == ["mine"]
    assert (mine.has_expired, stays.has_expired, others.has_expired) == (True, False, False)
    await trio.sleep(11.0)
    assert ends == ["mine", "stays", "others"]
