"""The relay: circuits that others build through it, whoever they are and whatever they try."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.hand_link import FIRST_NUMBER, HandLink, create_cell
from tests.support.memory_network import receive
from tests.support.small_network import Origin, RelayPeer, SmallNetwork, in_a_task, small_network
from warren.addresses import Address
from warren.errors import CircuitError, EndReason, ExitError, LinkError
from warren.identity import Hop, PeerId
from warren.network.link import Link, OnCreate
from warren.network.streams import CircuitStream
from warren.protocol.cells import Command, make_cell
from warren.protocol.link import CreateRequested
from warren.protocol.messages import Begin
from warren.roles.build_times import BUILD_SECONDS
from warren.roles.create_limits import CreateLimits
from warren.roles.last_hop import Rest, refuse_streams
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.relay import EXTEND_SECONDS, EXTENDS_PER_CLIENT, Relay

TARGET = Address("5.6.0.1", 80)
STRANGER = "5.5.66.6"


@dataclass
class Three:
    """Hold three relays and an origin."""

    net: SmallNetwork
    origin: Origin

    async def fail(self, hops: Iterable[Hop]) -> CircuitError:
        """Build a circuit that must not come about; return why it did not."""
        with pytest.raises(CircuitError) as caught:
            await self.origin.build(hops)
        await trio.sleep(1)
        return caught.value


@pytest.fixture
async def three() -> AsyncIterator[Three]:
    async with small_network() as net:
        yield Three(net, await net.add_origin())


# ---- extending


@pytest.mark.parametrize("back_to", ["itself", "the hop before it", "nobody"])
async def test_an_extend_back_destroys_the_circuit(
    back_to: str, three: Three, autojump_clock: MockClock
) -> None:
    """CIR-1: and no answer tells which of them it was."""
    first, second, third = three.net.hops
    nobody = replace(third, peer_id=PeerId(bytes(32)))
    last = {"itself": second, "the hop before it": first, "nobody": nobody}[back_to]

    error = await three.fail([first, second, last])

    assert str(error) == "hop 3 of 3: the circuit was destroyed"
    assert not any(peer.circuits for peer in three.net.relays)


async def test_an_extend_to_an_unknown_id_dials_nobody(
    three: Three, autojump_clock: MockClock
) -> None:
    """T67, LNK-4: a client cannot make a relay dial what is in no consensus."""
    unknown = replace(three.net.hops[2], peer_id=PeerId(bytes(range(32))))
    before = len(three.net.memory.dialled)

    error = await three.fail([three.net.hops[0], unknown])

    assert str(error) == "hop 2 of 2: the hop before it does not know it"
    assert len(three.net.memory.dialled) == before + 1  # the origin's own


async def test_an_attached_peer_needs_no_consensus(three: Three, autojump_clock: MockClock) -> None:
    first, _, third = three.net.relays
    await third.links.get(first.hop, is_anonymous=False)
    hops = [first.hop, third.hop]
    three.net.relays.remove(third)  # now nobody knows where it is

    circuit = await three.origin.build(hops)

    assert circuit.is_open


async def test_every_address_that_a_consensus_knows_is_tried(
    three: Three, autojump_clock: MockClock
) -> None:
    moved = replace(three.net.hops[1], address=Address("5.5.77.7", 9000))
    real = three.net.find_hops
    three.net.relays[0].relay._find_hops = lambda peer_id: [moved, *real(peer_id)]

    circuit = await three.origin.build(three.net.hops)

    assert circuit.is_open
    assert moved.address in three.net.memory.dialled


def instead(answer: Callable[[Link, CreateRequested], None]) -> Callable[[Relay], OnCreate]:
    """Let a relay answer CREATE with `answer` instead of as it should."""
    return lambda relay: answer


def say_nothing(link: Link, request: CreateRequested) -> None:
    return


def refuse(link: Link, request: CreateRequested) -> None:
    request.leg.destroy()


async def test_a_client_has_so_many_extends_under_way_and_others_do_not_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    """DOS-7: what is too much goes on when it is its turn."""
    async with small_network(relays=3) as net:
        first, alive, guard = net.relays
        silent = await net.add_relay(on_create=instead(say_nothing))
        one, other = await net.add_origin(), await net.add_origin()
        built: list[float] = []

        async def build(origin: Origin, *peers: RelayPeer) -> None:
            with contextlib.suppress(CircuitError):
                await origin.build([peer.hop for peer in peers])
                built.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(EXTENDS_PER_CLIENT):
                nursery.start_soon(build, one, first, silent)
            await trio.sleep(EXTEND_SECONDS / 2)
            for _ in range(2):
                nursery.start_soon(build, one, first, alive)
            nursery.start_soon(build, other, first, alive)
            nursery.start_soon(build, one, guard, first, alive)
            await wait_all_tasks_blocked()
            places = first.relay.places.taken, first.relay.places.waiting
            asked = sum(len(link.protocol.legs) for link in silent.links)

        assert places == (EXTENDS_PER_CLIENT, 2)
        assert asked == EXTENDS_PER_CLIENT
        assert built == [EXTEND_SECONDS / 2] * 2 + [EXTEND_SECONDS] * 2
        assert (first.relay.places.taken, first.relay.places.waiting) == (0, 0)


async def test_a_client_that_goes_away_leaves_no_extend_behind(autojump_clock: MockClock) -> None:
    async with small_network(relays=1) as net:
        silent = await net.add_relay(on_create=instead(say_nothing))
        origin, relay = await net.add_origin(), net.relays[0].relay

        async with trio.open_nursery() as nursery:
            for _ in range(3 * EXTENDS_PER_CLIENT):
                nursery.start_soon(origin.build, [net.hops[0], silent.hop])
            await wait_all_tasks_blocked()
            waiting = relay.places.waiting
            nursery.cancel_scope.cancel()
        origin.links.close()
        await trio.sleep(EXTEND_SECONDS + 1)

        assert waiting == 2 * EXTENDS_PER_CLIENT
        assert (relay.places.taken, relay.places.waiting) == (0, 0)


async def test_a_next_hop_that_hangs_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async with small_network(relays=1) as net:
        last = await net.add_relay(on_create=instead(say_nothing))
        three = Three(net, await net.add_origin())

        error = await three.fail(net.hops)

        assert str(error) == "hop 2 of 2: the hop before it could not reach it"
        assert trio.current_time() < BUILD_SECONDS  # the origin is still there to hear it
        assert [link.protocol.legs for link in last.links] == [{}]


async def test_a_link_that_took_long_leaves_its_next_hop_less_time(
    autojump_clock: MockClock,
) -> None:
    async with small_network(relays=1) as net, trio.open_nursery() as nursery:
        last = await net.add_relay(on_create=instead(say_nothing))
        three = Three(net, await net.add_origin())

        async def resume_later() -> None:
            await trio.sleep(EXTEND_SECONDS - 2)
            net.memory.resume(last.host)

        net.memory.stall(last.host)
        nursery.start_soon(resume_later)
        error = await three.fail(net.hops)

        assert str(error) == "hop 2 of 2: the hop before it could not reach it"
        assert trio.current_time() < BUILD_SECONDS
        assert [link.protocol.legs for link in last.links] == [{}]


async def test_an_extend_is_answered_once_whatever_happens_after_it(
    autojump_clock: MockClock,
) -> None:
    async with small_network(relays=1) as net, trio.open_nursery() as nursery:
        first = net.relays[0]
        last = await net.add_relay(on_create=instead(say_nothing))
        origin = await net.add_origin()
        nursery.start_soon(origin.build, net.hops)
        await trio.sleep(1)
        net.memory.stall(origin.host)  # it hears nothing, and does not destroy the circuit
        net.memory.stall(last.host)

        await trio.sleep(EXTEND_SECONDS)
        link = first.links.find(last.hop.peer_id)
        assert link is not None
        link.close()
        await wait_all_tasks_blocked()

        assert [circuit.machine.cells_backward for circuit in first.circuits] == [1]
        nursery.cancel_scope.cancel()


async def test_a_next_hop_that_refuses_is_reported(autojump_clock: MockClock) -> None:
    async with small_network(relays=1) as net:
        await net.add_relay(on_create=instead(refuse))
        three = Three(net, await net.add_origin())

        assert str(await three.fail(net.hops)) == "hop 2 of 2: it refused"


async def test_a_next_hop_that_changes_its_mind_costs_its_circuit(
    autojump_clock: MockClock,
) -> None:
    """CREATED and DESTROY in one record: the circuit must not hang on a leg that is gone."""

    def accept_and_refuse(relay: Relay) -> OnCreate:
        def on_create(link: Link, request: CreateRequested) -> None:
            relay.create(link, request)
            request.leg.destroy()

        return on_create

    async with small_network(relays=1) as net:
        await net.add_relay(on_create=accept_and_refuse)
        three = Three(net, await net.add_origin())

        assert str(await three.fail(net.hops)) == "hop 2 of 2: the circuit was destroyed"


async def test_a_next_hop_that_speaks_too_soon_costs_its_circuit(autojump_clock: MockClock) -> None:
    def answer_and_go_on(relay: Relay) -> OnCreate:
        def on_create(link: Link, request: CreateRequested) -> None:
            relay.create(link, request)
            cell = make_cell(request.leg.number, Command.RELAY, b"\x01" * 4088)
            request.leg.enqueue(memoryview(cell))

        return on_create

    async with small_network(relays=1) as net:
        await net.add_relay(on_create=answer_and_go_on)
        three = Three(net, await net.add_origin())

        assert str(await three.fail(net.hops)) == "hop 2 of 2: the circuit was destroyed"
        assert not any(peer.circuits for peer in net.relays)


async def test_an_origin_that_leaves_takes_its_extension_with_it(
    three: Three, autojump_clock: MockClock
) -> None:
    three.net.memory.dial_seconds[three.net.relays[1].host] = 5

    with trio.move_on_after(1):
        await three.origin.build(three.net.hops)
    await trio.sleep(10)

    assert three.net.relays[0].circuits == []
    assert three.net.relays[1].relay.created == 0


# ---- circuits of strangers


async def test_a_circuit_destroyed_as_it_is_created_leaves_nothing(
    three: Three, autojump_clock: MockClock
) -> None:
    relay = three.net.relays[0]
    link = await HandLink.dial(three.net.memory.at(STRANGER), relay)

    for number in range(FIRST_NUMBER, FIRST_NUMBER + 20):
        link.send(create_cell(relay, number), make_cell(number, Command.DESTROY))
        await link.receive()

    assert relay.circuits == []
    assert [len(each.protocol.legs) for each in relay.links] == [0]


async def test_a_client_that_asks_for_more_than_its_share_takes_nothing_from_others(
    three: Three, autojump_clock: MockClock
) -> None:
    """DOS-3: its circuits that stand go on, and when it has waited it is answered again."""
    first = three.net.relays[0]
    other = await three.net.add_origin("5.5.66.1")
    stands = await three.origin.build(three.net.hops)
    share = CreateLimits().create_burst
    for _ in range(share - 1):
        (await three.origin.build([first.hop])).close()

    too_much = await three.fail([first.hop])
    others = await other.build(three.net.hops)
    stream = await three.origin.connect(stands, three.net.echo())
    await trio.sleep(10)
    again = await three.origin.build([first.hop])

    assert too_much.hop == 0
    assert first.relay.statistics()["turned_away"] == 1
    assert all(circuit.is_open for circuit in (stands, others, again))
    assert not stream.is_ended


async def test_circuits_that_are_gone_count_for_nobody(
    three: Three, autojump_clock: MockClock
) -> None:
    """Whether they were refused, given up or lost with their link."""
    first = three.net.relays[0]
    wrong = replace(first.hop, onion_key=three.net.hops[1].onion_key)
    circuits = [await three.origin.build(three.net.hops) for _ in range(3)]

    await three.fail([wrong])
    circuits[0].close()
    circuits[1].link.close()
    await trio.sleep(1)

    assert all(peer.relay._door.circuits == 0 for peer in three.net.relays)


async def test_a_create_for_other_keys_is_destroyed_and_nothing_else(
    three: Three, autojump_clock: MockClock
) -> None:
    relay, other = three.net.relays[:2]
    link = await HandLink.dial(three.net.memory.at(STRANGER), relay)

    link.send(create_cell(other, FIRST_NUMBER), create_cell(relay, FIRST_NUMBER + 1))
    cells = await link.receive()

    answers = {(number, command) for number, command, _ in cells if number}
    assert answers == {(FIRST_NUMBER, Command.DESTROY), (FIRST_NUMBER + 1, Command.CREATED)}
    assert (relay.relay.created, relay.relay.refused) == (1, 1)


async def test_a_link_that_breaks_under_the_answer_to_a_create_leaves_no_circuit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_then_create(relay: Relay) -> OnCreate:
        def on_create(link: Link, request: CreateRequested) -> None:
            def send_now(data: object) -> int:
                raise LinkError("the connection broke")

            monkeypatch.setattr(link._stream, "send_now", send_now)
            relay.create(link, request)

        return on_create

    async with small_network(relays=0) as net:
        peer = await net.add_relay(on_create=cut_then_create)
        three = Three(net, await net.add_origin())

        await three.fail(net.hops)

        assert peer.relay.created == 1
        assert peer.circuits == []


async def test_a_lost_link_takes_its_circuits_with_it(
    three: Three, autojump_clock: MockClock
) -> None:
    kept = await three.origin.build(three.net.hops)
    stranger = await three.net.add_origin(STRANGER)
    await stranger.build(three.net.hops)

    three.net.memory.cut(STRANGER)
    await wait_all_tasks_blocked()

    assert [len(peer.circuits) for peer in three.net.relays] == [1, 1, 1]
    assert kept.is_open


async def test_a_stream_begun_as_its_circuit_dies_is_not_served(
    autojump_clock: MockClock,
) -> None:
    served: list[CircuitStream] = []

    async def serve_directory(stream: CircuitStream) -> None:
        served.append(stream)

    async with small_network(relays=0) as net:
        relay = await net.add_relay(serve_directory=serve_directory)
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)

        circuit.machine.streams.begin_directory()
        net.memory.stall(relay.host)
        circuit.turn.run()
        circuit.machine.destroy()
        circuit.turn.run()
        net.memory.resume(relay.host)
        await wait_all_tasks_blocked()

        assert served == []
        assert relay.circuits == []


# ---- streams


async def test_a_relay_that_is_no_exit_refuses_streams(autojump_clock: MockClock) -> None:
    async with small_network(serve_exit=refuse_streams) as net:
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)

        with pytest.raises(ExitError) as caught:
            await circuit.open_stream(TARGET).wait_connected()

        assert caught.value.reason is EndReason.EXIT_POLICY
        assert circuit.is_open


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ExitError(EndReason.RESOLVE_FAILED), EndReason.RESOLVE_FAILED),
        (LinkError("gone"), EndReason.MISC),
        (trio.BrokenResourceError("gone"), EndReason.MISC),
    ],
)
async def test_what_goes_wrong_at_the_exit_becomes_a_reason(
    error: Exception, reason: EndReason, autojump_clock: MockClock
) -> None:
    async def fail(circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        raise error

    async with small_network(serve_exit=in_a_task(fail)) as net:
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)

        with pytest.raises(ExitError) as caught:
            await circuit.open_stream(TARGET).wait_connected()

        assert caught.value.reason is reason
        assert circuit.is_open


@pytest.mark.parametrize("is_at_once", [False, True])
async def test_a_bug_in_one_circuit_hurts_no_other(
    is_at_once: bool, autojump_clock: MockClock
) -> None:
    """DOS-1."""

    async def fail(circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
        raise RuntimeError("a bug")

    def fail_at_port_13(
        circuit: PassingCircuit, stream: CircuitStream, begin: Begin
    ) -> Rest | None:
        if begin.address.port != 13:
            return exit_of_the_second(circuit, stream, begin)
        if is_at_once:
            raise RuntimeError("a bug")
        return partial(fail, circuit, stream, begin)

    async with small_network(relays=2, serve_exit=fail_at_port_13) as net:
        exit_of_the_second = (await net.add_relay()).relay._last_hop._serve_exit
        origin = await net.add_origin()
        sound, broken = [await origin.build(net.hops[:2]) for _ in range(2)]
        application = await origin.browse(sound, net.echo())

        with pytest.raises(ExitError):
            await broken.open_stream(Address("5.6.0.1", 13)).wait_connected()
        await wait_all_tasks_blocked()
        await application.send_all(b"still there?")

        assert await receive(application, 12) == b"still there?"
        assert (sound.is_open, broken.is_open) == (True, False)
        assert net.take_bugs() == ["a bug in a circuit"]


async def test_a_bug_while_extending_hurts_no_other(
    three: Three, autojump_clock: MockClock
) -> None:
    kept = await three.origin.build(three.net.hops)

    def fail(peer_id: PeerId) -> list[Hop]:
        raise RuntimeError("a bug")

    relay = three.net.relays[2].relay
    relay._find_hops = fail
    error = await three.fail([three.net.hops[2], three.net.hops[0]])

    assert str(error) == "hop 2 of 2: the circuit was destroyed"
    assert kept.is_open
    assert three.net.take_bugs() == ["a bug in a circuit"]


async def test_the_numbers_count_what_passed(three: Three, autojump_clock: MockClock) -> None:
    circuit = await three.origin.build(three.net.hops)
    middle = three.net.relays[1].relay
    application = await three.origin.browse(circuit, three.net.source(400_000))
    await receive(application)
    circuit.close()
    await trio.sleep(1)

    numbers = middle.statistics()

    assert (numbers["circuits"], numbers["created"], numbers["extended"]) == (0, 1, 1)
    cells = numbers["cells"]
    assert isinstance(cells, dict)
    assert cells["backward"] >= 400_000 / 4096
    assert 1 <= cells["forward"] < cells["backward"]
