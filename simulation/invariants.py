"""What must hold all along, and what must be left at the end: nothing.

``Audit.look`` goes through every link, circuit and stream of every node, which happens every
other simulated second. ``what_is_left`` is asked after all applications have ended: windows whole
again, no stream, no connection and no task but those that a node has from its beginning. The
numbers are those of docs/protocol.md, written down once more, so that a constant that changes in
the code alone is noticed too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import trio

from simulation.nodes import CELLS, AuthorityNode, ClientNode, Node, RelayNode
from simulation.scenario import HOUR
from simulation.targets import Complain
from warren.identity import PeerId
from warren.network.link import Link
from warren.protocol.leg import Leg
from warren.protocol.multiplexer import Multiplexer
from warren.protocol.origin_circuit import OriginCircuit
from warren.protocol.relay_circuit import RelayCircuit
from warren.protocol.stream import StreamProtocol, StreamState

MOST_CELLS = 1024  # of one circuit on one link
FIRST_CELLS = 64
MOST_CREDIT = 1 << 20
MOST_CIRCUITS = 2 * 2048  # of one link
MOST_STREAMS = 512  # of one circuit
MOST_STREAM_BYTES = 4 * 1024 * 1024
#: Guards that a client of a network with fewer than so many relays may dial in an hour.
MOST_GUARDS, LARGE_NETWORK = 5, 100
_ONE_READ = 256 * 1024
#: A link that says nothing is given up after 25 s, and looked at every five.
MOST_SILENCE = 31.0
#: Tasks that come and go with links, and with what a node does by the way.
_PASSING = ("._run", "._accept", "._expire", "._check_relay", "._upload", "._linger")


class Audit:
    """Own what is known of the nodes' windows and quotas; it complains of what is broken."""

    def __init__(self, nodes: Sequence[Node], complain: Complain) -> None:
        self.looks = 0
        self._nodes = nodes
        self._complain = complain

    async def run(self, seconds: float) -> None:
        """Look every so many seconds; for ever."""
        while True:
            await trio.sleep(seconds)
            self.look()

    def look(self) -> None:
        """Look at everything now."""
        self.looks += 1
        ends: dict[bytes, Link] = {}
        for node in self._nodes:
            if node.peer is None or not node.is_up:
                continue
            grown = 0
            for link in node.peer.links:
                legs = link.protocol.legs
                if not legs:
                    continue
                silence = trio.current_time() - link.last_heard
                if silence > MOST_SILENCE:
                    what = f"{link!r} has circuits and was silent for {silence:.1f} s"
                    self._complain("noticing", f"{node.name}: {what}")
                other = ends.setdefault(link.protocol.handshake_hash, link)
                if len(legs) > MOST_CIRCUITS:
                    self._complain("window", f"{node.name}: {len(legs)} circuits on one link")
                for leg in legs.values():
                    grown += leg.window.size - FIRST_CELLS
                    wrong = wrong_window(leg)
                    if wrong is not None:
                        self._say(node, leg, wrong)
                    streams = streams_of(leg)
                    if streams is not None and streams.streams:
                        self._look_at_streams(node, streams)
                if other is not link:
                    self._look_at_both(node, link, other)
            left = node.peer.settings.budget.left
            if not 0 <= left <= CELLS - grown:
                what = f"{left} cells left of {CELLS}, with {grown} taken"
                self._complain("quota", f"{node.name}: {what}")

    def _look_at_streams(self, node: Node, streams: Multiplexer) -> None:
        if len(streams.streams) > MOST_STREAMS:
            self._complain("quota", f"{node.name}: {len(streams.streams)} streams on one circuit")
        for stream in streams.streams.values():
            wrong = wrong_stream(stream)
            if wrong is not None:
                self._say(node, stream, wrong)

    def _look_at_both(self, node: Node, link: Link, other: Link) -> None:
        """Compare the two ends of a link: no more credit than the other side has given."""
        for one, two in _pairs(link, other):
            if one.credit > two.window.outstanding and not two.destroy_sent:
                self._say(node, one, "it has credit nobody gave")
            if two.credit > one.window.outstanding and not one.destroy_sent:
                self._say(node, two, "it has credit nobody gave")

    def _say(self, node: Node, what: object, wrong: str) -> None:
        self._complain("window", f"{node.name}: {what!r}: {wrong}")


class GuardWatch:
    """Own which guards each client has dialled within the last hour (PATH-2).

    What a wrong clock, or a disk that was full, has made a client forget does not count.
    """

    def __init__(self, nodes: Sequence[Node], complain: Complain) -> None:
        relays = sum(isinstance(node, RelayNode) for node in nodes)
        self._is_small = relays < LARGE_NETWORK
        self._complain = complain
        self._dialled: dict[ClientNode, list[tuple[float, float, PeerId]]] = {}

    def note(self, node: ClientNode, peer_id: PeerId) -> None:
        """Note that `node` dials a guard; complain when it is one too many."""
        now, dialled = trio.current_time(), self._dialled.setdefault(node, [])
        if node.folder.is_full:
            dialled.clear()
        dialled.append((now, node.clock_error, peer_id))
        since = now - HOUR
        recent = {who for at, error, who in dialled if at > since and error == node.clock_error}
        if self._is_small and len(recent) > MOST_GUARDS:
            self._complain("path", f"{node.name} dialled {len(recent)} guards within an hour")


def wrong_window(leg: Leg) -> str | None:
    """Return what is wrong with the credit of a leg, or None (protocol §6)."""
    window = leg.window
    outstanding, held, owed, size = window.outstanding, window.held, window.owed, window.size
    counted = outstanding + held + owed
    if counted != size and not leg.destroy_sent:
        return f"credit is lost: {counted} of {size} cells are accounted for"
    if outstanding < 0 or held < 0 or owed < 0 or size > MOST_CELLS:
        return f"a window of {size}: {outstanding}, {held}, {owed}"
    if not 0 <= leg.credit <= MOST_CREDIT:
        return f"credit for {leg.credit} cells"
    if leg.feeder is not None and leg.queued - leg.own > leg.feeder.window.held:
        return f"{leg.queued} cells wait, and {leg.feeder.window.held} came"
    return None


def wrong_stream(stream: StreamProtocol) -> str | None:
    """Return what is wrong with the offsets of a stream, or None (protocol §5.1)."""
    if not stream.acknowledged <= stream.sent <= stream.written:
        return f"acknowledged {stream.acknowledged}, sent {stream.sent}, written {stream.written}"
    if stream.sent > stream.limit or stream.received > stream.allowed:
        return f"{stream.sent} of {stream.limit} sent, {stream.received} of {stream.allowed} came"
    if (first := _end_of_first_retained(stream)) is not None and first <= stream.acknowledged:
        return f"bytes up to {first} are kept, and {stream.acknowledged} are acknowledged"
    if stream.written - stream.acknowledged > MOST_STREAM_BYTES + _ONE_READ:
        return f"{stream.written - stream.acknowledged} bytes are kept"
    is_open = stream.state is not StreamState.ENDED and stream.end_due is None
    if is_open and not 0 <= stream.received - stream.consumed <= MOST_STREAM_BYTES:
        return f"{stream.received - stream.consumed} bytes wait"
    if is_open and sum(map(len, stream.incoming)) != stream.received - stream.consumed:
        return "the bytes that wait are not those that came"
    return None


def _end_of_first_retained(stream: StreamProtocol) -> int | None:
    """Return up to which offset the oldest chunk goes that was sent and is kept."""
    retained = stream._retained
    return stream._base + len(retained[0]) if retained else None


def streams_of(leg: Leg) -> Multiplexer | None:
    """Return the streams that end where this leg does."""
    user = leg.user
    if isinstance(user, RelayCircuit):
        return user.streams if leg is user.previous else None
    return user.streams if isinstance(user, OriginCircuit) and user.hops else None


def _pairs(one: Link, other: Link) -> Iterator[tuple[Leg, Leg]]:
    """Yield the two ends of each circuit on a link."""
    theirs = other.protocol.legs
    if theirs:
        for number, leg in one.protocol.legs.items():
            if number in theirs:
                yield leg, theirs[number]


# ---- what is left at the end


async def what_is_left(
    nodes: Iterable[Node], tasks: dict[str, Counter[str]]
) -> list[tuple[str, str]]:
    """Return what should be gone, as invariant and text; `tasks` are those of the beginning."""
    left: list[tuple[str, str]] = []
    ends: dict[bytes, Link] = {}
    for node in nodes:
        peer = node.peer
        if peer is None:
            continue
        grown = 0
        for link in peer.links:
            grown += sum(leg.window.size - FIRST_CELLS for leg in link.protocol.legs.values())
            left += [("leak", f"{node.name}: {each}") for each in _left_on(link)]
            other = ends.setdefault(link.protocol.handshake_hash, link)
            if other is not link:
                left += [("credit", f"{node.name}: {each}") for each in _lost_between(link, other)]
                left += [("leak", f"{node.name}: {each}") for each in _orphans_of(link, other)]
        if peer.settings.budget.left != CELLS - grown:
            what = f"{peer.settings.budget.left} cells left of {CELLS}, with {grown} taken"
            left.append(("quota", f"{node.name}: {what}"))
        left += [("leak", f"{node.name}: {each}") for each in await _left_at(node)]
        more = tasks_below(peer.turn.nursery) - tasks[type(node).__name__]
        names = [f"{count} of {name}" for name, count in sorted(more.items())]
        left += [("leak", f"{node.name}: tasks are left: {each}") for each in names]
    return left


def _left_on(link: Link) -> Iterator[str]:
    for leg in link.protocol.legs.values():
        streams = streams_of(leg)
        for stream in streams.streams.values() if streams is not None else ():
            yield f"a stream is left: {stream!r}"
        if leg.queued:
            yield f"cells are left: {leg!r}"


def _lost_between(one: Link, other: Link) -> Iterator[str]:
    """Yield the circuits of an idle link whose credit is not all there."""
    pairs = _pairs(one, other)
    for sender, receiver in chain.from_iterable(((a, b), (b, a)) for a, b in pairs):
        if sender.destroy_sent or receiver.destroy_sent:
            continue
        if sender.credit != receiver.window.outstanding:
            given = receiver.window.outstanding
            yield f"credit is lost: {sender!r} has it for {sender.credit} of {given} cells"


def _orphans_of(one: Link, other: Link) -> Iterator[str]:
    """Yield the circuits of an idle link that only one of its sides has."""
    ours, theirs = one.protocol.legs, other.protocol.legs
    for legs, number in chain(
        ((ours, number) for number in ours.keys() - theirs.keys()),
        ((theirs, number) for number in theirs.keys() - ours.keys()),
    ):
        yield f"the other side has no circuit {legs[number]!r}"
    for leg in chain(ours.values(), theirs.values()):
        user = leg.user
        if isinstance(user, RelayCircuit) and leg is user.next and user.previous.destroy_sent:
            yield f"it leads nowhere: {leg!r}"


async def _left_at(node: Node) -> list[str]:
    if isinstance(node, ClientNode) and node.proxy is not None:
        counts = node.proxy.statistics()
        names = "connections_open", "half_done"
        return [f"{counts[name]} {name} at the proxy" for name in names if counts[name]]
    if isinstance(node, RelayNode) and node.serving is not None:
        counted = (await node.serving.statistics())["exit"] or {}
        names = "open", "connecting"
        return [f"{counted[name]} {name} at the exit" for name in names if counted.get(name)]
    return []


def tasks_below(nursery: trio.Nursery) -> Counter[str]:
    """Count the tasks below `nursery` by name, without those that come and go."""
    tasks: Counter[str] = Counter()
    for task in nursery.child_tasks:
        if not task.name.endswith(_PASSING):
            tasks[task.name] += 1
        for inner in task.child_nurseries:
            tasks += tasks_below(inner)
    return tasks


def tasks_of_each_kind(nodes: Iterable[Node]) -> dict[str, Counter[str]]:
    """Return the most tasks of each name that a node of a kind has, exits among the relays."""
    most: dict[str, Counter[str]] = {
        kind.__name__: Counter() for kind in (AuthorityNode, RelayNode, ClientNode)
    }
    for node in nodes:
        if node.peer is not None:
            most[type(node).__name__] |= tasks_below(node.peer.turn.nursery)
    return most
