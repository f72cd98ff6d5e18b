"""The life of a process, watched from outside: how it starts, says so, and ends."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from warren.addresses import Address
from warren.errors import ConfigError, LinkError
from warren.identity import PeerId
from warren.service import Announcer, reporting_errors

PROGRAM = """
import os, sys, time
import trio
from warren.addresses import Address
from warren.errors import ConfigError, LinkError
from warren.service import Announcer, LogStyle, run_process

async def main(announcer: Announcer) -> None:
    announcer.listening([Address("127.0.0.1", 9)])
    {body}

numbers = [int(word) if word else None for word in sys.argv[1:]]
sys.exit(run_process(main, while_open=numbers[0], ready_fd=numbers[1]))
"""

FOREVER = "await trio.sleep_forever()"
STUBBORN = """
    with trio.CancelScope(shield=True):
        await trio.sleep(60)
"""


PATIENT = """
    async def wait() -> None:
        sys.stderr.write("going to end\\n")
        await trio.sleep({seconds})

    announcer.before_end = wait
    await trio.sleep_forever()
"""


class Running:
    """Own a process that runs ``run_process``, its pipe and its announcements."""

    def __init__(self, body: str) -> None:
        lifeline, self.leash = os.pipe()
        announcements, pen = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=body), str(lifeline), str(pen)],
            pass_fds=(lifeline, pen),
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(lifeline)
        os.close(pen)
        self.announced: dict[str, Any] = {}
        with os.fdopen(announcements) as lines:
            self.announced = json.loads(lines.readline() or "{}")

    def end(self, seconds: float = 10) -> tuple[int, str]:
        """Wait for the end; return the exit code and standard error."""
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        if self.leash >= 0:
            os.close(self.leash)

    def drop_leash(self) -> None:
        os.close(self.leash)
        self.leash = -1


@pytest.fixture
def run() -> Iterator[Any]:
    made: list[Running] = []

    def start(body: str) -> Running:
        made.append(Running(body))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_a_process_says_where_it_listens(run: Any) -> None:
    process = run(FOREVER)

    assert process.announced == {
        "event": "listening",
        "pid": process.process.pid,
        "addresses": ["127.0.0.1:9"],
        "id": None,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(run: Any, number: int) -> None:  # T87
    process = run(FOREVER)

    process.process.send_signal(number)
    code, errors = process.end()

    assert code == 0
    assert "Traceback" not in errors


def test_a_second_signal_ends_it_at_once(run: Any) -> None:  # T87
    process = run(STUBBORN)

    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.process.poll() is None
    begun = time.monotonic()
    process.process.send_signal(signal.SIGTERM)

    assert process.end()[0] == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 1


def test_what_comes_before_the_end_is_done_first(run: Any) -> None:
    process = run(PATIENT.format(seconds=0.5))

    begun = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    code, errors = process.end()

    assert (code, errors.splitlines()[-1]) == (0, "going to end")
    assert time.monotonic() - begun >= 0.5


def test_a_terminal_that_is_closed_says_so_more_than_once(run: Any) -> None:
    """The shell does, and then the kernel: neither is in a hurry."""
    process = run(PATIENT.format(seconds=0.5))

    process.process.send_signal(signal.SIGTERM)
    for _ in range(2):
        process.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
    code, errors = process.end()

    assert (code, errors.splitlines()[-1]) == (0, "going to end")


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As ``nohup`` makes it."""
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    hang_up = "os.kill(os.getpid(), 1); await trio.sleep(0.2); sys.stderr.write('still here')"
    program = ignore + PROGRAM.format(body=hang_up)

    ended = subprocess.run(
        [sys.executable, "-c", program, "", ""], capture_output=True, timeout=30, check=False
    )

    assert ended.returncode == 0
    assert ended.stderr.endswith(b"still here")


def test_a_second_signal_cuts_that_short(run: Any) -> None:  # T87
    process = run(PATIENT.format(seconds=60))

    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.process.poll() is None
    process.process.send_signal(signal.SIGTERM)

    assert process.end(seconds=5)[0] == 128 + signal.SIGTERM


def test_it_ends_with_whoever_started_it(run: Any) -> None:
    process = run(FOREVER)

    process.drop_leash()

    assert process.end()[0] == 0


@pytest.mark.processes  # it takes as long as the patience with such a process
def test_one_that_will_not_end_does_not_outlive_whoever_started_it(run: Any) -> None:
    process = run(STUBBORN)

    process.drop_leash()

    assert process.end(seconds=8)[0] == -signal.SIGALRM


@pytest.mark.parametrize(
    ("error", "code"), [("ConfigError('key x is wrong')", 2), ("LinkError('key x is wrong')", 1)]
)
def test_an_error_of_ours_is_one_line(run: Any, error: str, code: int) -> None:
    process = run(f"raise {error}")

    found, errors = process.end()

    assert found == code
    assert errors.splitlines()[-1] == "warren: key x is wrong"
    assert "Traceback" not in errors


def test_a_bug_shows_where_it_is(run: Any) -> None:
    process = run("raise RuntimeError('a bug')")

    code, errors = process.end()

    assert code == 1
    assert "Traceback" in errors


def test_it_may_open_as_many_files_as_the_system_allows_and_leaves_no_core(run: Any) -> None:
    process = run(FOREVER)

    files = resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE)
    core = resource.prlimit(process.process.pid, resource.RLIMIT_CORE)

    assert files[0] == files[1]
    assert core[0] == 0


def test_a_descriptor_that_was_not_passed_is_refused() -> None:
    command = [sys.executable, "-c", PROGRAM.format(body=FOREVER), "77", ""]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith("warren: --while-open is 77, expected a file descriptor")


def fail(error: Exception) -> None:
    raise error


def test_errors_of_a_nursery_are_reported_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    inner = ExceptionGroup("", [ConfigError("first"), ExceptionGroup("", [ConfigError("second")])])

    with reporting_errors() as outcome:
        fail(ExceptionGroup("", [inner]))

    assert outcome.code == 2
    assert capsys.readouterr().err == "warren: first\nwarren: second\n"


def test_a_failure_is_not_a_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting_errors() as outcome:
        fail(LinkError("cannot listen"))

    assert outcome.code == 1
    assert capsys.readouterr().err == "warren: cannot listen\n"


def test_announcements_to_nobody_are_dropped(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    announcer = Announcer(writing)
    os.close(reading)

    announcer.listening([Address("127.0.0.1", 1)], PeerId(bytes(32)))
    announcer.usable()

    os.close(writing)
    Announcer().usable()


CHATTER = """
    import structlog
    for line in sys.stdin:
        structlog.get_logger().info("said", word=line.strip())
        announcer.usable()
"""


class Chatting:
    """Own a process that logs what it reads, to the descriptor `errors`, and says so."""

    def __init__(self, errors: int) -> None:
        announcements, pen = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=CHATTER), "", str(pen)],
            pass_fds=(pen,),
            stdin=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        os.close(pen)
        self.lines = os.fdopen(announcements)
        assert "listening" in self.lines.readline()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        assert "usable" in self.lines.readline()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.lines.close()
        return self.process.wait(10)


def test_a_log_on_a_full_disk_harms_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        process = Chatting(full.fileno())

    process.say("hello")

    assert process.end() == 0


def test_a_log_that_nobody_reads_any_more_harms_nothing() -> None:
    reading, writing = os.pipe()
    process = Chatting(writing)
    os.close(writing)

    process.say("hello")
    os.close(reading)
    process.say("again")

    assert process.end() == 0


def test_lines_that_were_lost_are_counted_once_there_is_room() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = 0
    while True:  # a pipe that is full refuses, as a disk does
        try:
            filled += os.write(writing, bytes(4096))
        except BlockingIOError:
            break
    process = Chatting(writing)
    process.say("lost")

    os.set_blocking(reading, False)
    for _ in range(filled // 4096):
        os.read(reading, 4096)
    process.say("found")
    code = process.end()
    log = os.read(reading, 65536).decode().splitlines()
    os.close(reading)
    os.close(writing)

    assert code == 0
    assert log[0].endswith("warning lines of this log could not be written lines=3")
    assert log[1].endswith("info    said word=found")


def test_an_error_that_cannot_be_printed_keeps_its_code() -> None:
    command = [sys.executable, "-c", PROGRAM.format(body=FOREVER), "77", ""]

    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stderr=full, timeout=10, check=False)

    assert ended.returncode == 2


def test_no_socket_gets_the_number_of_a_standard_file() -> None:
    show = "announcer.listening([Address('127.0.0.1', os.stat(n).st_rdev) for n in range(3)])"
    program = PROGRAM.format(body=show)
    reading, pen = os.pipe()
    script = f'exec "$0" -c "$1" "" {pen} <&- >&- 2>&-'

    subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, program], pass_fds=(pen,), timeout=10, check=True
    )
    os.close(pen)
    with os.fdopen(reading) as lines:
        announced = json.loads(lines.read().splitlines()[-1])

    null = Path(os.devnull).stat().st_rdev
    assert announced["addresses"] == [f"127.0.0.1:{null}"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["click", "warren.cli.roles", "warren.config", "trio"])
def test_a_signal_before_the_service_is_there_ends_it_quietly(number: int, moment: str) -> None:
    program = f"""
import os, runpy, sys

class Moment:
    def find_spec(self, name, *_):
        if name == {moment!r}:
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Moment())
sys.argv = ["warren", "relay", "--listen", "127.0.0.1:0"]
runpy.run_module("warren", run_name="__main__", alter_sys=True)
"""

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=10, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_too_few_open_files_are_one_line() -> None:
    script = 'ulimit -n 10; exec "$0" -c "$1" "" ""'
    command = ["/bin/sh", "-c", script, sys.executable, PROGRAM.format(body=FOREVER)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith("warren: this process may have 10 files open, expected 64")
    assert len(ended.stderr.splitlines()) == 1
