"""UDP sockets, the real ones: what is sent arrives, what cannot be is no error."""

import socket
from collections.abc import Iterator

import pytest
import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network.datagram_sockets import MOST_BYTES, UdpSocket


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind(("127.0.0.1", 0))
        yield sock


async def next_of(sock: UdpSocket, nursery: trio.Nursery) -> tuple[bytes, Address]:
    """Return the next datagram, as one who is called back sees it."""
    came = trio.Event()
    sock.read_with(came.set, nursery)
    with trio.fail_after(5):
        await came.wait()
    datagram = sock.receive_now()
    assert datagram is not None
    return datagram


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_datagrams_go_both_ways(host: str, nursery: trio.Nursery) -> None:
    one, two = UdpSocket(host), UdpSocket(host)

    assert one.send_now(b"there", two.local)
    assert await next_of(two, nursery) == (b"there", one.local)
    assert two.send_now(b"", one.local)
    assert await next_of(one, nursery) == (b"", two.local)
    assert one.receive_now() is None

    one.close()
    two.close()


async def test_what_cannot_be_sent_says_so_and_the_next_one_goes(
    remote: socket.socket, nursery: trio.Nursery
) -> None:
    sock = UdpSocket("127.0.0.1")
    place = Address(*remote.getsockname())

    refused = [
        sock.send_now(b"x", Address("255.255.255.255", 9)),
        sock.send_now(bytes(70_000), place),
    ]

    assert refused == [False] * 2
    assert sock.send_now(b"good", place)
    assert remote.recv(100) == b"good"
    sock.close()


async def test_a_port_that_nobody_has_breaks_nothing(
    remote: socket.socket, nursery: trio.Nursery
) -> None:
    sock = UdpSocket("127.0.0.1")
    place = Address(*remote.getsockname())
    gone = UdpSocket("127.0.0.1")
    gone.close()

    for _ in range(3):
        sock.send_now(b"to nobody", gone.local)
    remote.sendto(b"still here", (sock.local.host, sock.local.port))

    assert await next_of(sock, nursery) == (b"still here", place)
    sock.close()


async def test_a_longer_datagram_than_any_may_be_is_not_taken_for_a_shorter_one(
    remote: socket.socket, nursery: trio.Nursery
) -> None:
    sock = UdpSocket("127.0.0.1")

    remote.sendto(bytes(9000), (sock.local.host, sock.local.port))

    data, _ = await next_of(sock, nursery)
    assert len(data) == MOST_BYTES
    sock.close()


async def test_nobody_is_called_back_once_it_is_closed(
    remote: socket.socket, nursery: trio.Nursery
) -> None:
    sock = UdpSocket("127.0.0.1")
    calls: list[None] = []
    sock.read_with(lambda: calls.append(None), nursery)

    sock.close()
    sock.close()
    remote.sendto(b"late", (sock.local.host, sock.local.port))
    await trio.sleep(0.05)

    assert calls == []


async def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(LinkError, match="cannot bind"):
        UdpSocket("192.0.2.1")
