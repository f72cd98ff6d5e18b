"""A circuit through this relay, as its parts share it: its machine, and the tasks it has."""

from collections.abc import Awaitable, Callable, Hashable

import structlog

from warren.network.link import Link
from warren.protocol.relay_circuit import RelayCircuit

logger = structlog.get_logger()


class PassingCircuit:
    """Own one circuit through this relay; `act` is called with it when its machine has news.

    `asker` is who is counted for it (``create_limits``); ``directory_requests`` are those that came
    over it (``directory_door``).
    """

    __slots__ = ("_act", "asker", "directory_requests", "in_turn", "machine", "previous_link")

    def __init__(
        self,
        link: Link,
        machine: RelayCircuit,
        act: Callable[["PassingCircuit"], None],
        asker: Hashable,
    ) -> None:
        self.machine = machine
        self.asker = asker
        self.previous_link = link
        self.in_turn = False
        self.directory_requests = 0
        self._act = act
        machine.wake = lambda: link.turn.add(self)

    def __repr__(self) -> str:
        return repr(self.machine)

    def flush(self) -> None:
        """Act on what the machine tells."""
        self._act(self)

    def start(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run `work` as a task of its own, whose failure costs this circuit alone (DOS-1)."""
        self.previous_link.turn.nursery.start_soon(self._guard, work, arguments)

    async def _guard(
        self, work: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await work(*arguments)
        except Exception:
            logger.exception("a bug in a circuit", circuit=repr(self))
            self.machine.destroy()
        finally:
            self.previous_link.turn.run()
