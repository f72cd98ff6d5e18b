"""What a process does before anything else: standard files that hold, and early signals.

Numbers 0 to 2 are always taken, so no socket ever gets one of them and with it what others print.
Standard error never fails: what cannot be written there (a full disk, a reader that is gone) is
lost and counted, for a log is not worth a network. What cannot be written to standard output is an
error with a name of its own, for it is what was asked for. Only built-in modules are imported
here, because every command, ``--help`` as well, passes through.
"""

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: These run until they are told to end, and end with code 0 then; others may be in the middle.
SERVICES = frozenset({"proxy", "dns", "relay", "authority", "lab"})
_STANDARD = (0, 1, 2)


def begin(command: str | None) -> None:
    """Prepare this process to run `command`, the first word of the command line."""
    if command in SERVICES:
        end_quietly_when_told()
    else:
        end_by_interrupts()
    take_standard_numbers()
    guard_standard_error()
    guard_standard_output()


def end_quietly_when_told() -> None:
    """End with code 0 when told to, until ``service`` takes over: nothing is begun yet."""

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)

    for number in endings():
        signal.signal(number, end)


def endings() -> tuple[signal.Signals, ...]:
    """Return the signals that tell a service to end.

    SIGHUP, when its terminal is closed, is one of them unless it is ignored: by ``nohup``.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def end_by_interrupts() -> None:
    """Let SIGINT end this process as it ends others: without a word, and the shell sees it.

    What has something to clear away handles signals itself, and SIGTERM with it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_by(number: int) -> NoReturn:
    """End this process by the signal `number`, whatever was to happen at it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # it was blocked


def take_standard_numbers() -> None:
    """Open /dev/null as each standard file that was closed when the process started."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and that is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class OutputError(OSError):
    """Tell that standard output took no more; ``is_unread`` where its reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")
        self.is_unread = isinstance(error, BrokenPipeError)


def fail_to_print(name: str, error: OutputError) -> NoReturn:
    """End the command `name` that cannot print: as others do, by SIGPIPE, where nobody reads."""
    if error.is_unread:
        end_by(signal.SIGPIPE)
    sys.stderr.write(f"{name}: {error}\n")
    sys.exit(1)


def run_module(name: str) -> None:
    """Run a module beside the package as ``python -m`` does, with ``python -m warren.outset``.

    The key that interrupts ends it without a word until ``run_script``: nothing is begun yet.
    """
    end_by_interrupts()
    import runpy

    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_script(name: str, run: Callable[[], int]) -> NoReturn:
    """Run a script beside the package, which prints as the commands do; end with its code.

    From now on the key that interrupts raises KeyboardInterrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    take_standard_numbers()
    guard_standard_error()
    guard_standard_output()
    try:
        code = run()
    except OutputError as error:
        fail_to_print(name, error)
    sys.exit(code)


class OutputFile(io.FileIO):
    """Write to standard output, all of it or an OutputError."""

    def __init__(self) -> None:
        super().__init__(1, "wb", closefd=False)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data` and return its length."""
        text = bytes(data)
        rest = text
        try:
            while rest:
                rest = rest[os.write(1, rest) :]
        except OSError as error:
            raise OutputError(error) from error
        return len(text)


class LossyFile(io.FileIO):
    """Write whole lines to a file descriptor; count those that cannot be written.

    When there is room again, what ``notice`` makes of the count comes before the next line.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        #: Lines that were lost since the last one that was written.
        self.lost = 0
        self.notice: Callable[[int], str] = _plain_notice
        self._torn = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data` or lose it; return its length either way, and raise nothing."""
        text = bytes(data)
        if self.lost and self._put((self.notice(self.lost) + "\n").encode(errors="replace")):
            self.lost = 0
        if self.lost or not self._put(text):
            self.lost += max(1, text.count(b"\n"))
        return len(text)

    def _put(self, text: bytes) -> bool:
        rest = b"\n" + text if self._torn else text
        begun = self._torn
        try:
            while rest:
                written = os.write(self.fileno(), rest)
                begun, rest = begun or written > 0, rest[written:]
        except OSError:
            self._torn = begun  # the next line does not go on where this one broke off
            return False
        self._torn = False
        return True


def _plain_notice(lost: int) -> str:
    return f"warren: {lost} lines before this one could not be written"


def guard_standard_error() -> LossyFile | None:
    """Let writing to ``sys.stderr`` never fail; return the file, None where it was replaced."""
    current = sys.stderr
    raw = getattr(current, "buffer", None)
    if isinstance(raw, LossyFile):
        return raw
    if current is not sys.__stderr__:
        return None
    file = LossyFile(2)
    sys.stderr = io.TextIOWrapper(
        file,
        encoding=getattr(current, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=True,
    )
    return file


def guard_standard_output() -> None:
    """Let writing to ``sys.stdout`` fail with an OutputError, and at once."""
    current = sys.stdout
    if current is not sys.__stdout__:
        return
    sys.stdout = io.TextIOWrapper(
        OutputFile(),
        encoding=getattr(current, "encoding", "utf-8"),
        errors="surrogateescape",  # a path is printed as it is
        line_buffering=True,
    )


if __name__ == "__main__":
    del sys.argv[0]
    run_module(sys.argv[0])
