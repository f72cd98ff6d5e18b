"""The life of a process: how it logs, starts, says that it is ready, and ends.

Every role runs inside ``run_process``. The first SIGINT, SIGTERM or SIGHUP cancels it, after what
it may have to do before that (``Announcer.before_end``); a second one ends it at once. A process
can be told to live only while a pipe is open (``--while-open``), so that it never outlives whoever
started it, however that one died, and to write down when it is ready and at which addresses
(``--ready-fd``).
"""

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import structlog
import trio

from warren import outset
from warren.addresses import Address
from warren.errors import ConfigError, WarrenError
from warren.identity import PeerId
from warren.network.readiness import LoopClock
from warren.repetitions import Repetitions

log = structlog.get_logger()

FAILED, MISUSED = 1, 2
#: With fewer open files than this a process starts hardly, and carries nothing.
FEWEST_FILES = 64
#: New objects after which Python looks for cycles among them; some megabytes.
_NEW_OBJECTS = 20_000
#: A process whose pipe was closed gets this long to end in good order.
ORPHAN_SECONDS = 4


@dataclass(frozen=True)
class LogStyle:
    """Say how much is logged, and whether as JSON."""

    level: str = "info"
    json: bool = False


class Announcer:
    """Tell whoever started this process how far it is, one JSON line per event.

    The lines go to the file descriptor of ``--ready-fd``; without one nobody is told.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        #: What the process does between the signal to end and its end; it says how long at most.
        self.before_end: Callable[[], Awaitable[None]] | None = None

    def listening(self, addresses: Sequence[Address], peer_id: PeerId | None = None) -> None:
        """Tell that the process listens, where, and who it is."""
        self._tell("listening", addresses=[str(a) for a in addresses], id=_text(peer_id))

    def usable(self) -> None:
        """Tell that the process can do its work: a proxy has its first circuit, for one."""
        self._tell("usable")

    def _tell(self, event: str, **fields: Any) -> None:
        log.info(event, **{name: value for name, value in fields.items() if value is not None})
        if self._descriptor is None:
            return
        line = json.dumps({"event": event, "pid": os.getpid(), **fields}) + "\n"
        try:
            os.write(self._descriptor, line.encode())
        except OSError:  # nobody listens any more, which is no business of ours
            self._descriptor = None


Main = Callable[[Announcer], Awaitable[None]]


def run_process(
    main: Main,
    *,
    style: LogStyle | None = None,
    while_open: int | None = None,
    ready_fd: int | None = None,
) -> int:
    """Run `main` until it returns or the process is told to end; return the exit code.

    Errors that a user can do something about are one line on standard error: the code is 2 for
    a ConfigError and 1 for the others.
    """
    outset.take_standard_numbers()
    outset.guard_standard_error()
    with reporting_errors() as outcome:
        for name, descriptor in (("--while-open", while_open), ("--ready-fd", ready_fd)):
            _claim(name, descriptor)
        set_up_logging(style or LogStyle())
        _check_limit(raise_limits())
        collect_garbage_rarely()
        trio.run(
            _live,
            main,
            while_open,
            Announcer(ready_fd),
            clock=LoopClock(),
            strict_exception_groups=True,
        )
    return outcome.code


async def _live(main: Main, while_open: int | None, announcer: Announcer) -> None:
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope
        told = trio.Event()
        with _noting_signals(told):
            nursery.start_soon(_end_in_good_order, told, announcer, scope)
            if while_open is not None:
                nursery.start_soon(_end_with_pipe, while_open, scope)
            await main(announcer)
        scope.cancel()


async def _end_in_good_order(
    told: trio.Event, announcer: Announcer, scope: trio.CancelScope
) -> None:
    """Cancel `scope` once the process was told to end and has done what comes before that."""
    await told.wait()
    try:
        if announcer.before_end is not None:
            await announcer.before_end()
    finally:
        scope.cancel()


@contextlib.contextmanager
def _noting_signals(told: trio.Event) -> Iterator[None]:
    """Set `told` at the first signal to end; end the process at the second.

    When a terminal is closed SIGHUP comes from the shell and from the kernel, so it is not counted.
    """
    token = trio.lowlevel.current_trio_token()
    seen: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if seen:
                os._exit(128 + number)
            seen.append(number)
        token.run_sync_soon(told.set)

    before = {number: signal.signal(number, handle) for number in outset.endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _end_with_pipe(descriptor: int, scope: trio.CancelScope) -> None:
    """Wait for the end of the pipe, then cancel `scope` and insist on it."""
    os.set_blocking(descriptor, False)
    while True:
        try:
            if os.read(descriptor, 4096) == b"":
                break
        except BlockingIOError:
            await trio.lowlevel.wait_readable(descriptor)
    log.info("whoever started this process is gone")
    signal.alarm(ORPHAN_SECONDS)  # whose default is to end the process
    scope.cancel()


@dataclass
class Outcome:
    """Hold the exit code of a process."""

    code: int = 0


@contextlib.contextmanager
def reporting_errors() -> Iterator[Outcome]:
    """Print errors that a user can act on as a line each and note the exit code."""
    outcome = Outcome()
    try:
        yield outcome
    except* ConfigError as group:
        outcome.code = _report(group, MISUSED)
    except* WarrenError as group:
        outcome.code = _report(group, FAILED)
    except* KeyboardInterrupt:
        outcome.code = outcome.code or FAILED


def _report(group: BaseExceptionGroup[WarrenError], code: int) -> int:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _report(error, code)
        else:
            sys.stderr.write(f"warren: {error}\n")
    return code


def _claim(option: str, descriptor: int | None) -> None:
    """Check an inherited file descriptor and keep it from our own children."""
    if descriptor is None:
        return
    try:
        os.set_inheritable(descriptor, False)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{option} is {descriptor}, expected a file descriptor that was passed to this process"
        ) from error


def raise_limits() -> int:
    """Allow as many open files as the system lets us (DOS-8), and no core dumps (HS-4).

    Return how many files may be open.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name a hard limit that they do not grant.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _check_limit(files: int) -> None:
    if files != resource.RLIM_INFINITY and files < FEWEST_FILES:
        raise ConfigError(
            f"this process may have {files} files open, expected {FEWEST_FILES} or more "
            "(thousands for many streams): raise the limit (ulimit -n, LimitNOFILE=)"
        )


def collect_garbage_rarely() -> None:
    """Look for cycles less often than Python does by itself.

    Every new stream leaves a few thousand objects behind that end without that. Looking for cycles
    after every 700 took a seventh of a proxy's time. What the modules hold is never looked at.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)


def set_up_logging(style: LogStyle) -> None:
    """Log to standard error, as plain lines or as JSON; libraries are heard from warning on.

    The same bug is told once a minute (DOS-9).
    """
    repetitions = Repetitions()
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if style.json else _plain_line
    )
    output = outset.guard_standard_error()
    if output is not None:
        output.notice = partial(_notice, [*shared, renderer])
    structlog.configure(
        processors=[repetitions, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(style.level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=shared,
    )
    handler.setFormatter(formatter)
    handler.addFilter(repetitions.filter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _notice(processors: Sequence[structlog.typing.Processor], lost: int) -> str:
    """Return the line that says that `lost` lines could not be written."""
    line: Any = {"event": "lines of this log could not be written", "lines": lost}
    for process in processors:
        line = process(None, "warning", line)
    return str(line)


def _plain_line(_logger: Any, _method: str, fields: structlog.typing.EventDict) -> str:
    """Write ``time level event key=value ...``, and a traceback below if there is one."""
    time, level = fields.pop("timestamp"), fields.pop("level")
    event, traceback = fields.pop("event"), fields.pop("exception", None)
    words = [str(time), f"{level:7}", str(event), *(f"{k}={_value(v)}" for k, v in fields.items())]
    return " ".join(words) + (f"\n{traceback}" if traceback else "")


def _value(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)


def _text(peer_id: PeerId | None) -> str | None:
    return None if peer_id is None else str(peer_id)
