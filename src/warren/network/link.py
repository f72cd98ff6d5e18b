"""One link: an encrypted connection to another peer.

A ``Link`` moves bytes between its socket and its ``LinkProtocol``. When the socket is readable,
all it has is taken in one call, the machine works through it, and the turn ends; what that turn
made to send leaves at once, as long as the socket takes it. What did not fit goes when it takes
bytes again. No task has a part in that. Who has a link to whom is in ``network.links``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random, SystemRandom

import structlog
import trio

from warren.addresses import Address
from warren.errors import LinkError, ProtocolError
from warren.identity import Identity, KeyPair, KeySource, PeerId, Suite, SystemKeys
from warren.network.byte_streams import ByteStream
from warren.network.send_queue import SendQueue
from warren.network.turn import Turn
from warren.protocol.backlog import Queue
from warren.protocol.cells import LINK_VERSION, Ready, RelayReady
from warren.protocol.credit import CreditBudget
from warren.protocol.handshake import LinkCredentials, certify_link_key
from warren.protocol.leg import Leg
from warren.protocol.link import CreateRequested, LinkProtocol, PongReceived, ReadyReceived
from warren.protocol.records import MOST_RECORD
from warren.protocol.round_trips import RoundTrips

logger = structlog.get_logger()

#: How long it may take to open a link, up to the other side's READY.
HANDSHAKE_SECONDS = 10.0
PING_SECONDS = 10.0
#: Silence after which a link counts as dead at the latest: a ping and two misses (security F).
SILENCE_SECONDS = 25.0
#: How often ``check`` is called, and how often while somebody waits for the answer to a PING.
WATCH_SECONDS = PING_SECONDS / 2
URGENT_SECONDS = 1.0
#: PINGs one behind the other on a new link: its peer may just be busy with something else.
_FIRST_PINGS = 4
_CERTIFICATE_SECONDS = 30 * 24 * 3600

# Read into and sealed in one step each, so one pair of buffers serves all links of the process.
# Their size is what one link may do before the others have their turn (DOS-10).
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


def _not_heard(remote: Address, time: int) -> None:
    return


def _nobody(peer_id: PeerId) -> bool:
    return False


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
    #: Learns the time, in Unix seconds, that a relay says which was dialled (LNK-7).
    hear_time: Callable[[Address, int], None] = _not_heard
    #: Tells whether a peer stands in a consensus still usable: its links go last (DOS-8).
    is_relay: Callable[[PeerId], bool] = _nobody

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


def ignore(_: "Link") -> None:
    """Do nothing when a link becomes ready."""
    return


OnCreate = Callable[["Link", CreateRequested], None]
OnReady = Callable[["Link"], None]


class Link:
    """Own one link: its socket and its machine.

    ``run`` must be running; it returns when the link is gone, and every circuit on it was told.
    ``error`` says what ended it, None for ourselves, and ``fell_silent`` whether it was silence.
    """

    def __init__(
        self,
        stream: ByteStream,
        protocol: LinkProtocol,
        turn: Turn,
        settings: LinkSettings,
        *,
        on_ready: OnReady = ignore,
        on_create: OnCreate | None = None,
        rest: bytes = b"",
    ) -> None:
        self.protocol = protocol
        self.turn = turn
        self.settings = settings
        self.in_turn = False
        self.is_ready = trio.Event()
        self.error: LinkError | ProtocolError | None = None
        self.is_closed = self.fell_silent = False
        self.on_silence: Callable[[Link], None] | None = None  # before its circuits are told
        self.last_heard = self.last_used = trio.current_time()
        self._stream = stream
        self._on_ready, self._on_create = on_ready, on_create
        self._rest = rest  # the beginning of a record that has not come whole
        self._unsent: memoryview | None = None  # sealed bytes that did not fit: sent as they are
        self._direct = 0  # bytes sent since the socket last said that it is writable
        self._queue = SendQueue(stream)
        self._is_blocked = False  # whether the socket must be writable before more is sent
        self._ended = trio.Event()
        self._ping_sent = 0.0
        self._pings = 0
        self._is_urgent = False  # whether circuits wait for the answer to the last PING
        self._cells_answered = 0  # moved by the time of the last PONG
        self._round_trips = RoundTrips()
        protocol.wake = partial(turn.add, self)

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
        """Serve the link until it is gone."""
        try:
            if not self.is_closed:
                self._stream.read_with(self._readable, self.turn.nursery)
                self.protocol.wake()
                self._work(0)  # what came behind the handshake
            await self._ended.wait()
        finally:
            self._gone()

    def close(self, error: LinkError | ProtocolError | None = None) -> None:
        """Close the link; its circuits are told at once."""
        if not self.is_closed:
            if error is not None:  # where it was raised has this link, which would never be let go
                error.__traceback__ = error.__cause__ = error.__context__ = None
            self.error = error
            self._gone()

    def check(self) -> bool:
        """Ping, or give up on a peer that was silent for too long; called now and then.

        Returns whether circuits wait for the answer, so that the next look should come soon.
        A link whose circuits have moved cells is asked as soon as it falls silent, once, and what
        it measured so far says how long the answer may take. An idle one has more time.
        """
        now = trio.current_time()
        silence = now - self.last_heard
        if self._is_urgent:
            self._is_urgent = bool(self.protocol.legs) and self.last_heard < self._ping_sent
        if silence > SILENCE_SECONDS - WATCH_SECONDS:  # the next look is too late
            self.give_up("the peer fell silent")
        elif self._is_urgent:
            if now - self._ping_sent > self._round_trips.patience:
                self.give_up("the peer does not answer, and circuits wait for it")
        elif silence >= URGENT_SECONDS and self._is_waited_for:
            self.ping()
            self._is_urgent = True
        elif silence >= PING_SECONDS or now - self._ping_sent >= 6 * PING_SECONDS:
            self.ping()
        return self._is_urgent

    def give_up(self, why: str) -> None:
        """Close the link because of what its peer does not say; ``on_silence`` is told first."""
        self.fell_silent = True
        if self.on_silence is not None:
            self.on_silence(self)
        self.close(LinkError(why))

    def pardon(self) -> None:
        """Forgive the peer its silence: it was us who did not listen."""
        self.last_heard = max(self.last_heard, trio.current_time() - PING_SECONDS)
        self._is_urgent = False

    @property
    def _is_waited_for(self) -> bool:
        """Tell whether circuits have moved cells since the last answer."""
        return bool(self.protocol.legs) and self.protocol.cells_moved != self._cells_answered

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

    @property
    def backlog(self) -> Queue | None:
        """Return what is kept of bytes that came, or were sealed, and did not fit; or None."""
        unsent, sealed = self._unsent, self.protocol.cells_sent
        size = len(self._rest) + (len(unsent) if unsent is not None else 0)
        # Nothing more is sealed before they have left.
        left = sealed if unsent is None else sealed - 1
        return Queue(self, size, sealed, left) if size else None

    # ---- reading

    def _readable(self) -> None:
        rest = self._rest
        try:
            count = self._stream.receive_into(_RECEIVE[len(rest) :] if rest else _RECEIVE)
        except LinkError as error:
            self.close(error)
            return
        if count:
            self._work(count)
        elif count == 0:
            self.close(LinkError("the peer closed the link"))

    def _work(self, count: int) -> None:
        """Work through the bytes of one read, then let everything leave that this made."""
        try:
            self._receive(count)
        except ProtocolError as error:
            self.close(error)
        except Exception:
            logger.exception("a bug on a link", link=repr(self))  # DOS-1: it costs this link
            self.close()
        self.turn.run()

    def _receive(self, count: int) -> None:
        rest, protocol = self._rest, self.protocol
        if rest:
            count += len(rest)
            _RECEIVE[: len(rest)] = rest
        protocol.now = self.turn.now()
        used = protocol.receive(_RECEIVE[:count])
        self._rest = bytes(_RECEIVE[used:count])
        if used:  # a record proves life, and bytes that may never become one do not
            self.last_heard = protocol.now
        if protocol.events:
            self._act()

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
                self._round_trips.note(trio.current_time() - self._ping_sent)
                self._cells_answered = self.protocol.cells_moved
                self.protocol.round_trip = self._round_trips.least
                if len(self._round_trips) < _FIRST_PINGS:
                    self.ping()
            else:
                assert isinstance(event, ReadyReceived)
                self._on_ready(self)
                self.is_ready.set()
                self.ping()

    # ---- writing

    def flush(self) -> None:
        """Send what there is, unless the socket is full: then later."""
        if self._is_blocked or self.is_closed:
            return
        self.protocol.now = self.turn.now()
        try:
            self._send()
        except LinkError as error:
            self.close(error)
        except Exception:  # cells may be lost now, and every layer counts them
            logger.exception("a bug on a link", link=repr(self))  # DOS-1
            self.close()

    def _send(self) -> None:
        stream, protocol, queue = self._stream, self.protocol, self._queue
        while True:
            rest = self._unsent
            size = len(rest) if rest is not None else protocol.fill(_SEND[: queue.size])
            if not size:
                queue.has_idled()
                return
            pending = rest if rest is not None else _SEND[:size]
            sent = stream.send_now(pending)
            self._direct += sent
            queue.sent(sent)
            if sent < size:
                self._unsent = memoryview(bytes(pending[sent:]))
                self._wait_writable()
                return
            self._unsent = None
            if self._direct >= queue.size:
                self._wait_writable()  # ask the socket first, so that the queue stays ours
                return
            if rest is None and size < queue.size // 2:  # there was room for more, and no more
                queue.has_idled()
                return

    def _wait_writable(self) -> None:
        self._is_blocked = True
        self._queue.blocked(self.protocol.now)
        self._stream.write_with(self._writable, self.turn.nursery)

    def _writable(self) -> None:
        self._is_blocked = False
        self._direct = 0
        self._queue.writable(trio.current_time())
        self.flush()
        self.turn.run()

    def _gone(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._stream.close()
        self.protocol.close()
        self.is_ready.set()
        self._ended.set()
        self.turn.run()
