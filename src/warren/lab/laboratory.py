"""Run a lab: found a network, start its peers and an origin, wait until the proxy is usable.

Everything it starts ends with it, and so does its folder, unless that was given. A peer that
dies before the proxy is usable is a failure; one that dies later is an event, and the lab goes
on, because that is what networks do.
"""

import contextlib
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from warren.addresses import Address, parse_ip
from warren.errors import ConfigError
from warren.founding import found_network
from warren.lab.children import Child, ChildError, Children
from warren.lab.plan import (
    ORIGIN_NAME,
    PARAMETERS,
    LabOptions,
    Peer,
    make_plan,
    write_config,
    write_countries,
)
from warren.lab.report import Report
from warren.lab.scratch import lab_folder
from warren.network.dns_server import DnsServer

#: A busy machine may be slow to start a dozen processes; ten seconds are usual.
READY_SECONDS = 90
#: What is no peer is usable when it listens.
_NO_PEERS = frozenset(("origin", "impairment"))


@dataclass(frozen=True)
class Lab:
    """Hold a running lab: its folder, its peers, and where to point an application.

    ``impairments`` are the processes in front of relays, named after them.
    """

    directory: Path
    peers: tuple[Child, ...]
    impairments: tuple[Child, ...]
    proxy: Address
    origin: Address
    restart: Callable[[Child], Awaitable[None]]

    @property
    def url(self) -> str:
        """Return the address of the origin's page, as an application would name it."""
        return f"http://{self.origin}/"

    def peer(self, name: str) -> Child:
        """Return the peer `name`."""
        return next(peer for peer in self.peers if peer.name == name)

    def line_to(self, child: Child) -> Child:
        """Return the impairment in front of `child`, which must have one."""
        return next(line for line in self.impairments if line.name == f"to-{child.name}")

    def state_of(self, child: Child) -> Path:
        """Return the state folder of `child`, where its control socket lies."""
        return self.directory / child.name


Use = Callable[[Lab], Awaitable[None]]


async def run_lab(options: LabOptions, report: Report, use: Use) -> None:
    """Run a lab until `use`, which gets it when it is usable, returns.

    Raises ChildError when a process ends before that, and ConfigError.
    """
    is_ready = False

    def on_death(child: Child) -> None:
        if not is_ready:
            raise ChildError(child.obituary())
        report.tell("died", child.obituary(), code=child.process.returncode, **child.describe())

    with lab_folder(options.directory) as directory:
        async with trio.open_nursery() as nursery:
            children = Children(nursery, on_death)
            report.remark(
                f"Starting {options.authorities} authorities, {options.relays} relays ..."
            )
            try:
                with _patience(children):
                    lab = await _start(options, directory, children, nursery)
                is_ready = True
                _tell_ready(lab, report)
                await use(lab)
            finally:
                await children.stop()
            nursery.cancel_scope.cancel()


async def _start(
    options: LabOptions, directory: Path, children: Children, nursery: trio.Nursery
) -> Lab:
    plan = make_plan(options, random.SystemRandom())
    log = directory / "log"
    log.mkdir()
    with contextlib.ExitStack() as reserved:
        peers = [_with_ports(peer, reserved) for peer in plan.peers]
        origin = _reserve(plan.origin_host, reserved)
        resolver = await _start_dns(plan.dns_host, options, origin, nursery)
        authorities = {peer.name: peer.address for peer in peers if peer.role == "authority"}
        found_network(
            directory,
            "lab",
            authorities,
            testing=True,
            parameters={**PARAMETERS, "founding_relays": options.relays},
        )
        targets = (*options.allow_targets, origin)
        countries = None
        if options.countries:
            countries = write_countries(peers, options.countries, directory)
        async with trio.open_nursery() as starting:
            for peer in peers:
                config = write_config(
                    peer,
                    directory,
                    resolver,
                    targets,
                    options.workers,
                    options.bandwidth,
                    countries,
                    options.memory,
                )
                starting.start_soon(_start_peer, peer, config, children, log)
            impaired = [peer for peer in peers if peer.impairment is not None]
            for peer in impaired:
                starting.start_soon(_start_impairment, peer, children, log)
            starting.start_soon(_start_origin, origin, children, log)
        for child in children:
            await child.is_listening.wait()
    running = tuple(children.named(peer.name) for peer in peers)
    # The proxy may be the first to learn of a new network. An exit that has not yet would refuse
    # its streams, because it does not know who the relay before it is (EXT-8).
    for child in running:
        await child.is_usable.wait()
    lines = tuple(children.named(_line_name(peer)) for peer in impaired)
    proxy = running[-1]
    target = Address(ORIGIN_NAME, origin.port)
    return Lab(directory, running, lines, proxy.addresses[0], target, children.restart)


@contextlib.contextmanager
def _patience(children: Children) -> Iterator[None]:
    """Bound how long a lab takes to start; raise ChildError when that is over."""
    try:
        with trio.fail_after(READY_SECONDS):
            yield
    except trio.TooSlowError as error:
        silent = [child.name for child in children if not child.is_listening.is_set()]
        idle = [
            child.name
            for child in children
            if child.role not in _NO_PEERS and not child.is_usable.is_set()
        ]
        what = f"{', '.join(silent)} did not listen"
        if not silent:
            what = f"{', '.join(idle)} had no consensus or no circuit"
        logs = next(iter(children)).log.parent
        raise ChildError(f"{what} within {READY_SECONDS} s; logs with --dir, in {logs}") from error


async def _start_peer(peer: Peer, config: Path, children: Children, log: Path) -> None:
    arguments = ["-m", "warren", peer.command, "--config", str(config)]
    await children.start(peer.role, peer.name, log / f"{peer.name}.log", arguments)


async def _start_impairment(peer: Peer, children: Children, log: Path) -> None:
    name = _line_name(peer)
    arguments = [
        *("-m", "warren.lab.impairment", "--line", str(peer.impairment)),
        *("--listen", str(peer.published), "--to", str(peer.address)),
    ]
    await children.start("impairment", name, log / f"{name}.log", arguments)


def _line_name(peer: Peer) -> str:
    return f"to-{peer.name}"


async def _start_origin(address: Address, children: Children, log: Path) -> None:
    arguments = ["-m", "warren.lab.origin", "--listen", str(address)]
    await children.start("origin", "origin", log / "origin.log", arguments)


async def _start_dns(
    host: str, options: LabOptions, origin: Address, nursery: trio.Nursery
) -> Address:
    """Start the lab's name server; it knows the origin and ``--host``, nothing else."""
    address = parse_ip(origin.host)
    assert address is not None
    server = DnsServer({**options.hosts, ORIGIN_NAME: (address,)})
    listening: Address = await nursery.start(server.serve, host)
    return listening


def _with_ports(peer: Peer, reserved: contextlib.ExitStack) -> Peer:
    """Give a peer those of its ports that others must know before anybody binds them.

    An authority's stands in the network file. A relay behind an impairment publishes the
    impairment's, which must know where to forward to.
    """
    if peer.role == "authority":
        return replace(peer, address=_reserve(peer.address.host, reserved))
    if peer.impairment is None:
        return peer
    host = peer.address.host
    return replace(peer, address=_reserve(host, reserved), published=_reserve(host, reserved))


def _reserve(host: str, reserved: contextlib.ExitStack) -> Address:
    """Choose a free port for a process to come and keep it from others while `reserved` is open.

    A socket that is bound but does not listen keeps the port, and yet lets that process listen
    there, since both say SO_REUSEADDR.
    """
    sock = reserved.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, 0))
    except OSError as error:
        raise ConfigError(
            f"cannot bind {host}, and a lab needs the loopback addresses 127.x.y.z, which Linux "
            f"has: {error.strerror}"
        ) from error
    return Address(host, sock.getsockname()[1])


def _tell_ready(lab: Lab, report: Report) -> None:
    for child in (*lab.peers, *lab.impairments):
        report.remark(f"{child.name:12} {child.addresses[0]!s:22} process {child.pid}")
    report.tell(
        "ready",
        f"The network is up. Its files are in {lab.directory}. Try:\n\n"
        f"    curl -x socks5h://{lab.proxy} {lab.url}\n",
        proxy=str(lab.proxy),
        processes=[child.describe() for child in lab.peers],
        dir=str(lab.directory),
        origin=lab.url,
        impairments=[child.describe() for child in lab.impairments],
    )
