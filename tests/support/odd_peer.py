"""A peer that is not like the others: ``python odd_peer.py HOW COMMAND…`` runs ``warren COMMAND…``.

HOW is one of these:

later   a release after this one: it speaks another link version besides, and knows of flags and
        parameters that this one does not
alien   a release long after this one: no link version in common
lying   a mirror that gives whoever asks a consensus that is cut, changed, old, or none
"""

import itertools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from warren.cli.main import main
from warren.directory.parameters import Parameters
from warren.network.directory_http import Response
from warren.network.link import LinkSettings
from warren.node import relay
from warren.protocol.cells import Ready
from warren.roles.mirror import Mirror
from warren.roles.relay_book import RelayBook

LATER_FLAG, LATER_PARAMETER, LATER_VERSION = "quantum", "later_parameter", "warren 99.0"


def be_of_a_later_release(versions: tuple[int, ...]) -> None:
    """Say in READY, descriptors and votes what only a later release would."""
    ready, describe = LinkSettings.ready, relay._describe
    to_mapping, opinion_of = Parameters.to_mapping, RelayBook._opinion

    def say_ready(self: LinkSettings, *arguments: object, **options: object) -> Ready:
        return replace(ready(self, *arguments, **options), versions=versions)  # type: ignore[arg-type]

    LinkSettings.ready = say_ready  # type: ignore[method-assign]
    relay._describe = lambda *arguments: replace(
        describe(*arguments), links=versions, version=LATER_VERSION
    )
    Parameters.to_mapping = lambda self: {  # type: ignore[method-assign]
        **to_mapping(self), LATER_PARAMETER: 7
    }  # fmt: skip

    def have_opinion(self: RelayBook, *arguments: object, **options: object) -> object:
        opinion = opinion_of(self, *arguments, **options)  # type: ignore[arg-type]
        return replace(opinion, flags=opinion.flags | {LATER_FLAG})

    RelayBook._opinion = have_opinion  # type: ignore[assignment, method-assign]


def lie_about_the_consensus() -> None:
    """Give every asker something else: cut, changed, old, empty, or nothing for a minute."""
    handle: Callable[..., Awaitable[Response]] = Mirror.handle
    turns = itertools.count()
    old: list[bytes] = []

    async def lie(self: Mirror, method: str, path: str, body: bytes) -> Response:
        truth = (await handle(self, method, path, body)).body
        old.append(truth)
        changed = bytearray(truth)
        changed[len(truth) // 2] ^= 1
        lies = (truth[:-1], bytes(changed), old[0], truth[: len(truth) // 2], b"", truth + b"\0")
        turn = next(turns) % (len(lies) + 1)
        if turn == len(lies):
            await trio.sleep(60)
        return Response(200, lies[turn % len(lies)])

    Mirror.handle = lie  # type: ignore[method-assign]


HOW: dict[str, Callable[[], None]] = {
    "later": lambda: be_of_a_later_release((2, 1)),
    "alien": lambda: be_of_a_later_release((2, 3)),
    "lying": lie_about_the_consensus,
}

if __name__ == "__main__":
    HOW[sys.argv[1]]()
    sys.argv[1:2] = []
    main()
