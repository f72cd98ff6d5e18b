import ipaddress
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.address_tables import (
    denied_reason,
    embedded_addresses,
    forbidden_name,
    learn_nat64,
)

PUBLIC = [
    "1.1.1.1", "5.5.5.5", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255",
    "100.128.0.0", "126.255.255.255", "128.0.0.0", "168.63.129.15", "172.15.255.255", "172.32.0.0",
    "192.0.1.0", "192.0.3.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "2000::1", "2001:200::1", "2001:db7::1", "2001:4860:4860::8888", "2606:4700::1111",
    "2620:4f:7fff::1", "2a00:1450::1", "3ffe::1", "3fff:1000::1",
]  # fmt: skip

#: EXT-6 by its rows, with the borders of each range, and what ``is_global`` gets wrong.
REFUSED = [
    "0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255",
    "127.0.0.1", "127.255.255.255", "169.254.0.1", "169.254.169.254", "169.254.169.253",
    "169.254.169.123", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192",
    "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.255",
    "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b::808:808", "64:ff9b:1::7f00:1", "100::1", "100:0:0:1::1", "1fff::1", "2001::1",
    "2001:0:7f00:1::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1",
    "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "4000::1", "5f00::1", "7fff::1", "8000::1",
    "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
    "2a00::5efe:127.0.0.1", "2a00::200:5efe:10.0.0.1", "2a00:1:2:3:0:5efe:a9fe:a9fe",
]  # fmt: skip

IPS = st.ip_addresses()


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_pass(text: str) -> None:
    assert denied_reason(ipaddress.ip_address(text)) is None


@pytest.mark.parametrize("text", REFUSED)
def test_the_table_refuses(text: str) -> None:  # T01
    assert denied_reason(ipaddress.ip_address(text)) is not None


@given(st.ip_addresses(v=4))
def test_no_disguise_of_a_refused_address_passes(four: IPv4Address) -> None:  # T01, EXT-5
    value = int(four)
    disguises = [
        0xFFFF << 32 | value,
        value,
        0xFFFF << 48 | value,
        0x64_FF9B << 96 | value,
        0x2002 << 112 | value << 80 | 1,
        0x2001 << 112 | value << 64,
        0x2A00 << 112 | 0x5EFE << 32 | value,
        0x2A00 << 112 | 0x0200_5EFE << 32 | value,
    ]

    reasons = [denied_reason(IPv6Address(disguise)) for disguise in disguises]

    assert all(reasons[:6])
    assert (reasons[6] is None) == (reasons[7] is None) == (denied_reason(four) is None)


@given(IPS)
def test_whatever_the_library_calls_internal_is_refused(
    ip: IPv4Address | IPv6Address,
) -> None:
    is_internal = ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified

    assert denied_reason(ip) is not None or not is_internal


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("8.8.8.8", []),
        ("2a00::1", []),
        ("::ffff:1.2.3.4", ["1.2.3.4"]),
        ("::ffff:0:1.2.3.4", ["1.2.3.4"]),
        ("::1.2.3.4", ["1.2.3.4"]),
        ("64:ff9b::1.2.3.4", ["1.2.3.4"]),
        ("64:ff9b:1:102:3:400::", ["0.0.0.0", "1.2.3.4"]),
        ("64:ff9b:1::1.2.3.4", ["1.2.3.4", "0.0.0.0"]),
        ("2002:102:304::1", ["1.2.3.4"]),
        # RFC 4380 §4: server 65.54.227.120, client 192.0.2.45.
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["65.54.227.120", "192.0.2.45"]),
        ("2a00::5efe:1.2.3.4", ["1.2.3.4"]),
    ],
)
def test_addresses_inside_addresses_are_found(text: str, inner: list[str]) -> None:
    found = embedded_addresses(ipaddress.ip_address(text))

    assert sorted(map(str, found)) == sorted(inner)


# RFC 6052 §2.4: 192.0.2.33 behind prefixes of every length.
@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("2a00:db8::/32", "2a00:db8:c000:221::"),
        ("2a00:db8:100::/40", "2a00:db8:1c0:2:21::"),
        ("2a00:db8:122::/48", "2a00:db8:122:c000:2:2100::"),
        ("2a00:db8:122:300::/56", "2a00:db8:122:3c0:0:221::"),
        ("2a00:db8:122:344::/64", "2a00:db8:122:344:c0:2:2100::"),
        ("2a00:db8:122:344::/96", "2a00:db8:122:344::192.0.2.33"),
    ],
)
def test_a_local_nat64_hides_nothing(prefix: str, text: str) -> None:  # EXT-5
    nat64 = [IPv6Network(prefix)]
    ip = IPv6Address(text)

    assert denied_reason(ip) is None
    assert embedded_addresses(ip, nat64) == (IPv4Address("192.0.2.33"),)
    assert denied_reason(ip, nat64) == "documentation inside IPv6"


def test_a_learned_nat64_opens_public_addresses_and_no_others() -> None:
    nat64 = [IPv6Network("64:ff9b::/96")]

    public = denied_reason(IPv6Address("64:ff9b::8.8.8.8"), nat64)
    private = denied_reason(IPv6Address("64:ff9b::10.0.0.1"), nat64)

    assert public is None
    assert private == "a private network inside IPv6"


def test_every_address_inside_counts_and_not_only_the_first() -> None:
    ip = IPv6Address("2a00:db8:122:344::5efe:8.8.8.8")  # ISATAP and, behind a /64, 0.94.254.8
    nat64 = [IPv6Network("2a00:db8:122:344::/64")]

    assert denied_reason(ip) is None
    assert denied_reason(ip, nat64) == "this network inside IPv6"


@pytest.mark.parametrize("length", [32, 40, 48, 56, 64, 96])
def test_the_prefix_of_a_nat64_is_learned_from_its_well_known_name(length: int) -> None:
    value = int(IPv6Address("2a00:db8:122:344::")) >> (128 - length) << (128 - length)
    four = 0xC000_00AA
    # The bits 64 to 71 stay zero (RFC 6052 §2.2).
    packed = bytearray(value.to_bytes(16, "big"))
    spots = [i for i in range(length // 8, 16) if i != 8 or length == 96][:4]
    for spot, byte in zip(spots, four.to_bytes(4, "big"), strict=True):
        packed[spot] = byte

    learned = learn_nat64([IPv4Address("192.0.0.170"), IPv6Address(bytes(packed))])

    assert learned == (IPv6Network((value, length)),)


@pytest.mark.parametrize(
    "text", ["2a00::1", "fd00::192.0.0.170", "fe80::192.0.0.170", "::192.0.0.170"]
)
def test_a_forged_nat64_opens_no_local_network(text: str) -> None:
    assert learn_nat64([IPv6Address(text)]) == ()


@pytest.mark.parametrize(
    "name", ["site.example", "a.b.c.example", "x_y.example", "xn--bcher-kva.example", "example.net"]
)
def test_ordinary_names_pass(name: str) -> None:
    assert forbidden_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "localhost", "printer", "box.local", "a.localhost", "db.internal", "nas.lan", "tv.home",
        "x.home.arpa", "home.arpa", "mail.corp", "abc.onion", "site.test", "no.invalid",
        "BOX.LOCAL",
        "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001", "017700000001", "1.2.3.4",
        "①②⑦.0.0.1", "１２７.0.0.1", "site.example.", ".example", "a..example", "fe80::1%eth0",
        "a%00.example", "a\0.example", "a b.example", "büch.example", "", ".",
        "a" * 64 + ".example",
        "a.0x7f", "-a.example", ("a." * 127) + "example",
    ],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:  # T01, EXT-1, EXT-2
    assert forbidden_name(name) is not None


def test_only_whole_labels_make_a_forbidden_suffix() -> None:
    assert forbidden_name("notlocal.example") is None
    assert forbidden_name("my.homelan") is None


@given(st.text())
def test_any_text_is_a_name_or_has_a_reason(text: str) -> None:
    reason = forbidden_name(text)

    assert reason is not None or (text.isascii() and "." in text)
