"""The tables of countries that an authority's operator supplies, as files."""

import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from random import Random

import netaddr  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter

from warren.country_files import load_countries, parse_ranges
from warren.directory.countries import CountryTable
from warren.errors import ConfigError

TOR = [Path("/usr/share/tor/geoip"), Path("/usr/share/tor/geoip6")]
TEXT = """# a table
16777216,16777471,AU
2147483648,2147483649,??
2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP
84215040,84215295,de,64496
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_tors_text_format_is_read(tmp_path: Path) -> None:
    countries = load_countries([written(tmp_path / "geoip", TEXT)])

    found = {
        text: countries.find(ip_address(text))
        for text in (
            "1.0.0.0",
            "1.0.0.255",
            "1.0.1.0",
            "128.0.0.0",
            "5.5.5.5",
            "2001:200::1",
            "::1",
        )
    }
    assert found == {
        "1.0.0.0": "au",
        "1.0.0.255": "au",
        "1.0.1.0": "??",
        "128.0.0.0": "??",
        "5.5.5.5": "de",
        "2001:200::1": "jp",
        "::1": "??",
    }


@pytest.mark.parametrize(
    "line",
    [
        "1.0.0.0,1.0.0.255,AU",
        "16777471,16777216,AU",
        "16777216,16777471",
        "16777216,16777471,AUS",
        "16777216,4294967296,AU",
        "-1,5,AU",
        "2001::,16777471,AU",
        "2001:::,2001::1,AU",
        "hello",
        "²,3,AU",
        " ",
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "geoip", f"# one\n16777216,16777471,AU\n{line}\n")

    with pytest.raises(ConfigError) as error:
        load_countries([path])

    assert f"{path}, line 3: {line[:80].rstrip()!r} is not FIRST,LAST,CC" in str(error.value)


@given(st.text(max_size=60))
def test_any_line_is_read_or_refused(line: str) -> None:
    ranges = []
    with suppress(ConfigError):
        ranges = list(parse_ranges([line or "\n"], "geoip"))

    assert all(len(start) in (4, 16) and start <= end for start, end, _ in ranges)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read the table of countries"),
        (b"\xff\xff\n", "is not UTF-8 text"),
        (b"# nothing\n", "there is no range in it"),
        (b"1,5,AU\n3,9,DE\n", "overlap, expected each address once"),
    ],
)
def test_a_file_that_is_no_table_is_named(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "geoip"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=complaint) as error:
        load_countries([path])

    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "record", [{"country": {"iso_code": "DE"}}, {"country_code": "DE"}, {"country": "DE"}]
)
def test_a_database_is_read_in_each_of_the_common_shapes(
    tmp_path: Path, record: dict[str, object]
) -> None:
    path = database(tmp_path, record)

    countries = load_countries([path])

    assert countries.find(ip_address("5.5.5.5")) == "de"
    assert countries.find(ip_address("5.5.6.5")) == "??"
    assert countries.find(ip_address("2001:db8::1")) == "??"


@pytest.mark.parametrize("record", [{"country": {"iso_code": "DEU"}}, {"country": 7}, {"city": {}}])
def test_a_database_that_knows_no_country_says_so(
    tmp_path: Path, record: dict[str, object]
) -> None:
    countries = load_countries([database(tmp_path, record)])

    assert countries.find(ip_address("5.5.5.5")) == "??"


def database(folder: Path, record: dict[str, object]) -> Path:
    writer = MMDBWriter(ip_version=4, database_type="Test-Country")
    writer.insert_network(netaddr.IPSet(["5.5.5.0/24"]), record)
    path = folder / "country.mmdb"
    writer.to_db_file(str(path))
    return path


@pytest.mark.parametrize("content", [b"", b"not a database"])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "country.mmdb"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"country\.mmdb is no MaxMind database"):
        load_countries([path])


def test_a_database_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the table of countries .*country\.mmdb"):
        load_countries([tmp_path / "country.mmdb"])


def test_a_database_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "maxminddb", None)

    with pytest.raises(ConfigError, match=r"pip install 'warren\[geoip\]'"):
        load_countries([database(tmp_path, {"country": "DE"})])


def test_of_several_tables_the_first_that_knows_counts(tmp_path: Path) -> None:
    text = written(tmp_path / "geoip", "84215040,84215040,FR\n")

    countries = load_countries([database(tmp_path, {"country": "DE"}), text])

    assert countries.find(ip_address("5.5.5.0")) == "fr"
    assert countries.find(ip_address("5.5.5.1")) == "de"
    assert countries.find(ip_address("5.5.6.1")) == "??"


def test_without_a_table_no_country_is_known() -> None:
    assert load_countries([]).find(ip_address("5.5.5.5")) == "??"


@pytest.mark.needs("tor-geoipdb")
def test_debians_table_is_read_whole() -> None:
    countries = load_countries(TOR)

    assert isinstance(countries, CountryTable)
    assert len(countries) > 100_000
    for path in TOR:
        lines = [line for line in path.read_text().splitlines() if line[:1] not in "#"]
        for line in Random(1).sample(lines, 200):
            first, last, country, *_ = line.split(",")
            for text in (first, last):
                ip = ip_address(text) if ":" in text else ip_address(int(text))
                assert countries.find(ip) == country.lower()
