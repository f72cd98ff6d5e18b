"""Doors in our own network: the sockets are real, and made here instead of in a namespace."""

import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from warren.addresses import Address
from warren.network.byte_streams import ByteStream
from warren.run.doors import LEFT_SECONDS, Doors
from warren.run.sockets import make_socket


class MakerHere:
    """Make sockets in the network of the test."""

    def listen(self, address: Address, *, may_be_left: bool) -> socket.socket:
        return make_socket(socket.SOCK_STREAM, address, is_reusing=may_be_left)


class Visitors:
    """Remember who came through which door."""

    def __init__(self) -> None:
        self.doors: list[Address] = []

    async def enter(self, door: Address, visitor: ByteStream) -> None:
        self.doors.append(door)
        await visitor.send_all(b"welcome")
        visitor.close()


@asynccontextmanager
async def open_house(most: int = 8) -> AsyncIterator[tuple[Doors, Visitors]]:
    async with trio.open_nursery() as nursery:
        visitors = Visitors()
        doors = Doors(MakerHere(), visitors.enter, nursery, most=most)  # type: ignore[arg-type]
        yield doors, visitors
        doors.close()
        nursery.cancel_scope.cancel()


@pytest.fixture
def places() -> list[Address]:
    """Return addresses of loopback with a port that is free at each of them."""
    with socket.create_server(("0.0.0.0", 0)) as sock:
        port = sock.getsockname()[1]
    return [Address(f"127.77.0.{number}", port) for number in range(1, 5)]


async def visit(address: Address) -> bytes:
    with trio.socket.socket() as sock:
        await sock.connect((address.host, address.port))
        return await sock.recv(100)


async def test_a_door_is_at_one_address_and_says_which(places: list[Address]) -> None:
    async with open_house() as (doors, visitors):
        assert doors.open(places[0])
        assert doors.open(places[1])
        assert doors.open(places[0])

        assert await visit(places[1]) == b"welcome"

        assert visitors.doors == [places[1]]
        with pytest.raises(ConnectionRefusedError):
            await visit(places[2])


async def test_the_door_that_was_used_longest_ago_is_closed_for_another(
    places: list[Address],
) -> None:
    async with open_house(most=2) as (doors, _):
        for place in (places[0], places[1], places[0], places[2]):
            assert doors.open(place)

        assert await visit(places[0]) == b"welcome"
        assert await visit(places[2]) == b"welcome"
        with pytest.raises(ConnectionRefusedError):
            await visit(places[1])


async def test_doors_give_way_to_who_wants_to_listen_and_later_leave_it_to_them(
    places: list[Address],
) -> None:
    async with open_house() as (doors, visitors):
        assert doors.open(places[0])
        assert await visit(places[0]) == b"welcome"

        doors.give_way(places[0].port)

        with socket.create_server((places[0].host, places[0].port)) as server:
            assert doors.open(places[0])
            with socket.create_connection(server.getsockname()):
                server.settimeout(5)
                server.accept()[0].close()
        assert visitors.doors == [places[0]]


async def test_between_its_bind_and_the_kernels_nobody_gets_before_a_program(
    places: list[Address], mock_clock: MockClock
) -> None:
    async with open_house() as (doors, visitors):
        assert doors.open(places[0])
        doors.give_way(places[0].port)

        assert doors.open(places[0])

        with socket.create_server((places[0].host, places[0].port)):
            assert doors.open(places[0])
        mock_clock.jump(LEFT_SECONDS)
        assert doors.open(places[0])
        assert await visit(places[0]) == b"welcome"
        assert visitors.doors == [places[0]]


async def test_a_program_that_is_about_to_listen_does_not_meet_a_door(
    places: list[Address],
) -> None:
    async with open_house() as (doors, _):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((places[0].host, places[0].port))

            assert doors.open(places[0])

            sock.listen()


async def test_a_door_that_is_kept_gives_way_to_nobody(places: list[Address]) -> None:
    async with open_house(most=1) as (doors, _):
        doors.keep(places[0])
        doors.give_way(places[0].port)
        assert doors.open(places[1])
        assert doors.open(places[0])

        assert await visit(places[0]) == b"welcome"


async def test_elsewhere_a_port_that_the_command_has_everywhere_is_a_refusal(
    places: list[Address],
) -> None:
    port = places[0].port
    async with open_house() as (doors, _):
        with socket.create_server(("0.0.0.0", port)):
            assert doors.open(places[0])
            assert not doors.open(Address("5.5.5.5", port))


def test_sockets_for_datagrams_tell_where_each_was_sent() -> None:
    with make_socket(socket.SOCK_DGRAM, Address("0.0.0.0", 0), is_reusing=False) as sock:
        port = sock.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"question", ("127.3.3.3", port))

        data, notes, _, _ = sock.recvmsg(100, socket.CMSG_SPACE(12))

    _, _, to = struct.unpack("=i4s4s", notes[0][2])
    assert (data, socket.inet_ntoa(to)) == (b"question", "127.3.3.3")


def test_a_port_in_use_is_the_error_of_the_system(places: list[Address]) -> None:
    with (
        socket.create_server(("0.0.0.0", places[0].port)),
        pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)),
    ):
        make_socket(socket.SOCK_STREAM, places[0], is_reusing=True)
