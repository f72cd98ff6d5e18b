"""The relays an authority knows: their newest descriptors, and whether they were reached.

Descriptors come from the relays themselves, and from the votes of the other authorities, which
is how an authority that was away catches up. A relay is running once it was reached, until it was
not for three quarters of an interval, 45 minutes of an hour: what cannot be reached for a while
may be well, and the way to it broken, at our end perhaps (decision 20). Nothing here waits or
connects: the authority asks what is ``due`` and notes what came of it.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from warren.addresses import IPAddress
from warren.directory.descriptor import (
    DESCRIPTOR_LIMIT,
    Descriptor,
    DescriptorReader,
    check_published,
)
from warren.directory.documents import Kind, read_envelope
from warren.directory.exit_policy import denied_reason
from warren.directory.network_file import NetworkFile
from warren.directory.parameters import DAY, Parameters
from warren.directory.relays import Flag
from warren.directory.votes import LISTED, MOST_RELAYS, Opinion
from warren.errors import DirectoryError, TooSoon
from warren.identity import Hop, PeerId

#: So many failures in a row are more than chance.
FAILURES_TO_BE_DOWN = 2
#: A relay that was up this long is stable, and so is one up longer than half of the others.
STABLE_SECONDS = 5 * DAY
#: Fractions of the consensus interval: from check to check, after a failure, and how long a relay
#: that was reached counts as running without being reached again.
_CHECK_SHARE = 1 / 3
_RETRY_SHARE = 1 / 30
_REACHED_SHARE = 3 / 4

CountryOf = Callable[[IPAddress], str]


def _nobody(_: PeerId) -> bool:
    return False


@dataclass
class KnownRelay:
    """Hold an authority's own knowledge of one relay; times are Unix seconds.

    ``reached_since`` is when the present run of successful checks began, None when there is none;
    ``reached_at`` when the last of them was, None when it was never reached where it is now.
    """

    document: bytes = field(repr=False)
    descriptor: Descriptor
    first_seen: float
    check_at: float
    uploaded_at: float | None = None
    reached_since: float | None = None
    reached_at: float | None = None
    failures: int = 0
    is_running: bool = False
    is_being_checked: bool = False


class RelayBook:
    """Own what this authority knows of every relay."""

    def __init__(self, network: NetworkFile, reader: DescriptorReader) -> None:
        self._network = network
        self._reader = reader
        self._relays: dict[PeerId, KnownRelay] = {}

    @property
    def _parameters(self) -> Parameters:
        return self._network.parameters

    def get(self, peer_id: PeerId) -> KnownRelay | None:
        """Return what is known of `peer_id`."""
        return self._relays.get(peer_id)

    def upload(self, document: bytes, now: float) -> bool:
        """Take a descriptor from a relay; tell whether it is news.

        Raises ProtocolError when it is malformed, TooSoon when it comes too soon (DIR-17), and
        DirectoryError when it is not newer than the one held (DIR-6), too old, or from where no
        relay can be.
        """
        held = self._held_for(document)
        if held is not None and held.document == document:
            return False
        if held is not None and held.uploaded_at is not None:
            wait = held.uploaded_at + self._parameters.descriptor_upload_seconds - now
            if 0 < wait <= self._parameters.descriptor_upload_seconds:
                raise TooSoon(f"too soon after the last descriptor: wait {wait:.0f} s", wait)
        self._take(document, now).uploaded_at = now
        return True

    def learn(self, document: bytes, now: float) -> None:
        """Take a descriptor out of another authority's vote; raise as ``upload`` does."""
        held = self._held_for(document)
        if held is None or held.document != document:
            self._take(document, now)

    def due(self, now: float) -> list[KnownRelay]:
        """Return the relays to check now, and mark them as being checked."""
        relays = [
            relay
            for relay in self._relays.values()
            if relay.check_at <= now and not relay.is_being_checked
        ]
        for relay in relays:
            relay.is_being_checked = True
        return relays

    def note_check(self, relay: KnownRelay, hop: Hop, *, reached: bool, now: float) -> None:
        """Note the result of checking `relay` at `hop`, where it may no longer be."""
        relay.is_being_checked = False
        if relay.descriptor.hop != hop:
            return  # it has moved while it was being checked, and is due again
        interval = self._parameters.consensus_interval_seconds
        if reached:
            relay.failures = 0
            relay.reached_since = now if relay.reached_since is None else relay.reached_since
            relay.reached_at = now
            relay.is_running = True
        else:
            relay.failures += 1
            if relay.failures >= FAILURES_TO_BE_DOWN:
                relay.reached_since = None
                reached_at = relay.reached_at
                if reached_at is None or now - reached_at >= interval * _REACHED_SHARE:
                    relay.is_running = False
        hasty = relay.failures and (relay.is_running or relay.failures <= FAILURES_TO_BE_DOWN)
        relay.check_at = now + interval * (_RETRY_SHARE if hasty else _CHECK_SHARE)

    def forget_stale(self, now: float) -> None:
        """Forget relays that stopped publishing, and those never reached for an interval.

        One that was reached before may be back any time, and will not say so: it does not know.
        """
        patience = self._parameters.consensus_interval_seconds
        for peer_id, relay in list(self._relays.items()):
            never = relay.reached_at is None and relay.failures > FAILURES_TO_BE_DOWN
            if (never and now - relay.first_seen > patience) or not self._is_current(relay, now):
                del self._relays[peer_id]

    def opinions(
        self, now: float, country_of: CountryOf, is_listed: Callable[[PeerId], bool] = _nobody
    ) -> tuple[Opinion, ...]:
        """Return this authority's opinion of every relay, ascending by peer id.

        `is_listed` tells whether the newest consensus that it knows has a relay.
        """
        up = [now - r.reached_since for r in self._relays.values() if r.reached_since is not None]
        stable = min(statistics.median_low(up), STABLE_SECONDS) if up else 0.0
        return tuple(
            self._opinion(relay, now, stable, country_of, is_listed=is_listed(relay_id))
            for relay_id, relay in sorted(self._relays.items())
        )

    def statistics(self) -> dict[str, int]:
        """Return what ``warren status`` shows of it."""
        running = sum(relay.is_running for relay in self._relays.values())
        return {"relays_known": len(self._relays), "relays_running": running}

    def __iter__(self) -> Iterator[KnownRelay]:
        return iter(self._relays.values())

    def _held_for(self, document: bytes) -> KnownRelay | None:
        """Return what is held for the peer that `document` names; nothing is verified here."""
        envelope = read_envelope(document, Kind.DESCRIPTOR, DESCRIPTOR_LIMIT)
        return self._relays.get(next(iter(envelope.signatures)))

    def _take(self, document: bytes, now: float) -> KnownRelay:
        descriptor = self._reader.read(document)
        check_published(descriptor, now, self._parameters)
        self._check_address(descriptor)
        held = self._relays.get(descriptor.peer_id)
        if held is None:
            if len(self._relays) >= MOST_RELAYS:
                raise DirectoryError("this authority knows as many relays as it can")
            relay = KnownRelay(document, descriptor, first_seen=now, check_at=now)
            self._relays[descriptor.peer_id] = relay
            return relay
        if not descriptor.supersedes(held.descriptor):
            raise DirectoryError("a descriptor that is not newer than the one held")
        if _way_to(descriptor) != _way_to(held.descriptor):
            held.reached_since = held.reached_at = None
            held.is_running = False
            held.failures = 0
        held.document, held.descriptor, held.check_at = document, descriptor, now
        return held

    def _check_address(self, descriptor: Descriptor) -> None:
        """Refuse addresses inside somebody's own network, unless this is a test network."""
        ip = descriptor.address.ip
        reason = denied_reason(ip) if ip is not None else "it is a name"
        if reason is not None and not self._network.testing:
            raise DirectoryError(f"no relay can be at {descriptor.address}: {reason}")

    def _is_current(self, relay: KnownRelay, now: float) -> bool:
        try:
            check_published(relay.descriptor, now, self._parameters)
        except DirectoryError:
            return False
        return True

    def _opinion(
        self,
        relay: KnownRelay,
        now: float,
        stable_seconds: float,
        country_of: CountryOf,
        *,
        is_listed: bool = False,
    ) -> Opinion:
        descriptor = relay.descriptor
        flags = set[str]()
        if relay.reached_since is not None and now - relay.reached_since >= stable_seconds:
            flags.add(Flag.STABLE.value)
        if descriptor.is_exit:
            flags.add(Flag.EXIT.value)
        if not descriptor.gateways:
            flags.add(Flag.MIRROR.value)
        if is_listed:
            flags.add(LISTED)
        ip = descriptor.address.ip
        assert ip is not None
        return Opinion(
            descriptor=relay.document,
            running=relay.is_running,
            flags=frozenset(flags),
            measured=None,
            country=country_of(ip),
        )


def _way_to(descriptor: Descriptor) -> tuple[object, ...]:
    """Return what must be the same for an earlier check to count still."""
    return descriptor.address, descriptor.link_key, descriptor.gateways
