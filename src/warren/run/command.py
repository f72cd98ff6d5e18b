"""From a process of ours to the command: into namespaces of its own, and then become it.

The child tells its parent each step over a socket that closes when the command takes its place,
and goes on only when told to: only the parent can say who is who in the new user namespace, and
``connect`` must be watched before the command can call it.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from errno import EINVAL, EIO, ENOENT
from pathlib import Path
from typing import NoReturn

from warren.errors import ConfigError, WarrenError
from warren.run import kernel
from warren.run.calls import LOOKUP_SERVICES
from warren.run.names import OWN_4, OWN_6
from warren.run.netlink import make_everything_local

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as the shell has it

_RESOLV_CONF = f"nameserver {OWN_4}\nsearch .\n"
_WRITING = "writing a file to the folder for temporary ones"
_LONGEST = 256  # bytes of what parent and child tell each other
_HINTS = {
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "/proc/sys/kernel/unprivileged_userns_clone": (
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}


class Forbidden(ConfigError):
    """Tell that this system does not let us make a network for one command."""

    def __init__(self, step: str, error: OSError) -> None:
        why = os.strerror(error.errno or EIO)
        if step == _WRITING:
            self.fact, hint = f"{step} does not work here", "Make room, or name another in TMPDIR"
        else:
            self.fact, hint = f"{step} is forbidden here", _hint()
        super().__init__(
            f"{self.fact}: {why}. {hint}. With --env the command is "
            "started with proxy variables only; a program that ignores those goes around the proxy"
        )


class NotStarted(WarrenError):
    """Tell that there is no such command, or that it cannot be executed; ``code`` says which."""

    def __init__(self, name: str, error_number: int) -> None:
        super().__init__(f"{name}: {os.strerror(error_number)}")
        self.code = NOT_FOUND if error_number == ENOENT else NOT_EXECUTABLE


class Command:
    """Own the child that becomes the command: ``enter``, then ``start``."""

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        self._words = words
        self._environment = environment
        self._channel, self._other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = 0
        self.has_ipv6 = False

    def enter(self, mask: Iterable[int]) -> int:
        """Fork the child and bring it into its namespaces; return where its calls are told.

        The command will have the signal mask `mask`. Raises Forbidden.
        """
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            _become(self._words, self._environment, self._other, mask)
        self._other.close()
        self._expect("unshared")
        try:
            map_identities(self.pid)
        except OSError as error:
            raise Forbidden("naming users in a namespace", error) from error
        self._channel.sendall(b"mapped")
        detail, descriptors = self._expect("watched")
        self.has_ipv6 = detail == "ipv6"
        return descriptors[0]

    def start(self) -> None:
        """Let the command begin; raise NotStarted if there is none or it cannot be executed."""
        self._channel.sendall(b"go")
        code = self._channel.recv(_LONGEST)
        self.close()
        if code:
            raise NotStarted(self._words[0], int(code))

    def close(self) -> None:
        """Let go of the child; one that has not become the command ends by that."""
        self._channel.close()

    def bury(self) -> None:
        """Wait for the end of a child that has not become the command."""
        self.close()
        os.waitpid(self.pid, 0)

    def _expect(self, event: str) -> tuple[str, list[int]]:
        """Wait for the child to tell `event`; return what it said of it and gave with it."""
        data, descriptors, _, _ = socket.recv_fds(self._channel, _LONGEST, 1)
        said, _, detail = data.decode().partition(" ")
        if said == event:
            return detail, descriptors
        code, _, step = detail.partition(" ")
        raise Forbidden(step or "starting a process", OSError(int(code or EIO), ""))


def map_identities(pid: int) -> None:
    """Let every user and group that we may name be itself in the user namespace of `pid`.

    For root those are all, otherwise only the own ones; the rest shows as nobody.
    """
    folder = Path(f"/proc/{pid}")
    if os.geteuid() == 0:
        for file in ("uid_map", "gid_map"):
            ranges = [line.split() for line in Path(f"/proc/self/{file}").read_text().splitlines()]
            text = "".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges)
            (folder / file).write_text(text)
        return
    (folder / "setgroups").write_text("deny")  # else nobody could map a group
    (folder / "uid_map").write_text(f"{os.geteuid()} {os.geteuid()} 1")
    (folder / "gid_map").write_text(f"{os.getegid()} {os.getegid()} 1")


def _become(
    words: list[str],
    environment: Mapping[str, str],
    channel: socket.socket,
    mask: Iterable[int],
) -> NoReturn:
    """Be the child: enter the namespaces, telling the parent, and become the command."""
    try:
        if _prepare(channel):
            channel.sendall(str(_replace(words, environment, mask)).encode())
    except BaseException:  # noqa: BLE001  it ends here, whatever it is
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(NOT_EXECUTABLE)


def _prepare(channel: socket.socket) -> bool:
    """Go through all steps that lead into the namespaces; return whether the command may begin."""
    step = "making namespaces"
    try:
        kernel.unshare(kernel.NEW_USER | kernel.NEW_MOUNTS | kernel.NEW_NETWORK)
        channel.sendall(b"unshared")
        if channel.recv(_LONGEST) != b"mapped":
            return False
        step = "setting up the network of a namespace"
        has_ipv6 = make_everything_local(OWN_4, OWN_6)
        _close_side_doors()
        step = _WRITING
        with _resolv_conf() as file:
            step = "mounting a file in a namespace"
            _ask_us_for_names(file)
        step = "being told of the calls of a process (seccomp)"
        listener = kernel.watch_calls()
        socket.send_fds(channel, [b"watched ipv6" if has_ipv6 else b"watched"], [listener])
        os.close(listener)
    except OSError as error:
        channel.sendall(f"failed {error.errno or EIO} {step}".encode())
        return False
    return channel.recv(_LONGEST) == b"go"


def become(words: list[str], environment: Mapping[str, str], mask: Iterable[int]) -> int:
    """Become the command; return the shell's exit code for a failure, having said why."""
    error = NotStarted(words[0], _replace(words, environment, mask))
    sys.stderr.write(f"warren: {error}\n")
    return error.code


def _replace(words: list[str], environment: Mapping[str, str], mask: Iterable[int]) -> int:
    """Replace this process by the command, with signals as they were; return only an error."""
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(words[0], words, environment)  # noqa: S606  the user's command, as it was given
    except OSError as error:
        return error.errno or EINVAL
    except ValueError:  # a zero byte in a word
        return EINVAL


def _close_side_doors() -> None:
    """Switch off what opens connections by calls that we are not told of."""
    # Where /proc/sys is read-only such a connection finds no door and is refused.
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("0")


@contextlib.contextmanager
def _resolv_conf() -> Iterator[str]:
    """Give a file that sends the C library to us for names, by its path."""
    with tempfile.NamedTemporaryFile("w", prefix="warren-run-") as file:
        file.write(_RESOLV_CONF)
        file.flush()
        Path(file.name).chmod(0o644)
        yield file.name


def _ask_us_for_names(file: str) -> None:
    """Let the C library ask for names over the network of the namespace, in this mount namespace.

    `file` says so. Where there is no resolv.conf, it asks its own machine: us as well.
    """
    with contextlib.suppress(FileNotFoundError):
        kernel.bind_mount(file, "/etc/resolv.conf")
    for name in LOOKUP_SERVICES:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            kernel.bind_mount(os.devnull, os.fsdecode(name))


def _hint() -> str:
    """Say what the operator of this system could do."""
    for path, (value, cure) in _HINTS.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text(encoding="ascii").strip() == value:
                return f"As root: {cure}"
    return "In a container, its own rules must allow namespaces (unshare, mount, seccomp)"
