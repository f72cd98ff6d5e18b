"""``warren run``: any program reaches the origin through an exit, and nothing goes around it.

All of it as an ordinary user. The programs get no proxy variables (``direct``) unless a test is
about those.
"""

import contextlib
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.test_clients import serve_repository
from tests.support.journeys import without_proxies
from tests.support.labs import RunningLab, is_alive
from tests.support.programs import NOBODY, as_ordinary_user
from tests.support.web_origin import NAME, PAGE, Origin
from warren.lab.origin import content, digest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(120),
    pytest.mark.needs("namespaces", "setpriv"),
]

Done = subprocess.CompletedProcess[bytes]

#: Let go of the variables, as programs do that have never heard of them.
DIRECT = ["env", *(f"-u{name}" for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"))]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in which an ordinary user may write; pytest's own are root's."""
    path = Path(tempfile.mkdtemp(prefix="wr"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def words(proxy: str, *command: str | Path, options: tuple[str, ...] = ()) -> list[str]:
    program = [sys.executable, "-P", "-m", "warren", "run", "--proxy", proxy, *options, "--"]
    return [*as_ordinary_user(), *program, *map(str, command)]


def run(
    lab: RunningLab, *command: str | Path, options: tuple[str, ...] = (), body: bytes = b""
) -> Done:
    """Run `command` in a network of its own, and nothing else in its environment."""
    return subprocess.run(
        words(lab.proxy, *command, options=options),
        input=body,
        capture_output=True,
        check=False,
        timeout=60,
        cwd="/",
        env={**without_proxies(), "HOME": "/"},
    )


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", f"import os, socket, sys, time\n{program}", *map(str, arguments)]


def starting(lab: RunningLab, *command: str) -> subprocess.Popen[bytes]:
    """Start `command` and return when it has said a line."""
    process = subprocess.Popen(
        words(lab.proxy, *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=without_proxies(),
        process_group=0,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


# ---- it gets there


@pytest.mark.needs("curl")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_without_a_proxy_gets_a_page_by_a_name_that_only_exits_know(
    lab: RunningLab, origin: Origin, folder: Path, scheme: str
) -> None:
    origin.files[f"/run-{scheme}"] = ("text/html", PAGE)
    origin.ca.cert_pem.write_to_path(folder / "ca.pem")
    curl = ["curl", "-q", "-sS", "--max-time", "30", "--cacert", str(folder / "ca.pem")]

    done = run(lab, *DIRECT, *curl, origin.url(f"/run-{scheme}", scheme))

    assert done.stdout == PAGE, done.stderr
    assert f"/run-{scheme}" in origin.paths(scheme)


@pytest.mark.needs("curl")
def test_curl_without_a_proxy_gets_a_page_by_address(lab: RunningLab, origin: Origin) -> None:
    done = run(lab, *DIRECT, "curl", "-q", "-sS", f"http://{origin.http}/bytes/3000000")

    assert hashlib.sha256(done.stdout).hexdigest() == digest(3_000_000), done.stderr


@pytest.mark.needs("curl")
def test_curl_takes_the_proxy_of_the_variables(lab: RunningLab, origin: Origin) -> None:
    done = run(lab, "curl", "-q", "-sSv", origin.url("/"))

    assert done.stdout == PAGE, done.stderr
    assert f"http_proxy == 'http://{lab.proxy}'" in done.stderr.decode()


@pytest.mark.needs("git")
def test_git_clones_without_a_proxy(lab: RunningLab, origin: Origin, folder: Path) -> None:
    serve_repository(origin, folder / "source", "/run.git", "through a namespace\n")

    done = run(lab, *DIRECT, "git", "clone", "-q", origin.url("/run.git"), folder / "copy")

    assert (folder / "copy" / "letter").read_text() == "through a namespace\n", done.stderr


STATIC_PROGRAM = r"""
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

static struct sockaddr_in old_style;

/* With a third word it connects as a 32-bit program does, by the calls of such a one. */
static int reach(int sock, struct addrinfo *to, int is_old)
{
#ifdef __x86_64__
    if (is_old) {
        int result;
        memcpy(&old_style, to->ai_addr, sizeof old_style);
        __asm__ volatile("int $0x80" : "=a"(result)
                         : "a"(362), "b"(sock), "c"(&old_style), "d"(sizeof old_style) : "memory");
        return result;
    }
#endif
    return connect(sock, to->ai_addr, to->ai_addrlen);
}

int main(int count, char **words)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *to;
    char text[4096] = "GET / HTTP/1.0\r\nHost: x\r\n\r\n";
    ssize_t size;
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    if (getaddrinfo(words[1], words[2], &hints, &to) != 0)
        return 10;
    if (reach(sock, to, count > 3) != 0)
        return 11;
    write(sock, text, strlen(text));
    while ((size = read(sock, text, sizeof text)) > 0)
        write(1, text, size);
    return size == 0 ? 0 : 12;
}
"""


@pytest.fixture(scope="module")
def static_program() -> Iterator[Path]:
    """Compile a program under which nothing can be put that it does not have itself."""
    folder = Path(tempfile.mkdtemp(prefix="wr"))
    folder.chmod(0o755)
    source = folder / "fetch.c"
    source.write_text(STATIC_PROGRAM)
    command = ["gcc", "-static", "-no-pie", "-O1", "-w", "-o", str(folder / "fetch"), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    yield folder / "fetch"
    shutil.rmtree(folder)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("old_style", [(), ("old",)])
def test_a_static_program_gets_a_page(
    lab: RunningLab, origin: Origin, static_program: Path, by_name: bool, old_style: tuple[str, ...]
) -> None:
    host = NAME if by_name else origin.http.host

    done = run(lab, static_program, host, str(origin.http.port), *old_style)

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(PAGE)


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_a_name_has_an_address_of_either_family(
    lab: RunningLab, origin: Origin, family: str
) -> None:
    program = """
family, host, port = getattr(socket, sys.argv[1]), sys.argv[2], sys.argv[3]
[(*_, address), *_] = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
with socket.socket(family) as sock:
    sock.connect(address)
    assert sock.getpeername()[:2] == address[:2]
    sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(sock.makefile().read())
"""

    done = run(lab, *python(program, family, NAME, origin.http.port))

    assert done.stdout.strip().endswith(PAGE.strip()), done.stderr


def test_hundreds_of_connections_at_once_get_through(lab: RunningLab, origin: Origin) -> None:
    program = """
import selectors
host, port, count = socket.gethostbyname(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
waiting, done = selectors.DefaultSelector(), 0
for _ in range(count):
    sock = socket.socket()
    sock.setblocking(False)
    assert sock.connect_ex((host, port)) in (0, 115)
    waiting.register(sock, selectors.EVENT_WRITE)
while waiting.get_map():
    for key, _ in waiting.select():
        if key.events == selectors.EVENT_WRITE:
            key.fileobj.send(b"GET /bytes/1000 HTTP/1.0\\r\\n\\r\\n")
            waiting.modify(key.fileobj, selectors.EVENT_READ, [0])
        elif data := key.fileobj.recv(65536):
            key.data[0] += len(data)
        else:
            done += key.data[0] > 1000
            waiting.unregister(key.fileobj)
print(done)
"""

    done = run(lab, *python(program, NAME, origin.http.port, 400))

    assert done.stdout == b"400\n", done.stderr


def test_what_is_sent_last_arrives_though_the_command_has_ended(
    lab: RunningLab, origin: Origin
) -> None:
    size = 3_000_000
    program = """
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.sendall(b"drain 0 run-last\\n" + sys.stdin.buffer.read())
"""

    done = run(lab, *python(program, NAME, origin.raw.port), body=b"".join(content(size)))

    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 20
    while "run-last" not in origin.drained and time.monotonic() < deadline:
        time.sleep(0.05)
    assert origin.drained["run-last"] == digest(size)


@pytest.mark.needs("curl")
def test_what_the_command_leaves_behind_keeps_its_network(
    lab: RunningLab, origin: Origin, folder: Path
) -> None:
    later = f"(sleep 1; curl -q -sS --noproxy '*' -o {folder}/page {origin.url('/')}) >&- 2>&- &"

    done = run(lab, "sh", "-c", later)

    assert done.returncode == 0
    deadline = time.monotonic() + 20
    while not (folder / "page").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (folder / "page").read_bytes() == PAGE


# ---- nothing goes around


class Canaries:
    """Own a TCP and a UDP socket at one port of every address of this machine."""

    def __init__(self) -> None:
        self.connections = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
        self.port = self.connections.getsockname()[1]
        self.datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.datagrams.bind(("::", self.port))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0warren-canary-{self.port}")
        self.abstract.listen()
        self._all = (self.connections, self.datagrams, self.abstract)

    def heard(self) -> int:
        """Return how many of the sockets have heard anything."""
        return len(select.select(self._all, [], [], 0.3)[0])

    def close(self) -> None:
        for sock in self._all:
            sock.close()


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    canaries = Canaries()
    yield canaries
    canaries.close()


def addresses_of_this_machine() -> list[str]:
    lines = subprocess.run(["ip", "-j", "address"], capture_output=True, check=True).stdout
    found = [each["local"] for link in json.loads(lines) for each in link["addr_info"]]
    return [*found, "127.0.0.1", "127.1.2.3", "::1", "255.255.255.255", "224.0.0.1"]


#: Tries every way out that it knows, to each address; prints how many of them said yes.
TRY_EVERYTHING = """
port, hosts = int(sys.argv[1]), sys.argv[2:]
tried = 0
for host in hosts:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for way in ("connect", "connected datagram", "datagram", "fast open"):
        kind = socket.SOCK_DGRAM if "datagram" in way else socket.SOCK_STREAM
        with socket.socket(family, kind) as sock:
            sock.settimeout(0.1)
            tried += 1
            try:
                if kind == socket.SOCK_DGRAM and family == socket.AF_INET:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                if way == "datagram":
                    sock.sendto(b"canary", (host, port))
                elif way == "fast open":
                    sock.sendto(b"canary", socket.MSG_FASTOPEN, (host, port))
                else:
                    sock.connect((host, port))
                    sock.send(b"canary")
                    sock.recv(1)
            except OSError:
                pass
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(f"\\0warren-canary-{port}")
    except OSError:
        tried += 1
print(tried)
"""


@pytest.mark.needs("ip")
def test_nothing_reaches_the_machine_itself(lab: RunningLab, canaries: Canaries) -> None:
    hosts = addresses_of_this_machine()

    done = run(lab, *python(TRY_EVERYTHING, canaries.port, *hosts))

    assert int(done.stdout) == 4 * len(hosts) + 1, done.stderr
    assert canaries.heard() == 0


@pytest.mark.needs("ip")
def test_without_the_namespace_the_canaries_would_hear_it(canaries: Canaries) -> None:
    hosts = addresses_of_this_machine()

    subprocess.run(python(TRY_EVERYTHING, canaries.port, *hosts), check=True, capture_output=True)

    assert canaries.heard() == 3


def test_no_process_outside_gives_its_files_or_memory_to_the_command(lab: RunningLab) -> None:
    program = """
import ctypes
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
outside, taken = 0, []
for pid in [int(path.name) for path in Path("/proc").glob("[0-9]*")]:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\\0")
        if sys.argv[1].encode() not in line or pid == os.getpid() or b"run" not in line:
            continue
        outside += 1
        with open(f"/proc/{pid}/mem", "rb"):
            taken.append((pid, "memory"))
    except OSError:
        pass
    handle = os.pidfd_open(pid)
    for number in range(64):
        if libc.syscall(438, handle, number, 0) >= 0:  # pidfd_getfd
            taken.append((pid, number))
    for space in ("net", "user", "mnt"):
        try:
            taken.append((pid, os.open(f"/proc/{pid}/ns/{space}", os.O_RDONLY)))
        except OSError:
            pass
print(outside >= 3, taken)
"""

    done = run(lab, *python(program, lab.proxy))

    assert done.stdout == b"True []\n", done.stderr


def test_datagrams_are_refused_at_once_and_any_name_server_is_ours(lab: RunningLab) -> None:
    program = """
def ask(port, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("9.9.9.9", port))
        try:
            sock.send(data)
            return sock.recv(512)
        except OSError as error:
            return error
question = b"\\7example\\3com\\0\\0\\1\\0\\1"
answer = ask(53, bytes.fromhex("abcd01000001000000000000") + question)
print(repr(ask(443, b"quic")), answer[-4:] == socket.inet_aton("198.18.1.0"))
"""

    done = run(lab, *python(program))

    assert done.stdout == b"ConnectionRefusedError(111, 'Connection refused') True\n", done.stderr


def test_a_lookup_service_of_the_machine_is_not_asked(lab: RunningLab) -> None:
    program = """
for path in ("/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"):
    with socket.socket(socket.AF_UNIX) as sock:
        print(sock.connect_ex(path))
"""

    done = run(lab, *python(program))

    # 111, refused, and not 2, no such file, which it would be on a machine that has none.
    assert done.stdout == b"111\n111\n", done.stderr


def test_what_the_proxy_refuses_is_reset_and_told_to_who_asked_for_it(lab: RunningLab) -> None:
    program = """
with socket.create_connection(("10.0.0.1", 80)) as sock:
    try:
        sock.recv(1)
    except OSError as error:
        print(repr(error))
"""

    done = run(lab, *python(program), options=("--verbose",))

    assert done.stdout == b"ConnectionResetError(104, 'Connection reset by peer')\n"
    assert done.stderr == b"warren run: 10.0.0.1:80: not allowed\n"


# ---- the command's own loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_program_that_listens_reaches_itself(lab: RunningLab, host: str) -> None:
    # The client asks for it before it is there, as scripts do that start a server and wait.
    program = """
host, port = sys.argv[1], 8000
to = "::1" if ":" in host else "127.0.0.1"
if os.fork() == 0:
    time.sleep(0.3)
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else 2) as server:
        while True:
            sock, _ = server.accept()
            sock.sendall(b"myself")
            sock.close()
deadline = time.monotonic() + 10
while time.monotonic() < deadline:
    try:
        with socket.create_connection((to, port), 5) as sock:
            if sock.recv(10) == b"myself":
                print("reached", flush=True)
                break
    except OSError as error:
        print(time.monotonic(), error, file=sys.stderr)
        time.sleep(0.02)
os.killpg(0, 15)
"""

    process = subprocess.Popen(
        words(lab.proxy, *python(program, host)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        env=without_proxies(),
    )
    out, errors = process.communicate(timeout=30)

    assert out == b"reached\n", errors


def test_a_program_that_listens_everywhere_does_not_mistake_itself_for_another(
    lab: RunningLab, origin: Origin
) -> None:
    program = """
with socket.create_server(("0.0.0.0", int(sys.argv[2]))):
    with socket.socket() as sock:
        print(sock.connect_ex((socket.gethostbyname(sys.argv[1]), int(sys.argv[2]))))
"""

    done = run(lab, *python(program, NAME, origin.http.port))

    assert done.stdout == b"111\n", done.stderr


# ---- as if nothing were there


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM), ("kill -KILL $$", -signal.SIGKILL)],
)
def test_it_ends_as_the_command_ended(lab: RunningLab, command: str, code: int) -> None:
    assert run(lab, "sh", "-c", command).returncode == code


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [("/nowhere/at-all", 127, b"No such file"), ("/etc/passwd", 126, b"Permission denied")],
)
def test_a_command_that_cannot_be_started_is_told_as_by_a_shell(
    lab: RunningLab, name: str, code: int, why: bytes
) -> None:
    done = run(lab, name)

    assert done.returncode == code
    assert done.stderr.startswith(b"warren: " + name.encode() + b": " + why)


def test_user_folder_path_and_standard_streams_are_those_outside(
    lab: RunningLab, folder: Path
) -> None:
    script = 'id -u; pwd; test "$PATH" = "$1" && echo same; cat; echo loud >&2; touch mine'

    done = subprocess.run(
        words(lab.proxy, "sh", "-c", script, "sh", os.environ["PATH"]),
        input=b"typed\n",
        capture_output=True,
        check=True,
        cwd=folder,
        env=without_proxies(),
    )

    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert done.stdout.decode() == f"{user}\n{folder}\nsame\ntyped\n"
    assert done.stderr == b"loud\n"
    assert (folder / "mine").stat().st_uid == user


def test_open_files_are_passed_on_and_let_go_when_the_command_ends(lab: RunningLab) -> None:
    reading, writing = os.pipe()
    background = "os.fork() or time.sleep(20)"  # the gateway goes on for its sake
    program = f"os.write(int(sys.argv[1]), b'passed'); os.close(int(sys.argv[1])); {background}"

    process = subprocess.Popen(
        words(lab.proxy, *python(program, writing)), pass_fds=(writing,), process_group=0
    )
    os.close(writing)
    code = process.wait(20)
    with os.fdopen(reading, "rb") as pipe:
        passed = pipe.read()
    os.killpg(process.pid, signal.SIGKILL)

    assert (code, passed) == (0, b"passed")


def test_ctrl_c_goes_to_the_command(lab: RunningLab) -> None:
    script = "trap 'echo interrupted; exit 9' INT; echo begun; while :; do sleep 0.1; done"
    pid, terminal = pty.fork()
    if pid == 0:
        command = words(lab.proxy, "sh", "-c", script)
        os.execvpe(command[0], command, without_proxies())

    said = read_until(terminal, b"begun")
    os.write(terminal, b"\x03")
    said += read_until(terminal, b"interrupted")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == 9
    assert said.count(b"interrupted") == 1


def read_until(terminal: int, word: bytes) -> bytes:
    said = b""
    while word not in said:
        assert select.select([terminal], [], [], 30)[0], said
        said += os.read(terminal, 4096)
    return said


def test_a_signal_to_warren_alone_goes_to_the_command(lab: RunningLab) -> None:
    script = "trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.1; done"

    process = starting(lab, "sh", "-c", script)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)

    assert (out, process.returncode) == (b"ended\n", 3)


def test_when_the_terminal_stops_the_command_warren_stops_too(lab: RunningLab) -> None:
    process = starting(lab, "sh", "-c", "echo begun; kill -TSTP $$; echo resumed")

    stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=10)

    assert stopped is not None
    assert (out, process.returncode) == (b"resumed\n", 0)


def test_nothing_is_left_when_all_is_over(lab: RunningLab) -> None:
    before = processes_of(lab.proxy)

    run(lab, "true")

    deadline = time.monotonic() + 10
    while processes_of(lab.proxy) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(lab.proxy) - before


def processes_of(proxy: str) -> set[int]:
    """Return the processes of ``warren run`` for `proxy`."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().split(b"\0")
            if b"warren" in line and b"run" in line and proxy.encode() in line:
                found.add(int(folder.name))
    return {pid for pid in found if is_alive(pid)}


# ---- when it cannot be


def test_without_a_proxy_the_command_is_not_started(folder: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{closed.getsockname()[1]}"

        done = subprocess.run(
            words(proxy, "touch", folder / "started"), capture_output=True, check=False
        )

    assert done.returncode == 2
    assert done.stderr.startswith(b"warren: there is no proxy at " + proxy.encode())
    assert not (folder / "started").exists()


#: A place where no more namespaces can be made.
FORBIDDING = [
    "unshare",
    "-Ur",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"',
    "sh",
]


@pytest.mark.parametrize("options", [(), ("--env",)])
def test_where_namespaces_are_forbidden_it_says_so(
    lab: RunningLab, options: tuple[str, ...]
) -> None:
    inner = words(lab.proxy, "sh", "-c", "echo $all_proxy; exit 4", options=options)
    inner = inner[len(as_ordinary_user()) :]

    done = subprocess.run(
        [*as_ordinary_user(), *FORBIDDING, *inner], capture_output=True, check=False, text=True
    )

    if options:
        assert (done.stdout, done.returncode) == (f"socks5h://{lab.proxy}\n", 4)
        assert done.stderr == (
            "warren: making namespaces is forbidden here, so the command has proxy variables only\n"
        )
    else:
        assert (done.stdout, done.returncode) == ("", 2)
        assert done.stderr.startswith("warren: making namespaces is forbidden here: No space left")
        assert "As root: sysctl user.max_user_namespaces=10000. With --env" in done.stderr


#: A place where no temporary file can be written.
FULL = [
    "unshare",
    "-Urm",
    "sh",
    "-c",
    """set -e
    for place in /tmp /var/tmp; do
        mount --rbind $place $place
        mount -o remount,bind,ro $place
    done
    cd /proc
    exec "$@"
    """,
    "sh",
]


def test_where_no_temporary_file_can_be_written_it_says_so(lab: RunningLab) -> None:
    inner = words(lab.proxy, "true")[len(as_ordinary_user()) :]
    done = subprocess.run(
        [*as_ordinary_user(), *FULL, *inner], capture_output=True, check=False, text=True
    )

    assert done.returncode == 2
    assert "writing a file to the folder for temporary ones does not work here" in done.stderr
    assert "Make room, or name another in TMPDIR. With --env" in done.stderr


@pytest.mark.needs("curl")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root")
def test_root_stays_root_and_users_stay_who_they_are(lab: RunningLab, origin: Origin) -> None:
    curl = f"curl -q -sS --noproxy '*' {origin.url('/')}"
    script = f"id -u; stat -c %u /proc/self; setpriv --reuid=7 id -u; {curl}"
    command = words(lab.proxy, "sh", "-c", script)[len(as_ordinary_user()) :]

    done = subprocess.run(command, capture_output=True, check=False, env=without_proxies())

    assert done.stdout == b"0\n0\n7\n" + PAGE, done.stderr
