"""Links: the encrypted connections to other peers, one reader and one writer task each.

A ``Link`` moves bytes between its socket and its ``LinkProtocol``. The reader takes what the
socket has in one call, lets the machine work through it, and ends the turn; what that turn made
to send leaves at once, without a task being woken, as long as the socket takes it. Only what did
not fit is the writer's. ``Links`` finds the link to a peer or dials it, and answers those who
dial us.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random, SystemRandom

import structlog
import trio

from warren.addresses import Address
from warren.errors import LinkError, ProtocolError
from warren.identity import Hop, Identity, KeyPair, KeySource, PeerId, Suite, SystemKeys
from warren.network.byte_streams import ByteStream, Listener, Network
from warren.network.turn import Turn
from warren.protocol.cells import LINK_VERSION, Ready, RelayReady
from warren.protocol.credit import CreditBudget
from warren.protocol.handshake import (
    LinkCredentials,
    LinkSecrets,
    accept_link,
    certify_link_key,
    initiate_link,
)
from warren.protocol.link import (
    MOST_RECORD,
    CreateRequested,
    Leg,
    LinkProtocol,
    PongReceived,
    ReadyReceived,
)

logger = structlog.get_logger()

HANDSHAKE_SECONDS = 10.0
PING_SECONDS = 10.0
#: Silence after which a link counts as dead at the latest: a ping and two misses (security F).
SILENCE_SECONDS = 25.0
_WATCH_SECONDS = PING_SECONDS / 2
IDLE_SECONDS = 180.0
MOST_HANDSHAKES = 64
MOST_SILENCED = 256
_ROUND_TRIPS = 8
_CERTIFICATE_SECONDS = 30 * 24 * 3600
#: Bytes sent without asking the socket whether it is writable (TCP_NOTSENT_LOWAT counts then).
_DIRECT_BYTES = 256 * 1024

# Read into and sealed in one step each, so one pair of buffers serves all links of the process.
_RECEIVE = memoryview(bytearray(256 * 1024 + MOST_RECORD))
_SEND = memoryview(bytearray(4 * MOST_RECORD))


@dataclass
class RelayKeys:
    """Hold the keys by which a relay or authority is reached; current ones come first."""

    identity: Identity
    link_keys: list[KeyPair]
    onion_keys: list[KeyPair]
    suites: tuple[Suite, ...]


def _no_consensus() -> tuple[int, bytes]:
    return 0, bytes(32)


def _not_noticed(peer_id: PeerId, valid_after: int, digest: bytes) -> None:
    return


@dataclass
class LinkSettings:
    """Hold what all links of a node share."""

    network_id: bytes
    keys: KeySource = field(default_factory=SystemKeys)
    relay: RelayKeys | None = None
    window: int = 64
    budget: CreditBudget = field(default_factory=lambda: CreditBudget(256 * 1024))
    wall_clock: Callable[[], float] = time.time
    rng: Random = field(default_factory=SystemRandom)
    consensus: Callable[[], tuple[int, bytes]] = _no_consensus
    #: Learns which consensus an authenticated peer says it holds (DIR-7).
    notice: Callable[[PeerId, int, bytes], None] = _not_noticed

    def credentials(self) -> LinkCredentials:
        """Return what shows that this relay's link key is its own."""
        assert self.relay is not None, "a client has nothing to show"
        expiry = int(self.wall_clock()) + _CERTIFICATE_SECONDS
        return certify_link_key(
            self.relay.identity, self.network_id, self.relay.link_keys[0], expiry
        )

    def ready(self, remote: Address, *, is_anonymous: bool) -> Ready:
        """Return the READY to send; an anonymous client says nothing of itself."""
        if is_anonymous or self.relay is None:
            return Ready((LINK_VERSION,), self.window)
        valid_after, digest = self.consensus()
        relay = RelayReady(
            self.relay.onion_keys[0].public,
            self.relay.suites,
            int(self.wall_clock()),
            remote,
            valid_after,
            digest,
        )
        return Ready((LINK_VERSION,), self.window, relay)


def _ignore(_: "Link") -> None:
    return


OnCreate = Callable[["Link", CreateRequested], None]
OnReady = Callable[["Link"], None]


class Link:
    """Own one link: its socket, its machine, its two tasks.

    ``run`` must be running; it returns when the link is gone, and every circuit on it was told.
    """

    def __init__(
        self,
        stream: ByteStream,
        protocol: LinkProtocol,
        turn: Turn,
        settings: LinkSettings,
        *,
        on_ready: OnReady = _ignore,
        on_create: OnCreate | None = None,
        rest: bytes = b"",
    ) -> None:
        self.protocol = protocol
        self.turn = turn
        self.settings = settings
        self.in_turn = False
        self.is_ready = trio.Event()
        self.error: LinkError | ProtocolError | None = None
        self.is_closed = False
        self.last_heard = self.last_used = trio.current_time()
        self._stream = stream
        self._on_ready, self._on_create = on_ready, on_create
        self._rest = rest  # the beginning of a record that has not come whole
        self._unsent: memoryview | None = None  # sealed bytes that did not fit: sent as they are
        self._direct = 0
        self._blocked = trio.Event()
        self._scope = trio.CancelScope()
        self._ping_sent = 0.0
        self._pings = 0
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        protocol.wake = self._wake

    def __repr__(self) -> str:
        return f"<Link to {self.protocol.peer_id!r}, {len(self.protocol.legs)} circuits>"

    @property
    def remote(self) -> Address:
        """Return the address at the other end of the socket."""
        return self._stream.remote

    @property
    def observed(self) -> Address | None:
        """Return the address the other side says it sees us at, a hint (LNK-7)."""
        ready = self.protocol.ready
        return ready.relay.observed if ready is not None and ready.relay is not None else None

    async def run(self) -> None:
        """Read and write until the link is gone."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    self._wake()
                    self.turn.run()
                    await self._read()
        finally:
            self._gone()

    def close(self, error: LinkError | ProtocolError | None = None) -> None:
        """Close the link; its circuits are told at once."""
        if self.error is None:
            self.error = error
        self._scope.cancel()
        self._gone()

    def check(self) -> None:
        """Ping, or give up on a peer that was silent for too long; called now and then."""
        now = trio.current_time()
        if now - self.last_heard > SILENCE_SECONDS - _WATCH_SECONDS:  # the next look is too late
            self.close(LinkError("the peer fell silent"))
        elif now - self.last_heard >= PING_SECONDS or now - self._ping_sent >= 6 * PING_SECONDS:
            self.ping()

    def ping(self) -> None:
        """Ask for a sign of life and measure the round trip."""
        if self.protocol.ready is not None:
            self._pings += 1
            if self.protocol.ping(self._pings.to_bytes(8, "big")):
                self._ping_sent = trio.current_time()

    def create(self, depth: int, suite: Suite, message: bytes) -> Leg:
        """Ask the peer for a circuit; raise LinkError when the link is gone or full."""
        if self.is_closed:
            raise LinkError("the link is gone")
        self.last_used = trio.current_time()
        return self.protocol.create(depth, suite, message)

    async def wait_ready(self) -> None:
        """Wait for the other side's READY; raise what broke the link otherwise."""
        await self.is_ready.wait()
        if self.protocol.ready is None:
            raise LinkError(f"the link did not come up: {self.error or 'the peer closed it'}")

    # ---- reading

    async def _read(self) -> None:
        stream, protocol = self._stream, self.protocol
        if self._rest:
            self._receive(0)
        while True:
            await stream.wait_readable()
            count = stream.receive_into(_RECEIVE[len(self._rest) :])
            if count == 0:
                raise LinkError("the peer closed the link")
            if count is not None:
                protocol.now = trio.current_time()
                self._receive(count)

    def _receive(self, count: int) -> None:
        """Work through the bytes of one read, then let everything leave that this made."""
        rest = self._rest
        total = len(rest) + count
        _RECEIVE[: len(rest)] = rest
        try:
            used = self.protocol.receive(_RECEIVE[:total])
            self._rest = bytes(_RECEIVE[used:total])
            if used:  # a record proves life, and bytes that may never become one do not
                self.last_heard = self.protocol.now
            if self.protocol.events:
                self._act()
        finally:
            self.turn.run()

    def _act(self) -> None:
        events, self.protocol.events = self.protocol.events, []
        for event in events:
            if isinstance(event, CreateRequested):
                self.last_used = self.last_heard
                if self._on_create is None:
                    event.leg.destroy()
                else:
                    self._on_create(self, event)
            elif isinstance(event, PongReceived):
                self._round_trips.append(trio.current_time() - self._ping_sent)
                self.protocol.round_trip = min(self._round_trips)
            else:
                assert isinstance(event, ReadyReceived)
                self._on_ready(self)
                self.is_ready.set()
                self.ping()

    # ---- writing

    def _wake(self) -> None:
        if not self.in_turn and not self.is_closed:
            self.turn.add(self)

    def flush(self) -> None:
        """Send what there is, unless the socket is full: then the writer does it."""
        if self._blocked.is_set() or self.is_closed:
            return
        try:
            self._send()
        except LinkError as error:
            self.close(error)
        except Exception:  # cells may be lost now, and every layer counts them
            logger.exception("a bug on a link", link=repr(self))  # DOS-1
            self.close()

    def _send(self) -> None:
        stream, fill = self._stream, self.protocol.fill
        while True:
            pending = self._unsent
            if pending is None:
                size = fill(_SEND)
                if not size:
                    return
                pending = _SEND[:size]
            sent = stream.send_now(pending)
            self._direct += sent
            if sent < len(pending):
                self._unsent = memoryview(bytes(pending[sent:]))
                self._blocked.set()
                return
            self._unsent = None
            if self._direct >= _DIRECT_BYTES:
                self._blocked.set()  # ask the socket first, so that the queue stays ours
                return

    async def _write(self) -> None:
        while True:
            await self._blocked.wait()
            await self._stream.wait_writable()
            self._direct = 0
            self._blocked = trio.Event()
            self.protocol.now = trio.current_time()
            self._send()
            self.turn.run()

    def _gone(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._stream.close()
        self.protocol.close()
        self.is_ready.set()
        self.turn.run()


def _first(
    errors: BaseExceptionGroup[LinkError | ProtocolError],
) -> LinkError | ProtocolError:
    """Return the first error of a group, however deep it lies."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


class _Crowd:
    """Own the connections that have proved nothing yet: at most `most`, each in a scope.

    One more than that makes room for itself: the oldest goes, of whichever host has most of them,
    so that one host cannot shut all others out (DOS-2).
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: dict[trio.CancelScope, str] = {}  # oldest first

    @contextmanager
    def enter(self, host: str) -> Iterator[trio.CancelScope]:
        """Count a connection from `host` while inside; the scope is cancelled to make room."""
        if len(self._hosts) >= self._most:
            ((crowded, _),) = Counter(self._hosts.values()).most_common(1)
            oldest = next(scope for scope, each in self._hosts.items() if each == crowded)
            del self._hosts[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._hosts[scope] = host
            try:
                yield scope
            finally:
                self._hosts.pop(scope, None)


class _Dial:
    """Share one dial among all who ask for the same peer; without a failure, it was given up."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: LinkError | None = None


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
        self._links: set[Link] = set()
        self._by_peer: dict[tuple[PeerId, bool], list[Link]] = {}  # the newest comes last
        self._dialling: dict[tuple[PeerId, bool], _Dial] = {}
        self._handshaking = _Crowd(MOST_HANDSHAKES)
        self._silenced = _Crowd(MOST_SILENCED)
        self.accepted = self.dialled = self.refused = 0

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._links))

    def find(self, peer_id: PeerId, *, is_anonymous: bool = False) -> Link | None:
        """Return the newest authenticated link to `peer_id`, or None (LNK-6)."""
        links = self._by_peer.get((peer_id, is_anonymous), ())
        return next((link for link in reversed(links) if not link.is_closed), None)

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
                raise LinkError(str(dial.failure)) from dial.failure

    async def probe(self, hop: Hop) -> None:
        """Dial `hop` afresh and close again; raise LinkError unless it is what `hop` says.

        An open link would only show where the peer was when it was made.
        """
        link = None
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                link = await self._open(hop, is_anonymous=True, on_ready=_ignore)
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
            with trio.fail_after(HANDSHAKE_SECONDS):
                link = await self._open(hop, is_anonymous=key[1])
                await link.wait_ready()
        except (LinkError, ProtocolError, trio.TooSlowError) as error:
            if link is not None:
                link.close()
            reason = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
            dial.failure = LinkError(f"no link to {hop!r}: {reason}")
            raise dial.failure from error
        finally:
            del self._dialling[key]
            dial.done.set()
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
            on_ready=on_ready or self._register,
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
        self._links.add(link)
        try:
            await link.run()
        except* (LinkError, ProtocolError) as errors:
            if link.error is None:
                link.error = _first(errors)
            logger.debug("x link", link=repr(link), error=str(link.error))
        except* Exception:
            logger.exception("a bug on a link", link=repr(link))  # DOS-1: it costs this link
        finally:
            self._links.discard(link)
            self._unregister(link)

    # ---- answering

    async def serve(self, listener: Listener) -> None:
        """Answer those who dial `listener`, until it is closed."""
        await listener.serve(self._accept, self.turn.nursery)

    async def _accept(self, stream: ByteStream) -> None:
        link = None
        try:
            with self._handshaking.enter(stream.remote.host) as scope:
                link = await self._answer(stream)
            if link is not None:
                self.accepted += 1
                await self._run(link)
                return
            self.refused += 1
            if not scope.cancelled_caught:
                await self._stay_silent(stream)
            stream.close()
        except LinkError:
            stream.close()
        except Exception:
            logger.exception("a bug while answering a peer")  # DOS-1
            stream.close()
        except BaseException:
            stream.close()
            raise

    async def _answer(self, stream: ByteStream) -> Link | None:
        """Do the responder's handshake; None when the other side does not know how."""
        settings = self.settings
        relay = settings.relay
        assert relay is not None
        exchange = accept_link(
            settings.network_id,
            relay.identity.peer_id,
            relay.link_keys,
            settings.keys,
            settings.wall_clock(),
        )
        rest = bytearray()
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                secrets = await stream.converse(exchange, rest)
        except (ProtocolError, trio.TooSlowError) as error:
            logger.debug("! handshake", error=str(error))
            return None
        is_anonymous = secrets.peer_id is None
        return self._make(
            stream,
            secrets,
            bytes(rest),
            is_initiator=False,
            anonymous=is_anonymous,
            on_ready=self._register,
        )

    async def _stay_silent(self, stream: ByteStream) -> None:
        """Read and say nothing for a while, so that a prober learns nothing (protocol §2)."""
        waste = bytearray(4096)
        with self._silenced.enter(stream.remote.host) as scope:
            scope.deadline = trio.current_time() + self.settings.rng.uniform(10, 60)
            while stream.receive_into(waste) != 0:
                await stream.wait_readable()

    # ---- upkeep

    async def watch(self) -> None:
        """Ping quiet links, give up dead ones, close those nobody uses; runs for ever."""
        while True:
            await trio.sleep(_WATCH_SECONDS)
            now = trio.current_time()
            for link in tuple(self._links):
                if link.protocol.legs:
                    link.last_used = now
                if link.protocol.ready is None:
                    if now - link.last_heard > HANDSHAKE_SECONDS:
                        link.close(LinkError("no READY in time"))
                elif now - link.last_used > IDLE_SECONDS or self._is_superseded(link):
                    link.close()
                else:
                    link.check()
            self.turn.run()

    def _is_superseded(self, link: Link) -> bool:
        """Tell whether new circuits go over a newer link and this one is empty (LNK-6)."""
        peer_id = link.protocol.peer_id
        if peer_id is None or link.protocol.legs:
            return False
        return self.find(peer_id, is_anonymous=link.protocol.is_anonymous) is not link

    def close(self) -> None:
        """Close every link."""
        for link in tuple(self._links):
            link.close()

    def statistics(self) -> dict[str, object]:
        """Return counters of all links."""
        return {
            "open": len(self._links),
            "accepted": self.accepted,
            "dialled": self.dialled,
            "refused": self.refused,
            "circuits": sum(len(link.protocol.legs) for link in self._links),
            "cells_received": sum(link.protocol.cells_received for link in self._links),
            "cells_sent": sum(link.protocol.cells_sent for link in self._links),
        }
