"""What holds for all streams of one listener: who may use it, what they get, what stays apart.

One listener may be for Germany, another for a program that shares nothing (conventions D0 and D3).
What a request says for itself goes before what its listener says.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from warren.network.byte_streams import ByteStream
from warren.protocol.choice import ANYTHING, Choice
from warren.protocol.front import Isolation, Login
from warren.protocol.http_proxy import HttpRequest
from warren.protocol.socks import SocksRequest

Request = SocksRequest | HttpRequest


def _protocol(_: ByteStream, request: Request) -> Hashable:
    if isinstance(request, SocksRequest):
        return request.version
    return request.is_tunnel


#: What a listener can keep apart, by its name in the configuration. The names of Tor are
#: IsolateClientAddr, IsolateClientProtocol, IsolateDestAddr and IsolateDestPort.
KEPT_APART: dict[str, Callable[[ByteStream, Request], Hashable]] = {
    "client_address": lambda stream, _: stream.remote.host,
    "protocol": _protocol,
    "destination_host": lambda _, request: request.address.host,
    "destination_port": lambda _, request: request.address.port,
}


@dataclass(frozen=True, slots=True)
class ListenerRules:
    """Hold the rules of one listener.

    With a ``login`` nobody gets in without it. ``isolate`` are keys of ``KEPT_APART``; listener
    and credentials always keep apart. With ``safe_socks`` a request is refused whose name the
    program has resolved itself (FE-9). With ``early_reply`` a SOCKS program is told that it is
    connected before it is, where a circuit is ready.
    """

    login: Login | None = None
    choice: Choice = ANYTHING
    isolate: tuple[str, ...] = ("client_address",)
    safe_socks: bool = False
    early_reply: bool = False

    @property
    def keeps_targets_apart(self) -> bool:
        """Tell whether streams to different targets never share a circuit."""
        return not {"destination_host", "destination_port"}.isdisjoint(self.isolate)

    def isolation_of(self, listener: str, stream: ByteStream, request: Request) -> Isolation:
        """Return the isolation of `request`, which came to `listener` over `stream`."""
        apart = tuple([KEPT_APART[name](stream, request) for name in self.isolate])
        credentials = request.credentials
        return Isolation(listener, credentials, apart, self.choice.refined_by(credentials.choice))


#: A listener that nothing is configured for.
PLAIN = ListenerRules()
