"""The exit: opens the targets that others ask for, as far as its policy goes.

The checks are those of security B, and each can only refuse: a circuit of one hop, the name, its
resolution, and of every address found the network's own places, the table, the policy and our
own places, then the limits. The network's places come before the policy, because of them a client
must hear a reason after which it does not try elsewhere (EXT-9). Then it connects to the numeric
address that was checked, which is what defeats a name whose answer changes (EXT-4).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import asdict
from functools import partial
from ipaddress import IPv6Network

import trio

from warren.addresses import Address, IPAddress
from warren.directory.address_tables import NAT64_NAME, embedded_addresses, learn_nat64
from warren.directory.exit_policy import ExitPolicy, check_target, forbidden_name
from warren.errors import EndReason, ExitError
from warren.identity import PeerId
from warren.network.byte_streams import ByteStream, Dialling, Network
from warren.network.names import Resolver
from warren.network.own_addresses import OwnAddresses
from warren.network.splice import begin_splice
from warren.network.streams import CircuitStream
from warren.protocol.messages import Begin, BeginFlags, Connected
from warren.protocol.resolution import Resolved
from warren.roles.exit_dial import MOST_ATTEMPTS, Dialler, checked
from warren.roles.exit_limits import Admission, ExitLimits, expect_wanted
from warren.roles.exit_names import ExitNames
from warren.roles.idleness import LOOK_SECONDS, IdleWatch
from warren.roles.last_hop import Rest
from warren.roles.passing_circuit import PassingCircuit

#: After so long without an answer from a quiet target's machine it counts as gone (EXT-10).
SILENCE_SECONDS = 60

#: The bits of a BEGIN's flags, as numbers: the enumeration is slow to say.
_NOT_WANTED = {4: int(BeginFlags.NO_IPV4), 6: int(BeginFlags.NO_IPV6)}
_PREFER_IPV6 = int(BeginFlags.PREFER_IPV6)


class Exit:
    """Own the connections to targets.

    `is_relay` tells whether a peer id stands in a consensus still usable (EXT-8), and
    `network_places` gives every relay's and authority's address (EXT-9).
    """

    def __init__(
        self,
        network: Network,
        policy: ExitPolicy,
        resolver: Resolver,
        own: OwnAddresses,
        *,
        is_relay: Callable[[PeerId], bool],
        network_places: Callable[[], Set[Address]],
        allow_targets: Iterable[Address] = (),
        limits: ExitLimits | None = None,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._own = own
        self._is_relay = is_relay
        self._network_places = network_places
        self._allow_targets = frozenset(allow_targets)
        self._limits = limits or ExitLimits()
        self.admission = Admission(self._limits)
        self._dialler = Dialler(network, self._limits.connect_seconds)
        self._names = ExitNames(resolver, own.contains, self._allow_targets)
        self._nat64: Sequence[IPv6Network] = ()
        self._open: dict[CircuitStream, None] = {}  # the oldest first
        self._idle = IdleWatch(self._limits.idle)
        self._targets: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self.connected = self.resolved = 0
        #: Whether it opens nothing more: what is open may come to its end before the exit does.
        self.is_leaving = False

    def serve(self, circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> Rest | None:
        """Connect `stream` to what `begin` names and carry its bytes until it is over.

        What needs no waiting is done here: a literal address whose machine answers at once is
        served without a task. Returns what is left to be waited for, None for nothing. That, too,
        raises ExitError with the reason when the stream is refused.
        """
        machine = circuit.machine
        if not self._comes_from_relay(circuit):
            return partial(self._turn_away, circuit, stream)
        key, dialling = id(machine), None
        with self._counting_refusals():
            if self.is_leaving:
                raise ExitError(EndReason.HIBERNATING)
            self.admission.count_begin(machine)
            if begin.address.ip is not None and self.admission.has_place(key):
                allowed = self.allowed((begin.address.ip,), begin, self._policy)
                dialling = self._dialler.begin(self._not_crowded(allowed)[0])
                if dialling.stream is not None:
                    self._carry(checked(dialling.stream), stream, 0)
                    return None
                self.admission.enter(key)
        return partial(self._serve_later, key, stream, begin, dialling)

    @property
    def open_streams(self) -> Collection[CircuitStream]:
        """Return the streams whose targets are open."""
        return self._open.keys()

    @contextlib.contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except ExitError as error:
            self._refusals[error.reason.name.lower()] += 1
            raise

    async def _serve_later(
        self, circuit: int, stream: CircuitStream, begin: Begin, dialling: Dialling | None
    ) -> None:
        """Connect `stream`, which may take a while, and carry its bytes."""
        with self._counting_refusals():
            connection, ttl = await self._reach(circuit, stream, begin, dialling)
        if stream.is_ended:
            connection.reset()  # SID-4: what was to be sent is not sent
            return
        self._carry(connection, stream, ttl)

    def _carry(self, connection: ByteStream, stream: CircuitStream, ttl: int) -> None:
        """Splice `stream` to its target until both are through."""
        stream.turn.soon(partial(connection.keep_alive, SILENCE_SECONDS))
        host = connection.remote.host
        self._targets[host] += 1
        self._open[stream] = None
        self.connected += 1

        def forget() -> None:
            del self._open[stream]
            self._targets[host] -= 1
            if not self._targets[host]:
                del self._targets[host]

        # Its circuit may be another one by now, or none for the moment (protocol §5.4).
        stream.protocol.accept(Connected(connection.remote, ttl))
        begin_splice(connection, stream, forget)

    async def resolve(self, circuit: PassingCircuit, subject: Address) -> Resolved:
        """Answer a RESOLVE for the name or address `subject`; see ``ExitNames.resolve``."""
        machine = circuit.machine
        if not self.admits(circuit, _say_nothing):
            raise ExitError(EndReason.EXIT_POLICY)
        with self._counting_refusals():
            self.admission.count_begin(machine)
            # Questions have turns of their own, so that no stream waits behind them.
            answer = await self._names.resolve(subject, ("names", id(machine)), self._nat64)
        self.resolved += 1
        return answer

    def admits(self, circuit: PassingCircuit, end: Callable[[EndReason], None]) -> bool:
        """Tell whether `circuit` may ask for anything; if not it is destroyed.

        `end` tells the origin first, where that is due.
        """
        if self._comes_from_relay(circuit):
            return True
        self._refusals["single hop"] += 1
        if circuit.previous_link.protocol.peer_id is None:
            end(EndReason.EXIT_POLICY)
        # EXT-8: an exit of one hop would be a plain proxy. A relay that is only too new for
        # our consensus costs the circuit: a reason would count against every exit.
        circuit.machine.destroy()
        return False

    def _comes_from_relay(self, circuit: PassingCircuit) -> bool:
        previous = circuit.previous_link.protocol.peer_id
        return previous is not None and self._is_relay(previous)

    async def _turn_away(self, circuit: PassingCircuit, stream: CircuitStream) -> None:
        """Refuse a stream; its own step, so that its end leaves before its circuit does."""
        self.admits(circuit, stream.reset)

    async def watch(self) -> None:
        """Reset streams that are idle, or half-open for long (EXT-10); runs for ever.

        When it is cancelled all are reset, for their targets must not see a clean end (SID-4).
        """
        try:
            await self._watch()
        finally:
            for stream in tuple(self._open):
                stream.reset()

    async def _watch(self) -> None:
        with contextlib.suppress(ExitError):  # without a NAT64 the name does not exist (EXT-5)
            self._nat64 = learn_nat64((await self._resolver.resolve(NAT64_NAME)).addresses)
        while True:
            await trio.sleep(LOOK_SECONDS)
            streams = {stream.protocol: stream for stream in self._open}
            for protocol in self._idle.overdue(streams, trio.current_time()):
                streams[protocol].reset(EndReason.TIMEOUT)
            if streams:  # some have acknowledged what they had not
                next(iter(streams.values())).turn.run()

    async def _reach(
        self, circuit: int, stream: CircuitStream, begin: Begin, dialling: Dialling | None
    ) -> tuple[ByteStream, int]:
        """Resolve, check and connect; return the connection and the name's time to live."""
        if dialling is None:
            await self.admission.wait_place(circuit, stream)
        try:
            if dialling is not None:
                return await self._dialler.finish(dialling), 0
            addresses, ttl = await self.look_up(circuit, begin.address, self._policy)
            allowed = self.allowed(addresses, begin, self._policy)
            expect_wanted(stream)
            return await self._dialler.connect(self._not_crowded(allowed)), ttl
        finally:
            self.admission.leave(circuit)

    async def look_up(
        self, circuit: int, address: Address, policy: ExitPolicy
    ) -> tuple[tuple[IPAddress, ...], int]:
        """Return what `address` stands for, and for how many seconds (0: it is a literal).

        Raises ExitError when it is not to be asked for under `policy`, or has no address.
        """
        if address.ip is not None:
            return (address.ip,), 0
        reason = forbidden_name(address.host)
        if reason is not None:
            raise ExitError(EndReason.EXIT_POLICY, reason)  # EXT-2
        if not policy.opens(address.port) and not self._allow_targets:
            raise ExitError(EndReason.EXIT_POLICY)
        answer = await self._resolver.resolve(address.host, circuit)
        return answer.addresses, answer.ttl

    def allowed(
        self, addresses: Iterable[IPAddress], begin: Begin, policy: ExitPolicy
    ) -> list[Address]:
        """Return the targets at `addresses` that `policy` and all else allow, best first.

        Raises ExitError with the reason of the last refusal when there is none.
        """
        port, flags = begin.address.port, int(begin.flags)
        allowed: dict[int, list[Address]] = {4: [], 6: []}
        refusal = EndReason.RESOLVE_FAILED, "no address of the wanted family"
        for ip in addresses:
            if flags & _NOT_WANTED[ip.version]:
                continue
            target = begin.address if ip is begin.address.ip else Address(str(ip), port)
            objection = self._objection(target, policy)
            if objection is None:
                allowed[ip.version].append(target)
            else:
                refusal = EndReason.EXIT_POLICY, objection
        targets = allowed[6] + allowed[4] if flags & _PREFER_IPV6 else allowed[4] + allowed[6]
        if not targets:
            raise ExitError(*refusal)
        return targets

    def _objection(self, target: Address, policy: ExitPolicy) -> str | None:
        """Return why nothing goes to `target`, a literal, or None.

        Raises ExitError when that is a place of the network itself.
        """
        assert target.ip is not None, "names are resolved before they are checked"
        places = self._network_places()
        embedded = embedded_addresses(target.ip, self._nat64)
        faces = [Address(str(each), target.port) for each in embedded]
        if target in places or not places.isdisjoint(faces):
            # EXT-9: back into the network. PROTOCOL is not retried elsewhere.
            raise ExitError(EndReason.PROTOCOL, "the target is a relay of this network")
        return check_target(target, policy, self._own.contains, self._allow_targets, self._nat64)

    def _not_crowded(self, targets: list[Address]) -> list[Address]:
        """Return those to connect to, one or two; raise ExitError when all have enough streams."""
        counts, limit = self._targets, self._limits.streams_per_address
        targets = [t for t in targets if counts.get(t.host, 0) < limit][:MOST_ATTEMPTS]
        if not targets:
            raise ExitError(EndReason.RESOURCE_LIMIT)
        return targets

    def statistics(self) -> dict[str, object]:
        """Return counters; no target is named."""
        return {
            "connected": self.connected,
            "resolved": self.resolved,
            "open": self._targets.total(),
            "connecting": self.admission.connecting,
            "refused": dict(self._refusals),
            "names": asdict(self._resolver.statistics()),
        }


def _say_nothing(reason: EndReason) -> None:
    """Leave an origin without a reason: a question has no end of its own."""
