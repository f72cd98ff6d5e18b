"""A private C Tor network on loopback, tuned as a good administrator would.

Three directory authorities, which are relays too, four more relays of which three are exits, and
one client. Against its defaults: the Vanilla scheduler, which writes at once instead of every
10 ms, and no Conflux, so that a stream has one path of three hops. With ``bulk`` the authorities
also set congestion windows for the whole network that suit long transfers; no relay's
administrator could.

A relay counts as settled when its consensus lists all relays as running and it has the
descriptors of all; that takes up to two voting rounds.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import wait_for_answer
from benchmarks.processes import ProcessError, free_port
from benchmarks.route import Route
from benchmarks.systems import ANSWER_SECONDS, BUILD_PAUSE_SECONDS, Origin, System
from benchmarks.tor_control import Controller

AUTHORITIES, RELAYS, EXITS = 3, 4, 3
_SETTLE_SECONDS = 180.0

_COMMON = """
TestingTorNetwork 1
RunAsDaemon 0
ShutdownWaitLength 0
AssumeReachable 1
AvoidDiskWrites 1
Schedulers Vanilla
"""
_RELAY = """
SocksPort 0
PublishServerDescriptor 1
ContactInfo nobody
ServerDNSResolvConfFile /dev/null
ServerDNSDetectHijacking 0
"""
_MIDDLE = """
ExitRelay 0
ExitPolicy reject *:*
"""
# A policy of 127.0.0.0/8 alone would be summarised as one that rejects everything.
_EXIT = """
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicyRejectLocalInterfaces 0
ExitPolicy accept *:*
"""
_AUTHORITY = """
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval 10
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 60
V3AuthVoteDelay 4
V3AuthDistDelay 4
V3AuthNIntervalsValid 3
TestingMinExitFlagThreshold 0
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
"""
_BULK = (
    "ConsensusParams cc_alg=2 cc_cwnd_init=1000 cc_cwnd_min=500 cc_sscap_exit=5000 "
    "cc_vegas_alpha_exit=600 cc_vegas_beta_exit=1200 cc_vegas_delta_exit=2400 "
    "cc_vegas_gamma_exit=600\n"
)
_CLIENT = """
ConfluxEnabled 0
CookieAuthentication 0
"""


@dataclass(frozen=True)
class Node:
    """Hold one relay to be: its name, its address and what it does besides."""

    name: str
    host: str
    onion_port: int
    directory_port: int
    is_authority: bool
    is_exit: bool


class TorNetwork(System):
    """Own the processes of a private Tor network."""

    name = "tor"
    needs_quick_acknowledgements = True
    second_octet = 11

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._socks, self._control = free_port(), free_port()
        self._nodes = [self._plan(number) for number in range(AUTHORITIES + RELAYS)]
        with self._closing_on_error():
            self._trusted = "".join(map(self._found, self._nodes[:AUTHORITIES]))
            for node in self._nodes:
                self._run(node.name, self._node_settings(node))
            self._wait_until_settled()
            self._run("client", self._client_settings("client", self._socks, self._control))
            wait_for_answer(self.route, ANSWER_SECONDS, self.check)

    @property
    def route(self) -> Route:
        return Route(self.origin.place, ("127.0.0.1", self._socks))

    @property
    def pids(self) -> Mapping[str, int]:
        names = [node.name for node in self._nodes] + ["client"]
        return {name: self.processes.pid_of(name) for name in names}

    @property
    def relays(self) -> frozenset[str]:
        return frozenset(node.name for node in self._nodes)

    def build_circuits(self, count: int) -> list[float] | None:
        with Controller(self._control) as controller:
            return [self._build(controller) for _ in range(count)]

    @staticmethod
    def _build(controller: Controller) -> float:
        time.sleep(BUILD_PAUSE_SECONDS)
        return controller.build_circuit()

    def time_client_start(self) -> tuple[float, float] | None:
        """Start a client with an empty folder, then one that finds the consensus in it."""
        shutil.rmtree(self.processes.folder / "fresh", ignore_errors=True)
        port = free_port()
        settings = self._write("fresh", self._client_settings("fresh", port, free_port()))
        arguments = ["tor", "--defaults-torrc", "/dev/null", "-f", str(settings)]
        return (
            self._time_answer("fresh client", arguments, port),
            self._time_answer("the same again", arguments, port),
        )

    # ---- its configuration

    def _plan(self, number: int) -> Node:
        is_authority = number < AUTHORITIES
        return Node(
            name=f"authority{number + 1}" if is_authority else f"relay{number - AUTHORITIES + 1}",
            host=f"127.{self.second_octet}.{number + 1}.1",
            onion_port=5000 + number,
            directory_port=7000 + number,
            is_authority=is_authority,
            is_exit=number >= AUTHORITIES + RELAYS - EXITS,
        )

    def _node_settings(self, node: Node) -> str:
        bulk = _BULK if self.name == "tor-bulk" else ""
        return (
            _COMMON
            + _RELAY
            + (_EXIT if node.is_exit else _MIDDLE)
            + (f"{_AUTHORITY}{bulk}DirPort {node.host}:{node.directory_port}\n" * node.is_authority)
            + f"DataDirectory {self._folder(node.name)}\n"
            + f"Nickname {node.name}\nAddress {node.host}\nOutboundBindAddress {node.host}\n"
            + f"ORPort {node.host}:{node.onion_port}\n"
            + self._trusted
        )

    def _client_settings(self, name: str, socks: int, control: int) -> str:
        ports = f"SocksPort 127.0.0.1:{socks}\nControlPort 127.0.0.1:{control}\n"
        return _COMMON + _CLIENT + ports + f"DataDirectory {self._folder(name)}\n" + self._trusted

    def _folder(self, name: str) -> Path:
        folder = self.processes.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _write(self, name: str, settings: str) -> Path:
        path = self._folder(name) / "torrc"
        path.write_text(settings, encoding="ascii")
        return path

    def _run(self, name: str, settings: str) -> None:
        path = self._write(name, settings)
        self.processes.start(name, ["tor", "--defaults-torrc", "/dev/null", "-f", str(path)])

    def _found(self, node: Node) -> str:
        """Make the keys of an authority; return the line by which all others know it."""
        keys = self._folder(node.name) / "keys"
        keys.mkdir(mode=0o700)
        place = f"{node.host}:{node.directory_port}"
        contents = {"-i": "identity_key", "-s": "signing_key", "-c": "certificate"}
        files = {flag: str(keys / f"authority_{content}") for flag, content in contents.items()}
        options = [word for pair in files.items() for word in pair]
        certify = ["tor-gencert", "--create-identity-key", "-m", "12", "-a", place, *options]
        _output_of([*certify, "--passphrase-fd", "0"], entered=b"throw-away\n")
        certificate = _text(Path(files["-c"]))
        identity = _first(r"^fingerprint ([0-9A-F]{40})", certificate)
        listing = f"--list-fingerprint --quiet --ORPort {node.host}:{node.onion_port}"
        where = ["--DataDirectory", str(keys.parent), "--Nickname", node.name]
        nowhere = ["--ignore-missing-torrc", "-f", str(keys.parent / "none")]
        printed = _output_of(["tor", *nowhere, *listing.split(), *where])
        fingerprint = _first(r"((?:[0-9A-F]{4} ?){10})", printed).strip()
        return (
            f"DirAuthority {node.name} orport={node.onion_port} no-v2 v3ident={identity} "
            f"{place} {fingerprint}\n"
        )

    # ---- its beginning

    def _wait_until_settled(self) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not all(map(self._is_settled, self._nodes)):
            self.processes.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"the Tor network did not settle in {_SETTLE_SECONDS:.0f} s")
            time.sleep(0.5)

    def _is_settled(self, node: Node) -> bool:
        folder = self._folder(node.name)
        consensus = _text(folder / "cached-microdesc-consensus")
        known = "".join(map(_text, folder.glob("cached-microdescs*")))
        running = len(re.findall(r"^s .*\bRunning\b", consensus, re.MULTILINE))
        described = len(re.findall(r"^onion-key", known, re.MULTILINE))
        return min(running, described) >= len(self._nodes)


class BulkTorNetwork(TorNetwork):
    """Own a Tor network whose authorities have widened everybody's windows."""

    name = "tor-bulk"
    second_octet = 12


def _output_of(arguments: list[str], entered: bytes = b"") -> str:
    done = subprocess.run(arguments, input=entered, capture_output=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace")[-500:]
        raise ProcessError(f"{arguments[0]} ended with code {done.returncode}: {said}")
    return done.stdout.decode("utf-8", "replace")


def _first(expression: str, text: str) -> str:
    found = re.search(expression, text, re.MULTILINE)
    if found is None:
        raise ProcessError(f"found no {expression!r} in what Tor's programs said")
    return found[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
