"""Make the rules of ``chaos`` come true in a running lab, and tell what that does to its users.

Each rule has a task of its own. Who is killed comes back, at its old address and with its state.
Meanwhile requests go through the proxy and are checked, byte by byte, so that the summary says
what an application would have seen. What is drawn at random follows from a seed.
"""

import random
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from warren.errors import WarrenError
from warren.lab.chaos import POSITIONS, Rule, Verb
from warren.lab.children import Child
from warren.lab.downloads import DownloadError, begin_download
from warren.lab.laboratory import Lab
from warren.lab.origin import digest
from warren.lab.report import Report
from warren.status.control import ask_soon, find_socket

SUMMARY_SECONDS = 10.0
COMEBACK_SECONDS = 2.0
#: What every request asks for, how often each of the applications asks, and its patience.
REQUEST_BYTES = 10_240
PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 90.0
_PATH = f"/bytes/{REQUEST_BYTES}"
_DONE = {Verb.KILL: "killed", Verb.STOP: "stopped", Verb.CUT: "cut"}


@dataclass
class Requests:
    """Hold what became of the requests so far; the slowest in seconds, failures by their reason."""

    served: int = 0
    slowest: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Return how many failed, for whatever reason."""
        return self.failures.total()


class Havoc:
    """Own what goes wrong in `lab` by `rules`; who is away, and what was done so far."""

    def __init__(
        self,
        lab: Lab,
        rules: tuple[Rule, ...],
        report: Report,
        *,
        seed: int = 1,
        comeback: float = COMEBACK_SECONDS,
        applications: int = 2,
    ) -> None:
        self._lab = lab
        self._rules = rules
        self._report = report
        self._rng = random.Random(seed)
        self._comeback = comeback
        self._applications = applications
        self._away: set[str] = set()
        self._done: Counter[str] = Counter(dict.fromkeys((*_DONE.values(), "missed"), 0))
        self.requests = Requests()
        self._start = trio.current_time()

    async def run(self) -> None:
        """Go on until cancelled; nobody is left stopped, and the last word is a summary."""
        self._start = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                for rule in self._rules:
                    nursery.start_soon(self._follow, rule, nursery)
                for _ in range(self._applications):
                    nursery.start_soon(self._ask_again_and_again)
                while True:
                    await trio.sleep(SUMMARY_SECONDS)
                    self._tell_summary()
        finally:
            self._tell_summary()

    # ---- the rules

    async def _follow(self, rule: Rule, nursery: trio.Nursery) -> None:
        for due in rule.times():
            await trio.sleep_until(self._start + due)
            nursery.start_soon(self._strike, rule)

    async def _strike(self, rule: Rule) -> None:
        """Do to one victim what `rule` says, until it is well again."""
        victim = await self._choose(rule)
        if victim is None:
            self._done["missed"] += 1
            self._tell("missed", f"nobody to {rule.verb.value}: {rule}", rule=str(rule))
            return
        self._away.add(victim.name)
        self._done[_DONE[rule.verb]] += 1
        try:
            if rule.verb is Verb.KILL:
                await self._kill(rule, victim)
            elif rule.verb is Verb.STOP:
                await self._stop(rule, victim)
            else:
                await self._cut(rule, victim)
        finally:
            self._away.discard(victim.name)

    async def _kill(self, rule: Rule, victim: Child) -> None:
        seconds = self._comeback if rule.seconds is None else rule.seconds
        victim.process.kill()
        self._tell_victim("killed", rule, victim)
        await trio.sleep(seconds)
        await self._lab.restart(victim)
        self._tell_victim("back", rule, victim)

    async def _stop(self, rule: Rule, victim: Child) -> None:
        assert rule.seconds is not None
        victim.process.send_signal(signal.SIGSTOP)
        self._tell_victim("stopped", rule, victim)
        try:
            await trio.sleep(rule.seconds)
        finally:
            victim.process.send_signal(signal.SIGCONT)
        self._tell_victim("back", rule, victim)

    async def _cut(self, rule: Rule, victim: Child) -> None:
        line = self._lab.line_to(victim)
        self._tell_victim("cut", rule, victim)
        if rule.seconds is None:
            line.process.send_signal(signal.SIGUSR1)
            return
        line.process.send_signal(signal.SIGUSR2)
        try:
            await trio.sleep(rule.seconds)
        finally:
            line.process.send_signal(signal.SIGUSR2)
        self._tell_victim("back", rule, victim)

    # ---- the victims

    async def _choose(self, rule: Rule) -> Child | None:
        """Return who it is this time; None when there is nobody, or who it would be is away."""
        if rule.is_any:
            members = [peer for peer in self._lab.peers if peer.role == rule.victim]
        elif rule.victim in POSITIONS:
            members = await self._in_use(POSITIONS.index(rule.victim))
        else:
            members = [self._lab.peer(rule.victim)]
        there = [peer for peer in members if peer.name not in self._away and peer.is_alive]
        return self._rng.choice(there) if there else None

    async def _in_use(self, position: int) -> list[Child]:
        """Return the relays at `position` of the circuits in use; of the others if there are none.

        The proxy itself says which these are, so there are none while it is away.
        """
        try:
            circuits = (await ask_soon(find_socket(self._lab.state_of(self._lab.peer("proxy")))))[
                "circuits"
            ]
        except WarrenError:
            return []
        by_id = {peer.peer_id: peer for peer in self._lab.peers if peer.peer_id is not None}
        for is_wanted in (_has_streams, _is_used, _is_any):
            paths = [circuit["path"] for circuit in circuits if is_wanted(circuit)]
            found = [by_id[path[position]] for path in paths if len(path) > position]
            if found:
                return found
        return []

    # ---- the applications

    async def _ask_again_and_again(self) -> None:
        while True:
            await self._ask()
            await trio.sleep(PAUSE_SECONDS)

    async def _ask(self) -> None:
        """Make one request and count what became of it."""
        begun = trio.current_time()
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                download = await begin_download(self._lab.proxy, "SOCKS5", self._lab.origin, _PATH)
                try:
                    found = await download.read()
                finally:
                    await download.aclose()
            if found != digest(REQUEST_BYTES):
                raise DownloadError("wrong bytes")
        except DownloadError as error:
            self.requests.failures[str(error)] += 1
        except trio.TooSlowError:
            self.requests.failures[f"no answer within {PATIENCE_SECONDS:g} s"] += 1
        else:
            self.requests.served += 1
        self.requests.slowest = max(self.requests.slowest, trio.current_time() - begun)

    # ---- what is told

    def _tell_victim(self, what: str, rule: Rule, victim: Child) -> None:
        place = rule.victim if rule.victim in POSITIONS and not rule.is_any else victim.role
        sentence = f"{victim.name} ({place}) {'is' if what == 'back' else 'was'} {what}"
        self._tell(what, sentence, name=victim.name, rule=str(rule))

    def _tell(self, what: str, sentence: str, **fields: str) -> None:
        seconds = trio.current_time() - self._start
        self._report.tell(
            "chaos", f"{seconds:7.1f} s  {sentence}", what=what, seconds=round(seconds, 3), **fields
        )

    def _tell_summary(self) -> None:
        seconds, requests = trio.current_time() - self._start, self.requests
        done = ", ".join(f"{count} {what}" for what, count in self._done.items())
        reasons = "".join(f"\n           {n} × {why}" for why, n in requests.failures.items())
        self._report.tell(
            "chaos-summary",
            f"{seconds:7.1f} s  {requests.served} requests served, {requests.failed} failed, the "
            f"slowest took {requests.slowest:.1f} s; {done}{reasons}",
            seconds=round(seconds, 3),
            served=requests.served,
            failed=requests.failed,
            slowest=round(requests.slowest, 3),
            failures=dict(requests.failures),
            done=dict(self._done),
        )


Circuit = Mapping[str, object]


def _has_streams(circuit: Circuit) -> bool:
    return bool(circuit["streams"])


def _is_used(circuit: Circuit) -> bool:
    return bool(circuit["used"])


def _is_any(_: Circuit) -> bool:
    return True
