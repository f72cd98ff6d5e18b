"""Readiness: sockets that are served the moment something is there, without a task for each.

Trio's way to wait for a socket is a task that is scheduled, and a system call to ask again each
time. For a cell that passes a relay that costs more than the cell. Here a socket is registered
once, and what serves it is called whenever it is ready, from the place where trio's loop would go
to sleep: trio's own descriptors are among those waited for, so its tasks wait no longer than
before, and they go first whenever there are any.

Two of trio's hooks are that place. ``LoopClock`` is asked how long to sleep, can serve sockets
meanwhile and then say "not at all"; without it, as in tests with a clock of their own, the
instrument does the same, and has to wake trio when there is something for it.
"""

import select
import time
from collections.abc import Callable

import structlog
import trio
import trio._core._run as trio_loop

logger = structlog.get_logger()

Act = Callable[[], None]

_IN, _OUT = 1, 4  # EPOLLIN and EPOLLOUT; anything else that is reported means trouble, for both
_MOST_EVENTS = 256
_LONGEST_SECONDS = 3600.0

_here = trio.lowlevel.RunVar["Readiness"]("warren readiness")


def here() -> "Readiness":
    """Return the one of this trio run."""
    try:
        return _here.get()
    except LookupError:
        readiness = Readiness(_descriptor_of_trio())
        _here.set(readiness)
        trio.lowlevel.add_instrument(readiness)
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, LoopClock):
            clock.readiness = readiness
        return readiness


def _descriptor_of_trio() -> int | None:
    """Return the descriptor of the epoll that trio sleeps on, which has no public name.

    None where trio sleeps on something else; sockets are then left to tasks.
    """
    epoll = getattr(trio_loop.GLOBAL_RUN_CONTEXT.runner.io_manager, "_epoll", None)
    return None if epoll is None else int(epoll.fileno())


class Readiness(trio.abc.Instrument):
    """Own who serves which socket, and what is to be done before the loop sleeps again.

    What it calls must be quick, must not wait, and should not raise; it runs outside of any task,
    but may set events, cancel scopes and start tasks.
    """

    def __init__(self, trio_descriptor: int | None) -> None:
        """Take the descriptor that trio sleeps on; without it nothing can be served here."""
        self._trio_descriptor = trio_descriptor
        self.is_working = trio_descriptor is not None
        self._readers: dict[int, Act] = {}
        self._writers: dict[int, Act] = {}
        self._soon: list[Act] = []
        self._has_served = False
        self._trio_is_due = False
        self._token = trio.lowlevel.current_trio_token()
        if trio_descriptor is not None:
            self._epoll = select.epoll()
            self._epoll.register(trio_descriptor, _IN)
            self._poll = self._epoll.poll

    # ---- who serves what

    def read_with(self, descriptor: int, act: Act) -> None:
        """Call `act` whenever the socket has something to read, its end or an error."""
        is_new = descriptor not in self._readers
        self._readers[descriptor] = act
        if is_new:
            self._register(descriptor, descriptor in self._writers)

    def write_with(self, descriptor: int, act: Act) -> None:
        """Call `act` once, when the socket takes bytes again or is broken."""
        is_new = descriptor not in self._writers
        self._writers[descriptor] = act
        if is_new:
            self._register(descriptor, descriptor in self._readers)

    def stop_reading(self, descriptor: int) -> None:
        """Do not call what reads the socket any more."""
        if self._readers.pop(descriptor, None) is not None:
            self._unregister(descriptor)

    def forget(self, descriptor: int) -> None:
        """Call nobody any more; before the socket is closed, or another may get its number."""
        reads = self._readers.pop(descriptor, None) is not None
        writes = self._writers.pop(descriptor, None) is not None
        if reads or writes:
            self._epoll.unregister(descriptor)

    def soon(self, act: Act) -> None:
        """Call `act` when the tasks and sockets of this round have had their say."""
        self._soon.append(act)

    def _register(self, descriptor: int, is_known: bool) -> None:
        if is_known:
            self._epoll.modify(descriptor, _IN | _OUT)
        else:
            self._epoll.register(descriptor, _IN if descriptor in self._readers else _OUT)

    def _unregister(self, descriptor: int) -> None:
        """Wait for what is still wanted. For nothing at all would still mean for trouble."""
        if descriptor in self._readers:
            self._epoll.modify(descriptor, _IN)
        elif descriptor in self._writers:
            self._epoll.modify(descriptor, _OUT)
        else:
            self._epoll.unregister(descriptor)

    # ---- trio's hooks

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Note that trio has something to do."""
        self._trio_is_due = True

    def before_io_wait(self, timeout: float) -> None:
        """Serve the sockets where the clock has not, or where tasks leave no time to sleep."""
        if self._has_served:
            self._has_served = False
        elif timeout <= 0:
            self.act_soon()
            if self._readers or self._writers:
                self._dispatch(self._poll(0, _MOST_EVENTS))
        elif not self.serve(timeout) and not self._is_idle_awaited:
            self._token.run_sync_soon(nothing, idempotent=True)
        self._has_served = False

    @property
    def _is_idle_awaited(self) -> bool:
        """Tell whether `wait_all_tasks_blocked` waits and nothing is due: waking would be a task.

        Trio then sleeps once more, for the moment that it was given.
        """
        return not self._trio_is_due and bool(trio_loop.GLOBAL_RUN_CONTEXT.runner.waiting_for_idle)

    def serve(self, seconds: float) -> float:
        """Serve sockets until trio has something to do; return how long it may still sleep.

        That is 0 when trio was woken or `seconds` are over.
        """
        self._has_served = True
        self._trio_is_due = False
        self.act_soon()
        if not (self._readers or self._writers):
            return 0.0 if self._trio_is_due else seconds
        end = time.perf_counter() + seconds
        while not self._trio_is_due and seconds > 0:
            if self._dispatch(self._poll(min(seconds, _LONGEST_SECONDS), _MOST_EVENTS)):
                break
            seconds = end - time.perf_counter()
        return 0.0

    def _dispatch(self, events: list[tuple[int, int]]) -> bool:
        """Call those whose sockets are ready; return whether trio's own is among them."""
        is_trio_woken = False
        for descriptor, happened in events:
            if descriptor == self._trio_descriptor:
                is_trio_woken = True
                continue
            if happened != _OUT:
                guarded(self._readers.get(descriptor, nothing))
            if happened != _IN and descriptor in self._writers:
                act = self._writers.pop(descriptor)
                self._unregister(descriptor)
                guarded(act)
        self.act_soon()
        return is_trio_woken

    def act_soon(self) -> None:
        """Do what was to be done soon, and what that makes to be done soon."""
        while self._soon:
            acts, self._soon = self._soon, []
            for act in acts:
                guarded(act)


def nothing() -> None:
    """Be the act of somebody who has none any more."""
    return


def guarded(act: Act) -> None:
    """Call `act`; what it raises would end the loop or a task, and the node with it (DOS-1)."""
    try:
        act()
    except Exception:
        logger.exception("a bug while serving a socket")


class LoopClock(trio.abc.Clock):
    """Be the clock that trio has by default, and serve the sockets while it would sleep."""

    def __init__(self) -> None:
        self.readiness: Readiness | None = None

    def start_clock(self) -> None:
        """Do nothing: the system's clock runs."""

    def current_time(self) -> float:
        """Return seconds since some time in the past."""
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to sleep until `deadline`; 0 when trio has something to do."""
        seconds = deadline - time.perf_counter()
        if self.readiness is None or seconds <= 0:
            return seconds
        return self.readiness.serve(seconds)
