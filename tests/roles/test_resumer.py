"""A client whose circuits die: its streams go on, and what cannot is reset."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.client_network import PATIENT
from tests.support.clients import client_scene
from tests.support.memory_network import Line, MemoryStream, receive
from tests.support.small_network import pattern
from warren.errors import LinkError
from warren.roles.middles import MOST_MIDDLES
from warren.roles.resumer import ANSWER_SECONDS, MOST_MOVES, RESUME_SECONDS

#: A megabyte takes a second on each link.
LINE = Line(latency=0.01, rate=1e6)


async def download(application: MemoryStream, sink: list[bytes]) -> None:
    sink.append(await receive(application))


async def test_a_download_survives_its_middle_again_and_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, line=LINE) as scene:
        application = await scene.browse(scene.net.source(9_000_000))
        got: list[bytes] = []

        async with trio.open_nursery() as nursery:
            nursery.start_soon(download, application, got)
            for _ in range(6):
                await trio.sleep(1)
                scene.cut((await scene.wait_path())[1])

        assert got == [pattern(9_000_000)]
        assert scene.resuming["resumed"] == 6
        assert scene.resuming["streams_lost"] == 0


async def test_an_upload_survives_its_middle_again_and_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, line=LINE) as scene:
        target = scene.net.target()
        application = await scene.browse(target.local)
        accepted = await target.accept()
        got: list[bytes] = []

        async with trio.open_nursery() as nursery:
            nursery.start_soon(download, accepted, got)
            nursery.start_soon(upload, application, pattern(6_000_000))
            for _ in range(4):
                await trio.sleep(1)
                scene.cut((await scene.wait_path())[1])

        assert got == [pattern(6_000_000)]


async def upload(application: MemoryStream, data: bytes) -> None:
    await application.send_all(data)
    application.send_eof()


@pytest.mark.parametrize("who", ["guard", "middle", "exit"])
async def test_without_resuming_streams_are_reset_with_their_circuit(  # T29
    who: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, line=LINE, resumes=False) as scene:
        application = await scene.browse(scene.net.source(9_000_000))
        await trio.sleep(1)
        start = trio.current_time()

        scene.cut(dict(zip(("guard", "middle", "exit"), scene.path, strict=True))[who])
        with pytest.raises(LinkError):
            await receive(application)

        assert trio.current_time() - start < 1
        assert scene.resuming["resumed"] == 0
        assert scene.resuming["streams_lost"] == 1
        another = await scene.browse(scene.net.echo())
        await another.send_all(b"x")
        assert await receive(another, 1) == b"x"


@pytest.mark.parametrize("who", ["guard", "middle", "origin"])
async def test_whichever_link_breaks_the_stream_goes_on(
    who: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.echo())
        hosts = {"guard": scene.path[0].host, "middle": scene.path[1].host}

        scene.net.memory.cut(hosts.get(who, scene.origin.host))
        await application.send_all(b"still there?")

        assert await receive(application, 12) == b"still there?"
        assert scene.resuming["resumed"] == 1


async def test_a_guard_that_is_back_serves_when_the_others_cannot(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    # The only other guard is the exit of these streams, and no path goes through it twice.
    async with client_scene(tmp_path, guards=2, middles=3, exits=0, guards_are_exits=True) as scene:
        application = await scene.browse(scene.net.echo())
        guard = scene.path[0]

        scene.net.memory.refuse(guard.host)
        scene.cut(guard)
        await trio.sleep(2)
        scene.net.memory.refusing.discard(guard.host)
        await application.send_all(b"x")
        start = trio.current_time()

        assert await receive(application, 1) == b"x"
        assert trio.current_time() - start <= 6


async def test_all_streams_of_a_circuit_go_on_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        echo = scene.net.echo()
        applications = [await scene.browse(echo) for _ in range(50)]
        exit_id = scene.slot.exit_id

        scene.cut(scene.path[1])
        for number, application in enumerate(applications):
            await application.send_all(b"%3d" % number)

        assert [await receive(each, 3) for each in applications] == [b"%3d" % n for n in range(50)]
        assert scene.slot.exit_id == exit_id
        assert scene.resuming["resumed"] == 1


async def test_the_circuit_that_takes_over_belongs_to_the_same_isolation(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        echo = scene.net.echo()
        await scene.browse(echo, "mine")
        used_first = scene.slot.first_used

        scene.cut(scene.path[1])
        await trio.sleep(1)

        assert scene.resuming["resumed"] == 1
        assert scene.slot.isolation == "mine"
        assert scene.slot.first_used == used_first
        await scene.browse(echo, "other")
        slots = [slot for slot in scene.client._circuits._pool if slot.circuit.stream_count]
        assert {slot.isolation for slot in slots} == {"mine", "other"}


async def test_the_guard_stays_and_middles_come_from_a_small_set(  # RES-1
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, middles=12, guards=3, idle=PATIENT) as scene:
        await scene.browse(scene.net.echo())
        guard, leaving = scene.path[0], scene.path[2]
        middles: Counter[str] = Counter()

        for _ in range(3 * MOST_MOVES):
            scene.cut((await scene.wait_path())[1])
            await trio.sleep(60)
            path = await scene.wait_path()
            assert (path[0], path[2]) == (guard, leaving)
            middles[path[1].host] += 1

        assert 2 <= len(middles) <= MOST_MIDDLES


async def test_a_stream_that_moved_too_often_is_reset_and_its_exit_avoided(  # RES-1
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.echo())
        leaving = scene.slot.exit_id

        for _ in range(MOST_MOVES):
            scene.cut((await scene.wait_path())[1])
            await trio.sleep(1)
        assert scene.resuming["resumed"] == MOST_MOVES
        scene.cut((await scene.wait_path())[1])

        with pytest.raises(LinkError):
            await receive(application)
        assert scene.resuming["streams_lost"] == 1
        assert leaving in scene.client._circuits._paths.avoided


async def test_a_guard_that_is_gone_is_replaced_by_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=3) as scene:
        application = await scene.browse(scene.net.echo())
        guard = scene.path[0]

        guard.crash()
        await application.send_all(b"x")

        assert await receive(application, 1) == b"x"
        assert scene.path[0] is not guard


async def test_the_stream_of_an_exit_that_is_gone_is_reset(  # SID-4, T29
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.source(50_000_000))
        await receive(application, 100_000)
        leaving = scene.path[2]
        began = trio.current_time()

        leaving.crash()

        with pytest.raises(LinkError):
            await receive(application)
        assert trio.current_time() - began < 60
        assert leaving.peer_id in scene.client._circuits._paths.avoided


async def test_an_exit_that_has_forgotten_means_a_reset(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.source(50_000_000))
        await receive(application, 100_000)
        leaving = scene.path[2]
        leaving.relay._holdings._most_streams = 0  # type: ignore[union-attr]

        scene.cut(scene.path[1])

        with pytest.raises(LinkError):
            await receive(application)


async def test_an_exit_that_heard_of_the_middle_late_holds_its_streams_all_the_same(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        knows = False
        for peer in scene.net.relays:
            peer.relay._is_relay = lambda _: knows
        for slot in tuple(scene.client._circuits._pool):
            slot.circuit.close()  # type: ignore[attr-defined]
        await trio.sleep(10)
        knows = True
        application = await scene.browse(scene.net.echo())

        scene.cut(scene.path[1])
        await application.send_all(b"still there?")

        assert await receive(application, 12) == b"still there?"


async def test_after_sixty_seconds_both_ends_are_reset(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        target = scene.net.target()
        application = await scene.browse(target.local)
        accepted = await target.accept()
        leaving = scene.path[2]
        for peer in scene.net.relays:
            peer.network.refuse(peer.host)
        began = trio.current_time()

        scene.net.memory.cut(scene.origin.host)
        with pytest.raises(LinkError):
            await receive(application)
        near = trio.current_time() - began
        with pytest.raises(LinkError):
            await receive(accepted)
        far = trio.current_time() - began

        assert 59 < near < 61
        assert 59 < far < 61
        assert leaving.relay.statistics()["held"] == {
            "circuits": 0, "streams": 0, "resumed": 0, "lost": 1,
        }  # fmt: skip


async def test_an_answer_that_comes_when_all_was_given_up_finds_no_circuit(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_scene(tmp_path) as scene:
        memory, target = scene.net.memory, scene.net.target()
        application = await scene.browse(target.local)
        accepted = await target.accept()
        await application.send_all(b"lost on its way")
        exit_ = scene.path[2]
        holdings = exit_.relay._holdings
        assert holdings is not None
        answer = holdings.resume

        def answer_late(*claim: Any) -> None:
            answer(*claim)
            memory.stall(exit_.host)

        monkeypatch.setattr(holdings, "resume", answer_late)
        for peer in scene.net.relays:
            peer.network.refuse(peer.host)
        memory.cut(scene.origin.host)
        await trio.sleep(RESUME_SECONDS - ANSWER_SECONDS / 2)
        memory.refusing.clear()

        with pytest.raises(LinkError):
            await receive(application)
        memory.resume(exit_.host)
        with pytest.raises(LinkError), trio.fail_after(2 * RESUME_SECONDS):
            await receive(accepted)

        assert scene.resuming["streams_lost"] == 1
        assert not [slot for slot in scene.client._circuits._pool if slot.circuit.stream_count]
        held = exit_.relay.statistics()["held"]
        assert held["streams"] == 0  # type: ignore[index]


async def test_an_outage_of_half_a_minute_is_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.echo())
        memory = scene.net.memory
        for peer in scene.net.relays:
            peer.network.refuse(peer.host)
        memory.cut(scene.origin.host)
        await application.send_all(b"x")
        await trio.sleep(30)

        memory.refusing.clear()
        began = trio.current_time()

        assert await receive(application, 1) == b"x"
        assert trio.current_time() - began < 10


async def test_a_half_closed_stream_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with client_scene(tmp_path, line=LINE) as scene:
        application = await scene.browse(scene.net.source(3_000_000))
        application.send_eof()
        await receive(application, 1_000_000)

        scene.cut(scene.path[1])

        assert await receive(application) == pattern(3_000_000)[1_000_000:]


@pytest.mark.parametrize("position", [0, 1], ids=["guard", "middle"])
async def test_a_relay_that_falls_silent_is_given_up(  # T32
    position: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=3) as scene:
        application = await scene.browse(scene.net.echo())
        silent = scene.path[position]
        began = trio.current_time()

        scene.net.memory.stall(silent.host)
        await application.send_all(b"x")

        assert await receive(application, 1) == b"x"
        assert trio.current_time() - began < 25 + 15
        assert silent not in scene.path


# ---- the pause


async def test_a_stub_makes_the_pause_a_round_trip(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    latency = 0.05
    async with client_scene(tmp_path, line=Line(latency=latency)) as scene:
        application = await scene.browse(scene.net.echo())
        await trio.sleep(6)
        assert scene.resuming["stubs"] == 1

        scene.cut(scene.path[1])
        await trio.sleep(3)
        await application.send_all(b"x")

        assert await receive(application, 1) == b"x"
        # EXTEND and RESUME cross the three links and come back.
        (pause,) = scene.resuming["pause_seconds"]
        assert pause == pytest.approx(2 * 6 * latency + 2 * latency, abs=2.5 * latency)


async def test_a_stub_avoids_the_middle_that_is_in_use(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        await scene.browse(scene.net.echo())
        await trio.sleep(6)

        (stub,) = scene.client._resumer._stubs.values()

        assert stub.path[0].peer_id == scene.path[0].peer_id
        assert stub.path[1].peer_id != scene.path[1].peer_id


async def test_stubs_go_when_nobody_needs_them(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with client_scene(tmp_path) as scene:
        application = await scene.browse(scene.net.echo())
        await trio.sleep(6)
        assert scene.resuming["stubs"] == 1

        application.close()
        await trio.sleep(6)

        assert scene.resuming["stubs"] == 0


async def test_short_streams_cost_no_stub(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with client_scene(tmp_path) as scene:
        source = scene.net.source(1000)
        for _ in range(5):
            application = await scene.browse(source)
            application.send_eof()
            await receive(application)
            await trio.sleep(1.3)  # not each time one looks

        assert scene.resuming["stubs"] == 0


async def test_the_spares_have_different_middles(  # REL-2
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    for seed in range(6):
        async with client_scene(tmp_path / str(seed), seed=seed) as scene:
            await trio.sleep(5)

            spares = [scene.numbers(slot) for slot in scene.client._circuits._pool]

            assert len(spares) == 2
            assert spares[0][1] != spares[1][1]


async def test_a_network_with_one_middle_still_has_spares(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, middles=1, exits=1) as scene:
        await trio.sleep(5)

        assert len(scene.client._circuits._pool) == 2


async def test_with_one_middle_streams_come_back_when_it_does(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, guards=1, middles=1, exits=1) as scene:
        application = await scene.browse(scene.net.echo())

        for _ in range(3):
            scene.cut(scene.middles[0])
            await application.send_all(b"x")
            assert await receive(application, 1) == b"x"
            await trio.sleep(5)

        assert scene.resuming["resumed"] == 3


# ---- beginning again


async def test_a_stream_whose_begin_was_lost_is_begun_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path, line=Line(latency=0.05)) as scene:
        stream = None

        async def open_stream() -> None:
            nonlocal stream
            stream = await scene.client.open_stream(scene.net.echo(), "a", b"early")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_stream)
            await trio.sleep(0.06)
            scene.cut(scene.path[1])
        assert stream is not None
        application = await scene.origin.attach(stream)

        assert await receive(application, 5) == b"early"


async def test_a_stream_that_is_being_connected_is_not_begun_twice(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        target = scene.net.target()
        scene.net.memory.dial_seconds[target.local.host] = 3.0

        async with trio.open_nursery() as nursery:

            async def open_stream() -> None:
                stream = await scene.client.open_stream(target.local, "a", b"once")
                await scene.origin.attach(stream)

            nursery.start_soon(open_stream)
            await trio.sleep(1)
            scene.cut(scene.path[1])
            accepted = await target.accept()

        assert await receive(accepted, 4) == b"once"
        await trio.sleep(10)
        assert Counter(scene.net.memory.dialled)[target.local] == 1


async def test_streams_that_wait_for_a_dead_exit_are_begun_elsewhere(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with client_scene(tmp_path) as scene:
        target = scene.net.target()
        scene.net.memory.dial_seconds[target.local.host] = 3.0
        opened: list[object] = []

        async def open_stream() -> None:
            opened.append(await scene.client.open_stream(target.local, "a"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(open_stream)
            await trio.sleep(1)
            scene.path[2].crash()

        assert len(opened) == 20
