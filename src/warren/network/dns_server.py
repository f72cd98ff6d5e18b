"""A small authoritative DNS server: a fixed table of names, and of their addresses in reverse.

The network on one machine resolves its names here, and so do tests. An answer repeats the
question as it was written, case included, which is what the resolver in ``names`` checks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
import trio

from warren.addresses import Address, IPAddress, parse_ip
from warren.network.dns_port import DnsPort, bind_dns, serve_connection

TTL_SECONDS = 60
_MOST_UDP_BYTES = 512
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
        if question.rdtype == dns.rdatatype.PTR:
            texts = [f"{each}." for each in self._names_of(question.name)]
            exists = bool(texts)
        else:
            addresses = self.addresses_of(name)
            version = _VERSIONS.get(question.rdtype)
            texts = [str(ip) for ip in addresses or () if ip.version == version]
            exists = addresses is not None
        if not exists:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif texts:
            response.answer.append(
                dns.rrset.from_text_list(
                    question.name, TTL_SECONDS, dns.rdataclass.IN, question.rdtype, texts
                )
            )

    def _names_of(self, pointer: dns.name.Name) -> list[str]:
        """Return the names that have the address of which `pointer` is the name in reverse."""
        try:
            ip = parse_ip(dns.reversename.to_address(pointer))
        except dns.exception.DNSException:
            return []
        return [name for name, addresses in self._names.items() if ip in addresses]

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
        server = DnsPort(self._answer_query, bind_dns(host, port))
        task_status.started(server.local)
        await server.serve()

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Answer what comes over `stream`, which somebody else has accepted, and close it."""
        await serve_connection(self._answer_query, stream)

    async def _answer_query(self, query: bytes, is_datagram: bool) -> bytes | None:
        return self.answer(query, _MOST_UDP_BYTES if is_datagram else 0xFFFF)
