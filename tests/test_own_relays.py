"""A proxy finds the relays that its user runs on this machine, those that start later too."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.support.imagined import peer
from warren.node import own_relays
from warren.node.own_relays import keep_finding
from warren.roles.own_relays import OwnRelays
from warren.status.control import serve_control
from warren.status.running import known_as_running

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a place for the state of processes that no other process of this machine knows."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(own_relays, "LOOK_SECONDS", 0.02)
    return tmp_path


class Process:
    """Be a process of `role`, as far as others can see it, that answers `said`."""

    def __init__(self, folder: Path, role: str, **said: object) -> None:
        self.folder, self.role, self.said = folder, role, said
        self.asked = 0
        folder.mkdir(parents=True, exist_ok=True)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with serve_control(self.folder, self._statistics):
            with known_as_running(self.role, self.folder):
                task_status.started()
                await trio.sleep_forever()

    async def _statistics(self) -> dict[str, object]:
        self.asked += 1
        return self.said


async def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  what is awaited is the work of another task
        await trio.sleep(0.01)


async def test_a_relay_that_runs_is_known_before_anything_else_is_done(machine: Path) -> None:
    own = OwnRelays()
    async with trio.open_nursery() as nursery:
        await nursery.start(Process(machine / "a", "relay", id=str(peer(3))).run)

        await nursery.start(keep_finding, own)

        assert own.ids == {peer(3)}
        nursery.cancel_scope.cancel()


async def test_one_that_starts_later_is_found_and_each_is_asked_once(machine: Path) -> None:
    own = OwnRelays([peer(1)])
    later = Process(machine / "later", "relay", id=str(peer(4)))
    async with trio.open_nursery() as nursery:
        await nursery.start(keep_finding, own)
        before = own.ids

        await nursery.start(later.run)
        await wait_until(lambda: peer(4) in own.ids)
        await trio.sleep(0.2)

        assert before == {peer(1)}
        assert later.asked == 1
        nursery.cancel_scope.cancel()


async def test_the_usual_folder_is_looked_at_where_no_link_could_be_left(machine: Path) -> None:
    own = OwnRelays()
    relay = Process(machine / "state" / "warren" / "relay", "relay", id=str(peer(5)))
    async with trio.open_nursery() as nursery, serve_control(relay.folder, relay._statistics):
        await nursery.start(keep_finding, own)

        assert own.ids == {peer(5)}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [{}, {"id": 7}, {"id": "no peer"}, {"error": "not now"}])
async def test_what_makes_no_sense_is_asked_again(said: dict[str, object], machine: Path) -> None:
    own, odd = OwnRelays(), Process(machine / "odd", "relay", **said)
    async with trio.open_nursery() as nursery:
        await nursery.start(odd.run)
        await nursery.start(keep_finding, own)

        await wait_until(lambda: odd.asked > 2)

        assert own.ids == frozenset()
        nursery.cancel_scope.cancel()


async def test_proxies_and_what_was_killed_are_no_relays(machine: Path) -> None:
    own, proxy = OwnRelays(), Process(machine / "proxy", "proxy", id=str(peer(6)))
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        (machine / "warren" / "relay.1").symlink_to(machine / "gone")
        (machine / "warren" / f"relay.{os.getpid()}").symlink_to(machine)

        await nursery.start(keep_finding, own)
        await trio.sleep(0.1)

        assert own.ids == frozenset()
        assert proxy.asked == 0
        nursery.cancel_scope.cancel()
