"""What a process spent its time on: sampled stacks become a few named costs.

A sample is a stack of frames, and it goes to the innermost frame that ``RULES`` knows, since
whatever runs below that (OpenSSL, a system call, the standard library) runs for it. The rules name
modules, and functions only where one module does several things; whoever moves code moves its
line here, and a test says which lines no longer lead anywhere.

What is sampled are threads that are running *or* have just been woken and wait for a core. All
of the latter stand in the poll that woke them, which takes next to no time itself, so samples in
``IDLE`` are counted apart and are no part of the shares. A helper thread without a job may be taken
for one that runs, and is counted there as well.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

RECEIVE = "receive from the socket"
OPEN = "open records"
LAYERS = "take a layer off, put one on"
QUEUE = "queue and turns"
SEAL = "seal records"
SEND = "send to the socket"
STREAMS = "streams and multiplexer"
SOCKETS = "open and close sockets"
ROLES = "requests, policy, circuits"
LOOP = "event loop (trio)"
WAITS = "tell the kernel what to wait for"
GARBAGE = "garbage collection"
OTHER = "other"
#: Waiting for something to do: not a cost.
IDLE = "idle"
#: Not a cost either: helpers that many use, whose time is their caller's.
CALLER = "caller"

#: In the order of the table, which is about the way of a cell.
COSTS = (
    RECEIVE, OPEN, LAYERS, QUEUE, SEAL, SEND, STREAMS, SOCKETS, ROLES, LOOP, WAITS, GARBAGE,
    OTHER,
)  # fmt: skip

#: Beginnings of a frame's module and of its function, and where its time goes. The first that
#: fits counts, so functions stand before their module.
RULES = (
    ("", "gc_collect_", GARBAGE),  # seen in the interpreter itself, whatever set it off
    ("warren/network/sockets.py", "SocketStream.receive_into", RECEIVE),
    ("warren/network/sockets.py", "SocketStream.send_now", SEND),
    ("warren/network/sockets.py", "SocketStream.send_parts_now", SEND),
    ("warren/network/sockets.py", "SocketStream.wait_", LOOP),
    ("warren/network/sockets.py", "SocketStream._wait", LOOP),
    ("warren/network/byte_streams.py", "ByteStream.", CALLER),
    ("warren/network/sockets.py", "_broken", CALLER),
    ("warren/network/byte_streams.py", "", SOCKETS),
    ("warren/network/sockets.py", "", SOCKETS),
    ("warren/network/listening.py", "", SOCKETS),
    ("warren/network/dialling.py", "", SOCKETS),
    ("warren/network/readiness.py", "Readiness.serve", IDLE),  # whose own part is to wait
    ("warren/network/readiness.py", "Readiness._register", WAITS),
    ("warren/network/readiness.py", "Readiness._unregister", WAITS),
    ("warren/network/readiness.py", "Readiness.forget", WAITS),
    ("warren/network/readiness.py", "", LOOP),
    ("warren/network/associations.py", "", STREAMS),
    ("warren/network/datagram_sockets.py", "", SOCKETS),
    ("warren/network/splice.py", "", STREAMS),
    ("warren/network/streams.py", "", STREAMS),
    ("warren/network/directory_http.py", "", OTHER),
    ("warren/network/names.py", "", ROLES),
    ("warren/network/own_addresses.py", "", ROLES),
    ("warren/network/", "", QUEUE),
    ("warren/protocol/records.py", "RecordKey.open", OPEN),
    ("warren/protocol/records.py", "RecordKey.seal", SEAL),
    ("warren/protocol/onion.py", "", LAYERS),
    ("warren/protocol/circuit_end.py", "", STREAMS),
    ("warren/protocol/datagrams.py", "", STREAMS),
    ("warren/protocol/multiplexer.py", "", STREAMS),
    ("warren/protocol/outbox.py", "", STREAMS),
    ("warren/protocol/messages.py", "", STREAMS),
    ("warren/protocol/stream.py", "", STREAMS),
    ("warren/protocol/ciphers.py", "", CALLER),
    ("warren/protocol/exchange.py", "", ROLES),
    ("warren/protocol/front.py", "", ROLES),
    ("warren/protocol/handshake.py", "", OTHER),
    ("warren/protocol/http_", "", ROLES),
    ("warren/protocol/noise.py", "", OTHER),
    ("warren/protocol/socks", "", ROLES),
    ("warren/protocol/", "", QUEUE),
    ("warren/directory/address_tables.py", "", ROLES),
    ("warren/directory/exit_policy.py", "", ROLES),
    ("warren/directory/exit_rules.py", "", ROLES),
    ("warren/roles/", "", ROLES),
    ("warren/addresses.py", "", CALLER),
    ("warren/errors.py", "", CALLER),
    ("warren/", "", OTHER),
    ("trio/_core/_io_epoll.py", "EpollIOManager.get_events", IDLE),
    ("trio/_core/_io_epoll.py", "EpollIOManager._", WAITS),
    ("trio/_core/_thread_cache.py", "WorkerThread._work", IDLE),  # waits for a job
    ("trio/", "", LOOP),
)

#: Calls of the C library that do nothing but ask the kernel, which Python's sockets make.
_SYSTEM_CALLS = frozenset((
    "accept4", "bind", "close", "connect", "epoll_ctl", "getpeername", "getsockname", "getsockopt",
    "recv", "send", "sendmsg", "setsockopt", "shutdown", "socket",
))  # fmt: skip
_LONGEST_NAME = 50
_FRAME = re.compile(r"(?P<function>.*) \((?P<module>[^()]*?)(?::(?P<line>\d+))?\)")


@dataclass(frozen=True)
class Frame:
    """Hold one call: a function of Python or of a library, and the line where it is, or 0."""

    function: str
    module: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.function} ({self.module}{f':{self.line}' if self.line else ''})"


@dataclass(frozen=True)
class Sample:
    """Hold a stack, the innermost call last, and how often it was seen."""

    frames: tuple[Frame, ...]
    count: int


def read_samples(text: str) -> Iterator[Sample]:
    """Yield what py-spy's raw format says: ``call;call;call count`` a line."""
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        yield Sample(tuple(map(_read_frame, stack.split(";"))), int(count))


def _read_frame(text: str) -> Frame:
    found = _FRAME.fullmatch(text)
    if found is None:
        return Frame(text, "")
    return Frame(found["function"], found["module"], int(found["line"] or 0))


def cost_of(sample: Sample) -> str:
    """Return the cost that `sample` belongs to, or IDLE."""
    costs = map(_cost_of_frame, reversed(sample.frames))
    return next((cost for cost in costs if cost != CALLER), OTHER)


def _cost_of_frame(frame: Frame) -> str:
    for module, function, cost in RULES:
        if frame.module.startswith(module) and frame.function.startswith(function):
            return cost
    return CALLER


@dataclass(frozen=True)
class Breakdown:
    """Hold how often each cost, and each innermost call, was seen; and how often none of them.

    `in_kernel` are those that were in a system call. Its share should be that of the process's
    system time; if it is not, the samples are not where the time is.
    """

    costs: Mapping[str, int]
    calls: Mapping[str, int]
    idle: int
    in_kernel: int

    @property
    def total(self) -> int:
        """Return the samples that the shares are shares of."""
        return sum(self.costs.values())

    def shares(self) -> dict[str, float]:
        """Return the share of each of ``COSTS``; they sum to 1, or are all 0 without samples."""
        return {cost: self.costs.get(cost, 0) / (self.total or 1) for cost in COSTS}

    def hottest(self, count: int) -> list[tuple[str, float]]:
        """Return the calls with the largest share of their own, and that share."""
        ordered = sorted(self.calls.items(), key=lambda call: (-call[1], call[0]))
        return [(call, seen / self.total) for call, seen in ordered[:count]]


def break_down(samples: Iterable[Sample]) -> Breakdown:
    """Sum up `samples`; calls are functions, their lines taken together."""
    costs: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    in_kernel = 0
    for sample in samples:
        cost = cost_of(sample)
        costs[cost] += sample.count
        if cost != IDLE:
            calls[_describe(sample.frames)] += sample.count
            in_kernel += sample.count * (sample.frames[-1].function in _SYSTEM_CALLS)
    idle = costs.pop(IDLE, 0)
    return Breakdown(costs, calls, idle, in_kernel)


def _describe(frames: tuple[Frame, ...]) -> str:
    """Name the innermost call, and for one outside of Python the Python function it serves.

    The collector serves nobody in particular.
    """
    innermost = frames[-1]
    text = str(Frame(_shorten(innermost.function), innermost.module))
    if innermost.module.endswith(".py") or _cost_of_frame(innermost) == GARBAGE:
        return text
    callers = (frame for frame in reversed(frames) if frame.module.endswith(".py"))
    caller = next(callers, None)
    return text if caller is None else f"{text} for {caller.function}"


def _shorten(name: str) -> str:
    """Leave out what tells people nothing: an address without a symbol, a mangled name's end."""
    if name.startswith("0x"):
        return "?"
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
