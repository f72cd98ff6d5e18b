"""What all systems under test have in common, and the first of them: Warren's lab.

A system is a set of processes behind one SOCKS5 port. What not every system has, circuits and a
start that is worth timing, answers None where it is missing.
"""

import abc
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import wait_for_answer
from benchmarks.processes import ProcessError, Processes, free_port
from benchmarks.reactor import now
from benchmarks.route import Place, Route
from warren.status.control import ask, find_socket

#: A fresh client that has not answered by then is broken.
ANSWER_SECONDS = 60.0
_READY_SECONDS = 120.0
_ORIGIN_SECONDS = 20.0
_POLL_SECONDS = 0.02
#: Between two circuits: nothing moves meanwhile, and what has to be built behind one is built.
BUILD_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Origin:
    """Hold where the origin listens, and its process."""

    place: Place
    pid: int


@contextlib.contextmanager
def running_origin() -> Iterator[Origin]:
    """Run an origin while inside; raise ProcessError when it does not start."""
    processes = Processes("origin")
    try:
        processes.start("origin", [sys.executable, "-P", "-m", "benchmarks.origin"])
        output = processes.output_of("origin")
        deadline = time.monotonic() + _ORIGIN_SECONDS
        while not (text := output.read_text(encoding="ascii")).endswith("\n"):
            processes.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"the origin did not start within {_ORIGIN_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
        yield Origin(("127.0.0.1", int(text)), processes.pid_of("origin"))
    finally:
        processes.stop()


class System(abc.ABC):
    """Own the processes of one system under test, from construction to ``close``."""

    name: str
    #: Whether streams of different logins take different circuits.
    takes_logins = True
    #: Whether it leaves Nagle's algorithm on, see ``namespace``.
    needs_quick_acknowledgements = False

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.processes = Processes(self.name)

    @property
    @abc.abstractmethod
    def route(self) -> Route:
        """Return the way to the origin through it."""

    @property
    @abc.abstractmethod
    def pids(self) -> Mapping[str, int]:
        """Return its processes by name; the one that applications meet is ``client``."""

    @property
    @abc.abstractmethod
    def relays(self) -> frozenset[str]:
        """Return the names of the processes that carry other people's traffic."""

    @contextlib.contextmanager
    def early_route(self) -> Iterator[tuple[Route, Sequence[int]]]:
        """Give the way on which programs wait least, and the processes of it that are no others'.

        That is the usual one, where a system has no other.
        """
        yield self.route, ()

    def check(self) -> None:
        """Raise ProcessError when one of its processes has ended."""
        self.processes.check()

    def close(self) -> None:
        """End all its processes and remove their files."""
        self.processes.stop()

    def build_circuits(self, count: int) -> list[float] | None:
        """Build `count` circuits, each after a pause; return the seconds each took."""
        del count
        return None

    def time_client_start(self) -> tuple[float, float] | None:
        """Return the seconds from a client's start to its first answer: fresh, and once more."""
        return None

    def time_help(self, count: int) -> list[float] | None:
        """Return the seconds that the command's ``--help`` took, `count` times."""
        del count
        return None

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        """Leave nothing behind when the system does not come up."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _time_answer(self, name: str, arguments: list[str], port: int) -> float:
        """Start a client that listens at `port`; return the seconds to its answer, and end it."""
        route = Route(self.origin.place, ("127.0.0.1", port))
        begun = now()
        self.processes.start(name, arguments)
        try:
            wait_for_answer(route, ANSWER_SECONDS, self.processes.check)
            return now() - begun
        finally:
            self.processes.stop_one(name)


class Direct(System):
    """Be no system at all: what the measuring itself can do."""

    name = "direct"
    takes_logins = False

    @property
    def route(self) -> Route:
        return Route(self.origin.place)

    @property
    def pids(self) -> Mapping[str, int]:
        return {}

    @property
    def relays(self) -> frozenset[str]:
        return frozenset()


class WarrenLab(System):
    """Own a lab: three authorities, nine relays of which three are exits, and a proxy.

    `options` of ``warren lab`` make it another one.
    """

    name = "warren"

    def __init__(self, origin: Origin, *options: str) -> None:
        super().__init__(origin)
        self._program = str(Path(sys.executable).with_name("warren"))
        with self._closing_on_error():
            target = f"{origin.place[0]}:{origin.place[1]}"
            lab = [self._program, "lab", "--json", "--allow-target", target, *options]
            self.processes.start("lab", lab)
            self._ready = self._wait_until_ready()
            wait_for_answer(self.route, ANSWER_SECONDS, self.check)

    @property
    def route(self) -> Route:
        host, _, port = self._ready["proxy"].rpartition(":")
        return Route(self.origin.place, (host, int(port)))

    @property
    def pids(self) -> Mapping[str, int]:
        return {
            "client" if process["role"] == "proxy" else process["name"]: process["pid"]
            for process in self._ready["processes"]
        }

    @property
    def relays(self) -> frozenset[str]:
        relays = (p["name"] for p in self._ready["processes"] if p["role"] in {"relay", "exit"})
        return frozenset(relays)

    def statistics(self, name: str) -> dict[str, Any]:
        """Return what the process `name` says of itself; raise ConfigError when it is silent."""
        folder = "proxy" if name == "client" else name
        return ask(find_socket(Path(self._ready["dir"]) / folder))

    def busiest_circuit(self) -> list[str]:
        """Return the relays, guard first, of the circuit with the most streams.

        Raises ProcessError when none is in use.
        """
        used = [each for each in self.statistics("client")["circuits"] if each["used"]]
        if not used:
            raise ProcessError("the lab's proxy uses no circuit")
        names = {each["id"]: each["name"] for each in self._ready["processes"] if "id" in each}
        return [names[peer] for peer in max(used, key=lambda each: each["streams"])["path"]]

    def check(self) -> None:
        super().check()
        died = [event["name"] for event in self._events() if event["event"] == "died"]
        if died:
            raise ProcessError(f"{', '.join(died)} of the lab died while it was measured")

    def build_circuits(self, count: int) -> list[float] | None:
        """Make the proxy build circuits by asking with new logins.

        The proxy times them itself if its statistics have ``build_seconds``. If not, the answer
        to a SOCKS5 request stands for it: that is the build and a little more, and less where a
        spare circuit was ready.
        """
        waited = []
        for _ in range(count):
            time.sleep(BUILD_PAUSE_SECONDS)
            begun = now()
            self.route.alone().open().close()
            waited.append(now() - begun)
        built = self.statistics("client").get("build_seconds")
        return [float(seconds) for seconds in built[-count:]] if built else waited

    def add_client(self, name: str) -> Route:
        """Start one more proxy; return the way through it when it has answered."""
        port = free_port()
        route = Route(self.origin.place, ("127.0.0.1", port))
        self.processes.start(name, self._client(name, port))
        wait_for_answer(route, ANSWER_SECONDS, self.check)
        return route

    @contextlib.contextmanager
    def early_route(self) -> Iterator[tuple[Route, Sequence[int]]]:
        """Run a client that tells programs of success before there is any."""
        port = free_port()
        route = Route(self.origin.place, ("127.0.0.1", port))
        process = self.processes.start("hasty", self._client("hasty", port, early_reply=True))
        try:
            wait_for_answer(route, ANSWER_SECONDS, self.check)
            yield route, (process.pid,)
        finally:
            self.processes.stop_one("hasty")

    def processes_of(self, relay: str) -> list[int]:
        """Return the process ids of `relay`: its main process first, then its workers."""
        told = ask(find_socket(Path(self._ready["dir"]) / relay))
        return [told["pid"], *(worker["pid"] for worker in told.get("workers", ()))]

    def time_client_start(self) -> tuple[float, float] | None:
        port = free_port()
        client = self._client("proxy", port)
        return self._time_answer("fresh", client, port), self._time_answer("again", client, port)

    def _client(self, name: str, port: int, *, early_reply: bool = False) -> list[str]:
        """Return the command of a client that listens at `port`, whose state is fresh."""
        state = self.processes.folder / f"{name}.state"
        config = self.processes.folder / f"{name}.toml"
        shutil.rmtree(state, ignore_errors=True)
        host, target_port = self.origin.place
        settings = {
            "network": f"{self._ready['dir']}/network.toml",
            "state": str(state),
            "proxy.listen": [f"127.0.0.1:{port}"],
            "proxy.allow_targets": [f"{host}:{target_port}"],
            "proxy.early_reply": early_reply,
        }
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        config.write_text("".join(lines), encoding="utf-8")
        return [self._program, "proxy", "--config", str(config)]

    def time_help(self, count: int) -> list[float] | None:
        taken = []
        for _ in range(count):
            begun = now()
            self.processes.start("help", [self._program, "--help"]).wait()
            taken.append(now() - begun)
            self.processes.stop_one("help")
        return taken

    def _wait_until_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.processes.check()
            for event in self._events():
                if event["event"] == "ready":
                    return event
            time.sleep(_POLL_SECONDS)
        raise ProcessError(f"the lab was not ready within {_READY_SECONDS:.0f} s")

    def _events(self) -> list[dict[str, Any]]:
        """Return what the lab has said so far; a line that is still being written is left."""
        lines = self.processes.output_of("lab").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]
