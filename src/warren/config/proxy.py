"""The section of a proxy: where it listens, who may come, and what holds for their streams.

What stands in ``[proxy]`` holds for all of its ``listen``; each ``[[proxy.listener]]`` is one more
address, with rules of its own.
"""

from dataclasses import replace
from typing import Annotated, Literal

import msgspec

from warren.addresses import Address, IPNetwork, is_loopback
from warren.config.values import (
    AddressText,
    Megabytes,
    Positive,
    RangeText,
    Section,
    check_literal,
    check_targets,
)
from warren.errors import WarrenError
from warren.identity import PeerId
from warren.protocol.choice import FEWEST_HOPS, MOST_HOPS, Choice

#: What a listener can keep apart; see ``roles.listener_rules``.
Apart = Literal["client_address", "protocol", "destination_host", "destination_port"]
Hops = Annotated[int, msgspec.Meta(ge=FEWEST_HOPS, le=MOST_HOPS)]

_LOGIN_BYTES = 255  # RFC 1929


class ListenerConfig(Section, frozen=True, kw_only=True):
    """Configure what holds for the streams of one listener; see ``ListenerRules``."""

    user: str | None = None
    password: str | None = None
    country: str | None = None
    exit: PeerId | None = None
    session: bool = False
    isolate: tuple[Apart, ...] = ("client_address",)
    safe_socks: bool = False
    early_reply: bool = False

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together, expected both or none")
        if self.user is not None and self.password is not None:
            _check_login(self.user, self.password)
        if self.country is not None:
            try:
                Choice(country=self.country.lower())
            except WarrenError as error:
                raise ValueError(f"country is {self.country!r}: {error}") from error

    @property
    def choice(self) -> Choice:
        """Return what the streams of this listener ask for."""
        country = self.country.lower() if self.country is not None else None
        return Choice(country, self.exit, keeps_exit=self.session)


def _check_login(user: str, password: str) -> None:
    if not user or any(sign in user for sign in "+:") or len(user.encode()) > _LOGIN_BYTES:
        raise ValueError(
            f"user is {user[:32]!r}, expected a name of at most {_LOGIN_BYTES} bytes without + "
            "and :, because parameters and the password stand behind those"
        )
    if not password or len(password.encode()) > _LOGIN_BYTES:
        raise ValueError(f"password is empty or too long, expected 1 to {_LOGIN_BYTES} bytes")


def _check_reachable(address: Address, listener: ListenerConfig, clients: object) -> None:
    """Refuse a listener that others can reach and that lets anybody in (FE-1)."""
    if not (clients or listener.password is not None or is_loopback(address.ip)):
        raise ValueError(
            f"listen has {address}, which other machines can reach: say in allow_clients which of "
            'them may use it, for example ["192.168.1.0/24"], or set user and password'
        )


def _check_clients(key: str, address: Address, allow_clients: tuple[IPNetwork, ...]) -> None:
    """Refuse to be reached by other machines unless some are allowed (FE-1)."""
    if not allow_clients and not is_loopback(address.ip):
        raise ValueError(
            f"{key} has {address}, which other machines can reach: say in allow_clients "
            'which of them may use it, for example ["192.168.1.0/24"]'
        )


class ExtraListener(ListenerConfig, frozen=True, kw_only=True):
    """Configure one more listener of the proxy, with rules of its own."""

    listen: AddressText
    hops: Hops | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_literal("listen", self.listen)

    @property
    def choice(self) -> Choice:
        return replace(super().choice, hops=self.hops)


class ProxyConfig(ListenerConfig, frozen=True, kw_only=True):
    """Configure the port that applications use (FE-1, FE-11), and further ones."""

    listen: tuple[AddressText, ...] = (Address("127.0.0.1", 1080),)
    dns_listen: tuple[AddressText, ...] = ()
    allow_clients: tuple[RangeText, ...] = ()
    hops: Hops = 3
    resume: bool = True
    connections: Positive = 8192
    memory_megabytes: Megabytes | None = None
    idle_seconds: Positive = 600
    half_open_seconds: Positive = 3600
    own_relays: tuple[PeerId, ...] = ()
    find_own_relays: bool | None = None  # not in a network for tests
    allow_targets: tuple[AddressText, ...] = ()
    listener: tuple[ExtraListener, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.listen:
            raise ValueError("listen is empty: name at least one address, such as 127.0.0.1:1080")
        for address in self.listen:
            check_literal("listen", address)
            _check_reachable(address, self, self.allow_clients)
        for address in self.dns_listen:
            check_literal("dns_listen", address)
            _check_clients("dns_listen", address, self.allow_clients)
        for chosen in (self.exit, *(extra.exit for extra in self.listener)):
            if chosen is not None and chosen in self.own_relays:
                raise ValueError(
                    f"exit is {chosen}, which is one of own_relays, and those are on no path "
                    "(P2P-2): name another exit, or none"
                )
        for extra in self.listener:
            _check_reachable(extra.listen, extra, self.allow_clients)
        places = [address for address, _ in self.listeners if address.port]
        for address in places:
            if places.count(address) > 1:
                raise ValueError(f"{address} is listened at twice: name it once, in one section")
        check_targets(self.allow_targets)

    @property
    def listeners(self) -> tuple[tuple[Address, ListenerConfig], ...]:
        """Return all addresses to listen at, those of ``listen`` first, with what holds there."""
        usual = ((address, self) for address in self.listen)
        return (*usual, *((each.listen, each) for each in self.listener))
