import socket
import threading
from collections.abc import Iterator

import pytest

from warren.addresses import Address
from warren.errors import ConfigError, ProtocolError
from warren.protocol import socks
from warren.protocol.exchange import Exchange, Send, T, take
from warren.protocol.front import Authentication, Command
from warren.run.proxy_client import Login, Refused, check_proxy, open_target

LOGIN = Login(b"warren-run", b"0123456789abcdef")


def drive(exchange: Exchange[T], answers: bytes) -> tuple[T, bytes]:
    """Give `answers` to an exchange; return its result and what it sent."""
    buffer, sent = bytearray(answers), b""
    wanted = next(exchange)
    try:
        while True:
            if isinstance(wanted, Send):
                sent += wanted.data
                wanted = exchange.send(b"")
            else:
                data = take(wanted, buffer)
                assert data is not None, "it wants more than there is"
                wanted = exchange.send(data)
    except StopIteration as done:
        assert not buffer, "it read less than there was"
        return done.value, sent


@pytest.mark.parametrize("host", ["www.example", "5.5.5.5", "2a00::1"])
def test_our_own_proxy_understands_what_is_asked(host: str) -> None:
    granted = bytes.fromhex("05000001000000000000")

    _, sent = drive(open_target(Address(host, 443), LOGIN), b"\5\2" + b"\1\0" + granted)
    request, _ = drive(socks.accept(), sent)

    assert (request.command, request.address) == (Command.CONNECT, Address(host, 443))
    assert request.credentials.authentication is Authentication.LEGACY
    assert request.credentials.values == (LOGIN.user, LOGIN.password)
    assert request.objection is None


@pytest.mark.parametrize(
    "bound", ["01000000000000", "0400000000000000000000000000000000" + "0000", "0301610000"]
)
def test_a_proxy_without_logins_may_answer_with_any_bound_address(bound: str) -> None:
    answers = b"\5\0" + b"\5\0\0" + bytes.fromhex(bound)

    _, sent = drive(open_target(Address("5.5.5.5", 80), LOGIN), answers)

    assert LOGIN.password not in sent


@pytest.mark.parametrize(
    ("code", "reason"), [(2, "not allowed"), (4, "no such name"), (5, "refused"), (99, "code 99")]
)
def test_a_refusal_says_why(code: int, reason: str) -> None:
    answers = b"\5\0" + bytes((5, code, 0, 1))

    with pytest.raises(Refused, match=reason):
        drive(open_target(Address("5.5.5.5", 80), LOGIN), answers)


@pytest.mark.parametrize("answers", [b"HT", b"\5\xff", b"\5\2\1\1"])
def test_what_is_no_proxy_for_us_is_an_error(answers: bytes) -> None:
    with pytest.raises(ProtocolError):
        drive(open_target(Address("5.5.5.5", 80), LOGIN), answers)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def answer_once(listener: socket.socket, answer: bytes) -> Address:
    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(100)
            sock.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return Address("127.0.0.1", listener.getsockname()[1])


def test_a_proxy_passes_the_check(listener: socket.socket) -> None:
    proxy = answer_once(listener, b"\5\2")

    check_proxy(proxy)

    assert proxy.port


def test_something_else_at_the_port_is_told_with_what_it_said(listener: socket.socket) -> None:
    proxy = answer_once(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with pytest.raises(ConfigError, match=r"answered b'HT', expected a SOCKS5 proxy"):
        check_proxy(proxy)


def test_no_proxy_is_told_with_what_to_do(listener: socket.socket) -> None:
    proxy = Address("127.0.0.1", listener.getsockname()[1])
    listener.close()

    with pytest.raises(ConfigError, match=f"no proxy at {proxy} .Connection refused.: start it"):
        check_proxy(proxy)
