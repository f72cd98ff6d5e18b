"""The name server of the command's network: whatever it asks of whom, we answer.

Questions by UDP to port 53 of any address arrive at one socket, because every address is local,
and are answered from the address they went to. So a program that has a name server of its own
choice, or reads a resolv.conf that was replaced while it ran, asks us all the same.
"""

import errno
import socket
import struct

import trio

from warren.addresses import Address, IPAddress
from warren.network.dns_server import DnsServer
from warren.run import kernel
from warren.run.names import SyntheticNames
from warren.run.sockets import SocketMaker

PORT = 53
_MOST_QUESTION_BYTES = 4096
_MOST_ANSWER_BYTES = 512
_WHERE_4 = struct.Struct("=i4s4s")  # struct in_pktinfo: device, our address, the one sent to
_WHERE_6 = struct.Struct("=16si")  # struct in6_pktinfo


class Questions(DnsServer):
    """Answer questions about names with the addresses that `names` gives them."""

    def __init__(self, names: SyntheticNames) -> None:
        super().__init__({})
        self._synthetic = names

    def addresses_of(self, name: str) -> tuple[IPAddress, ...] | None:
        self.asked.clear()  # one of the names more would be one too many to remember
        return self._synthetic.addresses_of(name)

    async def serve_all(
        self,
        maker: SocketMaker,
        own: list[Address],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer until cancelled; questions by TCP only at the addresses `own`.

        Raises OSError when the sockets cannot be made, and has started once they are.
        """
        async with trio.open_nursery() as nursery:
            for address in own:
                everywhere = Address("::" if ":" in address.host else "0.0.0.0", PORT)
                nursery.start_soon(self._serve_datagrams, maker.datagrams(everywhere))
                stream = maker.listen(address, may_be_left=True)
                stream.setblocking(False)
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(stream))
                nursery.start_soon(trio.serve_listeners, self.serve_connection, [listener])
            task_status.started()

    async def _serve_datagrams(self, made: socket.socket) -> None:
        made.setblocking(False)
        level, kind, where = (
            (socket.IPPROTO_IP, kernel.IP_PKTINFO, _WHERE_4)
            if made.family == socket.AF_INET
            else (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _WHERE_6)
        )
        with trio.socket.from_stdlib_socket(made) as sock:
            while True:
                question, notes, _, asker = await sock.recvmsg(
                    _MOST_QUESTION_BYTES, socket.CMSG_SPACE(where.size)
                )
                answer = self.answer(question, _MOST_ANSWER_BYTES)
                if answer is None or not notes:
                    continue
                source = _sent_to(notes[0][2])
                try:
                    await sock.sendmsg([answer], [(level, kind, source)], 0, asker)
                except OSError as error:
                    if error.errno == errno.EBADF:
                        raise
                    # The asker has gone.


def _sent_to(note: bytes) -> bytes:
    """Return the note that sends an answer from where the question with `note` went."""
    if len(note) == _WHERE_6.size:
        address, _ = _WHERE_6.unpack(note)
        return _WHERE_6.pack(address, 0)
    _, _, address = _WHERE_4.unpack(note)
    return _WHERE_4.pack(0, address, bytes(4))
