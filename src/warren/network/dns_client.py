"""One question to one DNS server: sent, and its answer taken only when it must be the server's.

The socket is connected, so the kernel drops what comes from elsewhere; an answer must carry the
random number and repeat the question to the letter, in its random case (EXT-13). Anything else
that arrives is waited past, not believed, and not an error either. From the answer section only
the chain that begins at the name asked for is read. Without EDNS a datagram has at most 512
bytes, which every server can do; what does not fit is asked for again by TCP.

Messages are ``dnspython``'s; who asks whom, how often and how long, is in ``names``.
"""

import socket
from dataclasses import dataclass
from typing import Protocol

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

from warren.addresses import Address, IPAddress

MOST_ANSWER_BYTES = 4096
MOST_ALIASES = 8
#: A datagram may get lost: the same question goes out again after this time.
RESEND_SECONDS = 1.5

_HEADER = 12
_TRUNCATED = 0x02


class Unusable(Exception):
    """Tell that a server gave no usable answer; another one may."""


class Chance(Protocol):
    """Give random numbers, as ``random.Random`` does."""

    def getrandbits(self, bits: int, /) -> int:
        """Return a number of `bits` random bits."""

    def uniform(self, low: float, high: float, /) -> float:
        """Return a number between `low` and `high`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold what a server said: the records' values as text, and for how many seconds.

    ``exists`` is false when there is no such name; a name without such records has no values.
    """

    values: tuple[str, ...]
    ttl: int
    exists: bool


async def ask(server: Address, name: str, rdtype: str, rng: Chance) -> Reply:
    """Return what `server` says of `name`; `rdtype` is A, AAAA or PTR.

    Waits as long as the server takes: the caller sets a deadline. Raises Unusable.
    """
    query = _make_query(name, rdtype, rng)
    try:
        data = await _ask_by_udp(server, query)
        if data[2] & _TRUNCATED:
            data = await _ask_by_tcp(server, query)
    except (OSError, trio.BrokenResourceError) as error:
        raise Unusable(f"{server} cannot be asked: {error}") from error
    return read_answer(data)


def pointer_name(ip: IPAddress) -> str:
    """Return the name whose PTR record is the name of `ip`."""
    return dns.reversename.from_address(str(ip)).to_text(omit_final_dot=True)


def warm_up() -> None:
    """Load what dnspython loads when it first meets a kind of record, not amid a request."""
    query = dns.message.make_query("warren.example", "A")
    message = dns.message.make_response(query)
    for rdtype, text in {
        "A": "192.0.2.1",
        "AAAA": "2001:db8::1",
        "CNAME": "a.",
        "PTR": "a.",
    }.items():
        message.answer.append(dns.rrset.from_text("warren.example.", 1, "IN", rdtype, text))
    dns.message.from_wire(message.to_wire())


def _make_query(name: str, rdtype: str, rng: Chance) -> bytes:
    """Return a query for `name` in random case; its question ends where it ends."""
    bits = rng.getrandbits(len(name))
    mixed = (c.upper() if bits >> i & 1 else c for i, c in enumerate(name))
    try:
        labels = "".join(mixed).encode("ascii").split(b".")
        query = dns.message.make_query(
            dns.name.Name((*labels, b"")), rdtype, id=rng.getrandbits(16)
        )
    except (UnicodeError, dns.exception.DNSException) as error:
        raise Unusable(f"{name[:64]!r} is no name that can be asked for") from error
    return query.to_wire()


def _answers(data: bytes, query: bytes) -> bool:
    """Tell whether `data` is an answer to `query`, by number, kind and exact question."""
    return (
        len(query) <= len(data) <= MOST_ANSWER_BYTES
        and data[:2] == query[:2]
        and data[2] & 0xF8 == 0x80  # an answer, to a standard query
        and data[4:6] == query[4:6]
        and data[_HEADER : len(query)] == query[_HEADER:]
    )


def _family(server: Address) -> socket.AddressFamily:
    assert server.ip is not None, "servers are IP addresses"
    return socket.AF_INET if server.ip.version == 4 else socket.AF_INET6


async def _ask_by_udp(server: Address, query: bytes) -> bytes:
    with trio.socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        await sock.connect((server.host, server.port))
        while True:
            await sock.send(query)
            with trio.move_on_after(RESEND_SECONDS):
                while True:
                    data = await sock.recv(MOST_ANSWER_BYTES + 1)
                    if _answers(data, query):
                        return data


async def _ask_by_tcp(server: Address, query: bytes) -> bytes:
    with trio.socket.socket(_family(server), socket.SOCK_STREAM) as sock:
        await sock.connect((server.host, server.port))
        stream = trio.SocketStream(sock)
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await _receive(stream, 2), "big")
        if length > MOST_ANSWER_BYTES:
            raise Unusable(f"an answer of {length} bytes, expected at most {MOST_ANSWER_BYTES}")
        data = await _receive(stream, length)
    if not _answers(data, query):
        raise Unusable("an answer by TCP to another question")
    return data


async def _receive(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise Unusable("the server closed in the middle of its answer")
        data += more
    return data


def read_answer(data: bytes) -> Reply:
    """Read an answer whose question was checked; raise Unusable when it says nothing."""
    try:
        message = dns.message.from_wire(data)
        if not isinstance(message, dns.message.QueryMessage):
            raise Unusable("an answer that is none to a query")
        if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise Unusable(f"the server answered {dns.rcode.to_text(message.rcode())}")
        chain = message.resolve_chaining()
    except (dns.exception.DNSException, ValueError) as error:
        raise Unusable(f"an answer that cannot be read: {error}") from error
    if len(chain.cnames) > MOST_ALIASES:
        raise Unusable(f"a chain of {len(chain.cnames)} aliases, expected at most {MOST_ALIASES}")
    values = tuple(record.to_text() for record in chain.answer or ())
    exists = message.rcode() != dns.rcode.NXDOMAIN
    return Reply(tuple(value.removesuffix(".") for value in values), chain.minimum_ttl, exists)
