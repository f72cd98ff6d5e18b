"""What one listener does otherwise than another: its password, its wishes, what it keeps apart."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any, get_args

import pytest

from tests.roles.test_proxy import (
    CONNECT,
    CONNECTED,
    GET,
    SOCKS4A,
    SOCKS5,
    SOCKS5_GRANTED,
    Door,
    RenamedListener,
    exactly,
    is_reset,
    listen,
    open_door,
)
from warren.config.proxy import Apart
from warren.errors import NoPathError
from warren.protocol.choice import Choice
from warren.protocol.front import Isolation, Login
from warren.roles.listener_rules import KEPT_APART, ListenerRules

LOGIN = ListenerRules(login=Login.of("me", "secret"))
OTHER_PORT = CONNECT.replace(b":443", b":444")
OTHER_HOST = CONNECT.replace(b"a.example", b"b.example")


def socks5_with(user: bytes, password: bytes = b"") -> bytes:
    """Return a request for the usual target that shows a user and a password."""
    login = b"\x01%c%s%c%s" % (len(user), user, len(password), password)
    return b"\x05\x01\x02" + login + SOCKS5[3:]


def basic(login: bytes) -> bytes:
    return b"Proxy-Authorization: Basic " + base64.b64encode(login) + b"\r\n\r\n"


@asynccontextmanager
async def door_with(**rules: Any) -> AsyncIterator[Door]:
    async with open_door(rules=ListenerRules(**rules)) as door:
        yield door


async def isolation_at(door: Door, words: bytes) -> Isolation:
    """Return the isolation of the stream that `words` ask for."""
    await door.say(words)
    isolation = (await door.next_stream()).isolation
    assert isinstance(isolation, Isolation)
    return isolation


# ---- what stays apart


def test_the_configuration_knows_all_that_can_be_kept_apart() -> None:
    assert set(get_args(Apart)) == KEPT_APART.keys()


@pytest.mark.parametrize(
    ("name", "other"),
    [("destination_port", OTHER_PORT), ("destination_host", OTHER_HOST), ("protocol", GET)],
)
async def test_what_a_listener_isolates_is_kept_apart(name: str, other: bytes) -> None:
    async with door_with(isolate=(name,)) as door, door_with(isolate=()) as plain:
        assert await isolation_at(door, CONNECT) == await isolation_at(door, CONNECT)
        assert await isolation_at(door, CONNECT) != await isolation_at(door, other)
        assert await isolation_at(plain, CONNECT) == await isolation_at(plain, other)


async def test_machines_are_kept_apart_unless_told_otherwise() -> None:
    one, other = (RenamedListener(listen(), "0.0.0.0", f"10.0.0.{n}") for n in (1, 2))
    allowed = [ip_network("10.0.0.0/8")]

    async with (
        open_door(one, allow_clients=allowed) as door,
        open_door(other, allow_clients=allowed) as beside,
    ):
        assert await isolation_at(door, CONNECT) != await isolation_at(beside, CONNECT)
        assert await isolation_at(door, CONNECT) == await isolation_at(door, CONNECT)


async def test_ports_of_one_machine_are_not_kept_apart() -> None:
    async with door_with(isolate=("client_address",)) as door:
        assert await isolation_at(door, CONNECT) == await isolation_at(door, CONNECT)


# ---- wishes


async def test_a_listener_asks_for_all_its_streams_and_a_request_for_itself() -> None:
    async with door_with(choice=Choice("de", hops=2)) as door:
        usual = await isolation_at(door, CONNECT)
        own = await isolation_at(door, socks5_with(b"me+country=fr+session=1"))

    assert usual.choice == Choice("de", hops=2)
    assert own.choice == Choice("fr", hops=2, keeps_exit=True)


async def test_why_no_path_fits_is_said() -> None:
    async with open_door() as door:
        door.client.error = NoPathError("no exit in country 'xy' allows port 443")

        answer = await door.ask(CONNECT.replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = await door.ask(SOCKS5)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'''details="no exit in country 'xy' allows port 443"''' in answer
    assert reply[2:4] == b"\x05\x03"


async def test_one_listener_may_refuse_addresses(door: Door) -> None:  # FE-9
    literal = SOCKS5[:3] + b"\x05\x01\x00\x01\x05\x06\x07\x08\x01\xbb"

    async with door_with(safe_socks=True) as safe:
        assert (await safe.ask(literal))[2:4] == b"\x05\x02"
    await door.say(literal)
    assert (await door.next_stream()).address.host == "5.6.7.8"


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as opened:
        yield opened


# ---- passwords


@pytest.mark.parametrize(
    ("words", "granted"),
    [
        (socks5_with(b"me+work", b"secret"), b"\x05\x02\x01\x00" + SOCKS5_GRANTED[2:]),
        (CONNECT[:-2] + basic(b"me+work:secret"), CONNECTED),
    ],
)
async def test_the_right_login_is_served(words: bytes, granted: bytes) -> None:
    async with open_door(rules=LOGIN) as door:
        browser = await door.say(words)

        assert await exactly(browser, len(granted)) == granted
        assert door.client.opened == 1


@pytest.mark.parametrize(
    "words",
    [SOCKS5, SOCKS4A, socks5_with(b"me", b"wrong"), CONNECT, CONNECT[:-2] + basic(b"me:wrong")],
)
async def test_without_it_no_circuit_is_used(words: bytes) -> None:
    async with open_door(rules=LOGIN) as door:
        await door.ask(words.replace(b"HTTP/1.1", b"HTTP/1.0"))

        assert door.client.opened == 0
        assert door.proxy.statistics()["wrong_logins"] == 1


async def test_a_client_may_try_again_with_its_password_on_the_same_connection() -> None:
    async with open_door(rules=LOGIN) as door:
        browser = await door.say(CONNECT)
        refusal = b""
        while not refusal.endswith(b"a password.\n"):
            refusal += bytes(await browser.receive_some())

        await browser.send_all(CONNECT[:-2] + basic(b"me:secret"))

        assert refusal.startswith(b"HTTP/1.1 407 ")
        assert b"\r\nProxy-Authenticate: Basic " in refusal
        assert await exactly(browser, len(CONNECTED)) == CONNECTED


async def test_without_a_password_nobody_is_asked_for_one(door: Door) -> None:
    for words in (CONNECT[:-2] + basic(b"you:wrong"), socks5_with(b"you", b"wrong")):
        await door.say(words)
        await door.next_stream()

    assert door.proxy.statistics()["wrong_logins"] == 0


@pytest.mark.parametrize(("allowed", "comes_in"), [([], True), (["10.9.0.0/16"], False)])
async def test_a_password_takes_the_place_of_a_list_but_does_not_open_one(  # FE-1
    allowed: list[str], comes_in: bool
) -> None:
    listener = RenamedListener(listen(), "0.0.0.0", "192.168.1.9")
    networks = [ip_network(text) for text in allowed]

    async with open_door(listener, rules=LOGIN, allow_clients=networks) as door:
        browser = await door.dial()

        if comes_in:
            await browser.send_all(socks5_with(b"me", b"secret"))
            assert await exactly(browser, 4) == b"\x05\x02\x01\x00"
        else:
            assert await is_reset(browser)
