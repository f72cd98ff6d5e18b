"""Real connections from an address of one's own, as Linux lets anybody choose one of loopback."""

import socket

import trio

from warren.addresses import Address
from warren.errors import LinkError
from warren.network.byte_streams import ByteStream, Listener, Network
from warren.network.sockets import SocketStream


class From(Network):
    """Be the network as somebody at `host` has it, who dials only."""

    def __init__(self, host: str) -> None:
        self._host = host

    async def dial(self, address: Address) -> ByteStream:
        try:
            return SocketStream(await connected(self._host, address))
        except OSError as error:
            raise LinkError(str(error)) from error

    def listen(self, address: Address) -> Listener:
        raise NotImplementedError


async def connected(host: str, address: Address) -> socket.socket:
    """Return a connection from `host` to `address`."""
    with trio.socket.socket() as sock:
        await sock.bind((host, 0))
        await sock.connect((address.host, address.port))
        return socket.socket(fileno=sock.detach())
