"""How an exit connects: one target, or two that race, in time, with the reason where it fails."""

import errno
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from warren.addresses import Address
from warren.errors import EndReason, ExitError, LinkError
from warren.network.byte_streams import ByteStream, Dialling, Network

#: Addresses of one name that are tried (EXT-10).
MOST_ATTEMPTS = 2
#: Head start of the first attempt before the second begins (RFC 8305 §8).
ATTEMPT_DELAY_SECONDS = 0.25


class Dialler:
    """Connect to targets that were checked, within `seconds` each time."""

    def __init__(self, network: Network, seconds: float) -> None:
        self._network = network
        self._seconds = seconds

    def begin(self, target: Address) -> Dialling:
        """Begin to connect; raise ExitError when that is impossible."""
        try:
            return self._network.begin_dial(target)
        except LinkError as error:
            raise ExitError(_reason_of(error), str(error)) from error

    async def finish(self, dialling: Dialling) -> ByteStream:
        """Wait for a connection that was begun; raise ExitError when it fails or is late."""
        return await self._in_time(dialling.wait)

    async def connect(self, targets: list[Address]) -> ByteStream:
        """Connect to the first of two targets that answers; they race with a head start."""
        if len(targets) == 1:
            return await self.finish(self.begin(targets[0]))
        return await self._in_time(partial(self._race, targets))

    async def _in_time(self, connect: Callable[[], Awaitable[ByteStream]]) -> ByteStream:
        """Return the connection that `connect` gives; raise ExitError when it fails or is late."""
        scope = trio.CancelScope(deadline=trio.current_time() + self._seconds)
        try:
            with scope:
                connection = await connect()
        except LinkError as error:
            raise ExitError(_reason_of(error), str(error)) from error
        if scope.cancelled_caught:
            raise ExitError(EndReason.TIMEOUT)
        return checked(connection)

    async def _race(self, targets: list[Address]) -> ByteStream:
        won: list[ByteStream] = []
        failures: list[LinkError] = []
        failed = trio.Event()

        async def attempt(target: Address, nursery: trio.Nursery) -> None:
            try:
                connection = await self._network.dial(target)
            except LinkError as error:
                failures.append(error)
                failed.set()
                return
            if won:
                connection.close()
            else:
                won.append(connection)
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, targets[0], nursery)
                with trio.move_on_after(ATTEMPT_DELAY_SECONDS):
                    await failed.wait()
                nursery.start_soon(attempt, targets[1], nursery)
        except BaseException:  # too late, by as little as it may be
            for connection in won:
                connection.close()
            raise
        if not won:
            raise failures[0]
        return won[0]


def checked(connection: ByteStream) -> ByteStream:
    """Return `connection`, unless it is one to itself (EXT-4)."""
    if connection.is_to_itself:
        connection.reset()
        raise ExitError(EndReason.EXIT_POLICY, "a connection to itself")
    return connection


def _reason_of(error: LinkError) -> EndReason:
    """Translate why a connection failed, once, at the edge."""
    cause = error.__cause__
    code = cause.errno if isinstance(cause, OSError) else None
    return _REASONS.get(code, EndReason.NO_ROUTE)


_REASONS: dict[int | None, EndReason] = {
    errno.ECONNREFUSED: EndReason.CONNECT_REFUSED,
    errno.ECONNRESET: EndReason.CONNECTION_RESET,
    errno.ETIMEDOUT: EndReason.TIMEOUT,
    errno.EHOSTUNREACH: EndReason.NO_ROUTE,
    errno.ENETUNREACH: EndReason.NO_ROUTE,
    errno.EMFILE: EndReason.RESOURCE_LIMIT,
    errno.ENFILE: EndReason.RESOURCE_LIMIT,
}
