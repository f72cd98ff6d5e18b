"""The quick way: a visit for which nothing has to be waited for takes no task.

Its request is read, its stream begun, and the two spliced, each step in the one in which the bytes
for it came (decision 23). What has to wait after all is handed to a task, with all that is known
by then. Who is let in, what is counted and how the way with a task ends is the front door's
business (``roles.proxy``); what is asked, that of ``roles.requests``.
"""

import contextlib
from typing import Protocol

import trio

from warren.errors import EndReason, LinkError
from warren.network.conversation import Conversation
from warren.network.expiry import Expiry
from warren.network.splice import Splice, begin_splice
from warren.network.streams import CircuitStream
from warren.protocol.exchange import Exchange
from warren.protocol.reception import Asked, last_words, receive_request
from warren.roles.client import Beginning
from warren.roles.doorstep import Visit
from warren.roles.head_start import HeadStart


class FrontDoor(Protocol):
    """Be the proxy, as far as a visit without a task needs it."""

    def received(self, visit: Visit, asked: Asked) -> Beginning | None:
        """Take what a visit `asked` first; return the stream that was begun, if one could be."""

    def connected(self, begun: Beginning) -> CircuitStream | None:
        """Return the stream that was `begun` once it is connected, None before.

        When it raises, ``go_on`` knows what to do.
        """

    def replied_early(self, visit: Visit) -> None:
        """Note that the application was told of success: what fails from now on is a reset."""

    async def go_on(self, visit: Visit, asked: Asked, begun: Beginning | None) -> None:
        """Carry a visit to its end that has `asked` something; its stream may be `begun`."""

    def give_up(self, visit: Visit) -> None:
        """Tell the application that its time is over, if it is owed an answer and takes it."""

    def note(self, error: Exception) -> None:
        """Count what ended a visit, or report it if it is a bug."""

    def leave(self, visit: Visit) -> None:
        """End a visit, with its socket."""

    def parted(self) -> None:
        """Note that a visit is over whose socket is closed."""


class Hall:
    """Own the visits of one listener that have no task; each must ask within `request_seconds`.

    The task that goes on with one of them runs in `nursery`.
    """

    def __init__(self, door: FrontDoor, nursery: trio.Nursery, request_seconds: float) -> None:
        self.door = door
        self.nursery = nursery
        self.expiry = Expiry(nursery, request_seconds)
        self.ways: set[QuickWay] = set()

    def close(self) -> None:
        """End them all, whatever they are at: nobody else would."""
        for way in tuple(self.ways):
            way.close()


class QuickWay:
    """Own a visit from accept to its end, or until something has to wait."""

    __slots__ = (
        "_begun", "_door", "_exchange", "_expiring", "_hall", "_head_start", "_splice", "_visit",
    )  # fmt: skip

    def __init__(self, hall: Hall, visit: Visit) -> None:
        self._door, self._hall, self._visit = hall.door, hall, visit
        self._begun: Beginning | None = None
        self._splice: Splice | None = None
        self._exchange: Exchange[Asked] | None = None
        self._head_start: HeadStart | None = None
        self._expiring = hall.expiry.watch(self._give_up)
        visit.on_turned_out = self._give_up

    def enter(self) -> None:
        """Begin to read the request."""
        hall, visit = self._hall, self._visit
        hall.ways.add(self)
        self._exchange = exchange = receive_request(visit.rules.login)
        Conversation(
            visit.stream, exchange, visit.buffer, hall.nursery, self._asked, self._fail
        ).go_on()

    def close(self) -> None:
        """Reset what is there: the listener's task was cancelled."""
        if self._splice is not None:
            self._splice.give_up(EndReason.MISC)
            return
        self._drop_stream()
        self._leave()

    def _drop_stream(self) -> None:
        if self._begun is not None:
            self._begun.stream.on_news = None
            self._begun.stream.reset()

    def _asked(self, asked: Asked) -> None:
        self._has_left_the_doorstep()
        try:
            begun = self._door.received(self._visit, asked)
        except Exception as error:  # noqa: BLE001  it ends with its own visit (DOS-1)
            self._fail(error)
            return
        if begun is None:
            self._hand_over(asked)
        else:
            self._begun = begun
            begun.stream.on_news = self._news
            if self._visit.replies_early:
                self._reply_early(begun)

    def _reply_early(self, begun: Beginning) -> None:
        """Answer before the stream is connected, and let the application go on."""
        visit = self._visit
        if self._grant():
            begun.expiring.stay()  # what the program says from now on is not told twice lightly
            self._door.replied_early(visit)
            nursery = self._hall.nursery
            self._head_start = HeadStart(visit, begun.stream, nursery, self._broken)

    def _broken(self, error: LinkError) -> None:
        self._drop_stream()
        self._fail(error)

    def _news(self) -> None:
        """Answer the application when its stream is connected."""
        visit, begun, head_start = self._visit, self._begun, self._head_start
        assert begun is not None
        assert visit.request is not None
        try:
            target = self._door.connected(begun)
        except Exception:  # noqa: BLE001  the client knows it, and what to do then
            begun.stream.on_news = None
            if head_start is not None:
                head_start.end()
            self._hand_over(visit.request)
            return
        if target is None:
            return
        if head_start is not None:
            head_start.end()
            visit.buffer.clear()  # nobody has to be told again
        elif not self._grant():
            return
        self._splice = begin_splice(visit.stream, target, self._over)

    def _grant(self) -> bool:
        """Tell the application that it is connected; False: it is gone, and the visit over."""
        visit = self._visit
        assert visit.request is not None
        granted = visit.request.granted()
        try:
            if visit.stream.send_now(granted) < len(granted):
                raise LinkError("the application does not read its answer")
        except LinkError as error:
            self._broken(error)
            return False
        return True

    def _over(self) -> None:
        self._hall.ways.discard(self)
        self._door.parted()

    def _hand_over(self, asked: Asked) -> None:
        """Let a task go on."""
        self._hall.ways.discard(self)
        self._hall.nursery.start_soon(self._door.go_on, self._visit, asked, self._begun)

    def _give_up(self) -> None:
        self._door.give_up(self._visit)
        self._say_last_words(408, "the request did not arrive in time")
        self._leave()

    def _fail(self, error: Exception) -> None:
        self._door.note(error)
        self._say_last_words(400, "the request ended before the empty line behind its head")
        self._leave()

    def _say_last_words(self, status: int, details: str) -> None:
        """Tell a program whose request was not read to its end why, if it may still read."""
        if self._exchange is None:
            return
        if words := last_words(self._exchange, status, details):
            with contextlib.suppress(LinkError):
                self._visit.stream.send_now(words)

    def _has_left_the_doorstep(self) -> None:
        self._exchange = None
        self._expiring.end()
        self._visit.on_turned_out = None

    def _leave(self) -> None:
        self._has_left_the_doorstep()
        self._hall.ways.discard(self)
        self._door.leave(self._visit)
