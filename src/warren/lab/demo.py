"""Show from outside that a stream takes three hops, and that it really depends on them.

The relays count cells themselves, each in its own process. So the demo fetches a file, pauses
in the middle to ask the proxy which path the stream is on, and compares the counters of every
relay before and after: those three have grown by the size of the file, the others have not. Then
it kills the middle one in the middle of a transfer, which goes on over another circuit.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from warren.errors import WarrenError
from warren.lab.children import Child
from warren.lab.downloads import WAYS, Way, begin_download
from warren.lab.laboratory import Lab
from warren.lab.origin import PAGE, digest
from warren.lab.report import Report
from warren.status.control import ask_soon, find_socket

FILE_BYTES = 10_000_000
#: Long enough to be under way while the middle dies, as nobody reads it.
LONG_BYTES = 100_000_000
CELL_BYTES = 4096
STEP_SECONDS = 30
_POSITIONS = ("guard", "middle", "exit")


class DemoError(WarrenError):
    """Tell that the network did not do what the demo shows."""


@dataclass(frozen=True)
class Path:
    """Hold the circuit a stream is on, as the proxy calls it, and its relays in order."""

    circuit: int
    hops: tuple[Child, ...]

    def __str__(self) -> str:
        return " > ".join(hop.name for hop in self.hops)


async def show(lab: Lab, report: Report) -> None:
    """Run the whole demo; raise DemoError or DownloadError when something is not as it says."""
    for way in WAYS:
        await _fetch_page(lab, report, way)
    for way in WAYS:
        await _fetch_file(lab, report, way)
    await _break_circuit(lab, report)
    await _fetch_page(lab, report, WAYS[0])
    report.tell("done", "All of it was as it should be.")


async def _fetch_page(lab: Lab, report: Report, way: Way) -> None:
    with _step():
        download = await begin_download(lab.proxy, way, lab.origin, "/")
        await download.read()
        await download.aclose()
    if download.received != len(PAGE):
        raise DemoError(f"a page of {download.received} bytes, expected {len(PAGE)}")
    report.tell("page", f"The page came through {way}.", way=way, bytes=len(PAGE))


async def _fetch_file(lab: Lab, report: Report, way: Way) -> None:
    """Fetch the file; name its path and show which relays carried it."""
    before = await _count_cells(lab)
    with _step():
        download = await begin_download(lab.proxy, way, lab.origin, f"/bytes/{FILE_BYTES}")
        try:
            await download.read(until=FILE_BYTES // 10)
            path = await _path_in_use(lab)
            found = await download.read()
        finally:
            await download.aclose()
    if found != digest(FILE_BYTES):
        raise DemoError(f"{way}: {FILE_BYTES} bytes with SHA-256 {found}, not those of the origin")
    report.tell(
        "file",
        f"\n{FILE_BYTES:,} bytes came through {way}, as the origin has them:\n"
        f"    SHA-256 {found}\n"
        f"    path    {path}",
        way=way,
        bytes=FILE_BYTES,
        sha256=found,
        path=[hop.name for hop in path.hops],
    )
    _compare(path, before, await _count_cells(lab), report)


def _compare(path: Path, before: "Cells", after: "Cells", report: Report) -> None:
    """Report how the counters grew; raise DemoError unless exactly the path carried the file."""
    full = FILE_BYTES // CELL_BYTES
    growth = {
        name: {way: after[name][way] - before[name][way] for way in ("forward", "backward")}
        for name in before
    }
    for position, hop in zip(_POSITIONS, path.hops, strict=False):
        cells = growth[hop.name]
        report.tell(
            "growth",
            f"    {position:7} {hop.name:10} counted {cells['forward']:5} cells forward and "
            f"{cells['backward']:5} backward",
            position=position,
            name=hop.name,
            **cells,
        )
        if cells["backward"] < full:
            raise DemoError(f"{hop.name} counted {cells['backward']} cells, expected {full}")
    others = [name for name in growth if name not in {hop.name for hop in path.hops}]
    busiest = max((growth[name]["backward"] for name in others), default=0)
    report.tell("others", f"    all others at most {busiest} backward", most=busiest)
    if busiest > full // 2:
        raise DemoError(f"a relay that is not on the path counted {busiest} cells")


async def _break_circuit(lab: Lab, report: Report) -> None:
    """Kill the middle of a circuit in use; what it carries goes on over another one."""
    with _step():
        path_text = f"/bytes/{LONG_BYTES}"
        download = await begin_download(lab.proxy, WAYS[0], lab.origin, path_text)
        try:
            await download.read(until=FILE_BYTES // 10)
            path = await _path_in_use(lab)
            middle = path.hops[1]
            report.tell(
                "killing",
                f"\nA download is on its way over {path}; now {middle.name} "
                f"(process {middle.pid}) is killed.",
                path=[hop.name for hop in path.hops],
                name=middle.name,
                pid=middle.pid,
            )
            middle.process.kill()
            await _wait_until_gone(lab, path.circuit)
            successor = await _path_in_use(lab)
            found = await download.read()
        finally:
            await download.aclose()
    if found != digest(LONG_BYTES):
        raise DemoError(f"{LONG_BYTES} bytes with SHA-256 {found}, not those of the origin")
    report.tell(
        "survived",
        f"The download went on over {successor}.\n"
        f"{LONG_BYTES:,} bytes came, as the origin has them:\n"
        f"    SHA-256 {found}\n",
        circuit=path.circuit,
        path=[hop.name for hop in successor.hops],
        bytes=LONG_BYTES,
        sha256=found,
    )


Cells = Mapping[str, Mapping[str, int]]


async def _count_cells(lab: Lab) -> Cells:
    """Ask every relay for its cell counters; return them by its name."""
    counted: dict[str, Mapping[str, int]] = {}

    async def count(child: Child) -> None:
        counted[child.name] = (await _ask(lab, child))["cells"]

    async with trio.open_nursery() as nursery:
        for child in _relays(lab):
            if child.is_alive:
                nursery.start_soon(count, child)
    return counted


async def _path_in_use(lab: Lab) -> Path:
    """Return the path of the one circuit that has a stream."""
    by_id = {child.peer_id: child for child in _relays(lab)}
    while True:
        used = [circuit for circuit in await _circuits(lab) if circuit["streams"]]
        if len(used) == 1:
            [circuit] = used
            return Path(circuit["id"], tuple(by_id[peer_id] for peer_id in circuit["path"]))
        await trio.sleep(0.05)  # the stream before this one has not quite ended


async def _wait_until_gone(lab: Lab, number: int) -> None:
    while True:
        if number not in {circuit["id"] for circuit in await _circuits(lab)}:
            return
        await trio.sleep(0.05)


async def _circuits(lab: Lab) -> list[Any]:
    circuits = (await _ask(lab, lab.peer("proxy")))["circuits"]
    assert isinstance(circuits, list)
    return circuits


async def _ask(lab: Lab, child: Child) -> dict[str, Any]:
    return await ask_soon(find_socket(lab.state_of(child)))


def _relays(lab: Lab) -> Iterator[Child]:
    return (peer for peer in lab.peers if peer.role in {"relay", "exit"})


@contextlib.contextmanager
def _step() -> Iterator[None]:
    """Bound how long one step may take."""
    try:
        with trio.fail_after(STEP_SECONDS):
            yield
    except trio.TooSlowError as error:
        raise DemoError(f"a step of the demo took more than {STEP_SECONDS} s") from error
