"""A long, slow or lossy line in front of a port: a TCP forwarder that knows nothing of Warren.

    python -m warren.lab.impairment --listen HOST:PORT --to HOST:PORT --line 150ms,12.5MB/s

Whoever connects to the one address talks to the other one, over a ``Line`` each way. It is a
process of its own, between any two others, and needs nothing of the kernel. SIGUSR1 cuts all
connections, SIGUSR2 lets nothing pass any more, and once more SIGUSR2 everything.
"""

import argparse
import contextlib
import math
import random
import signal
import socket
import struct
import sys
from collections.abc import Iterator

import trio

from warren.addresses import Address
from warren.lab.line import Impairment, Line
from warren.service import Announcer, run_process

_READ_BYTES = 256 * 1024
#: The kernel's buffer before the line must not be a second queue, as long as the line's own.
_KERNEL_BYTES = 128 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)

Stream = trio.abc.HalfCloseableStream


class Gate:
    """Let everything pass, or nothing."""

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()

    def toggle(self) -> None:
        """Shut an open gate, open a shut one."""
        if self._opened.is_set():
            self._opened = trio.Event()
        else:
            self._opened.set()

    async def wait_open(self) -> None:
        """Wait while the gate is shut."""
        await self._opened.wait()


class Direction:
    """Own one direction of a connection: what one stream gives goes over `line` to the other."""

    def __init__(self, source: Stream, sink: Stream, line: Line, gate: Gate) -> None:
        self._source, self._sink = source, sink
        self._line, self._gate = line, gate
        self._entered = trio.Event()
        self._left = trio.Event()

    async def run(self) -> None:
        """Carry bytes, and their end; raise trio.BrokenResourceError when one side breaks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fill)
            await self._empty()

    async def _fill(self) -> None:
        line = self._line
        while True:
            while not (room := line.room(trio.current_time())):
                self._left = trio.Event()
                await self._left.wait()
            data = await self._source.receive_some(min(room, _READ_BYTES))
            if not data:
                break
            line.enter(bytes(data), trio.current_time())
            self._entered.set()
        line.end(trio.current_time())
        self._entered.set()

    async def _empty(self) -> None:
        line = self._line
        while True:
            if line.next_at == math.inf:
                self._entered = trio.Event()
                await self._entered.wait()
            await trio.sleep_until(line.next_at)
            await self._gate.wait_open()
            for data in line.leave(trio.current_time()):
                if not data:
                    await self._sink.send_eof()
                    return
                await self._sink.send_all(data)
            self._left.set()


class Forwarder:
    """Own the connections from one port to `target`, each over two lines like `impairment`.

    `seed` decides what stalls.
    """

    def __init__(self, target: Address, impairment: Impairment, seed: int) -> None:
        self._target = target
        self._impairment = impairment
        self._rng = random.Random(seed)
        self._gate = Gate()
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Reset all connections; new ones are welcome."""
        for scope in tuple(self._scopes):
            scope.cancel()

    def toggle_silence(self) -> None:
        """Let nothing come out any more, and tell nobody; or everything again."""
        self._gate.toggle()

    async def carry(self, near: trio.SocketStream) -> None:
        """Forward one connection until both directions have ended, or one of them broke."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                # A real path takes a round trip to connect, and here the kernel has answered.
                await trio.sleep(2 * self._impairment.latency)
                far = await trio.open_tcp_stream(self._target.host, self._target.port)
                with _resetting(far):
                    await self._join(near, far)
            except* (trio.BrokenResourceError, OSError):
                pass  # what `near` sees is a reset
            finally:
                self._scopes.discard(scope)
                _reset(near)

    async def _join(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        for stream in (near, far):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
        async with trio.open_nursery() as nursery:
            for source, sink in ((near, far), (far, near)):
                line = Line(self._impairment, random.Random(self._rng.random()))
                nursery.start_soon(Direction(source, sink, line, self._gate).run)
        near.socket.close()
        far.socket.close()


@contextlib.contextmanager
def _resetting(stream: trio.SocketStream) -> Iterator[None]:
    """Reset `stream` in the end, unless it was closed inside."""
    try:
        yield
    finally:
        _reset(stream)


def _reset(stream: trio.SocketStream) -> None:
    if stream.socket.fileno() >= 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        stream.socket.close()


async def serve(listen: Address, forwarder: Forwarder, announcer: Announcer) -> None:
    """Forward what connects to `listen` until cancelled, and do what signals say."""
    with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(listen.port, host=listen.host)
            host, port = listener.socket.getsockname()[:2]
            nursery.start_soon(trio.serve_listeners, forwarder.carry, [listener])
            announcer.listening([Address(host, port)])
            async for number in signals:
                if number == signal.SIGUSR1:
                    forwarder.cut()
                else:
                    forwarder.toggle_silence()


def main() -> None:
    """Run an impairment until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m warren.lab.impairment")
    parser.add_argument("--listen", type=Address.parse, required=True, metavar="HOST:PORT")
    parser.add_argument("--to", type=Address.parse, required=True, metavar="HOST:PORT")
    parser.add_argument("--line", required=True, metavar="150ms,12.5MB/s,stall=0.001")
    parser.add_argument("--seed", type=int, default=1, help="of what stalls")
    parser.add_argument("--while-open", type=int)
    parser.add_argument("--ready-fd", type=int)
    given = parser.parse_args()

    async def run(announcer: Announcer) -> None:
        forwarder = Forwarder(given.to, Impairment.parse(given.line), given.seed)
        await serve(given.listen, forwarder, announcer)

    sys.exit(run_process(run, while_open=given.while_open, ready_fd=given.ready_fd))


if __name__ == "__main__":
    main()
