import ipaddress
import socket

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from warren.network.dns_server import DnsServer
from warren.network.names import Resolver

FOUR, SIX = ipaddress.ip_address("5.5.5.5"), ipaddress.ip_address("2a00::1")
TABLE = {"site.example": [FOUR, SIX], "four.example": [FOUR]}


def ask(name: str, rdtype: str, server: DnsServer | None = None) -> dns.message.Message:
    data = (server or DnsServer(TABLE)).answer(dns.message.make_query(name, rdtype).to_wire())
    assert data is not None
    return dns.message.from_wire(data)


@pytest.mark.parametrize(("rdtype", "ip"), [("A", FOUR), ("AAAA", SIX)])
def test_a_name_has_addresses_of_each_family(rdtype: str, ip: ipaddress.IPv4Address) -> None:
    response = ask("site.example", rdtype)

    assert [record.to_text() for record in response.answer[0]] == [str(ip)]
    assert response.flags & dns.flags.AA


def test_the_answer_repeats_the_question_as_it_was_written() -> None:
    query = dns.message.make_query("SiTe.ExAmPlE", "A").to_wire()

    data = DnsServer(TABLE).answer(query)

    assert data is not None
    assert data[12 : len(query)] == query[12:]


def test_a_name_without_such_an_address_has_an_empty_answer() -> None:
    response = ask("four.example", "AAAA")

    assert response.rcode() == dns.rcode.NOERROR
    assert response.answer == []


@pytest.mark.parametrize("rdtype", ["A", "AAAA", "TXT"])
def test_a_name_that_is_not_in_the_table_does_not_exist(rdtype: str) -> None:
    assert ask("other.example", rdtype).rcode() == dns.rcode.NXDOMAIN


def test_questions_are_counted() -> None:
    server = DnsServer(TABLE)

    ask("Site.example", "A", server)
    ask("site.example", "A", server)

    assert server.asked == {("site.example", "A"): 2}


def test_what_does_not_fit_is_cut_and_says_so() -> None:
    server = DnsServer({"big.example": [ipaddress.IPv4Address(i) for i in range(60)]})
    query = dns.message.make_query("big.example", "A").to_wire()

    data = server.answer(query, most_bytes=512)

    assert data is not None
    assert len(data) <= 512
    assert dns.message.from_wire(data).flags & dns.flags.TC


@given(st.binary(max_size=100))
def test_garbage_gets_no_answer_or_a_refusal(data: bytes) -> None:
    answer = DnsServer(TABLE).answer(data)

    assert answer is None or dns.message.from_wire(answer).answer == []


@pytest.mark.parametrize(("ip", "names"), [(FOUR, 2), (SIX, 1)])
def test_an_address_has_the_names_that_have_it(ip: ipaddress.IPv4Address, names: int) -> None:
    response = ask(ip.reverse_pointer, "PTR")

    found = [record.to_text() for record in response.answer[0]]
    assert sorted(found) == sorted(["site.example.", "four.example."][:names])


@pytest.mark.parametrize("name", ["1.2.3.4.in-addr.arpa", "5.in-addr.arpa", "site.example"])
def test_what_is_no_such_address_has_no_name(name: str) -> None:
    assert ask(name, "PTR").rcode() == dns.rcode.NXDOMAIN


async def test_datagrams_and_connections_are_served_at_one_port(nursery: trio.Nursery) -> None:
    many = [ipaddress.IPv4Address(0x05050500 + i) for i in range(100)]
    server = DnsServer({"big.example": many, "site.example": [FOUR]})
    address = await nursery.start(server.serve)
    resolver = Resolver([address])

    small = await resolver.resolve("site.example")
    big = await resolver.resolve("big.example")

    assert small.addresses == (FOUR,)
    assert len(set(big.addresses) & set(many)) == 8
    assert server.asked["big.example", "A"] == 2  # again by TCP


async def test_several_questions_may_come_by_one_connection(nursery: trio.Nursery) -> None:
    address = await nursery.start(DnsServer(TABLE).serve)
    query = dns.message.make_query("site.example", "A").to_wire()
    framed = len(query).to_bytes(2, "big") + query
    stream = await trio.open_tcp_stream(address.host, address.port)

    received = b""
    for byte in framed * 2:
        await stream.send_all(bytes([byte]))
    while len(received) < 2 * (2 + len(query) + 16):
        received += await stream.receive_some()

    assert received[: len(received) // 2] == received[len(received) // 2 :]
    await stream.aclose()


async def test_nonsense_by_tcp_ends_the_connection(nursery: trio.Nursery) -> None:
    address = await nursery.start(DnsServer(TABLE).serve)
    stream = await trio.open_tcp_stream(address.host, address.port)

    await stream.send_all(b"\x00\x03abc")

    assert await stream.receive_some() == b""
    await stream.aclose()


async def test_nonsense_by_udp_stops_nothing(nursery: trio.Nursery) -> None:
    address = await nursery.start(DnsServer(TABLE).serve)
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.sendto(b"nonsense", (address.host, address.port))

    found = await Resolver([address]).resolve("site.example")

    assert found.addresses == (FOUR, SIX)


async def test_a_port_that_is_taken_is_an_error(nursery: trio.Nursery) -> None:
    address = await nursery.start(DnsServer(TABLE).serve)

    with pytest.raises(OSError, match="in use"):
        await DnsServer(TABLE).serve(address.host, address.port)
