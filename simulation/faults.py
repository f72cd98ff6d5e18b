"""What goes wrong: drawn beforehand from the seed, carried out at its time, and undone again.

The list is made before anything runs and by dice of its own, so a simulation can be repeated
with fewer of the same faults: what is left happens at the same moments to the same hosts.
"""

import math
from collections.abc import Callable, Sequence

import trio

from simulation.cast import is_exit
from simulation.chance import dice
from simulation.nodes import Node
from simulation.scenario import INSTANT, Fault, Scenario
from simulation.wire import Wire
from warren.errors import ConfigError

#: Of a simulation nothing goes wrong at its end, so that all can be well again.
CALM_SHARE = 0.2
#: So long a relay may be away without anything being lost; two or three may be so, in turns.
_SHORT_SECONDS = 10.0


def draw_faults(scenario: Scenario, hosts: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults of `scenario` in their order; `hosts` are the names of all machines.

    Raises ConfigError when one that was written down names a machine that there is not.
    """
    if scenario.faults is not None:
        _check(scenario.faults, hosts)
        return scenario.faults
    rng, faults, at = dice(scenario.seed, "faults"), [], 0.0
    end = scenario.seconds * (1 - CALM_SHARE)
    peers = [name for name in hosts if not name.startswith("target")]
    relays = [name for name in hosts if name.startswith("relay")]
    while scenario.kinds and (at := at + rng.expovariate(1 / scenario.fault_seconds)) < end:
        kind = rng.choice(scenario.kinds)
        # relays are what most streams depend on
        some = rng.choice((relays, peers, hosts))
        if kind in ("crash", "corrupt", "clock", "full"):
            some = rng.choice((relays, peers))
        names: tuple[str, ...] = (rng.choice(some),)
        if kind == "cut" and rng.random() < 0.3:
            names = tuple(rng.sample(hosts, 2))
        if kind == "part":
            names = tuple(sorted(rng.sample(hosts, rng.randint(1, len(hosts) // 2))))
        seconds = 0.0 if kind in INSTANT else math.ceil(10 * rng.choice((2, 10, 40, 90)) *
                                                        rng.uniform(0.5, 1.5)) / 10  # fmt: skip
        value = rng.choice((-1, 1)) * rng.choice((5, 300, 7200, 172_800)) if kind == "clock" else 0
        seconds = min(seconds, math.floor(end - at) + 1)
        faults.append(Fault(round(at, 3), kind, names, seconds, value))
    return tuple(faults)


def cost_no_stream(faults: Sequence[Fault]) -> bool:
    """Tell whether streams outlive all `faults`: only the way to their exits is hit, for a moment.

    What hits an exit may have reset its targets, and an outage may be longer than it holds streams.
    """
    return all(map(_costs_no_stream, faults))


def _costs_no_stream(fault: Fault) -> bool:
    relays = [name for name in fault.hosts if name.startswith("relay")]
    if len(relays) < len(fault.hosts) or fault.kind not in ("cut", "crash"):
        return False
    # What is cut between two relays is a link, and no target's connection.
    is_on_the_way = len(relays) == 2 or not is_exit(int(relays[0].removeprefix("relay")))
    return is_on_the_way and fault.seconds <= _SHORT_SECONDS


def _check(faults: Sequence[Fault], hosts: Sequence[str]) -> None:
    """Raise ConfigError when a fault names a machine that there is not, or not for that."""
    for fault in faults:
        known = [
            name
            for name in hosts
            if fault.kind not in ("crash", "clock", "full") or not name.startswith("target")
        ]
        unknown = set(fault.hosts) - set(known)
        if unknown:
            names = ", ".join(known)
            raise ConfigError(f"'{fault}': there is no {min(unknown)} for that, only {names}")


class Trouble:
    """Own the faults under way; `nodes` and `addresses` are by name."""

    def __init__(
        self,
        wire: Wire,
        nodes: dict[str, Node],
        addresses: dict[str, str],
        *,
        start: Callable[[Node], None],
        tell: Callable[[str], None],
    ) -> None:
        self._wire = wire
        self._nodes = nodes
        self._addresses = addresses
        self._start = start
        self._tell = tell

    async def run(self, faults: Sequence[Fault], nursery: trio.Nursery) -> None:
        """Carry out every fault at its time, counted from now."""
        begin = trio.current_time()
        for fault in sorted(faults, key=lambda fault: fault.at):
            await trio.sleep_until(begin + fault.at)
            nursery.start_soon(self._carry_out, fault)

    async def _carry_out(self, fault: Fault) -> None:
        self._tell(f"! {fault.kind} {'+'.join(fault.hosts)}")
        hosts = [self._addresses[name] for name in fault.hosts]
        host, wire = self._wire.hosts[hosts[0]], self._wire
        match fault.kind:
            case "cut":
                wire.cut(*hosts)
                return
            case "corrupt":
                host.corrupting += 1
                return
            case "stall":
                wire.stall(hosts[0])
                await trio.sleep(fault.seconds)
                wire.resume(hosts[0])
            case "part":
                others = [each for each in wire.hosts if each not in hosts]
                wire.part(fault, hosts, others)
                await trio.sleep(fault.seconds)
                wire.join(fault)
            case "slow":
                host.slowed += 1
                await trio.sleep(fault.seconds)
                host.slowed -= 1
            case "refuse":
                host.refusing += 1
                await trio.sleep(fault.seconds)
                host.refusing -= 1
            case _:
                await self._carry_out_on(self._nodes[fault.hosts[0]], fault)
        self._tell(f"  {fault.kind} {'+'.join(fault.hosts)} is over")

    async def _carry_out_on(self, node: Node, fault: Fault) -> None:
        match fault.kind:
            case "crash":
                if node.is_up:
                    self._wire.kill(node.address)
                    node.kill()
                    await trio.sleep(fault.seconds)
                    self._start(node)
            case "clock":
                node.clock_error += fault.value
                await trio.sleep(fault.seconds)
                node.clock_error -= fault.value
            case "full":
                node.folder.is_full = True
                await trio.sleep(fault.seconds)
                node.folder.is_full = False
