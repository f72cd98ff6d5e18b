"""What is simulated, as values: they and nothing else decide what happens.

A scenario names its faults one by one where somebody has written them down, or their kinds, and
then the seed decides which of them happen when and to whom.
"""

import math
import re
from dataclasses import dataclass, replace

from warren.errors import ConfigError

MINUTE, HOUR = 60.0, 3600.0

#: What can go wrong, and with whom: `host` is a relay, an authority, a client or a target.
KINDS = {
    "crash": "the process at HOST is killed, and started again after SECONDS",
    "cut": "the connections of HOST, or between HOST and HOST, break",
    "stall": "nothing passes from or to HOST for SECONDS, and nobody is told",
    "part": "nothing passes between HOST … and all others for SECONDS",
    "slow": "the uplink of HOST has a fiftieth of its rate (20 KB/s at least), and 300 ms more",
    "refuse": "HOST accepts no connection for SECONDS",
    "corrupt": "a bit of the next bytes that HOST reads from a link is changed",
    "clock": "the clock of HOST is wrong by VALUE for SECONDS",
    "full": "the disk of HOST is full for SECONDS",
}
_HOSTS_OF = {"cut": (1, 2), "part": (1, 1000)}
#: Kinds that are over at once.
INSTANT = frozenset(("cut", "corrupt"))
#: The most that is simulated: beyond it there is no address left for another peer, or no end.
MOST_PEERS, MOST_SECONDS, MOST_TRAFFIC, MOST_FAULTS = 5000, 1000 * HOUR, 1000.0, 1_000_000

_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_TEXT = re.compile(
    rf"at (?P<at>{_NUMBER}) (?P<kind>\w+) (?P<hosts>[\w.]+(?:\+[\w.]+)*)"
    rf"(?: for (?P<seconds>{_NUMBER}))?(?: by (?P<value>-?{_NUMBER}))?"
)


def figure(value: float) -> str:
    """Return the shortest text that is read as exactly `value` again."""
    return repr(value).removesuffix(".0")


@dataclass(frozen=True)
class Fault:
    """Hold one thing that goes wrong: when and for how long, in seconds, and to whom.

    In text: ``at 12.5 stall relay3 for 20``, ``at 60 part relay1+relay2 for 30``,
    ``at 90 clock client1 for 60 by -7200``.
    """

    at: float
    kind: str
    hosts: tuple[str, ...]
    seconds: float = 0.0
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"unknown fault {self.kind!r}: expected one of {', '.join(KINDS)}")
        least, most = _HOSTS_OF.get(self.kind, (1, 1))
        if not least <= len(self.hosts) <= most:
            raise ConfigError(f"{self.kind}: {len(self.hosts)} hosts, expected {least} to {most}")
        if len(set(self.hosts)) < len(self.hosts):
            raise ConfigError(f"'{self}' names a host twice, expected each once")
        # What says nothing would be done would be taken for a network that bears it.
        if bool(self.seconds) == (self.kind in INSTANT):
            expected = "no 'for': it is over at once" if self.seconds else "'for' so many seconds"
            raise ConfigError(f"'{self}': expected {expected}")
        if bool(self.value) != (self.kind == "clock"):
            expected = "no 'by'" if self.value else "'by' so many seconds, as in: by -7200"
            raise ConfigError(f"'{self}': expected {expected}")

    def __str__(self) -> str:
        text = f"at {figure(self.at)} {self.kind} {'+'.join(self.hosts)}"
        if self.seconds:
            text += f" for {figure(self.seconds)}"
        return text + f" by {figure(self.value)}" * bool(self.value)

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read the text form; raise ConfigError otherwise."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                f"{text.strip()!r} is no fault: expected something like 'at 12.5 stall relay3 for "
                "20' or 'at 90 clock client1 for 60 by -7200'"
            )
        return cls(
            float(found["at"]),
            found["kind"],
            tuple(found["hosts"].split("+")),
            float(found["seconds"] or 0),
            float(found["value"] or 0),
        )


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Read faults with a semicolon or a new line between them; raise ConfigError otherwise."""
    lines = (line.partition("#")[0].strip() for line in re.split(r"[;\n]", text))
    return tuple(Fault.parse(line) for line in lines if line)


def parse_kinds(text: str) -> tuple[str, ...]:
    """Read a list of kinds, ``all`` or ``none``; raise ConfigError otherwise."""
    if text in ("all", "none"):
        return tuple(KINDS) if text == "all" else ()
    kinds = tuple(text.split(","))
    unknown = set(kinds) - KINDS.keys()
    if unknown:
        raise ConfigError(
            f"unknown fault {min(unknown)!r}: expected all, none, or some of {', '.join(KINDS)}"
        )
    return kinds


@dataclass(frozen=True)
class Scenario:
    """Hold all that decides a simulation.

    ``peers`` are authorities, relays and clients together; ``seconds`` are simulated. ``kinds``
    of faults are drawn, about one every ``fault_seconds``, unless ``faults`` says which there
    are. ``traffic`` multiplies what the applications do.
    """

    seed: int
    peers: int = 40
    seconds: float = 10 * MINUTE
    kinds: tuple[str, ...] = tuple(KINDS)
    fault_seconds: float = 10.0
    faults: tuple[Fault, ...] | None = None
    traffic: float = 1.0

    def __post_init__(self) -> None:
        if self.peers < 10:
            raise ConfigError(f"{self.peers} peers: expected 10 at least, so that paths differ")
        if self.peers > MOST_PEERS:
            raise ConfigError(f"{self.peers} peers: expected {MOST_PEERS} at most")
        for what, value, least, most in (
            ("seconds", self.seconds, 1.0, MOST_SECONDS),
            ("seconds from fault to fault", self.fault_seconds, 0.01, math.inf),
            ("times the usual traffic", self.traffic, 0.0, MOST_TRAFFIC),
        ):
            if not least <= value <= most or math.isinf(value):
                expected = f"{least:g} or more" if math.isinf(most) else f"{least:g} to {most:.12g}"
                raise ConfigError(f"{value:g} {what}: expected {expected}")
        if self.faults is None and self.kinds and self.seconds > MOST_FAULTS * self.fault_seconds:
            raise ConfigError(
                f"a fault every {self.fault_seconds:g} s for {self.seconds:.12g} s: expected "
                f"{MOST_FAULTS:,} at most, so a larger --every"
            )
        for fault in self.faults or ():
            if fault.at >= self.seconds:
                raise ConfigError(
                    f"{fault}: the simulation is over after {self.seconds:.12g} s, expected an "
                    "earlier time, or more --seconds"
                )
            # One that was drawn may end up to a second later where all is very short.
            if fault.at + fault.seconds > self.seconds + 1:
                raise ConfigError(
                    f"{fault}: the simulation is over after {self.seconds:.12g} s, expected that "
                    "the fault is by then, or more --seconds"
                )

    @property
    def relays(self) -> int:
        """Return how many of the peers are relays; a third of them are exits."""
        return round((self.peers - self.authorities) * 0.6)

    @property
    def authorities(self) -> int:
        """Return how many of the peers are authorities."""
        return 3

    @property
    def clients(self) -> int:
        """Return how many of the peers are clients."""
        return self.peers - self.authorities - self.relays

    @property
    def interval(self) -> int:
        """Return the seconds from one consensus to the next: several in every simulation."""
        return int(min(HOUR, max(120, self.seconds / 4)))

    def with_faults(self, faults: tuple[Fault, ...]) -> "Scenario":
        """Return the same with exactly these faults."""
        return replace(self, faults=faults)

    @property
    def command(self) -> str:
        """Return the command that simulates this again."""
        words = [f"scripts/simulate --seed {self.seed} --peers {self.peers}"]
        words.append(f"--seconds {figure(self.seconds)} --traffic {figure(self.traffic)}")
        if self.faults is None:
            kinds = "all" if self.kinds == tuple(KINDS) else ",".join(self.kinds) or "none"
            words.append(f"--faults {kinds} --every {figure(self.fault_seconds)}")
        else:
            words.append(f"--script '{'; '.join(map(str, self.faults))}'")
        return " ".join(words)
