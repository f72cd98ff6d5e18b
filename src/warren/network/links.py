"""Links: find the link to a peer or dial it, and look after all of them.

A dial and its failure are shared by all who ask at once. Those who dial us are ``strangers`` until
they have shown that they know how; a link is registered once its peer has proved who it is.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import structlog
import trio

from warren.errors import LinkError, ProtocolError
from warren.identity import Hop, PeerId
from warren.network.byte_streams import ByteStream, Listener, Network
from warren.network.evictions import Candidate, choose_links
from warren.network.link import (
    HANDSHAKE_SECONDS,
    URGENT_SECONDS,
    WATCH_SECONDS,
    Link,
    LinkSettings,
    OnCreate,
    OnReady,
    ignore,
)
from warren.network.link_door import LinkDoor
from warren.network.quota import Holder
from warren.network.strangers import Strangers
from warren.network.turn import Turn
from warren.network.unready import Unready
from warren.protocol.handshake import LinkSecrets, initiate_link
from warren.protocol.link import LinkProtocol

logger = structlog.get_logger()

#: Few links are taken up again once their circuits are gone, and each costs a PING every 10 s.
IDLE_SECONDS = 60.0


class _Dial:
    """Share one dial among all who ask for the same peer; without a failure, it was given up."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_SECONDS)
        self.is_interrupted = False
        self.done = trio.Event()
        self.failure: LinkError | None = None


class _Visit:
    """Own that a connection is counted at a door, until it ends or is no client's."""

    def __init__(self, door: LinkDoor, host: str) -> None:
        self._door, self._host = door, host

    def end(self) -> None:
        """Count it no more; twice is fine."""
        host, self._host = self._host, ""
        self._door.leave(host)


class Links:
    """Own all links of a node: find the one to a peer, dial it, answer those who dial.

    ``on_create`` is called for every circuit somebody asks for; without it we refuse them all.
    """

    def __init__(
        self,
        network: Network,
        settings: LinkSettings,
        turn: Turn,
        *,
        on_create: OnCreate | None = None,
    ) -> None:
        self.settings = settings
        self.turn = turn
        self._network = network
        self._on_create = on_create
        self._links: dict[Link, None] = {}  # in the order they were made
        self._by_peer: dict[tuple[PeerId, bool], list[Link]] = {}  # the newest comes last
        self._dialling: dict[tuple[PeerId, bool], _Dial] = {}
        self._strangers = Strangers(settings)
        self._unready = Unready()
        self._door: LinkDoor | None = None
        self.accepted = self.dialled = 0
        self._gone_received = self._gone_sent = 0  # cells of links that are no more

    def __iter__(self) -> Iterator[Link]:
        return iter([link for link in self._links if not link.is_closed])

    def answer_with(self, on_create: OnCreate) -> None:
        """Call `on_create` for circuits on every link made from now on."""
        self._on_create = on_create

    def find(self, peer_id: PeerId, *, is_anonymous: bool = False) -> Link | None:
        """Return the newest authenticated link to `peer_id`, or None (LNK-6)."""
        for link in reversed(self._by_peer.get((peer_id, is_anonymous), ())):
            if not link.is_closed:
                return link
        return None

    async def get(self, hop: Hop, *, is_anonymous: bool) -> Link:
        """Find or dial the link to `hop`; raise LinkError when it cannot be had.

        Waits for the handshake, at most 10 s; several who ask at once share one dial.
        """
        key = (hop.peer_id, is_anonymous)
        while True:
            link = self.find(hop.peer_id, is_anonymous=is_anonymous)
            if link is not None:
                link.last_used = trio.current_time()
                return link
            dial = self._dialling.get(key)
            if dial is None:
                return await self._dial(hop, key)
            await dial.done.wait()
            if dial.failure is not None:
                is_local = dial.failure.is_local
                raise LinkError(str(dial.failure), is_local=is_local) from dial.failure

    async def probe(self, hop: Hop) -> None:
        """Dial `hop` afresh and close again; raise LinkError unless it is what `hop` says.

        An open link would only show where the peer was when it was made.
        """
        link = None
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                link = await self._open(hop, is_anonymous=True, on_ready=ignore)
                await link.wait_ready()
        except (ProtocolError, trio.TooSlowError) as error:
            raise LinkError(f"no link to {hop!r}: {error}") from error
        finally:
            if link is not None:
                link.close()
        ready = link.protocol.ready
        if ready is None or ready.relay is None or ready.relay.onion_key != hop.onion_key:
            raise LinkError(f"{hop!r} has another onion key than it published")

    async def _dial(self, hop: Hop, key: tuple[PeerId, bool]) -> Link:
        dial = self._dialling[key] = _Dial()
        link = None
        try:
            with dial.scope:
                link = await self._open(hop, is_anonymous=key[1])
                await link.wait_ready()
            if dial.scope.cancelled_caught:
                raise LinkError(
                    "interrupted" if dial.is_interrupted else "no answer in time",
                    is_local=dial.is_interrupted,
                )
        except (LinkError, ProtocolError) as error:
            if link is not None:
                link.close()
            is_local = isinstance(error, LinkError) and error.is_local
            dial.failure = LinkError(f"no link to {hop!r}: {error}", is_local=is_local)
            raise dial.failure from error
        finally:
            del self._dialling[key]
            dial.done.set()
        assert link is not None
        self.dialled += 1
        return link

    async def _open(self, hop: Hop, *, is_anonymous: bool, on_ready: OnReady | None = None) -> Link:
        settings = self.settings
        stream = await self._network.dial(hop.address)
        try:
            credentials = None if is_anonymous else settings.credentials()
            exchange = initiate_link(settings.network_id, hop, settings.keys, credentials)
            rest = bytearray()
            secrets = await stream.converse(exchange, rest)
        except BaseException:
            stream.close()
            raise
        link = self._make(
            stream,
            secrets,
            bytes(rest),
            is_initiator=True,
            anonymous=is_anonymous,
            on_ready=on_ready or self._reached,
        )
        self.turn.nursery.start_soon(self._run, link)
        return link

    def _make(
        self,
        stream: ByteStream,
        secrets: LinkSecrets,
        rest: bytes,
        *,
        is_initiator: bool,
        anonymous: bool,
        on_ready: OnReady,
    ) -> Link:
        stream.keep_send_queue_short()
        ready = self.settings.ready(stream.remote, is_anonymous=is_initiator and anonymous)
        protocol = LinkProtocol(
            secrets,
            ready,
            is_initiator=is_initiator,
            is_anonymous=anonymous,
            budget=self.settings.budget,
            now=trio.current_time(),
        )
        return Link(
            stream,
            protocol,
            self.turn,
            self.settings,
            on_ready=on_ready,
            on_create=self._on_create,
            rest=rest,
        )

    def _arrive(self, link: Link) -> None:
        """Do as ``_register`` with a link that was answered: its READY is here."""
        self._unready.leave(link)
        self._register(link)

    def _reached(self, link: Link) -> None:
        """Do as ``_register`` with a link that was dialled, because a document lists its peer.

        Of those who come to us anybody may be a relay, so only the others tell the time (LNK-7).
        """
        ready = link.protocol.ready
        if ready is not None and ready.relay is not None:
            self.settings.hear_time(link.remote, ready.relay.time)
        self._register(link)

    def _register(self, link: Link) -> None:
        """Use `link` for new circuits from now on: its peer has proved who it is."""
        peer_id = link.protocol.peer_id
        if peer_id is None:
            return
        self._by_peer.setdefault((peer_id, link.protocol.is_anonymous), []).append(link)
        ready = link.protocol.ready
        if ready is not None and ready.relay is not None:
            self.settings.notice(peer_id, ready.relay.valid_after, ready.relay.digest)

    def _unregister(self, link: Link) -> None:
        peer_id = link.protocol.peer_id
        if peer_id is not None:
            key = peer_id, link.protocol.is_anonymous
            others = [each for each in self._by_peer.pop(key, ()) if each is not link]
            if others:
                self._by_peer[key] = others

    async def _run(self, link: Link) -> None:
        self._links[link] = None
        try:
            await link.run()
            logger.debug("x link", link=repr(link), error=str(link.error))
        finally:
            self._links.pop(link, None)
            self._gone_received += link.protocol.cells_received
            self._gone_sent += link.protocol.cells_sent
            self._unready.leave(link)
            self._unregister(link)

    # ---- answering

    async def serve(self, listener: Listener, door: LinkDoor | None = None) -> None:
        """Answer those who dial `listener`, until it is closed.

        `door` says who may come; all may where it is not given.
        """
        self._door = door
        await listener.serve(partial(self._accept, door), self.turn.nursery)

    async def _accept(self, door: LinkDoor | None, stream: ByteStream) -> None:
        if door is None:
            await self._answer(stream)
            return
        host = door.admit(stream.remote, trio.current_time())
        if host is None:
            stream.reset()  # a clean end would leave the system something to remember
            return
        visit = _Visit(door, host)
        try:
            await self._answer(stream, visit)
        finally:
            visit.end()

    async def _answer(self, stream: ByteStream, visit: _Visit | None = None) -> None:
        try:
            known = await self._strangers.meet(stream)
            if known is None:
                stream.close()
                return
            secrets, rest = known
            peer_id = secrets.peer_id
            if visit is not None and peer_id is not None and self.settings.is_relay(peer_id):
                visit.end()
            link = self._make(
                stream,
                secrets,
                rest,
                is_initiator=False,
                anonymous=peer_id is None,
                on_ready=self._arrive,
            )
            self._unready.enter(link)
            self.accepted += 1
            await self._run(link)
        except LinkError:
            stream.close()
        except Exception:
            logger.exception("a bug while answering a peer")  # DOS-1
            stream.close()
        except BaseException:
            stream.close()
            raise

    # ---- upkeep

    async def watch(self) -> None:
        """Ping quiet links, give up dead ones, close those nobody uses; runs for ever."""
        is_urgent = False
        while True:
            due = trio.current_time() + (URGENT_SECONDS if is_urgent else WATCH_SECONDS)
            await trio.sleep_until(due)
            now = trio.current_time()
            is_urgent = now - due > WATCH_SECONDS
            if is_urgent:  # this process stood still: hear what has come meanwhile, then judge
                self._pardon()
            else:
                is_urgent = self._look(now)
                self.turn.run()

    def _pardon(self) -> None:
        for link in self:
            link.pardon()

    def _look(self, now: float) -> bool:
        """Look at every link once; return whether the next look should come soon."""
        is_urgent = False
        for link in self:
            protocol = link.protocol
            if protocol.legs:
                link.last_used = now
            if protocol.ready is None:
                if now - link.last_heard > HANDSHAKE_SECONDS:
                    link.close(LinkError("no READY in time"))
            elif not protocol.legs and (
                now - link.last_used > IDLE_SECONDS or self._is_superseded(link)
            ):
                link.close()
            else:
                is_urgent |= link.check()
        return is_urgent

    def _is_superseded(self, link: Link) -> bool:
        """Tell whether new circuits go over a newer link than this one, which is empty (LNK-6)."""
        peer_id = link.protocol.peer_id
        if peer_id is None:
            return False
        return self.find(peer_id, is_anonymous=link.protocol.is_anonymous) is not link

    def make_room(self, count: int) -> Counter[str]:
        """Close about `count` links, or what may become one; return how many, by why (DOS-8).

        Of those who are met with silence nobody will ever have a link, so they go first.
        """
        closed: Counter[str] = Counter()
        if strangers := self._strangers.make_room(count):
            closed["strangers"] = strangers
        links = list(self)
        candidates = [self._candidate(link) for link in links]
        now, rng = trio.current_time(), self.settings.rng
        for place, why in choose_links(candidates, count - strangers, now, rng):
            links[place].close(LinkError("sockets run short", is_local=True))
            closed[why.value] += 1
        self.turn.run()
        return closed

    def backlogs(self) -> Iterator[Holder]:
        """Yield the links that something is kept for, circuits apart (DOS-5)."""
        for link in self._links:
            if (queue := link.backlog) is not None:
                error = LinkError("memory runs short", is_local=True)
                yield Holder("links", link, [queue], partial(link.close, error))

    def _candidate(self, link: Link) -> Candidate:
        peer_id, circuits = link.protocol.peer_id, len(link.protocol.legs)
        is_relay = peer_id is not None and self.settings.is_relay(peer_id)
        return Candidate(circuits, link.remote.ip, is_relay, link.last_used)

    def interrupted(self) -> None:
        """Give up every link and every dial: the machine slept, or is in another network."""
        for dial in self._dialling.values():
            dial.is_interrupted = True
            dial.scope.cancel()
        for link in self:
            link.close(LinkError("the way to the peer was interrupted", is_local=True))

    def close(self) -> None:
        """Close every link."""
        for link in self:
            link.close()

    def statistics(self) -> dict[str, object]:
        """Return counters of all links; ``cells_in_all`` are also those of links that are gone."""
        links = list(self)
        every = [link.protocol for link in self._links]
        return {
            "open": len(links),
            "accepted": self.accepted,
            "dialled": self.dialled,
            "refused": self._strangers.refused,
            "turned_away": self._door.turned_away if self._door is not None else 0,
            "circuits": sum(len(link.protocol.legs) for link in links),
            "cells_received": sum(link.protocol.cells_received for link in links),
            "cells_sent": sum(link.protocol.cells_sent for link in links),
            "cells_in_all": {
                "received": self._gone_received + sum(each.cells_received for each in every),
                "sent": self._gone_sent + sum(each.cells_sent for each in every),
            },
        }
