import ipaddress
from pathlib import Path

import pytest

from warren.addresses import IPAddress
from warren.network.own_addresses import OwnAddresses

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 5.5.0.0/16 2 0 2
        |-- 5.5.5.0
           /24 link UNICAST
        |-- 5.5.5.7
           /32 host LOCAL
        |-- 5.5.5.255
           /32 link BROADCAST
Id 200:
     |-- 0.0.0.0
        /1 universe UNICAST
     |-- 128.0.0.0
        /1 universe UNICAST
     |-- 60.0.0.0
        /9 universe UNICAST
        /16 universe UNICAST
"""
# Addresses as a little-endian machine shows them.
ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t01050505\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t00050505\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
tun0\t00004046\t00000000\t0001\t0\t0\t0\t0000C0FF\t0\t0\t0
"""
ZERO = "0" * 32
IPV6_ROUTE = "\n".join(
    f"{destination} {bits} {ZERO} 00 {ZERO} 00000400 00000001 00000000 {flags}     eth0"
    for destination, bits, flags in [
        (ZERO, "00", "00000003"),
        ("20000000000000000000000000000000", "03", "00000003"),
        ("2c000000000000000000000000000001", "80", "01000003"),  # remembered for one destination
        ("2a00000100020300" + "0" * 16, "40", "00000001"),
        ("2b000000000000000000000000000000", "20", "00000003"),
        ("2a000001000203000000000000000001", "80", "80200001"),
    ]
)
IF_INET6 = """\
2a000001000203000000000000000001 02 40 00 80     eth0
fe800000000000000000000000000001 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


def ip(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name, text in {
        "fib_trie": FIB_TRIE,
        "route": ROUTE,
        "ipv6_route": IPV6_ROUTE,
        "if_inet6": IF_INET6,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


OWN, LINKED, HOME = "an address of this host", "a network on a link here", "the home's prefix"
ROUTED = "a network with a route of its own"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("5.5.5.7", OWN),
        ("127.0.0.1", OWN),
        ("2a00:1:2:300::1", OWN),
        ("::1", OWN),
        ("5.5.5.8", ROUTED),
        ("5.5.5.255", ROUTED),
        ("127.9.9.9", ROUTED),
        ("60.0.0.1", ROUTED),
        ("60.100.0.1", ROUTED),
        ("70.64.1.1", ROUTED),
        ("2b00::1", ROUTED),
        ("2a00:1:2:300::99", LINKED),
        ("2a00:1:2:3ff::1", HOME),
        ("5.5.6.1", None),
        ("60.128.0.1", None),
        ("70.128.0.1", None),
        ("8.8.8.8", None),
        ("200.1.1.1", None),
        ("2a00:1:2:400::1", None),
        ("2606::1", None),
        ("2c00::1", None),
    ],
)
def test_what_an_address_is_to_this_host(proc: Path, text: str, what: str | None) -> None:  # EXT-6
    assert OwnAddresses(proc=proc).contains(ip(text)) == what


def test_the_prefix_of_the_home_can_be_chosen(proc: Path) -> None:
    wide = OwnAddresses(proc=proc, home_prefix=48)
    none = OwnAddresses(proc=proc, home_prefix=128)

    assert wide.contains(ip("2a00:1:2:9999::1")) == HOME
    assert none.contains(ip("2a00:1:2:3ff::1")) is None
    assert none.contains(ip("2a00:1:2:300::1")) == OWN


def test_added_addresses_count_with_their_neighbours(proc: Path) -> None:
    own = OwnAddresses(proc=proc)
    assert own.contains(ip("9.9.9.9")) is None

    own.add(ip("9.9.9.9"), "the address that peers see")
    own.add(ip("2a00:9::1"))

    assert own.contains(ip("9.9.9.9")) == "the address that peers see"
    assert own.contains(ip("9.9.9.8")) is None
    assert own.contains(ip("2a00:9::7")) == LINKED


def test_the_tables_are_read_again_after_a_minute_and_not_before(proc: Path) -> None:
    now = 100.0
    own = OwnAddresses(proc=proc, clock=lambda: now)
    assert own.contains(ip("9.9.9.9")) is None
    (proc / "fib_trie").write_text("  |-- 9.9.9.9\n     /32 host LOCAL\n")

    now = 159.0
    before = own.contains(ip("9.9.9.9"))
    now = 160.0
    after = own.contains(ip("9.9.9.9"))

    assert (before, after) == (None, OWN)


def test_a_table_that_cannot_be_read_costs_only_itself(proc: Path) -> None:
    (proc / "route").write_text("a header\nno route\n")
    (proc / "ipv6_route").write_text("zzzz\n")
    (proc / "if_inet6").unlink()
    own = OwnAddresses(proc=proc)

    assert own.contains(ip("5.5.5.7")) == OWN
    assert own.contains(ip("2b00::1")) is None


def test_without_tables_the_hosts_name_is_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda host, port: [(2, 1, 6, "", ("9.9.9.9", 0)), (10, 1, 6, "", ("fe80::1%2", 0, 0, 2))],
    )
    own = OwnAddresses(proc=tmp_path)

    assert own.contains(ip("9.9.9.9")) == OWN
    assert own.contains(ip("fe80::1")) == OWN
    assert own.contains(ip("9.9.9.8")) is None


def test_this_very_host_knows_its_loopback_address() -> None:
    own = OwnAddresses()

    assert own.contains(ip("127.0.0.1")) is not None
    assert own.contains(ip("93.184.216.34")) is None
