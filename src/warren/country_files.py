"""The tables by which an authority knows in which country a relay is; its operator supplies them.

Two kinds of file are read. Tor's text format, which Debian's package tor-geoipdb has in
``/usr/share/tor/geoip`` and ``geoip6``, is a line for each range, and ``#`` begins a comment::

    16777216,16777471,AU
    2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP

And an ``.mmdb`` database, which needs the extra ``geoip``. Files are read once, at the start.
"""

import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from warren.addresses import IPAddress
from warren.directory.countries import CountryTable, Range
from warren.directory.relays import UNKNOWN_COUNTRY, is_country
from warren.errors import ConfigError

if TYPE_CHECKING:
    import maxminddb

#: What the free databases call the country of an address.
_MMDB_KEYS = (("country", "iso_code"), ("country_code",), ("country",))


class Countries(Protocol):
    """Know countries."""

    def find(self, ip: IPAddress) -> str:
        """Return the country of `ip` in two lower-case letters, or ``??``."""


def load_countries(paths: Sequence[Path]) -> Countries:
    """Read the tables at `paths`; of several, the first that knows an address counts.

    The text files together are one table. Raises ConfigError, which names file and line.
    """
    texts = [path for path in paths if path.suffix != ".mmdb"]
    tables: list[Countries] = [_open_mmdb(path) for path in paths if path.suffix == ".mmdb"]
    if texts:
        names = ", ".join(map(str, texts))
        try:
            table = CountryTable(each for path in texts for each in _read_text(path))
        except ValueError as error:
            raise ConfigError(f"{names}: {error}, expected each address once") from error
        if not len(table):
            raise ConfigError(f"{names}: there is no range in it, expected lines FIRST,LAST,CC")
        tables.insert(0, table)
    return tables[0] if len(tables) == 1 else _Several(tables)


class _Several:
    """Ask several tables in turn."""

    def __init__(self, tables: Sequence[Countries]) -> None:
        self._tables = tables

    def find(self, ip: IPAddress) -> str:
        found = (table.find(ip) for table in self._tables)
        return next((country for country in found if country != UNKNOWN_COUNTRY), UNKNOWN_COUNTRY)


# ---- Tor's text format


def _read_text(path: Path) -> Iterator[Range]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from parse_ranges(lines, str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the table of countries {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the table of countries {path} is not UTF-8 text") from error


def parse_ranges(lines: Iterable[str], source: str) -> Iterator[Range]:
    """Read Tor's text format; raise ConfigError, which names `source` and the line.

    Columns behind the country are for others. Ranges of no known country are left out.
    """
    for number, line in enumerate(lines, 1):
        if line[0] in "#\n":
            continue
        try:
            first, last, country = line.rstrip("\r\n").split(",")[:3]
            start, end, country = _pack(first), _pack(last), country.lower()
            if len(start) != len(end) or start > end or not is_country(country):
                raise ValueError
        except (ValueError, OSError, OverflowError):
            raise ConfigError(
                f"{source}, line {number}: {line[:80].rstrip()!r} is not FIRST,LAST,CC with two "
                "addresses in order and a country, such as 16777216,16777471,AU"
            ) from None
        if country != UNKNOWN_COUNTRY:
            yield start, end, country


def _pack(text: str) -> bytes:
    """Return an address: IPv4 is written as one number."""
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    if not text.isdecimal():
        raise ValueError
    return int(text).to_bytes(4, "big")


# ---- databases


class _Database:
    """Know what an ``.mmdb`` file knows."""

    def __init__(self, reader: "maxminddb.Reader") -> None:
        self._reader = reader

    def find(self, ip: IPAddress) -> str:
        if ip.version == 6 and self._reader.metadata().ip_version == 4:
            return UNKNOWN_COUNTRY
        record = self._reader.get(ip)
        found = (_dig(record, keys) for keys in _MMDB_KEYS)
        return next((country for country in found if country is not None), UNKNOWN_COUNTRY)


def _dig(record: Any, keys: Sequence[str]) -> str | None:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    country = record.lower() if isinstance(record, str) else ""
    return country if is_country(country) else None


def _open_mmdb(path: Path) -> _Database:
    try:
        import maxminddb
    except ImportError as error:
        raise ConfigError(
            f"{path} needs the package maxminddb: pip install 'warren[geoip]', or use Tor's text "
            "format"
        ) from error
    try:
        return _Database(maxminddb.open_database(str(path), maxminddb.MODE_MEMORY))
    except OSError as error:
        raise ConfigError(f"cannot read the table of countries {path}: {error.strerror}") from error
    except maxminddb.InvalidDatabaseError as error:
        raise ConfigError(f"{path} is no MaxMind database: {error}") from error
