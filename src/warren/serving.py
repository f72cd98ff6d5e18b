"""What answers other people's circuits: a relay with its mirror, and an exit where it is one.

The same parts serve whether a relay is one process or several (``workers``), so what is here
knows nothing of state folders, publishing or who listens.
"""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from warren.addresses import Address
from warren.config.relay import ExitConfig, RelayLimits
from warren.identity import Hop, PeerId, Suite
from warren.key_files import KeyFiles
from warren.network import reserve
from warren.network.byte_streams import Listener
from warren.network.datagram_sockets import UdpSocket
from warren.network.directory_http import Handler, serve
from warren.network.link import RelayKeys
from warren.network.link_door import LinkDoor, LinkLimits
from warren.network.throttle import Throttle, ThrottledUdpSocket
from warren.peer import Peer
from warren.protocol.ciphers import make_aead, nonce_maker
from warren.roles.archive import Archive
from warren.roles.create_limits import CreateLimits
from warren.roles.directory_door import DirectoryDoor
from warren.roles.known_places import KnownPlaces
from warren.roles.last_hop import LastHop, ServeDirectory, refuse_datagrams
from warren.roles.mirror import Mirror
from warren.roles.passing_circuit import PassingCircuit
from warren.roles.relay import Relay

if TYPE_CHECKING:
    from warren.network.names import Resolver
    from warren.network.own_addresses import OwnAddresses
    from warren.roles.exit import Exit
    from warren.roles.udp_exit import UdpExit


class Serving:
    """Own what answers circuits at `peer`: a relay, and an exit if `exits` has a policy.

    Others dial `listener`, and reach it at `address`: nothing is opened there (EXT-9). Where
    `throttle` bounds what it sends, the sockets of `peer` keep to it already, and those that are
    made here will. An exit resolves names by `resolver` and spares the places in `own`: this
    machine's where not given.
    """

    def __init__(
        self,
        peer: Peer,
        exits: ExitConfig,
        limits: RelayLimits,
        address: Address,
        listener: Listener,
        *,
        throttle: Throttle | None = None,
        resolver: "Resolver | None" = None,
        own: "OwnAddresses | None" = None,
    ) -> None:
        places = KnownPlaces(peer.archive)
        self._tcp_exit = _make_exit(exits, limits, address, peer, places, resolver, own)
        self._udp_exit = _make_udp_exit(self._tcp_exit, exits, limits, throttle)
        self._mirror = Mirror(peer.archive)
        self._directory_door = DirectoryDoor(peer.archive.network)
        directory = answer_directory(self._directory_door, self._mirror.handle)
        self._relay = Relay(
            peer.turn,
            peer.settings,
            _make_last_hop(directory, self._tcp_exit, self._udp_exit),
            find_hops=partial(_find_hops, peer.archive),
            is_relay=peer.archive.knows,
            is_overloaded=lambda: peer.load.is_overloaded,
            limits=CreateLimits(
                limits.creates_per_second,
                limits.create_burst,
                limits.circuits_per_address,
                limits.circuits,
                limits.relay_creates_per_second,
                limits.relay_create_burst,
            ),
            extends_per_client=limits.pending_extends_per_client,
        )
        self._throttle = throttle
        self._peer = peer
        self._listener = listener
        self._door = LinkDoor(
            LinkLimits(limits.links_per_address, limits.connects_per_second, limits.connect_burst),
            places.knows,
        )
        peer.answer_with(self._relay)
        if self._tcp_exit is not None:
            from warren.roles.exit_room import ExitRoom

            room = ExitRoom(self._relay, self._tcp_exit, peer.settings.rng)
            reserve.here().exit.make_room = room.make_room

    async def run(self) -> None:
        """Answer those who dial, until cancelled."""
        self._peer.turn.nursery.start_soon(self._peer.load.watch)
        if self._tcp_exit is not None:
            self._peer.turn.nursery.start_soon(self._tcp_exit.watch)
        if self._udp_exit is not None:
            self._peer.turn.nursery.start_soon(self._udp_exit.watch)
        await self._peer.links.serve(self._listener, self._door)

    async def wait_until_usable(self) -> None:
        """Wait until there is a consensus."""
        await self._peer.archive.wait_for_consensus()

    def take_no_more(self) -> None:
        """Open nothing more for anybody; what is open may come to its end."""
        if self._tcp_exit is not None:
            self._tcp_exit.is_leaving = True

    async def statistics(self) -> dict[str, Any]:
        """Return counters of the links, the circuits and the exit; nested, and all numbers."""
        return {
            "links": self._peer.links.statistics(),
            "bandwidth": self._throttle.statistics() if self._throttle is not None else None,
            "exit": self._tcp_exit.statistics() if self._tcp_exit is not None else None,
            "udp": self._udp_exit.statistics() if self._udp_exit is not None else None,
            "mirror": {
                **self._mirror.statistics(),
                "turned_away": self._directory_door.requests_turned_away,
            },
            "sockets": reserve.here().statistics(),
            "memory": self._peer.quota.statistics(),
            "load": self._peer.load.statistics(),
            **self._relay.statistics(),
        }


def relay_keys(identity: KeyFiles, onion: KeyFiles, *, is_known: bool = False) -> RelayKeys:
    """Load the keys of a relay, or of an authority whose onion key is elsewhere.

    With `is_known` the network file names the link key, and it is never replaced.
    """
    now = time.time()
    return RelayKeys(
        identity.identity(),
        list(identity.load("link", now, is_known=is_known).pairs),
        list(onion.load("onion", now).pairs),
        _preferred_suites(),
    )


def answer_directory(
    door: DirectoryDoor,
    handler: Handler,
    body_limits: Mapping[str, int] | None = None,
    large_bodies: trio.CapacityLimiter | None = None,
) -> ServeDirectory:
    """Return what serves a directory stream with `handler`; see ``directory_http.serve``.

    `door` says who may ask.
    """

    async def answer(circuit: PassingCircuit, stream: Any) -> None:
        guarded = door.for_circuit(circuit, handler)
        await serve(stream, guarded, body_limits=body_limits, large_bodies=large_bodies)

    return answer


def _preferred_suites() -> tuple[Suite, ...]:
    """Return both suites, the one that this processor does faster first."""
    data, out = bytes(4096), bytearray(4112)
    taken = {}
    for suite in Suite:
        aead, nonce = make_aead(suite, bytes(32)), nonce_maker(suite)
        best = float("inf")
        for count in range(16):
            start = time.perf_counter()
            aead.encrypt_into(nonce(count), data, None, out)
            best = min(best, time.perf_counter() - start)
        taken[suite] = best
    return tuple(sorted(Suite, key=taken.__getitem__))


def _find_hops(archive: Archive, peer_id: PeerId) -> Iterator[Hop]:
    """Yield where usable consensuses say `peer_id` is, newest first (LNK-4)."""
    seen = set()
    for consensus in archive.usable:
        entry = consensus.get(peer_id)
        if entry is not None and entry.hop.address not in seen:
            seen.add(entry.hop.address)
            yield entry.hop


def _make_exit(
    wanted: ExitConfig,
    bounds: RelayLimits,
    address: Address,
    peer: Peer,
    places: KnownPlaces,
    resolver: "Resolver | None",
    own: "OwnAddresses | None",
) -> "Exit | None":
    """Return what opens targets, or None for a relay that is no exit."""
    policy = wanted.exit_policy
    if not policy.is_exit:
        return None
    from warren.network.names import Resolver, system_servers
    from warren.network.own_addresses import OwnAddresses
    from warren.roles.exit import Exit
    from warren.roles.exit_limits import ExitLimits
    from warren.roles.idleness import IdleLimits

    archive = peer.archive
    own = own or OwnAddresses()
    if address.ip is not None:
        own.add(address.ip)
    resolver = resolver or Resolver(
        wanted.resolvers or system_servers(),
        most_lookups=bounds.lookups,
        most_lookups_each=bounds.lookups_per_circuit,
    )
    peer.quota.caches.append(resolver)
    return Exit(
        peer.network.for_exit(),
        policy,
        resolver,
        own,
        is_relay=archive.knows,
        network_places=places,
        allow_targets=wanted.allow_targets,
        limits=ExitLimits(
            streams_per_circuit=bounds.streams_per_circuit,
            begins_per_second=bounds.begins_per_second,
            begin_burst=bounds.begin_burst,
            pending_connects=min(bounds.pending_connects, reserve.here().exit.most // 4),  # DOS-8
            pending_connects_per_circuit=bounds.pending_connects_per_circuit,
            waiting_connects_per_circuit=bounds.waiting_connects_per_circuit,
            streams_per_address=bounds.streams_per_address,
            connect_seconds=bounds.connect_seconds,
            idle=IdleLimits(bounds.idle_seconds, bounds.half_open_seconds),
        ),
    )


def _make_udp_exit(
    tcp_exit: "Exit | None", wanted: ExitConfig, bounds: RelayLimits, throttle: Throttle | None
) -> "UdpExit | None":
    """Return what sends datagrams, or None for a relay that sends none."""
    policy = wanted.exit_udp_policy
    if tcp_exit is None or not policy.is_exit:
        return None
    from warren.roles.udp_exit import UdpExit, UdpLimits

    make = UdpSocket if throttle is None else partial(ThrottledUdpSocket, throttle)
    open_socket = partial(make, share=reserve.here().exit)
    limits = UdpLimits(
        associations=bounds.associations,
        associations_per_circuit=bounds.associations_per_circuit,
    )
    return UdpExit(tcp_exit, policy, open_socket=open_socket, limits=limits)


def _make_last_hop(
    directory: ServeDirectory, tcp_exit: "Exit | None", udp_exit: "UdpExit | None"
) -> LastHop:
    """Return what serves that which ends at this relay."""
    if tcp_exit is None:
        return LastHop(directory)
    serve_datagrams = udp_exit.serve if udp_exit is not None else refuse_datagrams
    return LastHop(directory, tcp_exit.serve, serve_datagrams, tcp_exit.resolve)
