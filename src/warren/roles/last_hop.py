"""The last hop: what a relay does with the streams, datagrams and questions that end at it.

A stream goes to the exit, if this relay is one, or to the directory; datagrams and questions go to
the exit. On a circuit of one hop only the directory is served: with an exit at its end it would be
a plain proxy, for whoever wants one and against whoever runs it (EXT-8).
"""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
import trio

from warren.addresses import Address
from warren.errors import EndReason, ExitError, LinkError, NotFound
from warren.network.associations import CircuitAssociation
from warren.network.streams import CircuitStream
from warren.protocol.messages import Begin, BeginFlags, Connected
from warren.protocol.resolution import NOT_FOUND_TTL, Question, Resolved
from warren.roles.passing_circuit import PassingCircuit

logger = structlog.get_logger()

#: Where the directory is. Our own address of the link might be one inside our own network.
_HERE = Connected(Address("0.0.0.0", 0))

ServeDirectory = Callable[[PassingCircuit, CircuitStream], Awaitable[None]]
#: What is left to do for a stream, as a task.
Rest = Callable[[], Awaitable[None]]
ServeExit = Callable[[PassingCircuit, CircuitStream, Begin], Rest | None]
ServeDatagrams = Callable[[PassingCircuit, CircuitAssociation, BeginFlags], Awaitable[None]]
ServeNames = Callable[[PassingCircuit, Address], Awaitable[Resolved]]


def refuse_streams(circuit: PassingCircuit, stream: CircuitStream, begin: Begin) -> None:
    """Refuse every stream: what a relay does that is no exit."""
    stream.reset(EndReason.EXIT_POLICY)


async def refuse_datagrams(
    circuit: PassingCircuit, association: CircuitAssociation, flags: BeginFlags
) -> None:
    """Refuse every association: what a relay does that sends no datagrams for others."""
    association.end(EndReason.EXIT_POLICY)


async def refuse_names(circuit: PassingCircuit, subject: Address) -> Resolved:
    """Resolve nothing: what a relay does that is no exit."""
    raise ExitError(EndReason.EXIT_POLICY)


class LastHop:
    """Serve what ends at this relay, by those who were given for each kind of it."""

    def __init__(
        self,
        serve_directory: ServeDirectory,
        serve_exit: ServeExit = refuse_streams,
        serve_datagrams: ServeDatagrams = refuse_datagrams,
        serve_names: ServeNames = refuse_names,
    ) -> None:
        self._serve_directory = serve_directory
        self._serve_exit = serve_exit
        self._serve_datagrams = serve_datagrams
        self._serve_names = serve_names

    @property
    def is_exit(self) -> bool:
        """Tell whether streams to targets are served at all."""
        return self._serve_exit is not refuse_streams

    def serve(self, circuit: PassingCircuit) -> None:
        """Serve what `circuit` has opened since the last time."""
        streams = circuit.machine.streams
        if streams is None:
            return
        turn = circuit.previous_link.turn
        if streams.opened:
            opened, streams.opened = streams.opened, []
            for protocol, begin in opened:
                self._serve_stream(circuit, CircuitStream(protocol, turn), begin)
        if streams.associated:
            associated, streams.associated = streams.associated, []
            for each, flags in associated:
                association = CircuitAssociation(each, turn)
                circuit.start(self._serve_association, circuit, association, flags)

    def answer(self, circuit: PassingCircuit, question: Question) -> None:
        """Answer `question`, which came over `circuit`, when the answer is known."""
        circuit.start(self._answer, circuit, question)

    # ---- streams

    def _serve_stream(
        self, circuit: PassingCircuit, stream: CircuitStream, begin: Begin | None
    ) -> None:
        """Serve a stream, with a task for what of it has to wait."""
        if begin is None:
            stream.protocol.accept(_HERE)
            circuit.start(self._finish, stream, partial(self._serve_directory, circuit, stream))
            return
        if circuit.machine.depth == 0:
            circuit.start(self._turn_away, circuit, stream)
            return
        try:
            rest = self._serve_exit(circuit, stream, begin)
        except ExitError as error:
            stream.reset(error.reason)
        except Exception:
            logger.exception("a bug in a circuit", circuit=repr(circuit))  # DOS-1
            stream.reset(EndReason.INTERNAL)
            circuit.machine.destroy()
        else:
            if rest is not None:
                circuit.start(self._finish, stream, rest)

    @staticmethod
    async def _turn_away(circuit: PassingCircuit, stream: CircuitStream) -> None:
        """Refuse a stream; its own step, so that its end leaves before its circuit does."""
        stream.reset(EndReason.EXIT_POLICY)
        circuit.machine.destroy()

    @staticmethod
    async def _finish(stream: CircuitStream, rest: Rest) -> None:
        """Do what is left to do for a stream."""
        try:
            await rest()
        except ExitError as error:
            stream.reset(error.reason)
        except (LinkError, trio.BrokenResourceError):
            stream.reset(EndReason.MISC)
        except BaseException:
            stream.reset(EndReason.INTERNAL)
            raise

    # ---- datagrams and questions

    async def _serve_association(
        self, circuit: PassingCircuit, association: CircuitAssociation, flags: BeginFlags
    ) -> None:
        """Serve an association until it is over; never on one hop (EXT-8)."""
        if circuit.machine.depth == 0:
            association.end(EndReason.EXIT_POLICY)
            circuit.machine.destroy()
            return
        try:
            await self._serve_datagrams(circuit, association, flags)
        except ExitError as error:
            association.end(error.reason)
        except BaseException:
            association.end(EndReason.INTERNAL)
            raise

    async def _answer(self, circuit: PassingCircuit, question: Question) -> None:
        """Answer a question; on a circuit of one hop there is no answer (EXT-8).

        Nothing is looked up any more for a circuit that is gone.
        """
        machine = circuit.machine
        if machine.depth == 0:
            machine.destroy()
            return
        if question.outcome is not None:
            return
        outcome: Resolved | EndReason = EndReason.INTERNAL
        try:
            with trio.CancelScope() as scope:
                question.on_answer = scope.cancel
                outcome = await self._serve_names(circuit, question.subject)
        except NotFound:
            outcome = Resolved((), NOT_FOUND_TTL)
        except ExitError as error:
            outcome = error.reason
        finally:
            if machine.streams is not None:
                machine.streams.questions.answer(question, outcome)
