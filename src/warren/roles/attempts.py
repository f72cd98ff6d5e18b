"""Requests are tried again: on another circuit, and at another exit where that was the reason.

Up to five times in a minute, but only twice where exits gave the same kind of answer; what an exit
says that another would say too is the answer at once (security F). An exit that takes nothing more
because it ends soon has not answered, and is left alone by everybody. The first attempt is hasty:
it goes elsewhere once its circuit is in doubt (``circuit_watch``), the others have their time.
Streams, names and associations are all tried like this; what is asked of a circuit is the caller's.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import TypeVar

import trio

from warren.directory.exit_index import Target
from warren.errors import CircuitError, DirectoryError, EndReason, ExitError, NoConsensus
from warren.identity import PeerId
from warren.roles.circuit_keeper import CircuitKeeper
from warren.roles.mirror import Directory
from warren.roles.pool import Slot

T = TypeVar("T")

REQUEST_SECONDS = 60.0
MOST_ATTEMPTS = 5
#: Attempts where the exit gave the same kind of answer: another one may know better, once.
MOST_REFUSALS = 2
#: Before an exit that refused is asked again because there is no other.
ASK_AGAIN_SECONDS = 0.5


class Attempts:
    """Own the count of requests that were tried again."""

    def __init__(self, circuits: CircuitKeeper, directory: Directory) -> None:
        self._circuits = circuits
        self._directory = directory
        self.retried = 0

    async def run(
        self,
        isolation: Hashable,
        target: Target | None,
        use: Callable[[Slot, bool], Awaitable[T]],
        elsewhere: Collection[EndReason],
        first: Slot | None = None,
    ) -> T:
        """Return what `use` makes of a circuit to `target`, or of another one where that failed.

        `use` is told whether to be hasty. The `first` circuit may be chosen already. After one of
        the reasons `elsewhere` the exit is another one. Waits for circuits 60 s at most, and for
        `use`. Raises ExitError with the exit's reason, CircuitError or DirectoryError.
        """
        failure: Exception = CircuitError("no circuit reached the target in time")
        avoid: set[PeerId] = set()
        refusals = 0
        end = trio.current_time() + REQUEST_SECONDS
        for attempt in range(MOST_ATTEMPTS):
            slot, first = first, None
            try:
                if slot is None:
                    slot = self._circuits.pick(isolation, target, avoid)
                if slot is None:
                    with trio.fail_at(end):
                        slot = await self._circuits.slot_for(isolation, target, avoid)
                return await use(slot, attempt == 0)
            except DirectoryError:
                if not avoid:
                    raise
                avoid.clear()  # a small network has no other exit: ask the same again
                await trio.sleep(ASK_AGAIN_SECONDS)
                continue
            except ExitError as error:
                failure = error
                if error.reason is not EndReason.DESTROY:
                    if error.reason not in elsewhere:
                        raise
                    assert slot is not None
                    if self._circuits.not_served(isolation, slot):
                        avoid.add(slot.exit_id)
                    if error.reason is EndReason.HIBERNATING:
                        self._circuits.leave(slot.exit_id)
                    else:
                        refusals += 1
            except (CircuitError, trio.TooSlowError) as error:
                failure = error
                if isinstance(error, trio.TooSlowError) and slot is not None:
                    if self._circuits.not_served(isolation, slot):
                        avoid.add(slot.exit_id)
                    else:
                        slot.retire()  # to the same exit by another way
            self.retried += 1
            if refusals >= MOST_REFUSALS or trio.current_time() >= end:
                break
        if self._directory.current is None and not isinstance(failure, ExitError):
            raise NoConsensus(self._directory.clock_trouble) from failure
        if isinstance(failure, trio.TooSlowError):
            raise ExitError(EndReason.TIMEOUT) from failure
        raise failure
