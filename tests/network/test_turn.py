"""Turns: what one step queued leaves at its end, once each, and a bug hurts only itself."""

from collections.abc import Callable

import structlog.testing
import trio
from trio.testing import wait_all_tasks_blocked

from warren.network.turn import Turn


class Recorder:
    """Be an item that notes when it acts, and does `then` each time."""

    def __init__(self, log: list[str], name: str, then: Callable[[], None] | None = None) -> None:
        self.in_turn = False
        self._log, self._name, self._then = log, name, then

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def flush(self) -> None:
        self._log.append(self._name)
        if self._then is not None:
            self._then()


async def test_items_act_in_the_order_they_were_added(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()

    for name in "abc":
        turn.add(Recorder(log, name))
    turn.run()

    assert log == ["a", "b", "c"]


async def test_adding_twice_is_the_same_as_once(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()
    item = Recorder(log, "a")

    turn.add(item)
    turn.add(item)
    turn.run()

    assert log == ["a"]


async def test_nothing_acts_before_the_end_of_the_step(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()

    turn.add(Recorder(log, "a"))

    assert log == []


async def test_what_is_added_meanwhile_acts_in_the_same_turn(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()
    late = Recorder(log, "late")

    turn.add(Recorder(log, "first", lambda: turn.add(late)))
    turn.add(Recorder(log, "second"))
    turn.run()

    assert log == ["first", "second", "late"]


async def test_an_item_may_ask_for_another_turn_of_its_own(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()
    item = Recorder(log, "a", lambda: turn.add(item) if len(log) < 3 else None)

    turn.add(item)
    turn.run()

    assert log == ["a", "a", "a"]


async def test_a_run_inside_a_run_leaves_the_work_to_the_outer_one(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()

    def run_inside() -> None:
        turn.run()
        log.append("inner run is over")

    turn.add(Recorder(log, "a", run_inside))
    turn.add(Recorder(log, "b"))
    turn.run()

    assert log == ["a", "inner run is over", "b"]


async def test_a_bug_in_one_item_is_logged_and_stops_no_other(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()

    def fail() -> None:
        raise RuntimeError("a bug")

    turn.add(Recorder(log, "broken", fail))
    turn.add(Recorder(log, "sound"))
    with structlog.testing.capture_logs() as logged:
        turn.run()
    turn.add(Recorder(log, "later"))
    turn.run()

    assert log == ["broken", "sound", "later"]
    assert [(entry["log_level"], entry["item"]) for entry in logged] == [("error", "<broken>")]


async def test_what_comes_in_one_round_leaves_together(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()

    async def bring(name: str) -> None:
        turn.add(Recorder(log, name))
        turn.run_soon()
        log.append(f"{name} is here")

    async with trio.open_nursery() as round_of_tasks:
        for name in "ab":
            round_of_tasks.start_soon(bring, name)
    await wait_all_tasks_blocked()

    assert sorted(log[:2]) == ["a is here", "b is here"]
    assert sorted(log[2:]) == ["a", "b"]


async def test_what_cannot_wait_leaves_before_the_round_is_over(nursery: trio.Nursery) -> None:
    turn, log = Turn(nursery), list[str]()

    turn.add(Recorder(log, "a"))
    turn.run_soon()
    turn.run()
    at_once = list(log)
    await wait_all_tasks_blocked()

    assert at_once == log == ["a"]


async def test_with_nothing_to_do_nothing_is_started(nursery: trio.Nursery) -> None:
    turn = Turn(nursery)

    turn.run_soon()

    assert not nursery.child_tasks
