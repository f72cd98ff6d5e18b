"""One simulation from the beginning to the end.

The network is founded and gathers; then its clients' applications begin, and so do the faults.
For the last fifth of the time nothing goes wrong any more: after it every client must get a page
again, every application must have come to its end, and when all links have settled nothing may
be left of what they did. At last every node is ended, which must close all that it had open.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import trio
import trio._core._run as trio_loop

from simulation.cast import make_nodes, place_hosts
from simulation.chance import dice
from simulation.clock import BEGINNING, SimulatedClock
from simulation.faults import Trouble, cost_no_stream, draw_faults
from simulation.invariants import Audit, GuardWatch, tasks_of_each_kind, what_is_left
from simulation.nodes import (
    LINK_PORT,
    ClientNode,
    Node,
)
from simulation.probes import probing, replaced
from simulation.scenario import Fault, Scenario
from simulation.shared import sharing
from simulation.targets import TARGET_PORT, Target, target_names
from simulation.traffic import Applications, Visit, plan_visits
from simulation.wire import Wire
from warren.addresses import Address

LOOK_SECONDS = 2.0
#: A network that nothing goes wrong in works after this time at the latest.
GATHERING_SECONDS = 300.0
#: When all has been well for a fifth of the time, a client gets a page within a moment, unless the
#: consensus it has lists no exit; the next one does, and it is fetched within an interval.
RECOVERY_SECONDS, RECOVERY_INTERVALS = 60.0, 2.5
#: What ended is forgotten within this time: the longest is a closed stream's wait of 60 s.
SETTLING_SECONDS = 90.0
#: Applications begin nothing any more in the last part of the time.
_BUSY_SHARE = 0.9
#: One client in so many is there before the first consensus.
_EARLY_CLIENT = 4


@dataclass(frozen=True)
class Violation:
    """Hold an invariant that was broken: which, when (seconds from the beginning), and how."""

    kind: str
    at: float
    what: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:.3f} s: {self.what}"


@dataclass
class Outcome:
    """Hold what came of a simulation.

    ``trace`` has a line for each event; ``digest`` sums up the trace and every delivery on the
    wire, and is the same whenever the same scenario is simulated.
    """

    scenario: Scenario
    faults: tuple[Fault, ...]
    violations: list[Violation] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    gathered: float = 0.0
    recovered: float = 0.0
    seconds: float = 0.0  # simulated
    processor_seconds: float = 0.0
    deliveries: int = 0
    cells: int = 0
    digest: str = ""


def simulate(scenario: Scenario, *, most_violations: int = 1) -> Outcome:
    """Simulate `scenario` and return what came of it; at most so many violations are collected.

    Raises ConfigError when its faults name machines that are not there, and RuntimeError when the
    probe of seals saw none, so that nobody would have noticed a nonce that was used twice.
    """
    clock = SimulatedClock()
    simulation = Simulation(scenario, clock, most_violations)
    started = time.process_time()
    with (
        _rarely_collecting(),
        sharing(),
        _repeatable(scenario.seed, clock),
        probing(simulation.complain) as ledger,
    ):
        trio.run(simulation.run, clock=clock)
        simulation.outcome.cells = ledger.sealed
    outcome = simulation.outcome
    if clock.happened and not outcome.cells:
        raise RuntimeError("bytes were delivered, and no seal was seen: nonces were not watched")
    outcome.processor_seconds = time.process_time() - started
    outcome.seconds = clock.now - BEGINNING
    outcome.deliveries = clock.happened
    text = "\n".join((*outcome.trace, f"{simulation.wire.fingerprint:08x}"))
    outcome.digest = sha256(text.encode()).hexdigest()[:16]
    return outcome


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    """Look for garbage less often than Python does: a simulation has a lot that lives long."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _repeatable(seed: int, clock: SimulatedClock) -> Iterator[None]:
    """Let trio run tasks in an order that follows from the seed; it has a switch for that.

    Who sleeps is woken by an event of the clock, and who asks for the time asks the clock.
    """
    with (
        replaced(trio, "current_time", clock.current_time),
        replaced(trio, "sleep", clock.sleep),
        replaced(trio, "sleep_until", clock.sleep_until),
        replaced(trio_loop, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        replaced(trio_loop, "_r", dice(seed, "trio")),
    ):
        yield


async def _wait_for_consensus(node: Node) -> None:
    await node.is_running.wait()
    assert node.peer is not None
    await node.peer.archive.wait_for_consensus()


class Simulation:
    """Own everything of one simulation."""

    def __init__(self, scenario: Scenario, clock: SimulatedClock, most_violations: int) -> None:
        self.scenario = scenario
        self.clock = clock
        self.wire = Wire(clock, dice(scenario.seed, "wire"))
        self.wire.link_ports = frozenset((LINK_PORT,))
        self._most_violations = most_violations
        self._begin = BEGINNING  # or when the applications begin
        self._scope = trio.CancelScope()
        self._names = place_hosts(scenario, self.wire)
        self.outcome = Outcome(scenario, draw_faults(scenario, list(self._names)))
        self.nodes = make_nodes(scenario, self._names, self.wire)
        self.targets = [Target(n, self.complain) for n in self._names if n.startswith("target")]
        self.applications = [self._applications_of(node) for node in self._clients]

    # ---- what happens

    async def run(self) -> None:
        """Simulate from the beginning to the end, or to the first broken invariant."""
        self.clock.attach()
        with self._scope:
            async with trio.open_nursery() as nursery:
                await self._run(nursery)
                nursery.cancel_scope.cancel()

    async def _run(self, nursery: trio.Nursery) -> None:
        scenario, outcome = self.scenario, self.outcome

        def start(node: Node) -> None:
            nursery.start_soon(self._keep, node)

        trouble = Trouble(self.wire, self._by_name, self._names, start=start, tell=self.tell)
        late = [client for number, client in enumerate(self._clients) if number % _EARLY_CLIENT]
        for node in self.nodes:
            if node not in late:
                start(node)
        for target in self.targets:
            network = self.wire.network_of(self._names[target.name])
            listener = network.listen(Address(network.host.address, TARGET_PORT))
            nursery.start_soon(listener.serve, target.accept, nursery)
        await self._gather(late, start)
        tasks = tasks_of_each_kind(self.nodes)
        audit = Audit(self.nodes, self.complain)
        guards = GuardWatch(self.nodes, self.complain)
        for client in self._clients:
            client.on_guard = guards.note
        nursery.start_soon(audit.run, LOOK_SECONDS)
        self._begin = trio.current_time()
        self.tell(f"the network of {scenario.peers} peers works after {outcome.gathered:.1f} s")
        async with trio.open_nursery() as busy:
            busy.start_soon(trouble.run, outcome.faults, busy)
            for each in self.applications:
                each.until = self._begin + scenario.seconds
                visits = plan_visits(
                    scenario.seed,
                    each.node.name,
                    scenario.seconds * _BUSY_SHARE,
                    scenario.traffic,
                )
                busy.start_soon(each.run, visits, busy)
            await trio.sleep(scenario.seconds)
        await self._recover()
        await self._settle(tasks)
        audit.look()
        for node in self.nodes:
            node.kill()
        await trio.sleep(1.0)
        self._expect_nothing_open()
        for each in self.applications:
            outcome.outcomes += each.outcomes
        self.tell("the end")

    async def _keep(self, node: Node) -> None:
        """Run one node; what it raises is a bug, of the node or of the simulation."""
        try:
            await node.run()
        except Exception as error:  # noqa: BLE001
            self.complain("bug", f"{node.name} ended: {error!r}")

    async def _gather(self, late: Sequence[Node], start: Callable[[Node], None]) -> None:
        """Wait until every client has a circuit; `late` are those that come when all others can.

        Until there is a consensus whoever is there asks for it every other second, over a circuit
        of its own: a tenth of all that happens in an hour, and each time the same.
        """
        begin = trio.current_time()
        with trio.move_on_after(GATHERING_SECONDS) as scope:
            for node in (each for each in self.nodes if each not in late):
                await _wait_for_consensus(node)
            for node in late:
                start(node)
            for node in late:
                await _wait_for_consensus(node)
            for each in self._clients:
                assert each.client is not None
                await each.client.is_usable.wait()
        if scope.cancelled_caught:
            self.complain("recovery", "the network did not gather")
        self.outcome.gathered = trio.current_time() - begin

    async def _recover(self) -> None:
        """Expect that every client gets a page now."""
        begin = trio.current_time()

        async def expect_page(applications: Applications) -> None:
            for number in range(1_000_000, 1_001_000):
                if await applications.make(Visit(0, "page", number)) == "done":
                    return
                await trio.sleep(1.0)

        seconds = RECOVERY_SECONDS + RECOVERY_INTERVALS * self.scenario.interval
        with trio.move_on_after(seconds) as scope:
            async with trio.open_nursery() as nursery:
                for each in self.applications:
                    nursery.start_soon(expect_page, each)
        self.outcome.recovered = trio.current_time() - begin
        if scope.cancelled_caught:
            self.complain("recovery", f"a client gets no page for {seconds:g} s")

    async def _settle(self, tasks: dict[str, Counter[str]]) -> None:
        """Expect that nothing is left; what just passes by is gone at another look."""
        await trio.sleep(SETTLING_SECONDS)
        before: set[tuple[str, str]] = set()
        lasting: list[tuple[str, str]] = []
        for _ in range(10):
            left = await what_is_left(self.nodes, tasks)
            left += [
                ("leak", f"{each.name}: {each.open} open") for each in self.targets if each.open
            ]
            if not left:
                return
            lasting = [each for each in left if each in before]
            before = set(left)
            await trio.sleep(3.3)
        for kind, what in lasting:
            self.complain(kind, what)

    def _expect_nothing_open(self) -> None:
        for stream in self.wire.streams:
            self.complain("leak", f"{stream!r} is open after all nodes have ended")

    # ---- what is told

    def tell(self, what: str) -> None:
        """Add a line to the trace."""
        self.outcome.trace.append(f"{trio.current_time() - self._begin:11.3f}  {what}")

    def complain(self, kind: str, what: str) -> None:
        """Note a broken invariant; enough of them end the simulation."""
        violations = self.outcome.violations
        if len(violations) >= self._most_violations:
            return
        violation = Violation(kind, trio.current_time() - self._begin, what)
        violations.append(violation)
        self.tell(f"BROKEN {kind}: {what}")
        if len(violations) >= self._most_violations:
            self._scope.cancel()

    # ---- what there is

    def _applications_of(self, node: ClientNode) -> Applications:
        addresses = [self._names[target.name] for target in self.targets]
        applications = Applications(
            node,
            self.scenario.seed,
            list(target_names(addresses)),
            complain=self.complain,
            tell=self.tell,
        )
        applications.is_spared = cost_no_stream(self.outcome.faults)
        return applications

    @property
    def _clients(self) -> list[ClientNode]:
        return [node for node in self.nodes if isinstance(node, ClientNode)]

    @property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}
