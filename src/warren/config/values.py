"""Values: what can stand behind a key of a section, how its text is read, and what is refused."""

import ipaddress
from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from warren.addresses import Address, IPNetwork
from warren.config_errors import shown
from warren.identity import PeerId

if TYPE_CHECKING:
    AddressText = Address
    RangeText = IPNetwork
else:
    # msgspec reads a dataclass as a table and knows no union of foreign types. These stand for
    # our types in the annotations of sections, so that msgspec asks text_reader for them.
    class AddressText(ABC):  # noqa: B024
        """Stand for an ``Address`` written as HOST:PORT."""

    class RangeText(ABC):  # noqa: B024
        """Stand for an address range written as ADDRESS/BITS."""

    AddressText.register(Address)
    RangeText.register(ipaddress.IPv4Network)
    RangeText.register(ipaddress.IPv6Network)

Positive = Annotated[int, msgspec.Meta(ge=1)]
#: With less of them for a process, a dozen of circuits could be all that it has room for.
LEAST_MEGABYTES = 16
Megabytes = Annotated[int, msgspec.Meta(ge=LEAST_MEGABYTES)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Be one table of a configuration file."""


def is_unspecified(address: Address) -> bool:
    """Tell whether `address` means every address of this machine."""
    return address.ip is not None and address.ip.is_unspecified


def check_literal(key: str, address: Address) -> None:
    """Raise ValueError if the `address` that stands behind `key` is a name."""
    if address.ip is None:
        raise ValueError(f"{key} has {address}, expected an IP address and a port")


def check_targets(targets: tuple[Address, ...]) -> None:
    """Raise ValueError unless all exempted `targets` are exact (EXT-16)."""
    for target in targets:
        check_literal("allow_targets", target)
        if target.port == 0:
            raise ValueError(f"allow_targets has {target}, expected one exact port")


def check_megabytes(megabytes: int, workers: int) -> None:
    """Raise ValueError unless `megabytes` of memory are enough for so many workers (DOS-5)."""
    if megabytes < LEAST_MEGABYTES * workers:
        raise ValueError(
            f"memory_megabytes is {megabytes} for {workers} workers, expected at least "
            f"{LEAST_MEGABYTES} for each"
        )


def text_reader(base: Path) -> Callable[[type, Any], Any]:
    """Return what makes a value of text, for msgspec; paths are relative to `base`.

    It raises ValueError that says what was found and what was expected.
    """
    readers: dict[object, Callable[[str], Any]] = {
        AddressText: Address.parse,
        RangeText: _read_range,
        PeerId: PeerId.parse,
        Path: lambda value: _read_path(value, base),
    }

    def read_text(kind: type, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected text in quotes, found {value!r}")
        return readers[kind](value)

    return read_text


def _read_range(text: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"found {shown(text)}, expected an address or a range such as 192.168.1.0/24"
        ) from None
    address = text.partition("/")[0]
    raise ValueError(f"found {shown(text)}, expected {wider} for the range, or {address} for one")


def _read_path(text: str, base: Path) -> Path:
    if not text:
        raise ValueError("found empty text '', expected a path")
    if "\0" in text:
        raise ValueError(f"found {shown(text)}, expected a path, which has no zero bytes")
    try:
        return base / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"found {shown(text)}, and this machine knows no such user") from None
