"""The codec of the local DNS port: what is asked, and what is answered to which question."""

from collections.abc import Sequence
from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.addresses import Address
from warren.errors import ProtocolError
from warren.protocol.dns_queries import DnsQuery, read_query

FOUR, SIX, NAME = Address("5.5.5.5", 0), Address("2a00::1", 0), Address("a.example", 0)
MANY = [Address(f"5.5.5.{n}", 0) for n in range(1, 17)] + [
    Address(f"2a00::{n}", 0) for n in range(1, 17)
]


def wire(name: str, rdtype: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, rdtype, **options).to_wire()  # type: ignore[arg-type]


def read(data: bytes, *, is_datagram: bool = True) -> DnsQuery:
    query = read_query(data, is_datagram=is_datagram)
    assert isinstance(query, DnsQuery)
    return query


def answered(
    data: bytes, addresses: Sequence[Address], ttl: int = 300, *, is_datagram: bool = True
) -> dns.message.Message:
    """Return the answer to the query `data`, as its asker reads it."""
    response = dns.message.from_wire(read(data, is_datagram=is_datagram).answer(addresses, ttl))
    assert dns.message.from_wire(data).is_response(response)
    return response


def records_of(response: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in response.answer for record in rrset]


# ---- questions


@pytest.mark.parametrize("rdtype", ["A", "AAAA", "ANY"])
def test_a_question_for_addresses_is_about_the_name(rdtype: str) -> None:
    assert read(wire("A.Example.", rdtype)).subject == NAME


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("5.5.5.5.in-addr.arpa", FOUR),
        ("5.5.5.5.IN-ADDR.ARPA", FOUR),
        ("1." + "0." * 27 + "0.0.a.2.ip6.arpa", SIX),
    ],
)
def test_a_question_for_a_pointer_is_about_the_address(name: str, subject: Address) -> None:
    assert read(wire(name, "PTR")).subject == subject


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("a.example", "MX"),
        ("a.example", "TXT"),
        ("a.example", "HTTPS"),
        ("a.example", "SRV"),
        ("example", "NS"),
        (".", "SOA"),
        ("a.example", "PTR"),
        ("5.in-addr.arpa", "PTR"),
        ("b._dns-sd._udp.0.5.5.10.in-addr.arpa", "PTR"),
        ("300.1.1.1.in-addr.arpa", "PTR"),
    ],
)
def test_what_no_exit_can_find_out_has_no_records(name: str, rdtype: str) -> None:
    query = read(wire(name, rdtype))

    assert query.subject is None
    assert query.refusal == dns.rcode.NOERROR


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (wire("a.example", rdclass="CH"), dns.rcode.REFUSED),
        (wire("example", "AXFR"), dns.rcode.REFUSED),
        (wire("a.example", use_edns=1), dns.rcode.BADVERS),
        (wire("not\\032a\\032name.example"), dns.rcode.NXDOMAIN),
        (wire("1.2.3.4"), dns.rcode.NXDOMAIN),
        (wire("."), dns.rcode.NXDOMAIN),
    ],
    ids=["class", "transfer", "EDNS", "no host name", "an address", "root"],
)
def test_other_questions_are_refused_with_a_code(data: bytes, rcode: dns.rcode.Rcode) -> None:
    query = read(data)

    assert query.subject is None
    assert query.refusal == rcode
    response = dns.message.from_wire(query.refuse(query.refusal))
    assert response.rcode() == rcode
    assert response.id == dns.message.from_wire(data).id


@pytest.mark.parametrize("opcode", [dns.opcode.NOTIFY, dns.opcode.UPDATE, dns.opcode.STATUS])
def test_other_operations_are_not_implemented(opcode: dns.opcode.Opcode) -> None:
    data = bytearray(wire("a.example"))
    data[2] |= opcode << 3

    reply = read_query(bytes(data), is_datagram=True)

    assert isinstance(reply, bytes)
    assert len(reply) == 12
    assert reply[:2] == data[:2]
    assert reply[2] & 0x80
    assert reply[3] & 15 == dns.rcode.NOTIMP


def with_counts(data: bytes, *counts: int) -> bytes:
    return data[:4] + b"".join(count.to_bytes(2, "big") for count in counts) + data[12:]


@pytest.mark.parametrize(
    "data",
    [
        wire("a.example")[:-1],
        wire("a.example") + b"\0",
        wire("a.example")[:12],
        with_counts(wire("a.example"), 2, 0, 0, 0),
        with_counts(wire("a.example"), 1, 1, 0, 0),
        with_counts(wire("a.example"), 1, 0, 1, 0),
        with_counts(wire("a.example"), 1, 0, 0, 3),
        wire("a.example")[:12] + b"\xc0\x0c\0\x01\0\x01",
        wire("a.example").ljust(4097, b"\0"),
    ],
    ids=[
        "cut short", "bytes behind", "no question", "two questions", "an answer", "an authority",
        "three more", "a name that is itself", "too long",
    ],
)  # fmt: skip
def test_a_malformed_question_is_told_so(data: bytes) -> None:
    reply = read_query(data, is_datagram=False)

    assert isinstance(reply, bytes)
    assert reply[:2] == data[:2]
    assert reply[3] & 15 == dns.rcode.FORMERR


@pytest.mark.parametrize(
    "data",
    [b"", bytes(11), dns.message.make_response(dns.message.make_query("a.example", "A")).to_wire()],
    ids=["nothing", "half a header", "an answer"],
)
def test_what_may_be_no_question_is_met_with_silence(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_query(data, is_datagram=True)


# ---- answers


@pytest.mark.parametrize(
    ("name", "rdtype", "found", "told"),
    [
        ("a.example", "A", [FOUR, SIX], ["5.5.5.5"]),
        ("a.example", "AAAA", [FOUR, SIX], ["2a00::1"]),
        ("a.example", "ANY", [FOUR, SIX], ["5.5.5.5", "2a00::1"]),
        ("a.example", "AAAA", [FOUR], []),
        ("5.5.5.5.in-addr.arpa", "PTR", [NAME], ["a.example."]),
    ],
)
def test_of_what_was_found_the_asked_kind_is_told(
    name: str, rdtype: str, found: list[Address], told: list[str]
) -> None:
    response = answered(wire(name, rdtype), found, 1234)

    assert records_of(response) == told
    assert {rrset.ttl for rrset in response.answer} <= {1234}
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.RA


def test_the_question_comes_back_as_it_was_written() -> None:
    response = answered(wire("A.eXample"), [FOUR])

    assert response.question[0].name.to_text() == "A.eXample."
    assert response.answer[0].name.to_text() == "A.eXample."


@pytest.mark.parametrize(
    ("payload", "most", "is_cut"),
    [
        (None, 512, True),
        (100, 512, True),
        (700, 700, True),
        (1232, 1232, False),
        (9000, 1232, False),
    ],
)
def test_a_datagram_is_as_long_as_both_sides_like(
    payload: int | None, most: int, is_cut: bool
) -> None:
    options = {} if payload is None else {"use_edns": 0, "payload": payload}
    long_name = ".".join(["a" * 60] * 4) if is_cut else "a.example"

    data = read(wire(long_name, "ANY", **options)).answer(MANY, 300)

    response = dns.message.from_wire(data)
    assert len(data) <= most
    assert bool(response.flags & dns.flags.TC) is is_cut
    assert len(records_of(response)) == (0 if is_cut else 32)
    assert (response.edns >= 0) is (payload is not None)


def test_over_a_connection_everything_fits() -> None:
    response = answered(wire(".".join(["a" * 60] * 4), "ANY"), MANY, is_datagram=False)

    assert len(records_of(response)) == 32
    assert not response.flags & dns.flags.TC


HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,8}){1,3}", fullmatch=True)


@given(
    HOSTS,
    st.lists(st.ip_addresses().map(lambda ip: Address(str(ip), 0)), max_size=16),
    st.sampled_from(["A", "AAAA"]),
    st.integers(0, 3600),
    st.booleans(),
)
def test_a_resolver_reads_what_was_found_or_that_it_was_cut(
    host: str, found: list[Address], rdtype: str, ttl: int, is_datagram: bool
) -> None:
    response = answered(wire(host, rdtype), found, ttl, is_datagram=is_datagram)

    version = 4 if rdtype == "A" else 6
    wanted = {each.ip for each in found if each.ip is not None and each.ip.version == version}
    told = {ip_address(text) for text in records_of(response)}
    assert response.flags & dns.flags.TC or told == wanted
