"""Reception: one port for SOCKS and HTTP, told apart by the first byte a program says.

Whatever is said ends in something to act on: a request, a question to the proxy itself, or a
``Malformed`` with the last words that are owed for it.
"""

from dataclasses import dataclass

from warren.errors import ProtocolError
from warren.protocol import http_proxy, socks
from warren.protocol.exchange import Exchange, Peek
from warren.protocol.front import Login, WrongLogin
from warren.protocol.http_answers import BadRequest, malformed
from warren.protocol.http_head import ForeignRequest
from warren.protocol.http_proxy import HttpRequest, OwnRequest
from warren.protocol.socks import SocksRequest

_TLS_HANDSHAKE = b"\x16"  # RFC 8446 §5.1


@dataclass(frozen=True, slots=True)
class Malformed:
    """Hold what to say before the connection is closed (FE-3); None: not a word.

    ``is_login`` tells that only user and password were wrong, ``is_tls`` that a client spoke TLS.
    """

    answer: bytes | None
    is_login: bool = False
    is_tls: bool = False


Asked = SocksRequest | HttpRequest | OwnRequest | Malformed


def receive_request(login: Login | None = None) -> Exchange[Asked]:
    """Read one request of either protocol, and nothing behind it; raise nothing.

    Where there is a `login` it is asked for, as ``socks.accept`` and ``http_proxy.accept`` do.
    """
    first = yield Peek(1)
    # An empty line may come before a request (RFC 9112 §2.2), and a letter that begins no method
    # is a mistake that deserves words; all else is told nothing (FE-2).
    is_http = first == b"\r" or first.isalpha()
    try:
        if is_http:
            return (yield from http_proxy.accept(login))
        return (yield from socks.accept(login))
    except ForeignRequest:
        return Malformed(None)
    except ProtocolError as error:
        answer = malformed(error) if is_http else b""
        return Malformed(
            answer, is_login=isinstance(error, WrongLogin), is_tls=first == _TLS_HANDSHAKE
        )


def last_words(exchange: Exchange[Asked], status: int, details: str) -> bytes:
    """End an `exchange` that nothing more is read for; return what is said, over HTTP only.

    It is b"" for who said nothing yet, spoke SOCKS, or was answered already.
    """
    try:
        exchange.throw(BadRequest(details, status=status))
    except StopIteration as done:
        asked: Asked = done.value
        return (isinstance(asked, Malformed) and asked.answer) or b""
    except ProtocolError:
        pass
    return b""
