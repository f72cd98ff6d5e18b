"""Reception: one port for SOCKS and HTTP, told apart by the first byte a program says.

Whatever is said ends in something to act on: a request, a question to the proxy itself, or a
``Malformed`` with the last words that are owed for it.
"""

from dataclasses import dataclass

from warren.errors import ProtocolError
from warren.protocol import http_proxy, socks
from warren.protocol.exchange import Exchange, Peek
from warren.protocol.front import Login, WrongLogin
from warren.protocol.http_answers import malformed
from warren.protocol.http_proxy import ForeignRequest, HttpRequest, OwnRequest
from warren.protocol.socks import SocksRequest


@dataclass(frozen=True, slots=True)
class Malformed:
    """Hold what to say before the connection is closed (FE-3); None: not a word.

    ``is_login`` tells that only user and password were wrong.
    """

    answer: bytes | None
    is_login: bool = False


Asked = SocksRequest | HttpRequest | OwnRequest | Malformed


def receive_request(login: Login | None = None) -> Exchange[Asked]:
    """Read one request of either protocol, and nothing behind it; raise nothing.

    Where there is a `login` it is asked for, as ``socks.accept`` and ``http_proxy.accept`` do.
    """
    first = yield Peek(1)
    is_http = b"A" <= first <= b"Z"
    try:
        if is_http:
            return (yield from http_proxy.accept(login))
        return (yield from socks.accept(login))
    except ForeignRequest:
        return Malformed(None)
    except ProtocolError as error:
        answer = malformed(error) if is_http else b""
        return Malformed(answer, is_login=isinstance(error, WrongLogin))
