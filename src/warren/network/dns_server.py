"""A small authoritative DNS server: a fixed table of names, by UDP and TCP.

The network on one machine resolves its names here, and so do tests. An answer repeats the
question as it was written, case included, which is what the resolver in ``names`` checks.
"""

import socket
from collections import Counter
from collections.abc import Mapping, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import structlog
import trio

from warren.addresses import Address, IPAddress

logger = structlog.get_logger()

TTL_SECONDS = 60
_MOST_UDP_BYTES = 512
_TCP_IDLE_SECONDS = 10.0
_PORT_ATTEMPTS = 20
_VERSIONS = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}


class DnsServer:
    """Answer for `names`, which maps lower-case names to their addresses.

    ``asked`` counts the questions by name and type, ``("site.example", "A")``.
    """

    def __init__(self, names: Mapping[str, Sequence[IPAddress]]) -> None:
        self._names = names
        self.asked: Counter[tuple[str, str]] = Counter()

    def addresses_of(self, name: str) -> Sequence[IPAddress] | None:
        """Return the addresses of lower-case `name`, or None when there is no such name.

        A server whose answers change overrides this.
        """
        return self._names.get(name)

    def answer(self, query: bytes, most_bytes: int = 0xFFFF) -> bytes | None:
        """Return the answer to `query`, cut to `most_bytes`, or None when it is none."""
        try:
            question = dns.message.from_wire(query)
            response = dns.message.make_response(question, recursion_available=True)
        except (dns.exception.DNSException, ValueError):
            return None
        response.flags |= dns.flags.AA
        if question.opcode() != 0 or len(question.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
        else:
            self._fill(response, question.question[0])
        try:
            return response.to_wire(max_size=most_bytes)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def _fill(self, response: dns.message.Message, question: dns.rrset.RRset) -> None:
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked[name, dns.rdatatype.to_text(question.rdtype)] += 1
        addresses = self.addresses_of(name)
        if addresses is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return
        version = _VERSIONS.get(question.rdtype)
        texts = [str(ip) for ip in addresses if ip.version == version]
        if texts:
            response.answer.append(
                dns.rrset.from_text_list(
                    question.name, TTL_SECONDS, dns.rdataclass.IN, question.rdtype, texts
                )
            )

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve at the literal `host` until cancelled; report the address once bound.

        With `port` 0 it is a free one. Raises OSError when it cannot be bound.
        """
        datagrams, connections = await _bind(host, port)
        with datagrams, connections:
            bound = Address(host, datagrams.getsockname()[1])
            async with trio.open_nursery() as nursery:
                listener = trio.SocketListener(connections)
                nursery.start_soon(self._serve_udp, datagrams)
                nursery.start_soon(trio.serve_listeners, self._serve_tcp, [listener])
                task_status.started(bound)

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            try:
                query, asker = await sock.recvfrom(_MOST_UDP_BYTES)
                if (data := self.answer(query, _MOST_UDP_BYTES)) is not None:
                    await sock.sendto(data, asker)
            except OSError as error:  # the asker has gone, or its port is closed
                logger.debug("a DNS answer was not sent", why=str(error))

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        buffer = b""
        with trio.move_on_after(_TCP_IDLE_SECONDS):
            try:
                while data := await stream.receive_some(4096):
                    buffer += data
                    while len(buffer) >= 2 and len(buffer) >= (
                        end := 2 + int.from_bytes(buffer[:2], "big")
                    ):
                        query, buffer = buffer[2:end], buffer[end:]
                        if (response := self.answer(query)) is None:
                            return
                        await stream.send_all(len(response).to_bytes(2, "big") + response)
            except trio.BrokenResourceError as error:
                logger.debug("a DNS connection broke", why=str(error))


async def _bind(host: str, port: int) -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Bind UDP and TCP to one port; a free one may be free for one of them only."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempt in range(_PORT_ATTEMPTS):
        datagrams = trio.socket.socket(family, socket.SOCK_DGRAM)
        connections = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            connections.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await datagrams.bind((host, port))
            await connections.bind((host, datagrams.getsockname()[1]))
            connections.listen(64)
        except OSError:
            datagrams.close()
            connections.close()
            if port != 0 or attempt + 1 == _PORT_ATTEMPTS:
                raise
        else:
            return datagrams, connections
    raise AssertionError("the loop returns or raises")
