"""What programs ask at a local DNS port, and the bytes of its answers.

Only three kinds of records can be found out through an exit: A, AAAA and PTR. A question for
anything else gets an answer without records, because resolvers go on from there, while NOTIMP
makes some of them give the whole server up. What is no question at all is refused with its code;
what might be an answer, or is shorter than a header, is met with silence, so that nobody can make
two servers talk to each other.

Messages are ``dnspython``'s (RFC 1035, RFC 6891); it sees only what the header lets expect.
"""

from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from warren.addresses import Address
from warren.errors import refuse

#: The longest query that is read; a name has 255 bytes at most.
MOST_QUERY_BYTES = 4096
#: Bytes of a datagram that everybody can take, and that cross every network whole (RFC 9715).
LEAST_DATAGRAM, MOST_DATAGRAM = 512, 1232
MOST_STREAM = 0xFFFF

_HEADER_LENGTH = 12
_MOST_ADDITIONAL = 2  # EDNS, and a signature that is not checked
_FAMILIES = {
    dns.rdatatype.A: frozenset((4,)),
    dns.rdatatype.AAAA: frozenset((6,)),
    dns.rdatatype.ANY: frozenset((4, 6)),  # RFC 8482 lets us choose
}
_TYPES = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}
_TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
_ARPA = tuple(map(dns.name.from_text, ("in-addr.arpa.", "ip6.arpa.")))


class DnsQuery:
    """Hold one question, and make its answer.

    ``subject`` is what an exit must be asked for, at port 0: the name or, for PTR, the address.
    None means that there is nothing to find out, and `refusal` says what to answer then.
    """

    __slots__ = ("_limit", "_query", "refusal", "subject")

    def __init__(self, query: dns.message.Message, *, is_datagram: bool) -> None:
        self._query = query
        self._limit = MOST_STREAM
        if is_datagram:
            self._limit = min(max(query.payload, LEAST_DATAGRAM), MOST_DATAGRAM)
        self.refusal = _objection(query)
        self.subject = None if self.refusal is not None else _subject_of(query)
        if self.refusal is None and self.subject is None:
            self.refusal = dns.rcode.NOERROR

    def answer(self, addresses: Sequence[Address], ttl: int) -> bytes:
        """Return the answer with those of `addresses` that were asked for; a PTR has one name.

        What does not fit is left out, and the answer says so: it is asked for again by TCP.
        """
        question = self._query.question[0]
        wanted = _families_of(question)
        texts: dict[dns.rdatatype.RdataType, list[str]] = {}
        for address in addresses:
            if address.ip is None:
                texts.setdefault(dns.rdatatype.PTR, []).append(f"{address.host}.")
            elif address.ip.version in wanted:
                texts.setdefault(_TYPES[address.ip.version], []).append(address.host)
        response = self._response(dns.rcode.NOERROR)
        response.answer += [
            dns.rrset.from_text_list(question.name, ttl, dns.rdataclass.IN, rdtype, values)
            for rdtype, values in texts.items()
        ]
        return self._to_wire(response)

    def refuse(self, rcode: dns.rcode.Rcode) -> bytes:
        """Return the answer that has no records and says `rcode`."""
        return self._to_wire(self._response(rcode))

    def _response(self, rcode: dns.rcode.Rcode) -> dns.message.Message:
        response = dns.message.make_response(
            self._query, recursion_available=True, our_payload=MOST_DATAGRAM
        )
        response.set_rcode(rcode)
        return response

    def _to_wire(self, response: dns.message.Message) -> bytes:
        try:
            return response.to_wire(max_size=self._limit)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()


def read_query(data: bytes, *, is_datagram: bool) -> DnsQuery | bytes:
    """Read a query, or return the answer to one that cannot be read.

    Raises ProtocolError when there may be no answer.
    """
    if len(data) < _HEADER_LENGTH:
        refuse(f"a DNS message of {len(data)} bytes, expected at least {_HEADER_LENGTH}")
    if data[2] & 0x80:
        refuse("a DNS answer where a query is due")
    if dns.opcode.Opcode.make(data[2] >> 3 & 15) != dns.opcode.QUERY:
        return _bare_answer(data, dns.rcode.NOTIMP)
    counts = [int.from_bytes(data[at : at + 2], "big") for at in (4, 6, 8, 10)]
    is_usual = counts[:3] == [1, 0, 0] and counts[3] <= _MOST_ADDITIONAL
    if not is_usual or len(data) > MOST_QUERY_BYTES:
        return _bare_answer(data, dns.rcode.FORMERR)
    try:
        return DnsQuery(dns.message.from_wire(data), is_datagram=is_datagram)
    except (dns.exception.DNSException, ValueError):
        return _bare_answer(data, dns.rcode.FORMERR)


def _bare_answer(query: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return a header alone: the number, opcode and wish for recursion of `query`, and `rcode`."""
    return query[:2] + bytes((0x80 | query[2] & 0x79, 0x80 | rcode)) + bytes(8)


def _objection(query: dns.message.Message) -> dns.rcode.Rcode | None:
    question = query.question[0]
    if query.edns > 0:
        return dns.rcode.BADVERS
    if question.rdclass != dns.rdataclass.IN or question.rdtype in _TRANSFERS:
        return dns.rcode.REFUSED
    if _families_of(question) and _address_of(question.name) is None:
        return dns.rcode.NXDOMAIN  # no host has such a name
    return None


def _families_of(question: dns.rrset.RRset) -> frozenset[int]:
    return _FAMILIES.get(question.rdtype, frozenset())


def _subject_of(query: dns.message.Message) -> Address | None:
    question = query.question[0]
    if _families_of(question):
        return _address_of(question.name)
    if question.rdtype != dns.rdatatype.PTR or not any(map(question.name.is_subdomain, _ARPA)):
        return None
    try:
        return Address(dns.reversename.to_address(question.name), 0)
    except (dns.exception.DNSException, ValueError):
        return None  # a part of an address


def _address_of(name: dns.name.Name) -> Address | None:
    """Return `name` as an address without a port, or None when no host can have it."""
    try:
        address = Address(name.to_text(omit_final_dot=True), 0)
    except ValueError:
        return None
    return address if address.ip is None else None
