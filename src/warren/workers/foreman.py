"""The main process's side: start workers, hand connections to them, start again those that die.

Connections are handed to whichever worker has fewest. A link lasts long and nobody knows at its
beginning how much it will carry, so an even number of links is the best guess at an even load.
Until a worker says that it has taken a connection it is kept here too: if the worker dies before
that, another one gets it. When no worker has room, connections wait in the kernel's queue.
"""

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import structlog
import trio

from warren.network import reserve
from warren.roles.backoff import Backoff
from warren.service import LogStyle
from warren.workers.channel import (
    Assignment,
    Channel,
    Connection,
    Count,
    Counted,
    FromWorker,
    Message,
    Over,
    Started,
    Taken,
    TakeNoMore,
)
from warren.workers.shares import add_up

logger = structlog.get_logger()

#: Connections on the way to one worker; more are not given to it until it has taken some.
MOST_UNTAKEN = 64
#: From SIGTERM to SIGKILL.
GRACE_SECONDS = 2.0
#: How long `warren status` waits for a worker, less than whoever asked waits for us.
COUNT_SECONDS = 2.0
MOST_WAIT_SECONDS = 60.0
#: What to wait when there is no room for another open file (DOS-8).
_CROWDED_SECONDS = 0.1


class Worker:
    """Own the process of a worker, and the connections on the way to it."""

    def __init__(self, process: trio.Process, channel: Channel[FromWorker]) -> None:
        self.process = process
        self.channel = channel
        self.is_started = self.is_usable = False
        self.connections = 0  # that it has, those on the way included
        self.given = 0  # when it was given the last one, in turns
        self.untaken: deque[socket.socket] = deque()
        self.counts: dict[str, Any] = {}
        self._counted = trio.Event()

    def give(self, connection: socket.socket, turn: int) -> None:
        """Hand a connection over."""
        self.connections += 1
        self.given = turn
        self.untaken.append(connection)
        self.channel.send(Connection(), connection)

    def hear(self, message: FromWorker) -> None:
        """Note what the worker tells."""
        if isinstance(message, Taken):
            self.untaken.popleft().close()
        elif isinstance(message, Over):
            self.connections -= 1
        elif isinstance(message, Counted):
            self.counts = message.counts
            self._counted.set()
            self._counted = trio.Event()
        elif isinstance(message, Started):
            self.is_started = True
        else:
            self.is_usable = True

    async def count(self) -> dict[str, Any]:
        """Ask for the counters; return the last ones known when it does not answer in time."""
        self.channel.send(Count())
        with trio.move_on_after(COUNT_SECONDS):
            await self._counted.wait()
        return self.counts

    async def end(self) -> None:
        """End the process, by force if it takes long, and close what leads to it."""
        with trio.CancelScope(shield=True):
            if self.process.poll() is None:
                self.process.terminate()
            with trio.move_on_after(GRACE_SECONDS):
                await self.process.wait()
            if self.process.poll() is None:
                self.process.kill()
            await self.process.wait()
        self.channel.close()


def choose_worker(workers: Iterable[Worker], most_untaken: int = MOST_UNTAKEN) -> Worker | None:
    """Return the one with fewest connections, of equals the one that has waited longest.

    One that has `most_untaken` on the way to it is not chosen.
    """
    ready = (each for each in workers if each.is_started and len(each.untaken) < most_untaken)
    return min(ready, key=lambda each: (each.connections, each.given), default=None)


class Foreman:
    """Own the workers of a relay: as many processes as `count`, each begun with `assign`.

    They log as `style` says, and get the connections that `listening` accepts.
    """

    def __init__(
        self,
        listening: socket.socket,
        count: int,
        assign: Callable[[], Assignment],
        *,
        style: LogStyle,
        rng: Random,
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._count = count
        # Half of the sockets there may be are for fetching and publishing (DOS-8).
        self._most_untaken = max(1, min(MOST_UNTAKEN, reserve.here().most // (2 * count)))
        self._assign = assign
        self._style = style
        self._rng = rng
        self._workers: list[Worker] = []
        self._turns = 0
        self._changed = trio.Event()

    async def run(self) -> None:
        """Keep the workers running and hand connections to them, until cancelled."""
        # The workers hold the reading end, so they notice when we are gone, even killed.
        lifeline, leash = os.pipe()
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(self._count):
                    nursery.start_soon(self._keep_running, lifeline, nursery)
                while True:
                    await self._place(await self._accept())
        finally:
            os.close(lifeline)
            os.close(leash)

    def tell(self, message: Message) -> None:
        """Tell all workers; those that start later learn it from their assignment."""
        for worker in self._workers:
            worker.channel.send(message)

    def take_no_more(self) -> None:
        """Let the workers open nothing more for anybody."""
        self.tell(TakeNoMore())

    async def wait_until_usable(self) -> None:
        """Wait until every worker has a consensus."""
        while sum(worker.is_usable for worker in self._workers) < self._count:
            await self._changed.wait()

    async def statistics(self) -> dict[str, Any]:
        """Return the sums of what the workers count, and below ``workers`` each one's counters.

        Waits for their answers, at most two seconds.
        """
        counts: dict[Worker, dict[str, Any]] = {}

        async def ask(worker: Worker) -> None:
            counts[worker] = await worker.count()

        workers = tuple(self._workers)
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(ask, worker)
        told = [
            {"pid": each.process.pid, "connections": each.connections, **counts[each]}
            for each in workers
        ]
        return {**add_up(counts.values()), "workers": told}

    # ---- connections

    async def _accept(self) -> socket.socket:
        while True:
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._listening)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    await trio.sleep(_CROWDED_SECONDS)
            else:
                return connection

    async def _place(self, connection: socket.socket) -> None:
        """Hand `connection` to a worker; wait until one has room."""
        try:
            while (worker := choose_worker(self._workers, self._most_untaken)) is None:
                await self._changed.wait()
        except BaseException:
            connection.close()
            raise
        self._turns += 1
        worker.give(connection, self._turns)

    # ---- processes

    async def _keep_running(self, lifeline: int, nursery: trio.Nursery) -> None:
        """Run one worker after the other, with waits that grow while they die young."""
        backoff = Backoff(self._rng, most=MOST_WAIT_SECONDS)
        while True:
            begun = trio.current_time()
            try:
                worker = await self._start(lifeline)
            except OSError as error:
                logger.warning("a worker could not be started", error=str(error))
            else:
                await self._look_after(worker)
                for connection in worker.untaken:
                    nursery.start_soon(self._place, connection)
                logger.warning(
                    "a worker has ended; another one takes its place",
                    worker=worker.process.pid,
                    code=worker.process.returncode,
                )
            if trio.current_time() - begun > MOST_WAIT_SECONDS:
                backoff.reset()
            await trio.sleep(backoff.next_wait())

    async def _start(self, lifeline: int) -> Worker:
        """Start a process and begin it; raise OSError when the system does not let us."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        style = (self._style.level, "json" if self._style.json else "text")
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            process = await trio.lowlevel.open_process(
                [
                    # -P: what lies in the current folder is none of our modules.
                    *(sys.executable, "-P", "-m", "warren.workers.worker"),
                    *(str(theirs.fileno()), str(lifeline), *style),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
                process_group=0,  # Ctrl-C is for us: we end them in good order
            )
            undo.pop_all()
        # Nothing waits from here on, so no news comes between the assignment and the list.
        worker = Worker(process, Channel(ours, FromWorker))
        worker.channel.send(self._assign())
        self._workers.append(worker)
        return worker

    async def _look_after(self, worker: Worker) -> None:
        """Talk with `worker` until it ends, or we do; then it is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.channel.write)
                while (received := await worker.channel.receive()) is not None:
                    worker.hear(received[0])
                    self._note_change()
                nursery.cancel_scope.cancel()
        except BaseException:
            for connection in worker.untaken:
                connection.close()
            raise
        finally:
            self._workers.remove(worker)
            await worker.end()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<Foreman of {len(self._workers)} workers>"
