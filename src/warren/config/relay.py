"""The sections of a relay: what it gives, what it opens for others, and both in its descriptor.

``[exit]`` stands beside ``[relay]``, because by default a relay opens nothing (P2P-1). Together
they must fit a descriptor, or no authority would list the relay (DIR-3).
"""

from dataclasses import replace
from typing import Annotated

import msgspec

from warren import __version__
from warren.config.values import (
    AddressText,
    Megabytes,
    Positive,
    Section,
    check_literal,
    check_megabytes,
    check_targets,
    is_unspecified,
)
from warren.config_errors import shown
from warren.directory.descriptor import (
    MOST_BANDWIDTH,
    MOST_STRING_BYTES,
    Descriptor,
    check_string,
    sign_descriptor,
)
from warren.directory.exit_policy import ExitPolicy, configured_policy, configured_udp_policy
from warren.errors import ConfigError, ProtocolError
from warren.identity import KEY_LENGTH, Identity, PeerId, Suite

MOST_WORKERS = 64
#: With less, in bytes per second, a relay would hold up whoever comes by it.
LEAST_BANDWIDTH = 100_000
#: What a relay says that it gives, in bytes per second, when nobody bounds it.
STATED_BANDWIDTH = 2_500_000


def _check_described(key: str, text: str) -> None:
    """Refuse `text` if a descriptor cannot carry it (DIR-3)."""
    try:
        check_string(text)
    except ProtocolError as error:
        raise ValueError(
            f"{key} has {shown(text)}, {error}: expected one line of printable characters, at "
            f"most {MOST_STRING_BYTES} bytes"
        ) from error


class RelayLimits(Section, frozen=True):
    """Bound what clients can ask of a relay (DOS-2 to DOS-4, DOS-7, EXT-10, EXT-11, EXT-15)."""

    links_per_address: Positive = 256
    connects_per_second: Positive = 10
    connect_burst: Positive = 256
    creates_per_second: Positive = 10
    create_burst: Positive = 500
    circuits_per_address: Positive = 1024
    circuits: Positive = 20_000
    relay_creates_per_second: Positive = 100
    relay_create_burst: Positive = 1000
    streams_per_circuit: Annotated[int, msgspec.Meta(ge=1, le=512)] = 512
    begins_per_second: Positive = 2000
    begin_burst: Positive = 4000
    pending_connects: Positive = 256
    pending_connects_per_circuit: Positive = 16
    waiting_connects_per_circuit: Annotated[int, msgspec.Meta(ge=0, le=512)] = 240
    pending_extends_per_client: Positive = 32
    lookups: Positive = 32
    lookups_per_circuit: Positive = 4
    streams_per_address: Positive = 4096
    associations: Positive = 1024
    associations_per_circuit: Annotated[int, msgspec.Meta(ge=1, le=512)] = 16
    connect_seconds: Positive = 8
    idle_seconds: Positive = 600
    half_open_seconds: Positive = 3600


class RelayConfig(Section, frozen=True):
    """Configure a relay; whether it is an exit too stands in ``ExitConfig``."""

    listen: AddressText
    address: AddressText | None = None
    bandwidth: Annotated[int, msgspec.Meta(ge=LEAST_BANDWIDTH, le=MOST_BANDWIDTH)] | None = None
    contact: str = ""
    family: Annotated[tuple[PeerId, ...], msgspec.Meta(max_length=64)] = ()
    memory_megabytes: Megabytes | None = None
    workers: int = 1
    limits: RelayLimits = RelayLimits()

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ValueError(
                f"workers is {self.workers}, expected how many processes carry circuits: "
                f"1 to {MOST_WORKERS}"
            )
        if self.bandwidth is not None and self.bandwidth < LEAST_BANDWIDTH * self.workers:
            raise ValueError(
                f"bandwidth is {self.bandwidth} for {self.workers} workers, expected at least "
                f"{LEAST_BANDWIDTH} bytes per second for each"
            )
        if self.memory_megabytes is not None:
            check_megabytes(self.memory_megabytes, self.workers)
        _check_described("contact", self.contact)
        if len(set(self.family)) < len(self.family):
            raise ValueError("family names a relay twice, expected each once")
        check_literal("listen", self.listen)
        if self.address is not None:
            check_literal("address", self.address)
            if self.address.port == 0 or is_unspecified(self.address):
                raise ValueError(
                    f"address is {self.address}, expected the address and port at which the "
                    "other relays reach this one"
                )
        elif is_unspecified(self.listen):
            raise ValueError(
                f"listen is {self.listen}, which means every address of this machine: say in "
                "address at which one the other relays reach it"
            )


class ExitConfig(Section, frozen=True):
    """Configure what a relay opens for others; by default nothing (P2P-1)."""

    policy: str | tuple[str, ...] = "none"
    udp_policy: str | tuple[str, ...] | None = None
    resolvers: tuple[AddressText, ...] = ()
    allow_targets: tuple[AddressText, ...] = ()
    drain_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 30

    def __post_init__(self) -> None:
        for address in self.resolvers:
            check_literal("resolvers", address)
        check_targets(self.allow_targets)
        for key, policy in (("policy", self.policy), ("udp_policy", self.udp_policy)):
            if policy == ():
                raise ValueError(f'{key} is empty: expected rules or a name, such as "none"')
        try:
            is_exit = configured_policy(self.policy).is_exit
            sends_datagrams = self.exit_udp_policy.is_exit
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if sends_datagrams and not is_exit:
            raise ValueError(
                "udp_policy opens something and policy nothing: datagrams are for exits, so give "
                "policy a value too, such as web"
            )

    @property
    def exit_policy(self) -> ExitPolicy:
        """Return the policy; that of a relay that is no exit has no rules."""
        return configured_policy(self.policy)

    @property
    def exit_udp_policy(self) -> ExitPolicy:
        """Return the policy for datagrams: as configured, or what goes with the profile."""
        return configured_udp_policy(self.udp_policy, self.policy)


def draft_descriptor(relay: RelayConfig, exits: ExitConfig) -> Descriptor:
    """Return the descriptor of a relay as far as its configuration says what is in it.

    The rest, keys, address and times, is nobody's and as long as it can be.
    """
    address = relay.address or relay.listen
    return Descriptor(
        peer_id=Identity(bytes(KEY_LENGTH)).peer_id,
        address=replace(address, port=address.port or 1),  # 0 is still to be chosen
        link_key=bytes(KEY_LENGTH),
        onion_key=bytes(KEY_LENGTH),
        suites=tuple(Suite),
        bandwidth=relay.bandwidth or STATED_BANDWIDTH,
        published=(1 << 40) - 1,
        counter=(1 << 63) - 1,
        policy=exits.exit_policy.rules,
        udp_policy=exits.exit_udp_policy.rules,
        family=relay.family,
        contact=relay.contact,
        version=f"warren {__version__}",
    )


def check_size(relay: RelayConfig, exits: ExitConfig) -> None:
    """Refuse what is too much together, by making the descriptor with keys of nobody (DIR-3)."""
    nobody = Identity(bytes(KEY_LENGTH))
    try:
        sign_descriptor(draft_descriptor(relay, exits), nobody, bytes(KEY_LENGTH))
    except ProtocolError as error:
        raise ValueError(f"relay and exit come to {error}") from error
