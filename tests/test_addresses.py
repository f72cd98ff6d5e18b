"""Addresses: one spelling in text, one on the wire, and no second way to say loopback."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warren.addresses import Address, host_of, is_loopback, parse_ip
from warren.errors import ProtocolError

labels = st.text("abcxyz0189_", min_size=1, max_size=12)
names = st.lists(labels, max_size=4).map(lambda parts: ".".join((*parts, "example")))
hosts = names | st.ip_addresses().map(str)
ports = st.integers(0, 65535)
addresses = st.builds(Address, hosts, ports)

# EXT-1: what the C library takes for 127.0.0.1 or 0.0.0.0 and `ipaddress` does not.
LIKE_LOOPBACK = [
    "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001", "017700000001", "0", "0x0",
    "127.0.0.1.", "127.0.0.01", "127.0.0.0x1", "0x7f.0x0.0x0.0x1", "①②⑦.0.0.1", "１２７.0.0.1",
    "127。0。0。1", " 127.0.0.1", "127.0.0.1 ", "127.0.0.1\n", "::1%lo", "fe80::1%eth0",
]  # fmt: skip


# Hosts


@pytest.mark.parametrize("host", LIKE_LOOPBACK)
def test_only_strict_literals_are_addresses_and_none_hides_in_a_name(host: str) -> None:  # T01
    with pytest.raises(ValueError, match=r"neither an IP address|ends in a number"):
        Address(host, 80)
    assert parse_ip(host) is None


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "a..b", ".a", "a.", "-a.org", "a-.org", "a b.org", "a/b", "a@b.org", "a:b", "a%b",
        "ä.org", "a\0.org", "org\n", "*.org", "a" * 64 + ".org", ".".join(["a" * 60] * 5), "a.12",
        "a.0x1f", "a.0x", "[::1]", "1.2.3.4.5", "\N{KELVIN SIGN}elvin.org",
    ],
)  # fmt: skip
def test_what_is_no_host_name_is_refused(host: str) -> None:  # EXT-2
    with pytest.raises(ValueError, match=r"name|number"):
        Address(host, 80)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("Example.ORG", "example.org"),
        ("_dmarc.Example.org", "_dmarc.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
        ("12.a", "12.a"),
        ("localhost", "localhost"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::", "::"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_host_has_one_spelling(host: str, canonical: str) -> None:
    assert Address(host, 1).host == canonical


@pytest.mark.parametrize("port", [-1, 65536, 1 << 40])
def test_a_port_has_sixteen_bits(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        Address("a.org", port)


@given(hosts)
def test_an_address_knows_whether_it_is_a_literal(host: str) -> None:
    address = Address(host, 1)

    assert (address.ip is not None) == (parse_ip(host) is not None)
    assert address.ip is None or address.ip == ipaddress.ip_address(host)


def test_equal_addresses_are_one_key() -> None:
    assert len({Address("A.org", 1), Address("a.ORG", 1), Address("::0:1", 1)}) == 2


# Text


@given(addresses)
def test_text_comes_back_as_it_was(address: Address) -> None:
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "host"),
    [("[2001:db8::1]:443", "2001:db8::1"), ("192.0.2.1:443", "192.0.2.1"), ("A.b:443", "a.b")],
)
def test_text_is_host_and_port(text: str, host: str) -> None:
    assert Address.parse(text) == Address(host, 443)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "a.org", "a.org:", ":80", "a.org:http", "a.org:-1", "a.org:+1", "a.org: 80",
        "a.org:80 ", "a.org:65536", "a.org:000080", "a.org:８０", "::1:80", "2001:db8::1:80",
        "[::1]", "[::1]80", "[a.org]:80", "[192.0.2.1]:80", "[::1%lo]:80", "[::1:80", "::1]:80",
        "a.org:80:80",
    ],
)  # fmt: skip
def test_text_of_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|in brackets|neither|number"):
        Address.parse(text)


# The wire


@given(addresses, st.binary(max_size=5))
def test_the_wire_form_comes_back_as_it_was_and_says_its_length(
    address: Address, more: bytes
) -> None:
    encoded = address.encode()

    decoded, length = Address.decode(encoded + more)

    assert (decoded, length) == (address, len(encoded))
    assert decoded.ip == address.ip


@pytest.mark.parametrize(
    ("address", "encoded"),
    [
        (Address("1.2.3.4", 80), "04 01020304 0050"),
        (Address("2001:db8::1", 443), "06 20010db8000000000000000000000001 01bb"),
        (Address("a.org", 258), "01 05 612e6f7267 0102"),
    ],
)
def test_the_wire_form_is_kind_host_port(address: Address, encoded: str) -> None:
    assert address.encode() == bytes.fromhex(encoded)


@given(addresses)
def test_an_address_that_is_cut_short_is_refused_at_every_byte(address: Address) -> None:
    encoded = address.encode()

    for size in range(len(encoded)):
        with pytest.raises(ProtocolError):
            Address.decode(encoded[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x05A.org\x00\x50",
        b"\x01\x091.2.3.4.5\x00\x50",
        b"\x01\x071.2.3.4\x00\x50",
        b"\x01\x03::1\x00\x50",
        b"\x01\x00\x00\x50",
        b"\x01\x05\xe4.org\x00\x50",
        b"\x00\x01a\x00\x50",
        b"\x05\x01\x02\x03\x04\x00\x50",
    ],
    ids=[
        "upper case", "number at the end", "IPv4 as a name", "IPv6 as a name", "empty", "no ASCII",
        "kind 0", "kind 5",
    ],
)  # fmt: skip
def test_a_second_wire_form_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Address.decode(data)


@given(st.sampled_from([b"\x01", b"\x04", b"\x06", b""]), st.binary(max_size=40))
@example(b"\x01", b"\xff" + b"a" * 40)
def test_garbage_is_a_protocol_error_or_reads_back_the_same(kind: bytes, rest: bytes) -> None:
    data = kind + rest

    try:
        address, size = Address.decode(data)
    except ProtocolError:
        return
    assert address.encode() == data[:size]


# Who comes from there


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),  # as a listener on [::] sees it
        ("::ffff:127.0.0.1", ""),
        ("127.0.0.1", ""),
        ("127.0.0.9", "127.0.0.9"),
        ("::1", ""),
    ],
)
def test_who_comes_is_told_apart_by_his_address_or_its_network(address: str, host: str) -> None:
    assert host_of(Address(address, 1)) == host


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no address", False),
    ],
)
def test_only_this_machine_can_be_at_a_loopback_address(text: str, is_local: bool) -> None:
    assert is_loopback(parse_ip(text)) is is_local
