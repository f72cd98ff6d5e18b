import ipaddress
from collections.abc import Callable, Iterable
from itertools import pairwise

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.name_servers import (
    LOOPBACK,
    ChosenChance,
    Script,
    ScriptedServer,
    answer,
    question_of,
    with_length,
)
from warren.addresses import Address
from warren.network import dns_client
from warren.network.dns_client import Reply, Unusable, ask, pointer_name, read_answer

NAME = "site.example"
GOOD = "@ 300 A 93.184.216.34"


async def ask_a(nursery: trio.Nursery, server: ScriptedServer, name: str = NAME) -> Reply:
    address = await nursery.start(server.serve)
    with trio.fail_after(5):
        return await ask(address, name, "A", ChosenChance())


def lying_first(lie: Callable[[bytes], bytes]) -> Script:
    """Send `lie` before the truth."""
    return lambda query: [lie(query), answer(query, GOOD)]


def forged(query: bytes) -> bytes:
    return answer(query, "@ 300 A 6.6.6.6")


async def test_a_server_is_asked_and_answers(nursery: trio.Nursery) -> None:
    server = ScriptedServer(lambda query: [answer(query, GOOD)])

    reply = await ask_a(nursery, server)

    assert reply == Reply(("93.184.216.34",), 300, exists=True)


def wrong_number(query: bytes) -> bytes:
    return bytes([query[0] ^ 1]) + forged(query)[1:]


def wrong_case(query: bytes) -> bytes:
    return forged(query).replace(query[12:25], query[12:25].swapcase())


def all_lower_case(query: bytes) -> bytes:
    return forged(query).replace(query[12:25], query[12:25].lower())


def another_name(query: bytes) -> bytes:
    return forged(query).replace(b"\x04", b"\x05", 1).replace(query[13:17], b"other", 1)


def another_type(query: bytes) -> bytes:
    return forged(query).replace(query[-4:], b"\x00\x1c\x00\x01", 1)


def two_questions(query: bytes) -> bytes:
    return forged(query)[:4] + b"\x00\x02" + forged(query)[6:]


def not_an_answer(query: bytes) -> bytes:
    return query


def too_long(query: bytes) -> bytes:
    return forged(query) + bytes(4097 - len(forged(query)))


def cut_off(query: bytes) -> bytes:
    return forged(query)[:20]


@pytest.mark.parametrize(
    "lie",
    [
        wrong_number, wrong_case, all_lower_case, another_name, another_type, two_questions,
        not_an_answer, too_long, cut_off,
    ],
)  # fmt: skip
async def test_what_does_not_repeat_the_question_exactly_is_waited_past(  # T62
    nursery: trio.Nursery, lie: Callable[[bytes], bytes]
) -> None:
    server = ScriptedServer(lying_first(lie))

    reply = await ask_a(nursery, server)

    assert reply.values == ("93.184.216.34",)


async def test_an_answer_from_another_port_is_not_heard(nursery: trio.Nursery) -> None:  # T62
    async def serve(*, task_status: trio.TaskStatus[Address]) -> None:
        with (
            trio.socket.socket(type=trio.socket.SOCK_DGRAM) as asked,
            trio.socket.socket(type=trio.socket.SOCK_DGRAM) as other,
        ):
            await asked.bind((LOOPBACK, 0))
            await other.bind((LOOPBACK, 0))
            task_status.started(Address(LOOPBACK, asked.getsockname()[1]))
            query, asker = await asked.recvfrom(512)
            await other.sendto(forged(query), asker)
            await asked.sendto(answer(query, GOOD), asker)
            await trio.sleep_forever()

    address = await nursery.start(serve)

    reply = await ask(address, NAME, "A", ChosenChance())

    assert reply.values == ("93.184.216.34",)


async def test_numbers_ports_and_letters_are_random(nursery: trio.Nursery) -> None:
    server = ScriptedServer(lambda query: [answer(query, GOOD)])
    address = await nursery.start(server.serve)
    rng = ChosenChance()

    for _ in range(30):
        await ask(address, "a-rather-long-name.example", "A", rng)

    assert len({query[:2] for query in server.queries}) > 25
    assert len(set(server.ports)) > 20
    names = {question_of(query)[0] for query in server.queries}
    assert len(names) == 30
    assert {name.lower() for name in names} == {"a-rather-long-name.example"}


async def test_a_lost_question_goes_out_again(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_client, "RESEND_SECONDS", 0.05)
    server = ScriptedServer(lambda query: [answer(query, GOOD)] if len(server.queries) > 1 else [])

    reply = await ask_a(nursery, server)

    assert reply.values == ("93.184.216.34",)
    assert server.queries[0] == server.queries[1]


async def test_a_closed_port_is_noticed_at_once() -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((LOOPBACK, 0))
        port = sock.getsockname()[1]

    with trio.fail_after(1), pytest.raises(Unusable, match="cannot be asked"):
        await ask(Address(LOOPBACK, port), NAME, "A", ChosenChance())


def chain(count: int) -> list[str]:
    """Return `count` aliases from the name in question, and the address at their end."""
    names = ["@", *(f"alias{i}.example." for i in range(count))]
    aliases = [f"{one} 300 CNAME {two}" for one, two in pairwise(names)]
    return [*aliases, f"{names[-1]} 100 A 93.184.216.34"]


async def test_a_chain_of_eight_aliases_is_followed(nursery: trio.Nursery) -> None:
    server = ScriptedServer(lambda query: [answer(query, *chain(8))])

    reply = await ask_a(nursery, server)

    assert reply == Reply(("93.184.216.34",), 100, exists=True)


@pytest.mark.parametrize(
    "records",
    [
        chain(9),
        ["@ 300 CNAME a.example.", "a.example. 300 CNAME @"],
        ["@ 300 CNAME @"],
    ],
)
async def test_longer_chains_and_loops_are_unusable(  # T62
    nursery: trio.Nursery, records: list[str]
) -> None:
    server = ScriptedServer(lambda query: [answer(query, *records)])

    with pytest.raises(Unusable):
        await ask_a(nursery, server)


@pytest.mark.parametrize(
    "records",
    [
        ["other.example. 300 A 6.6.6.6"],
        ["@ 300 CNAME a.example.", "b.example. 300 A 6.6.6.6"],
        ["sub.@ 300 A 6.6.6.6"],
        ["@ 300 AAAA 2a00::1"],
    ],
)
async def test_records_of_another_name_or_type_are_not_read(  # T62
    nursery: trio.Nursery, records: list[str]
) -> None:
    server = ScriptedServer(lambda query: [answer(query, *records)])

    reply = await ask_a(nursery, server)

    assert reply.values == ()


async def test_a_name_that_does_not_exist_is_an_answer(nursery: trio.Nursery) -> None:
    server = ScriptedServer(lambda query: [answer(query, rcode=dns.rcode.NXDOMAIN)])

    reply = await ask_a(nursery, server)

    assert not reply.exists


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR])
async def test_a_server_that_cannot_help_is_unusable(
    nursery: trio.Nursery, rcode: dns.rcode.Rcode
) -> None:
    server = ScriptedServer(lambda query: [answer(query, GOOD, rcode=rcode)])

    with pytest.raises(Unusable, match="the server answered"):
        await ask_a(nursery, server)


def truncated(query: bytes) -> Iterable[bytes]:
    data = answer(query)
    return [data[:2] + bytes([data[2] | 0x02]) + data[3:]]


async def test_what_does_not_fit_a_datagram_comes_by_tcp(nursery: trio.Nursery) -> None:
    many = [f"@ 300 A 93.184.216.{i}" for i in range(60)]
    server = ScriptedServer(truncated, lambda query: with_length(answer(query, *many)))

    reply = await ask_a(nursery, server)

    assert len(reply.values) == 60


@pytest.mark.parametrize(
    "by_tcp",
    [
        lambda query: b"\xff\xff" + forged(query) + bytes(65535),
        lambda query: with_length(forged(query) + bytes(4097 - len(forged(query)))),
        lambda query: with_length(wrong_case(query)),
        lambda query: with_length(wrong_number(query)),
        lambda query: b"\x00\x50" + forged(query)[:10],
        lambda query: b"\x00\x00",
        lambda query: b"",
    ],
)
async def test_what_is_wrong_by_tcp_is_unusable(  # T62
    nursery: trio.Nursery, by_tcp: Callable[[bytes], bytes]
) -> None:
    server = ScriptedServer(truncated, by_tcp)

    with pytest.raises(Unusable):
        await ask_a(nursery, server)


@pytest.mark.parametrize("name", ["", "a..b", "ü.example", "a" * 64 + ".example", "a." * 130 + "b"])
async def test_what_is_no_name_is_never_asked(name: str) -> None:
    with pytest.raises(Unusable, match="no name"):
        await ask(Address(LOOPBACK, 9), name, "A", ChosenChance())


def test_pointer_names_are_those_of_the_reverse_trees() -> None:
    assert pointer_name(ipaddress.ip_address("1.2.3.4")) == "4.3.2.1.in-addr.arpa"
    assert pointer_name(ipaddress.ip_address("2a00::1")).endswith(".0.0.a.2.ip6.arpa")


WHOLE = answer(dns.message.make_query(NAME, "A", id=7).to_wire(), *chain(2))


@given(st.binary(max_size=300))
def test_garbage_is_unusable_and_nothing_else(data: bytes) -> None:  # T90
    try:
        read_answer(data)
    except Unusable:
        return

    assert len(data) >= 12


@given(st.data())
def test_a_damaged_answer_is_read_or_unusable(data: st.DataObject) -> None:  # T90
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(WHOLE)))]

    try:
        reply = read_answer(bytes(damaged))
    except Unusable:
        return

    assert isinstance(reply, Reply)


def test_an_answer_with_bytes_behind_it_is_unusable() -> None:
    assert read_answer(WHOLE).values == ("93.184.216.34",)
    with pytest.raises(Unusable):
        read_answer(WHOLE + b"x")
