"""Ask a peer's directory something, over a circuit of one hop.

Such a circuit carries BEGIN_DIR and nothing else. It hides nothing from the peer that answers:
what it serves is public, and the link is anonymous.
"""

import trio

from warren.errors import CircuitError, DirectoryError, LinkError, ProtocolError
from warren.identity import Hop
from warren.network.circuits import build_circuit
from warren.network.directory_http import request
from warren.network.links import Links


async def fetch(
    links: Links, hop: Hop, method: str, path: str, body: bytes = b"", *, limit: int
) -> bytes:
    """Send one request to the directory of `hop`; return the body of its answer.

    `limit` bounds the answer in bytes. The caller sets the deadline. Raises DirectoryError when
    there is no good answer, whatever the reason.
    """
    try:
        link = await links.get(hop, is_anonymous=True)
        circuit = await build_circuit(link, [hop])
    except (LinkError, CircuitError, ProtocolError) as error:
        raise DirectoryError(f"{hop!r} cannot be asked: {error}") from error
    try:
        stream = circuit.open_directory()
        try:
            return await request(stream, method, path, body, limit=limit)
        finally:
            await stream.aclose()
    except (LinkError, CircuitError, ProtocolError, trio.BrokenResourceError) as error:
        raise DirectoryError(f"{hop!r} did not answer: {error}") from error
    finally:
        circuit.close()
