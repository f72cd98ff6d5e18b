"""What a resolver remembers, and what it is asking right now, for one kind of question.

Those who ask the same at the same time share one lookup; what was learned is kept for as long as
its finder says, the least recently used forgotten first. Who is asked, and what an answer means,
is decided in ``names``.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from warren.errors import ExitError, NotFound

T = TypeVar("T")

Turn = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(slots=True)
class _Lookup(Generic[T]):
    """Share one lookup; ``outcome`` stays None when the task that did it was cancelled."""

    done: trio.Event = field(default_factory=trio.Event)
    outcome: T | ExitError | None = None


class Lookups(Generic[T]):
    """Own what is known of at most `most` subjects, and the lookups that run; None: to nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[str, tuple[T | None, float]] = OrderedDict()
        self._running: dict[str, _Lookup[T]] = {}
        self.from_cache = 0

    def __len__(self) -> int:
        return len(self._known)

    def forget(self, count: int) -> None:
        """Forget so many subjects, the least recently used first."""
        for _ in range(min(count, len(self._known))):
            self._known.popitem(last=False)

    @property
    def running(self) -> int:
        """Return how many lookups are under way."""
        return len(self._running)

    def put(self, subject: str, answer: T | None, seconds: float) -> None:
        """Remember `answer`, or with None that there is none, for `seconds`."""
        self._known[subject] = (answer, trio.current_time() + seconds)
        self._known.move_to_end(subject)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    async def find(self, subject: str, turn: Turn, look_up: Callable[[], Awaitable[T]]) -> T:
        """Return what is known of `subject`, or what `look_up` finds once it has its `turn`.

        Raises NotFound when it is known that there is nothing, and the ExitErrors of `look_up`.
        """
        while True:
            if (known := self._recall(subject)) is not None:
                self.from_cache += 1
                if known[0] is None:
                    raise NotFound
                return known[0]
            if (other := self._running.get(subject)) is None:
                # Who still waits for a turn must not stand for others who ask for the same.
                async with turn():
                    if subject not in self._running and self._recall(subject) is None:
                        return await self._look_up_for_all(subject, look_up)
                continue
            await other.done.wait()
            outcome = other.outcome
            if isinstance(outcome, NotFound):
                raise NotFound
            if isinstance(outcome, ExitError):
                raise ExitError(outcome.reason, str(outcome))
            if outcome is not None:
                return outcome

    def _recall(self, subject: str) -> tuple[T | None] | None:
        """Return what is known of `subject`, in a tuple, or None."""
        if (entry := self._known.get(subject)) is None:
            return None
        answer, until = entry
        if trio.current_time() >= until:
            del self._known[subject]
            return None
        self._known.move_to_end(subject)
        return (answer,)

    async def _look_up_for_all(self, subject: str, look_up: Callable[[], Awaitable[T]]) -> T:
        lookup = self._running[subject] = _Lookup()
        try:
            lookup.outcome = answer = await look_up()
        except ExitError as error:
            lookup.outcome = error
            raise
        finally:
            del self._running[subject]
            lookup.done.set()
        return answer
