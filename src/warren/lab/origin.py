"""The lab's own target: a small web server whose every byte is known beforehand.

    GET /              a page
    GET /bytes/N       N bytes that never repeat, so that a lost or moved block is noticed
    POST /upload       answers with the number of bytes received and their SHA-256, in hex

It is a process of its own so that it takes no time from the lab, and knows nothing of Warren.
"""

import argparse
import hashlib
import random
import sys
from collections.abc import Iterator

import h11
import trio

from warren.addresses import Address
from warren.service import Announcer, run_process

BLOCK_BYTES = 64 * 1024
MOST_BYTES = 1 << 40
IDLE_SECONDS = 60

_NOISE = random.Random("warren").randbytes(BLOCK_BYTES)  # the same in every run

PAGE = b"""<!doctype html>
<title>A page through three hops</title>
<p>Whoever reads this through the proxy of a Warren lab has come over three relays.
The origin that serves it saw only the last of them, and the first never saw this text.</p>
"""


def content(size: int) -> Iterator[bytes]:
    """Yield the `size` bytes of ``/bytes/SIZE``: noise, each block of it with its number."""
    for number in range(-(-size // BLOCK_BYTES)):
        block = number.to_bytes(8, "big") + _NOISE[8:]
        yield block[: size - number * BLOCK_BYTES]


def digest(size: int) -> str:
    """Return the SHA-256 of ``/bytes/SIZE`` in hex."""
    total = hashlib.sha256()
    for block in content(size):
        total.update(block)
    return total.hexdigest()


async def answer(stream: trio.SocketStream) -> None:
    """Serve one connection until the client has had enough."""
    connection = h11.Connection(h11.SERVER)
    try:
        async with stream:
            while True:
                with trio.fail_after(IDLE_SECONDS):
                    request = await _next_event(connection, stream)
                if not isinstance(request, h11.Request):
                    return
                await _respond(connection, stream, request)
                connection.start_next_cycle()  # raises when the connection is not to be kept
    except (trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError):
        pass  # the client is gone, done, or speaks something else: no business of the others


async def _respond(
    connection: h11.Connection, stream: trio.SocketStream, request: h11.Request
) -> None:
    received, total = 0, hashlib.sha256()
    while isinstance(event := await _next_event(connection, stream), h11.Data):
        received += len(event.data)
        total.update(event.data)
    path = request.target.decode("ascii", "replace")
    size = path.removeprefix("/bytes/")
    kind = "text/plain"
    if path == "/":
        status, kind, length, body = 200, "text/html", len(PAGE), iter([PAGE])
    elif size != path and size.isdigit() and len(size) <= len(str(MOST_BYTES)):
        kind = "application/octet-stream"
        status, length, body = 200, int(size), content(int(size))
    else:
        is_upload = path == "/upload" and request.method == b"POST"
        text = f"{received} {total.hexdigest()}\n" if is_upload else "there is no such page\n"
        status, length, body = 200 if is_upload else 404, len(text), iter([text.encode()])
    headers = [("content-type", kind), ("content-length", str(length))]
    await stream.send_all(connection.send(h11.Response(status_code=status, headers=headers)))
    if request.method != b"HEAD":
        for block in body:
            await stream.send_all(connection.send(h11.Data(data=block)))
    await stream.send_all(connection.send(h11.EndOfMessage()))


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some(256 * 1024))
    return event


async def serve(listen: Address, announcer: Announcer) -> None:
    """Serve at `listen` until cancelled."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(listen.port, host=listen.host)
        host, port = listener.socket.getsockname()[:2]
        announcer.listening([Address(host, port)])
        nursery.start_soon(trio.serve_listeners, answer, [listener])


def main() -> None:
    """Run the origin until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m warren.lab.origin")
    parser.add_argument("--listen", type=Address.parse, required=True, metavar="HOST:PORT")
    parser.add_argument("--while-open", type=int)
    parser.add_argument("--ready-fd", type=int)
    given = parser.parse_args()

    async def run(announcer: Announcer) -> None:
        await serve(given.listen, announcer)

    sys.exit(run_process(run, while_open=given.while_open, ready_fd=given.ready_fd))


if __name__ == "__main__":
    main()
