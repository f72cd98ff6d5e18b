"""Links: who may have one, who shares one, and when one is over."""

import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.hand_link import (
    FIRST_NUMBER,
    READY,
    HandLink,
    create_cell,
    credentials_of,
    first_message,
)
from tests.support.memory_network import Line, MemoryStream, receive
from tests.support.small_network import (
    Origin,
    RelayPeer,
    SmallNetwork,
    small_network,
    tasks_in,
    wall_clock,
)
from warren.addresses import Address
from warren.errors import ExitError, LinkError
from warren.identity import Hop, Identity
from warren.network.circuits import build_circuit
from warren.network.evictions import FRESH_SECONDS
from warren.network.link import (
    HANDSHAKE_SECONDS,
    PING_SECONDS,
    SILENCE_SECONDS,
    WATCH_SECONDS,
    Link,
    OnCreate,
)
from warren.network.link_door import LinkDoor, LinkLimits
from warren.network.links import IDLE_SECONDS
from warren.network.strangers import MOST_HANDSHAKES, MOST_HANDSHAKES_EACH, MOST_SILENCED
from warren.network.unready import MOST_UNREADY
from warren.protocol.cells import Command, encode_ready, make_cell
from warren.protocol.link import CreateRequested
from warren.protocol.round_trips import LEAST_PATIENCE
from warren.roles.relay import Relay

STRANGER = "5.5.66.6"


@dataclass
class Pair:
    """Hold two relays and an origin."""

    net: SmallNetwork
    origin: Origin

    @property
    def relay(self) -> RelayPeer:
        return self.net.relays[0]

    @property
    def other(self) -> RelayPeer:
        return self.net.relays[1]

    async def dial(self, *, is_anonymous: bool = True) -> Link:
        """Return the origin's link to the relay."""
        return await self.origin.links.get(self.relay.hop, is_anonymous=is_anonymous)

    async def knock(self, data: bytes = b"", host: str = STRANGER) -> MemoryStream:
        """Connect to the relay as a stranger and send `data`."""
        stream = await self.net.memory.at(host).dial(self.relay.hop.address)
        stream.send_now(data)
        return stream


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with small_network(relays=2) as net:
        yield Pair(net, await net.add_origin())


async def seconds_until_closed(stream: MemoryStream) -> float:
    """Return how long the other side takes to close; it must say nothing before."""
    start = trio.current_time()
    assert await receive(stream) == b""
    return trio.current_time() - start


# ---- dialling


async def test_an_anonymous_link_knows_the_relay_and_not_the_client(
    pair: Pair, autojump_clock: MockClock
) -> None:
    link = await pair.dial()
    (theirs,) = pair.relay.links

    assert link.protocol.peer_id == pair.relay.peer_id
    assert theirs.protocol.peer_id is None
    assert link.observed is not None
    assert link.observed.host == pair.origin.host


async def test_only_relays_that_were_dialled_tell_the_time(
    pair: Pair, autojump_clock: MockClock
) -> None:  # LNK-7: whoever comes may be anybody
    heard: dict[str, list[tuple[str, int]]] = {"relay": [], "other": [], "origin": []}

    def hear(who: str, remote: Address, time: int) -> None:
        heard[who].append((remote.host, time))

    for name, peer in (("relay", pair.relay), ("other", pair.other), ("origin", pair.origin)):
        peer.settings.hear_time = partial(hear, name)

    await pair.dial()
    await pair.relay.links.get(pair.other.hop, is_anonymous=False)
    await pair.other.links.probe(pair.relay.hop)  # what says where it is itself is not listed yet
    await wait_all_tasks_blocked()

    assert heard == {
        "relay": [(pair.other.host, int(wall_clock()))],
        "other": [],
        "origin": [(pair.relay.host, int(wall_clock()))],
    }


async def test_two_relays_know_each_other_and_share_the_link(
    pair: Pair, autojump_clock: MockClock
) -> None:
    link = await pair.relay.links.get(pair.other.hop, is_anonymous=False)
    await wait_all_tasks_blocked()

    back = await pair.other.links.get(pair.relay.hop, is_anonymous=False)

    assert (link.protocol.peer_id, back.protocol.peer_id) == (
        pair.other.peer_id,
        pair.relay.peer_id,
    )
    assert len(pair.net.memory.dialled) == 1


async def test_a_relay_that_browses_is_anonymous_too(pair: Pair, autojump_clock: MockClock) -> None:
    named = await pair.relay.links.get(pair.other.hop, is_anonymous=False)

    unnamed = await pair.relay.links.get(pair.other.hop, is_anonymous=True)
    await wait_all_tasks_blocked()

    assert named is not unnamed
    assert pair.other.links.find(pair.relay.peer_id, is_anonymous=True) is None


async def test_who_asks_at_the_same_time_shares_one_dial(
    pair: Pair, autojump_clock: MockClock
) -> None:
    links: list[Link] = []

    async def ask() -> None:
        links.append(await pair.dial())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)

    assert len(links) == 10
    assert len(set(links)) == len(pair.net.memory.dialled) == 1


async def test_who_asks_at_the_same_time_shares_the_failure(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.net.memory.stall(pair.relay.host)
    failures: list[str] = []

    async def ask() -> None:
        with pytest.raises(LinkError) as caught:
            await pair.dial()
        failures.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)

    assert failures == [f"no link to {pair.relay.hop!r}: no answer in time"] * 10
    assert trio.current_time() == HANDSHAKE_SECONDS
    assert len(pair.net.memory.dialled) == 1


async def test_a_dial_goes_on_when_the_first_who_asked_gives_up(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.net.memory.dial_seconds[pair.relay.host] = 2
    links: list[Link] = []

    async def give_up() -> None:
        with trio.move_on_after(1):
            await pair.dial()

    async def ask() -> None:
        links.append(await pair.dial())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        nursery.start_soon(ask)
        nursery.start_soon(ask)

    assert len(links) == 2
    assert links[0] is links[1]


async def test_a_failure_is_not_remembered(pair: Pair, autojump_clock: MockClock) -> None:
    pair.net.memory.refuse(pair.relay.host)
    with pytest.raises(LinkError, match="Connection refused"):
        await pair.dial()

    pair.net.memory.refusing.clear()

    assert (await pair.dial()).protocol.ready is not None


@pytest.mark.parametrize("wrong", ["link_key", "peer_id"])
async def test_only_the_peer_that_was_asked_for_is_linked(
    wrong: str, pair: Pair, autojump_clock: MockClock
) -> None:
    """LNK-3, T06: somebody else at its address learns nothing and is told nothing."""
    stolen = {wrong: getattr(pair.other.hop, wrong)}
    hop = replace(pair.relay.hop, **stolen)

    with pytest.raises(LinkError, match="no answer in time"):
        await pair.origin.links.get(hop, is_anonymous=True)

    assert pair.origin.links.find(hop.peer_id, is_anonymous=True) is None


async def test_a_link_key_that_is_none_is_a_link_error(
    pair: Pair, autojump_clock: MockClock
) -> None:
    hop = replace(pair.relay.hop, link_key=bytes(32))

    with pytest.raises(LinkError):  # T53
        await pair.origin.links.get(hop, is_anonymous=True)


async def test_a_relay_is_no_peer_of_its_own(pair: Pair, autojump_clock: MockClock) -> None:
    with pytest.raises(LinkError):  # LNK-2
        await pair.relay.links.get(pair.relay.hop, is_anonymous=False)

    assert pair.relay.links.find(pair.relay.peer_id) is None


async def test_a_relay_accepts_its_previous_link_key(pair: Pair, autojump_clock: MockClock) -> None:
    keys = pair.relay.settings.relay
    assert keys is not None
    keys.link_keys.insert(0, pair.origin.settings.keys.key_pair())

    link = await pair.dial()

    assert link.protocol.ready is not None


async def test_giving_up_a_dial_leaves_no_socket(pair: Pair, autojump_clock: MockClock) -> None:
    rng = Random(6)
    pair.net.memory.line.latency = 0.1
    tasks = tasks_in(pair.net.nursery)

    for _ in range(20):
        with trio.move_on_after(rng.uniform(0, 0.8)):
            await pair.dial()
    pair.origin.links.close()
    await trio.sleep(200)

    assert not pair.net.memory.streams
    assert tasks_in(pair.net.nursery) == tasks


# ---- probing


async def test_a_probe_dials_afresh_and_leaves_nothing(
    pair: Pair, autojump_clock: MockClock
) -> None:
    link = await pair.dial()

    await pair.origin.links.probe(pair.relay.hop)
    found = pair.origin.links.find(pair.relay.peer_id, is_anonymous=True)
    await wait_all_tasks_blocked()

    assert len(pair.net.memory.dialled) == 2
    assert found is link
    assert list(pair.origin.links) == [link]


@pytest.mark.parametrize("wrong", ["link_key", "onion_key", "peer_id"])
async def test_a_probe_fails_where_something_else_is(
    wrong: str, pair: Pair, autojump_clock: MockClock
) -> None:
    await pair.dial()
    hop = replace(pair.relay.hop, **{wrong: getattr(pair.other.hop, wrong)})

    with pytest.raises(LinkError):
        await pair.origin.links.probe(hop)


async def test_nobody_else_is_given_the_link_of_a_probe(
    pair: Pair, autojump_clock: MockClock
) -> None:
    found: list[Link | None] = []

    async def look() -> None:
        for _ in range(100):
            found.append(pair.origin.links.find(pair.relay.peer_id, is_anonymous=True))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await pair.origin.links.probe(pair.relay.hop)

    assert found == [None] * 100


# ---- authenticated or not


async def test_a_replayed_first_message_changes_nothing(
    pair: Pair, autojump_clock: MockClock
) -> None:
    """LNK-6: who only repeats what another relay said is not that relay."""
    genuine = await pair.other.links.get(pair.relay.hop, is_anonymous=False)
    await wait_all_tasks_blocked()
    known = pair.relay.links.find(pair.other.peer_id)
    keys = pair.other.settings.relay
    assert keys is not None
    recording = first_message(pair.relay.hop, pair.other.settings.credentials())

    replayed = await pair.knock(recording)
    await trio.sleep(1)

    assert known is not None
    assert pair.relay.links.find(pair.other.peer_id) is known
    assert len(list(pair.relay.links)) == 2
    await trio.sleep(HANDSHAKE_SECONDS + PING_SECONDS)
    assert list(pair.relay.links) == [known]
    assert not genuine.is_closed
    replayed.close()


async def test_a_link_counts_once_its_first_record_has_opened(
    pair: Pair, autojump_clock: MockClock
) -> None:
    identity = Identity(bytes([99]) * 32)
    network = pair.net.memory.at(STRANGER)
    link = await HandLink.dial(network, pair.relay, credentials_of(identity), is_ready=False)
    await wait_all_tasks_blocked()
    before = pair.relay.links.find(identity.peer_id)

    link.send(relay_ready(pair))
    await wait_all_tasks_blocked()

    assert before is None
    assert pair.relay.links.find(identity.peer_id) is not None


def relay_ready(pair: Pair) -> bytes:
    """Return the READY that the other relay would send."""
    ready = pair.other.settings.ready(pair.relay.hop.address, is_anonymous=False)
    return make_cell(0, Command.READY, encode_ready(ready))


async def drip(link: HandLink, record: bytes) -> None:
    """Send a byte of `record` every few seconds."""
    for byte in record:
        if link.is_closed:
            return
        link.stream.send_now(bytes((byte,)))
        await trio.sleep(HANDSHAKE_SECONDS / 3)


@pytest.mark.parametrize("is_dripping", [False, True])
async def test_a_link_without_ready_is_closed(
    is_dripping: bool, pair: Pair, autojump_clock: MockClock
) -> None:
    """T47: a handshake that is never finished costs a socket for seconds only."""
    link = await HandLink.dial(pair.net.memory.at(STRANGER), pair.relay, is_ready=False)

    with trio.move_on_after(HANDSHAKE_SECONDS + PING_SECONDS):
        if is_dripping:
            await drip(link, link.seal(READY))
        await trio.sleep_forever()

    assert link.is_closed


async def test_anything_before_ready_closes_the_link(pair: Pair, autojump_clock: MockClock) -> None:
    link = await HandLink.dial(pair.net.memory.at(STRANGER), pair.relay, is_ready=False)

    link.send(create_cell(pair.relay))
    await wait_all_tasks_blocked()

    assert link.is_closed
    assert pair.relay.relay.created == 0


# ---- silence


def changed(message: bytes, at: int) -> bytes:
    """Return `message` with the lowest bit of one byte flipped."""
    return message[:at] + bytes((message[at] ^ 1,)) + message[at + 1 :]


GARBAGE: dict[str, Callable[[Hop], bytes]] = {
    "an unknown first byte": lambda hop: b"\xff" + bytes(2000),
    "another protocol": lambda hop: b"GET / HTTP/1.1\r\n\r\n",
    "a wrong length": lambda hop: changed(first_message(hop), 2),
    "a flipped bit in the key": lambda hop: changed(first_message(hop), 10),
    "a flipped bit in the tag": lambda hop: changed(first_message(hop), -1 % 1251),
    "nothing": lambda hop: b"",
    "half a message": lambda hop: first_message(hop)[:600],
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_gets_no_answer_for_a_while(
    kind: str, pair: Pair, autojump_clock: MockClock
) -> None:
    """Protocol §2: silence, then a close after 10 to 60 seconds, for whatever is wrong."""
    waited = []
    for _ in range(8):
        stream = await pair.knock(GARBAGE[kind](pair.relay.hop))
        waited.append(await seconds_until_closed(stream))

    assert min(waited) >= 10
    assert max(waited) <= 60 + HANDSHAKE_SECONDS
    assert len(set(waited)) > 1


async def test_who_goes_on_talking_is_not_answered_either(
    pair: Pair, autojump_clock: MockClock
) -> None:
    stream = await pair.knock(b"\xff")

    async def talk() -> None:
        with contextlib.suppress(LinkError):  # which comes with the close
            while True:
                await stream.send_all(bytes(10_000))
                await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        assert await seconds_until_closed(stream) >= 10


async def test_the_oldest_of_many_silent_ones_makes_room(
    pair: Pair, autojump_clock: MockClock
) -> None:
    streams = []
    for _ in range(MOST_SILENCED):
        streams.append(await pair.knock(b"\xff"))
        await wait_all_tasks_blocked()
    before = [stream for stream in streams if stream.peer and stream.peer.is_closed]

    await pair.knock(b"\xff")
    await wait_all_tasks_blocked()

    assert before == []
    assert [stream for stream in streams if stream.peer and stream.peer.is_closed] == streams[:1]


# ---- when sockets run short (DOS-8)


async def test_who_is_met_with_silence_makes_room_before_any_link(
    pair: Pair, autojump_clock: MockClock
) -> None:
    link = await pair.dial()
    streams = []
    for _ in range(3):
        streams.append(await pair.knock(b"\xff"))
        await wait_all_tasks_blocked()

    closed = pair.relay.links.make_room(2)

    assert closed == {"strangers": 2}
    assert [bool(each.peer and each.peer.is_closed) for each in streams] == [True, True, False]
    assert not link.is_closed


async def test_a_link_without_circuits_makes_room_for_one_that_has_some(
    pair: Pair, autojump_clock: MockClock
) -> None:
    busy, idle = await pair.dial(), await pair.other.links.get(pair.relay.hop, is_anonymous=False)
    circuit = await build_circuit(busy, [pair.relay.hop])
    await trio.sleep(FRESH_SECONDS)

    closed = pair.relay.links.make_room(1)
    await wait_all_tasks_blocked()

    assert closed == {"links without circuits": 1}
    assert idle.is_closed
    assert circuit.is_open


async def test_the_circuits_of_a_link_that_makes_room_are_told(
    pair: Pair, autojump_clock: MockClock
) -> None:
    circuit = await build_circuit(await pair.dial(), [pair.relay.hop])

    closed = pair.relay.links.make_room(1)
    await wait_all_tasks_blocked()

    assert closed == {"links of no relay": 1}
    assert not circuit.is_open


async def test_the_link_of_a_relay_in_the_consensus_outlives_others(
    pair: Pair, autojump_clock: MockClock
) -> None:
    pair.relay.settings.is_relay = lambda peer_id: peer_id == pair.other.peer_id
    first = await pair.origin.links.get(pair.other.hop, is_anonymous=True)
    circuits = [
        await build_circuit(first, [pair.other.hop, pair.relay.hop]),
        await build_circuit(await pair.dial(), [pair.relay.hop]),
    ]

    pair.relay.links.make_room(1)
    await wait_all_tasks_blocked()

    assert [circuit.is_open for circuit in circuits] == [True, False]


async def test_those_who_say_nothing_do_not_shut_others_out(
    pair: Pair, autojump_clock: MockClock
) -> None:
    """T57: all places for handshakes are taken, and an honest peer gets its link at once."""
    for _ in range(3 * MOST_HANDSHAKES):
        await pair.knock()
    await wait_all_tasks_blocked()

    link = await pair.dial()

    assert link.protocol.ready is not None
    assert trio.current_time() == 0


async def test_those_who_keep_back_their_ready_do_not_shut_others_out(
    pair: Pair, autojump_clock: MockClock
) -> None:
    """DOS-7: a handshake costs little, so links without READY are few, and the oldest goes."""
    network = pair.net.memory.at(STRANGER)
    ready = await HandLink.dial(network, pair.relay)
    for _ in range(MOST_UNREADY):
        await HandLink.dial(network, pair.relay, is_ready=False)
    first = next(link for link in pair.relay.links if link.protocol.ready is None)
    at_the_bound = first.is_closed

    await HandLink.dial(network, pair.relay, is_ready=False)
    slow = await HandLink.dial(pair.net.memory.at("5.5.66.7"), pair.relay, is_ready=False)
    await HandLink.dial(network, pair.relay, is_ready=False)
    slow.send(READY)
    await slow.receive()

    assert (at_the_bound, first.is_closed) == (False, True)
    assert len(pair.relay.links._unready) <= MOST_UNREADY
    assert not slow.is_closed
    assert not ready.is_closed


async def test_of_one_address_few_say_nothing_and_its_oldest_goes(
    pair: Pair, autojump_clock: MockClock
) -> None:
    """DOS-2: of IPv6 a house has as many as an address, and others lose nothing by it."""
    other = await pair.knock(host="2001:db8:1:3::1")
    crowd = list[MemoryStream]()
    for number in range(1, MOST_HANDSHAKES_EACH + 4):
        crowd.append(await pair.knock(host=f"2001:db8:1:2::{number:x}"))
        await wait_all_tasks_blocked()

    closed = [stream.peer is None or stream.peer.is_closed for stream in crowd]
    assert closed == [True] * 3 + [False] * MOST_HANDSHAKES_EACH
    assert other.peer is not None
    assert not other.peer.is_closed


@dataclass
class Guarded:
    """Hold a relay with a door of few links, beside a pair."""

    pair: Pair
    door: LinkDoor

    async def link(self, host: str = STRANGER, identity: Identity | None = None) -> HandLink:
        """Return a link to the relay from `host`, as a relay that says no READY if `identity`."""
        network, relay = self.pair.net.memory.at(host), self.pair.relay
        if identity is None:
            return await HandLink.dial(network, relay)
        return await HandLink.dial(network, relay, credentials_of(identity), is_ready=False)


@pytest.fixture
async def guarded(pair: Pair) -> Guarded:
    """Return the pair, whose relay is served at a door."""
    relay, door = pair.relay, LinkDoor(LinkLimits(3, connects_per_second=1, connect_burst=6))
    relay.listener.close()
    await wait_all_tasks_blocked()
    relay.listener = relay.network.listen(relay.hop.address)
    relay.nursery.start_soon(relay.links.serve, relay.listener, door)
    await wait_all_tasks_blocked()
    return Guarded(pair, door)


async def test_an_address_has_so_many_links_and_others_are_refused_at_once(
    guarded: Guarded, autojump_clock: MockClock
) -> None:  # DOS-2
    links = [await guarded.link() for _ in range(3)]

    with pytest.raises(LinkError):
        await guarded.link()
    await guarded.pair.dial()

    relay = guarded.pair.relay
    assert trio.current_time() == 0
    assert not any(link.is_closed for link in links)
    assert relay.links.statistics()["turned_away"] == 1
    assert relay.links.accepted == 4


async def test_a_link_that_is_gone_makes_room_for_another(
    guarded: Guarded, autojump_clock: MockClock
) -> None:
    links = [await guarded.link() for _ in range(3)]
    links[0].stream.close()
    await wait_all_tasks_blocked()

    another = await guarded.link()

    assert not another.is_closed


async def test_who_comes_too_fast_has_to_wait(guarded: Guarded, autojump_clock: MockClock) -> None:
    for _ in range(6):
        (await guarded.link()).stream.close()
        await wait_all_tasks_blocked()
    with pytest.raises(LinkError):
        await guarded.link()

    await trio.sleep(1)

    assert not (await guarded.link()).is_closed


async def test_links_of_listed_relays_are_not_counted_wherever_they_come_from(
    guarded: Guarded, autojump_clock: MockClock
) -> None:  # DOS-2
    listed = Identity(b"L" * 32)
    guarded.pair.relay.settings.is_relay = lambda peer_id: peer_id == listed.peer_id

    links = [await guarded.link(identity=listed) for _ in range(3)]
    links += [await guarded.link() for _ in range(3)]

    assert not any(link.is_closed for link in links)
    assert sum(guarded.door._open.values()) == 3


# ---- while it lives


async def test_the_round_trip_is_measured(autojump_clock: MockClock) -> None:
    async with small_network(relays=1, line=Line(latency=0.04)) as net:
        origin = await net.add_origin()
        link = await origin.links.get(net.hops[0], is_anonymous=True)

        await trio.sleep(1)

        assert link.protocol.round_trip == pytest.approx(0.08)


async def test_a_quiet_link_stays_as_long_as_it_carries_a_circuit(
    pair: Pair, autojump_clock: MockClock
) -> None:
    circuit = await pair.origin.build(pair.net.hops)

    await trio.sleep(3600)

    assert circuit.is_open


async def test_a_link_nobody_uses_is_closed(pair: Pair, autojump_clock: MockClock) -> None:
    circuit = await pair.origin.build(pair.net.hops)
    await trio.sleep(1000)
    circuit.close()

    await trio.sleep(IDLE_SECONDS - PING_SECONDS)
    in_time = circuit.link.is_closed
    await trio.sleep(3 * PING_SECONDS)

    assert (in_time, circuit.link.is_closed) == (False, True)


@pytest.mark.parametrize("delay", [0, 1, 2.5, 4, 4.9])
async def test_a_silent_peer_is_given_up_within_25_seconds(
    delay: float, pair: Pair, autojump_clock: MockClock
) -> None:
    """T32: a ping and two misses; a peer that is only slow is left alone."""
    circuit = await pair.origin.build(pair.net.hops)
    await trio.sleep(100 + delay)
    start = trio.current_time()

    given_up = trio.Event()
    circuit.on_closed = lambda _: given_up.set()
    pair.net.memory.stall(pair.relay.host)
    await given_up.wait()

    # It was last heard up to 15 seconds before it fell silent: that often it is asked.
    assert 5 <= trio.current_time() - start <= SILENCE_SECONDS
    assert circuit.link.is_closed


@pytest.mark.parametrize("delay", [0, 1, 2.5, 4, 4.9])
async def test_a_silent_peer_that_somebody_waits_for_is_given_up_sooner(
    delay: float, pair: Pair, autojump_clock: MockClock
) -> None:  # T32
    circuit = await pair.origin.build(pair.net.hops)
    address = pair.net.target().local
    await trio.sleep(100 + delay)
    start = trio.current_time()

    pair.net.memory.stall(pair.relay.host)
    stream = circuit.open_stream(address)
    with pytest.raises(ExitError):
        await stream.wait_connected()

    assert LEAST_PATIENCE < trio.current_time() - start <= WATCH_SECONDS + LEAST_PATIENCE + 2
    assert circuit.link.is_closed


async def test_a_download_that_stalls_is_noticed_though_nothing_was_asked(
    pair: Pair, autojump_clock: MockClock
) -> None:  # T32
    circuit = await pair.origin.build(pair.net.hops)
    application = await pair.origin.browse(circuit, pair.net.source(10_000_000))
    await receive(application, 1_000_000)
    start = trio.current_time()

    pair.net.memory.stall(pair.relay.host)
    with pytest.raises(LinkError):
        await receive(application)

    assert trio.current_time() - start <= WATCH_SECONDS + LEAST_PATIENCE + 2


async def test_a_long_way_gets_more_time(autojump_clock: MockClock) -> None:
    """What the PINGs took says how long an answer may take."""
    async with small_network(2, line=Line(latency=2.0)) as net:
        first, second = net.relays  # an EXTEND alone would have too little time for the link
        await first.links.get(second.hop, is_anonymous=False)
        origin = await net.add_origin()
        circuit = await origin.build(net.hops)
        target = net.target().local
        await trio.sleep(300)
        heard = circuit.link.last_heard
        for _ in range(200):
            if circuit.link.last_heard > heard:  # and so no PING is on its way
                break
            await trio.sleep(0.1)
        start = trio.current_time()

        net.memory.stall(net.relays[0].host)
        with pytest.raises(ExitError):
            await circuit.open_stream(target).wait_connected()

        assert 16 < trio.current_time() - start <= SILENCE_SECONDS


async def test_an_idle_circuit_costs_a_ping_in_ten_seconds_and_no_more(
    pair: Pair, autojump_clock: MockClock
) -> None:
    """Neither end takes the other's PING for a reason to send one itself."""
    circuit = await pair.origin.build(pair.net.hops)
    await trio.sleep(100)
    protocol = circuit.link.protocol
    before = protocol.cells_sent + protocol.cells_received

    await trio.sleep(3600)

    # PING and PONG, from either side.
    assert protocol.cells_sent + protocol.cells_received - before <= 4 * 3600 / PING_SECONDS


async def test_a_peer_that_stood_still_listens_before_it_judges(
    pair: Pair, mock_clock: MockClock
) -> None:
    circuit = await pair.origin.build(pair.net.hops)
    mock_clock.jump(1000)  # no task ran meanwhile
    for _ in range(20):
        await wait_all_tasks_blocked()
        mock_clock.jump(1)

    assert circuit.is_open


async def test_a_pause_of_ten_seconds_is_survived(pair: Pair, autojump_clock: MockClock) -> None:
    circuit = await pair.origin.build(pair.net.hops)

    for _ in range(10):
        pair.net.memory.stall(pair.relay.host)
        await trio.sleep(9)
        pair.net.memory.resume(pair.relay.host)
        await trio.sleep(3)

    assert circuit.is_open


async def test_a_cut_link_tells_its_circuits(pair: Pair, autojump_clock: MockClock) -> None:
    circuit = await pair.origin.build(pair.net.hops)

    pair.net.memory.cut(pair.origin.host)
    await wait_all_tasks_blocked()

    assert not circuit.is_open
    assert not pair.relay.circuits
    assert not pair.other.circuits


# ---- two links between one pair


async def second_link(pair: Pair) -> tuple[Link, Link]:
    """Let both relays have a link, then make a second one; return the answering side's ends."""
    await pair.other.links.get(pair.relay.hop, is_anonymous=False)
    await wait_all_tasks_blocked()
    older = pair.relay.links.find(pair.other.peer_id)
    pair.other.links._by_peer.clear()  # as if it had just started again
    await pair.other.links.get(pair.relay.hop, is_anonymous=False)
    await wait_all_tasks_blocked()
    newer = pair.relay.links.find(pair.other.peer_id)
    assert older is not None
    assert newer is not None
    assert newer is not older
    return older, newer


async def test_an_empty_link_gives_way_to_a_newer_one(
    pair: Pair, autojump_clock: MockClock
) -> None:
    older, newer = await second_link(pair)  # LNK-6

    await trio.sleep(PING_SECONDS)

    assert older.is_closed
    assert not newer.is_closed


async def test_a_superseded_link_stays_until_its_circuits_are_gone(
    pair: Pair, autojump_clock: MockClock
) -> None:
    circuit = await pair.origin.build([pair.other.hop, pair.relay.hop])
    older, _ = await second_link(pair)
    await trio.sleep(60)
    while_used = older.is_closed

    circuit.close()
    await trio.sleep(PING_SECONDS)

    assert (while_used, older.is_closed) == (False, True)


async def test_the_older_link_is_used_again_when_the_newer_one_breaks(
    pair: Pair, autojump_clock: MockClock
) -> None:
    circuit = await pair.origin.build([pair.other.hop, pair.relay.hop])
    older, newer = await second_link(pair)

    newer.close()
    await wait_all_tasks_blocked()

    assert pair.relay.links.find(pair.other.peer_id) is older
    assert circuit.is_open


# ---- those who break the rules, and bugs


async def test_a_cell_without_credit_closes_the_link(pair: Pair, autojump_clock: MockClock) -> None:
    """T20: within one window, and nobody else is hurt."""
    circuit = await pair.origin.build(pair.net.hops)
    link = await HandLink.dial(pair.net.memory.at(STRANGER), pair.relay)
    link.send(create_cell(pair.relay))
    await link.receive()
    cell = make_cell(FIRST_NUMBER, Command.RELAY, b"\x01" * 4088)

    for _ in range(64):
        link.send(cell)
        await wait_all_tasks_blocked()
    within_the_window = link.is_closed
    link.send(cell)
    await wait_all_tasks_blocked()

    assert (within_the_window, link.is_closed) == (False, True)
    assert circuit.is_open


@pytest.mark.parametrize(
    "data", [b"\x00\x11" + bytes(15), b"\x10\x10" + bytes(4112)], ids=["length", "tag"]
)
async def test_a_bad_record_closes_the_link(
    data: bytes, pair: Pair, autojump_clock: MockClock
) -> None:
    link = await HandLink.dial(pair.net.memory.at(STRANGER), pair.relay)

    link.stream.send_now(data)
    await wait_all_tasks_blocked()

    assert link.is_closed
    assert list(pair.relay.links) == []


async def test_a_bug_in_on_create_costs_one_link(autojump_clock: MockClock) -> None:
    """DOS-1: what a stranger's CREATE runs into hurts the stranger."""

    def fail_for_strangers(relay: Relay) -> OnCreate:
        def on_create(link: Link, request: CreateRequested) -> None:
            if link.remote.host == STRANGER:
                raise RuntimeError("a bug")
            relay.create(link, request)

        return on_create

    async with small_network(relays=0) as net:
        relay = await net.add_relay(on_create=fail_for_strangers)
        await net.add_relay()
        origin, stranger = await net.add_origin(), await net.add_origin(STRANGER)
        circuit = await origin.build(net.hops)

        with pytest.raises(Exception, match="hop 1"):
            await stranger.build(net.hops)

        assert circuit.is_open
        assert len(list(relay.links)) == 2
        assert (await origin.build(net.hops)).is_open
        assert net.take_bugs() == ["a bug on a link"]


async def test_a_bug_while_sending_costs_one_link(pair: Pair, autojump_clock: MockClock) -> None:
    broken = await pair.dial()
    stranger = await pair.net.add_origin(STRANGER)
    circuit = await stranger.build(pair.net.hops)

    def fail(out: memoryview) -> int:
        raise RuntimeError("a bug")

    broken.protocol.fill = fail  # type: ignore[method-assign]  # a bug cannot be had otherwise
    with pytest.raises(Exception, match="destroyed"):
        await pair.origin.build(pair.net.hops)
    await wait_all_tasks_blocked()

    assert broken.is_closed
    assert circuit.is_open
    assert pair.net.take_bugs() == ["a bug on a link"]


async def test_closing_all_links_leaves_no_socket(pair: Pair, autojump_clock: MockClock) -> None:
    circuit = await pair.origin.build(pair.net.hops)

    for peer in (pair.origin, pair.relay, pair.other):
        peer.links.close()
    await wait_all_tasks_blocked()

    assert not circuit.is_open
    assert not pair.net.memory.streams


async def test_the_numbers_add_up(pair: Pair, autojump_clock: MockClock) -> None:
    circuit = await pair.origin.build(pair.net.hops)
    await (await pair.knock(b"\xff")).wait_writable()
    await wait_all_tasks_blocked()

    numbers = pair.relay.links.statistics()

    assert {name: numbers[name] for name in ("open", "accepted", "dialled", "refused")} == {
        "open": 2,
        "accepted": 1,
        "dialled": 1,
        "refused": 1,
    }
    assert numbers["circuits"] == 2
    assert circuit.is_open


async def test_what_went_over_links_that_are_gone_is_still_counted(
    pair: Pair, autojump_clock: MockClock
) -> None:
    link = await pair.dial()
    await wait_all_tasks_blocked()
    before = pair.relay.links.statistics()

    link.close()
    await wait_all_tasks_blocked()
    after = pair.relay.links.statistics()

    moved = {"received": before["cells_received"], "sent": before["cells_sent"]}
    assert 0 not in moved.values()
    assert before["cells_in_all"] == after["cells_in_all"] == moved
    assert (after["open"], after["cells_received"]) == (0, 0)


def _alive() -> Counter[str]:
    """Count what links and circuits are made of, by kind."""
    parts = ("warren.protocol.", "warren.network.link", "warren.network.circuits", "warren.roles.")
    kinds = (type(each) for each in gc.get_objects())
    return Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith(parts))


async def test_links_and_circuits_that_are_gone_leave_nothing_to_the_collector(
    pair: Pair, autojump_clock: MockClock
) -> None:
    async def come_and_go() -> None:
        link = await pair.dial()
        await build_circuit(link, [pair.relay.hop, pair.other.hop])
        link.close()
        await trio.sleep(60)

    for _ in range(2):  # the last ones are still in somebody's hands
        await come_and_go()
    gc.collect()
    gc.disable()
    try:
        await come_and_go()
        before = _alive()
        for _ in range(5):
            await come_and_go()
        after = _alive()
    finally:
        gc.enable()

    assert after - before == Counter()
