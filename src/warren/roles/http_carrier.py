"""Carries a plain HTTP request to its target and the answer back to the application.

The request and its answer travel at the same time, because a target may answer before it has
read everything, and may want to say 100 Continue first. An answer that is cut short must not
look whole: once a byte of it was sent, only its own end closes the connection cleanly (SID-4).
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from warren.errors import EndReason, LinkError, ProtocolError, expect
from warren.network.streams import CircuitStream
from warren.protocol import front
from warren.protocol.front import Failure
from warren.protocol.http_proxy import HttpRequest
from warren.protocol.http_relay import BadMessage, HttpRelay
from warren.roles.doorstep import Visit

OpenStream = Callable[[bytes], Awaitable[CircuitStream | Failure]]

_CHUNK = 64 * 1024
#: What is wrong with an answer, by h11's hint.
_BAD_ANSWERS = {431: front.LONG_HEAD, 501: front.UNKNOWN_CODING}


async def carry(
    visit: Visit, request: HttpRequest, open_stream: OpenStream, idle_seconds: float
) -> Failure | None:
    """Carry `request` and its answer; return a failure if the application was sent nothing.

    Otherwise ``visit.is_attached`` tells whether its socket must be reset. Waits as long as
    something moves every `idle_seconds`.
    """
    attempt, failure = await _carry_once(visit, request, open_stream, idle_seconds)
    if attempt is not None and _may_repeat(request, attempt):
        _, failure = await _carry_once(visit, request, open_stream, idle_seconds)
    return failure


def _may_repeat(request: HttpRequest, attempt: "_Carrier") -> bool:
    """Tell whether a request that failed may be sent once more: nobody has answered it.

    A GET or HEAD asks for nothing to be changed (RFC 9110 §9.2.2). What followed its head was
    read from the application and is gone, so it must have been whole at once.
    """
    is_safe = request.method in (b"GET", b"HEAD")
    return is_safe and attempt.failure is not None and attempt.was_unanswered


async def _carry_once(
    visit: Visit, request: HttpRequest, open_stream: OpenStream, idle_seconds: float
) -> tuple["_Carrier | None", Failure | None]:
    """Carry `request` over one stream; return the attempt, if it came to one, and its failure."""
    relay = HttpRelay(request)
    try:
        start = relay.take_request(bytes(visit.buffer))
    except ProtocolError as error:
        return None, _bad_body(error)
    target = await open_stream(start)
    if isinstance(target, Failure):
        return None, target
    visit.lateness = front.NO_RESPONSE
    carrier = _Carrier(visit, relay, target, idle_seconds)
    try:
        await carrier.run()
    except BaseException:
        target.reset()
        raise
    if relay.is_request_whole or relay.is_finished:
        await target.aclose()
    else:
        target.reset()  # half a request must not look whole (SID-4)
    return carrier, carrier.failure


def _bad_body(error: ProtocolError) -> Failure:
    """Return the failure that says what is wrong with a request's body, in words of ours."""
    return replace(front.BAD_BODY, details=f"{front.BAD_BODY.details}: {error}")


class _Carrier:
    """Own one exchange of request and answer; ``failure`` says why there was no answer.

    ``was_unanswered`` tells that the whole request was sent at once and no byte came back.
    """

    def __init__(
        self, visit: Visit, relay: HttpRelay, target: CircuitStream, idle_seconds: float
    ) -> None:
        self.failure: Failure | None = None
        self.was_unanswered = relay.is_request_whole
        self._visit = visit
        self._relay = relay
        self._target = target
        self._idle_seconds = idle_seconds

    async def run(self) -> None:
        """Return when the answer is delivered or the exchange has failed."""
        self._visit.stream.reset_if_killed()
        self._put_off_deadline()
        if self._relay.is_request_whole:
            await self._carry_answer()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_request, nursery.cancel_scope)
            await self._carry_answer()
            nursery.cancel_scope.cancel()

    def _put_off_deadline(self) -> None:
        self._visit.scope.deadline = trio.current_time() + self._idle_seconds

    def _fail(self, failure: Failure) -> None:
        if not self._visit.is_attached:  # the application was sent no answer yet
            self.failure = failure

    async def _carry_answer(self) -> None:
        data = b""
        try:
            while not self._relay.is_finished:
                data = await self._target.receive_some(_CHUNK)
                self.was_unanswered &= not data
                self._put_off_deadline()
                output = self._relay.take_response(data)
                self._visit.is_attached = self._relay.has_answered
                await self._visit.stream.send_all(output)
            self._visit.is_attached = False
        except ProtocolError as error:
            hint = error.hint if isinstance(error, BadMessage) else 0
            bad = _BAD_ANSWERS.get(hint, front.BAD_RESPONSE)
            self._fail(bad if data else front.CUT_RESPONSE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._fail(front.BY_REASON[self._target.reason or EndReason.MISC])
        except LinkError:  # the application is gone
            self._visit.is_attached = True

    async def _carry_request(self, exchange: trio.CancelScope) -> None:
        stream, chunk = self._visit.stream, bytearray(_CHUNK)
        try:
            while not self._relay.is_request_whole:
                count = stream.receive_into(chunk)
                if count is None:
                    await stream.wait_readable()
                    continue
                expect(count > 0, "the request was cut short")
                self._put_off_deadline()
                if data := self._relay.take_request(bytes(chunk[:count])):
                    await self._target.send_all(data)
        except ProtocolError as error:
            self._fail(_bad_body(error))
            exchange.cancel()
        except LinkError:
            self._visit.is_attached = True
            exchange.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the answer, or its end, says why
