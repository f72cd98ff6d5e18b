"""Tasks beside the main line of a role, none of which can harm the others (DOS-1)."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVarTuple

import structlog
import trio

from warren.errors import WarrenError

logger = structlog.get_logger()

Ts = TypeVarTuple("Ts")


class Background:
    """Start tasks in a nursery of the role; whatever one raises ends only that one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, task: Callable[[*Ts], Awaitable[None]], *arguments: *Ts) -> None:
        """Run ``task(*arguments)`` beside the others; it sets its own deadlines."""
        self._nursery.start_soon(_guarded, partial(task, *arguments))


async def _guarded(task: Callable[[], Awaitable[None]]) -> None:
    try:
        await task()
    except WarrenError as error:
        logger.debug("! a task beside", error=str(error))
    except Exception:
        logger.exception("a bug in a task beside")
