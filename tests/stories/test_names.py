"""Names asked through the network without connecting: by SOCKS, and by real resolver libraries.

The names exist at the exit only.
"""

import socket

import dns.asyncresolver
import dns.resolver
import pytest
import trio

from tests.support.handmade import HandmadeNetwork
from tests.support.journeys import ask_socks
from tests.support.labs import RunningLab
from tests.support.web_origin import NAME
from warren.addresses import Address

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def ask_socks4a(proxy: str, host: str) -> bytes:
    address = Address.parse(proxy)
    with socket.create_connection((address.host, address.port), 60) as sock:
        sock.sendall(b"\x04\xf0\0\0\0\0\0\x01\0" + host.encode() + b"\0")
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_socks_clients_resolve_names_both_ways(lab: RunningLab) -> None:
    assert ask_socks(lab.proxy, 0xF0, NAME) == b"\x05\x00\x00\x01\x7f\0\0\x01\0\0"
    assert ask_socks4a(lab.proxy, NAME) == b"\x00\x5a\0\0\x7f\0\0\x01"
    pointer = ask_socks(lab.proxy, 0xF1, "127.0.0.1")
    assert pointer == b"\x05\x00\x00\x03%c%b\0\0" % (len(NAME), NAME.encode())


@pytest.mark.parametrize(
    ("command", "host", "code"),
    [
        (0xF0, "nowhere.origin.example", 4),
        (0xF0, "inside.origin.example", 2),  # 10.0.0.1, which is for nobody outside
        (0xF0, "printer.local", 2),
        (0xF1, "10.0.0.1", 2),
        (0xF1, "5.5.5.5", 4),
        (0xF0, "10.0.0.1", 0),
    ],
)
def test_a_question_that_has_no_answer_gets_a_code(
    lab: RunningLab, command: int, host: str, code: int
) -> None:
    assert ask_socks(lab.proxy, command, host)[1] == code


def test_socks4a_is_told_no(lab: RunningLab) -> None:
    assert ask_socks4a(lab.proxy, "nowhere.origin.example") == b"\x00\x5b" + bytes(6)


# ---- the DNS port


def resolver_for(network: HandmadeNetwork) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [network.addresses["proxy"].host]
    resolver.port, resolver.lifetime = 1053, 60
    resolver.use_edns(0, 0, 1232)
    return resolver


@pytest.mark.parametrize("by_tcp", [False, True])
def test_a_resolver_library_asks_the_network(handmade: HandmadeNetwork, by_tcp: bool) -> None:
    resolver = resolver_for(handmade)

    four = resolver.resolve(NAME, "A", tcp=by_tcp)
    pointer = resolver.resolve_address("127.0.0.1", tcp=by_tcp)

    assert [record.to_text() for record in four] == ["127.0.0.1"]
    assert 300 <= four.rrset.ttl <= 3600  # type: ignore[union-attr]
    assert pointer[0].to_text().rstrip(".") in handmade.dns_names
    for rdtype in ("AAAA", "MX", "TXT", "HTTPS"):
        with pytest.raises(dns.resolver.NoAnswer):
            resolver.resolve(NAME, rdtype, tcp=by_tcp)


@pytest.mark.parametrize(
    "name",
    ["nowhere.origin.example", "printer.local", "printer", "x.onion", "4.3.2.10.in-addr.arpa"],
)
def test_a_resolver_library_is_told_that_there_is_no_such_name(
    handmade: HandmadeNetwork, name: str
) -> None:
    with pytest.raises((dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)):
        resolver_for(handmade).resolve(name, "A")


async def test_many_names_are_asked_at_once(handmade: HandmadeNetwork) -> None:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [handmade.addresses["proxy"].host]
    resolver.port, resolver.lifetime = 1053, 60
    names = [*handmade.dns_names, *(f"nowhere{n}.origin.example" for n in range(20))]
    found: dict[str, bool] = {}

    async def ask(name: str) -> None:
        try:
            await resolver.resolve(name, "A")
            found[name] = True
        except dns.resolver.NXDOMAIN:
            found[name] = False

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask, name)

    # The exit was started before these, and tells no such addresses.
    unknown = {f"{name}.peer.example" for name in ("proxy", "latecomer", "names")}
    assert {name for name in found if found[name]} == set(handmade.dns_names) - unknown
    assert len(found) == len(names)


def test_numbers_say_who_asked_how_often(handmade: HandmadeNetwork) -> None:
    before = handmade.statistics("proxy")["dns"]
    resolver = resolver_for(handmade)

    resolver.resolve(NAME, "A")

    after = handmade.statistics("proxy")["dns"]
    assert after["answered"] == before["answered"] + 1
    assert after["bugs"] == after["failed"] == 0


def test_the_dns_command_answers_without_a_proxy(
    handmade: HandmadeNetwork,
) -> None:
    place = handmade.add_dns("names")
    handmade.wait_until_known(relays=4)
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = [place.host], place.port, 60

    assert resolver.resolve(NAME, "A")[0].to_text() == "127.0.0.1"
    assert handmade.statistics("names")["proxy"]["connections"] == 0
    page = handmade.page("names")
    assert page.startswith("DNS port of the network handmade, running for ")
    assert f"\nUsable: programs can ask {place}.\n\nListens at  {place} for DNS\n" in page
    assert "\nDNS         1 question\n            answered: 1\n" in page
