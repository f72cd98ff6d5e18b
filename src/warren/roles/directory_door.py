"""The door of a directory: how often each circuit and each address may ask it, and bring to it.

An answer is ready in memory, but it may be megabytes, and a descriptor has to be verified, kept
and looked after. Those who ask are told apart as those who link are (``addresses.host_of``).
Authorities of the network are not counted by address: they have much to say to each other. Who has
asked too much is told how long to wait, and nothing else is done for him (DIR-17).
"""

import math
from collections.abc import Callable

import structlog
import trio

from warren.addresses import host_of
from warren.directory.network_file import NetworkFile
from warren.errors import TooSoon
from warren.network.bucket import Buckets, SeldomLine
from warren.network.directory_http import Handler, Response
from warren.roles.passing_circuit import PassingCircuit

logger = structlog.get_logger()

DESCRIPTOR_PATH = "/descriptor"
REQUESTS_PER_CIRCUIT = 10
REQUESTS_PER_SECOND, REQUEST_BURST = 1, 20
#: Of one address in the time after which a relay may publish again.
UPLOADS = 10


class DirectoryDoor:
    """Own how often everybody has asked one directory of `network` lately; `now` is in seconds.

    Where relays may publish again at once, as in a lab, they may also be many at an address.
    """

    def __init__(self, network: NetworkFile, now: Callable[[], float] = trio.current_time) -> None:
        seconds = network.parameters.descriptor_upload_seconds
        self._authorities = {host_of(each.hop.address) for each in network.authorities}
        self._now = now
        self._requests = Buckets(REQUESTS_PER_SECOND, REQUEST_BURST)
        self._uploads = Buckets(UPLOADS / seconds, UPLOADS) if seconds else None
        self._line = SeldomLine()
        self.requests_turned_away = self.uploads_turned_away = 0

    def for_circuit(self, circuit: PassingCircuit, handler: Handler) -> Handler:
        """Return what answers requests over `circuit` as `handler` does, but not too many.

        What is too much raises TooSoon.
        """
        host = host_of(circuit.previous_link.remote)

        async def handle(method: str, path: str, body: bytes) -> Response:
            if circuit.directory_requests >= REQUESTS_PER_CIRCUIT:
                raise self._refusal("requests on one circuit", 1)
            circuit.directory_requests += 1
            if host and host not in self._authorities:
                self._admit(host, is_upload=method == "POST" and path == DESCRIPTOR_PATH)
            return await handler(method, path, body)

        return handle

    def _admit(self, host: str, *, is_upload: bool) -> None:
        now, uploads = self._now(), self._uploads
        if not self._requests.take(host, now):
            raise self._refusal("requests from one address", self._requests.wait(host, now))
        if is_upload and uploads is not None and not uploads.take(host, now):
            self.uploads_turned_away += 1
            raise self._refusal("descriptors from one address", uploads.wait(host, now))

    def _refusal(self, what: str, seconds: float) -> TooSoon:
        self.requests_turned_away += 1
        if self._line.is_due(self._now()):
            logger.warning(
                "somebody asks this directory too often and is told to wait",
                so_far=self.requests_turned_away,
            )
        return TooSoon(f"too many {what}: wait {math.ceil(seconds)} s", seconds)
