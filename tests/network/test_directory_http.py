import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from warren.errors import DirectoryError, ProtocolError, TooSoon
from warren.network.directory_http import (
    MOST_REQUESTS,
    MOST_RETRY,
    REQUEST_SECONDS,
    Response,
    request,
    serve,
)

Pipe = trio.StapledStream[MemorySendStream, MemoryReceiveStream]

LIMITS = {"/vote": 200_000, "/small": 5}
LARGE = bytes(range(256)) * 1000


class Service:
    """Answer and remember what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []

    async def handle(self, method: str, path: str, body: bytes) -> Response:
        self.asked.append((method, path, body))
        match path:
            case "/often":
                raise TooSoon("too often: wait 12 s", 11.2)
            case "/large":
                return Response(200, LARGE)
            case "/malformed":
                raise ProtocolError("that is malformed")
            case "/unusable":
                raise DirectoryError("that is of no use")
            case "/bug":
                raise KeyError("oops")
        return Response(200, body[::-1])


def connected(nursery: trio.Nursery, service: Service | None = None) -> Pipe:
    """Return the client's end of a stream that is served."""
    ours, theirs = memory_stream_pair()
    handle = (service or Service()).handle
    nursery.start_soon(lambda: serve(theirs, handle, body_limits=LIMITS))
    return ours


async def answer_to(nursery: trio.Nursery, raw: bytes, service: Service | None = None) -> bytes:
    """Return all bytes that the server sends after it got `raw` and the end."""
    stream = connected(nursery, service)
    await stream.send_all(raw)
    await stream.send_eof()
    return b"".join([bytes(chunk) async for chunk in stream])


# ---- together


async def test_requests_and_answers_follow_each_other_on_a_stream(nursery: trio.Nursery) -> None:
    service = Service()
    stream = connected(nursery, service)

    answers = [
        await request(stream, "GET", "/consensus", limit=0),
        await request(stream, "POST", "/vote", b"abc", limit=3),
        await request(stream, "POST", "/vote", LARGE[:100_000], limit=100_000),
        await request(stream, "GET", "/large", limit=len(LARGE)),
    ]

    assert answers == [b"", b"cba", LARGE[:100_000][::-1], LARGE]
    assert [path for _, path, _ in service.asked] == ["/consensus", "/vote", "/vote", "/large"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/malformed", "answered 400: 'that is malformed'"),
        ("/unusable", "answered 409: 'that is of no use'"),
        ("/bug", "answered 500: ''"),
    ],
)
async def test_what_a_handler_raises_becomes_a_status(
    nursery: trio.Nursery, path: str, message: str
) -> None:  # DOS-1
    stream = connected(nursery)

    with pytest.raises(DirectoryError, match=message):
        await request(stream, "GET", path, limit=10)
    assert await request(stream, "GET", "/consensus", limit=0) == b""


async def test_who_asks_too_often_is_told_how_long_to_wait(nursery: trio.Nursery) -> None:
    """DIR-17: with a status that says so, and the stream may be used again."""
    stream = connected(nursery)

    with pytest.raises(TooSoon, match="answered 429: 'too often: wait 12 s'") as told:
        await request(stream, "GET", "/often", limit=10)
    answer = await answer_to(nursery, b"GET /often HTTP/1.1\r\nhost: x\r\n\r\n")

    assert told.value.seconds == 12
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 12\r\n" in answer
    assert await request(stream, "GET", "/consensus", limit=0) == b""


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"retry-after: 7\r\n", 7),
        (b"retry-after: 0\r\n", 1),
        (b"", 1),
        (b"retry-after: -5\r\n", 1),
        (b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT\r\n", 1),
        (b"retry-after: 99999999999999999999\r\n", MOST_RETRY),
    ],
)
async def test_nobody_is_made_to_wait_for_ever(said: bytes, seconds: int) -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 429 \r\ncontent-length: 0\r\n" + said + b"\r\n")

    with pytest.raises(TooSoon) as told:
        await request(ours, "GET", "/consensus", limit=0)

    assert told.value.seconds == seconds


async def test_ten_requests_are_answered_on_a_stream(nursery: trio.Nursery) -> None:  # DIR-17
    service = Service()
    stream = connected(nursery, service)

    for _ in range(MOST_REQUESTS):
        await request(stream, "GET", "/consensus", limit=0)
    with pytest.raises(DirectoryError):
        await request(stream, "GET", "/consensus", limit=0)

    assert len(service.asked) == 10


# ---- the server


@pytest.mark.parametrize(
    "head",
    [
        "GET /consensus?x=1 HTTP/1.1",
        "GET /consensus#x HTTP/1.1",
        "GET /%63onsensus HTTP/1.1",
        "GET /../etc HTTP/1.1",
        "GET /Consensus HTTP/1.1",
        "GET http://directory/consensus HTTP/1.1",
        f"GET /{'a' * 201} HTTP/1.1",
        "DELETE /consensus HTTP/1.1",
        "GET /consensus HTTP/1.1\r\ncontent-length: 1",
        "POST /consensus HTTP/1.1\r\ncontent-length: 1",
        "POST /small HTTP/1.1\r\ncontent-length: 6",
        "POST /small HTTP/1.1\r\ncontent-length: 99999999999",
        "POST /small HTTP/1.1\r\ncontent-length: -1",
        "POST /small HTTP/1.1\r\ntransfer-encoding: chunked",
        "POST /small HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1",
        f"GET /consensus HTTP/1.1\r\nx: {'x' * 70_000}",
        "rubbish",
    ],
    ids=lambda head: head[:50],
)
async def test_what_is_not_in_order_gets_400_and_the_end(
    nursery: trio.Nursery, head: str
) -> None:  # DIR-17
    service = Service()

    answer = await answer_to(nursery, f"{head}\r\nhost: x\r\n\r\n".encode(), service)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer
    assert not service.asked


async def test_a_body_is_refused_before_it_is_sent(nursery: trio.Nursery) -> None:
    stream = connected(nursery)

    await stream.send_all(b"POST /vote HTTP/1.1\r\nhost: x\r\ncontent-length: 200001\r\n\r\n")

    assert b"400" in await stream.receive_some()


async def test_requests_sent_ahead_are_answered_in_order(nursery: trio.Nursery) -> None:
    one = b"POST /vote HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"

    answer = await answer_to(nursery, one + b"ab" + one + b"cd")

    assert answer.index(b"ba") < answer.index(b"dc")


async def test_a_request_cut_short_is_not_answered_as_one(nursery: trio.Nursery) -> None:
    service = Service()

    await answer_to(
        nursery, b"POST /vote HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc", service
    )

    assert not service.asked


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.sampled_from([b"", b"GET /", b"POST /vote HTTP/1.1\r\n"]))
async def test_garbage_ends_the_stream_and_nothing_else(prefix: bytes, tail: bytes) -> None:
    async with trio.open_nursery() as nursery:
        answer = await answer_to(nursery, prefix + tail)

    assert not answer or answer.startswith(b"HTTP/1.1 ")


async def test_a_slow_request_is_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # T47
    stream = connected(nursery)
    began = trio.current_time()

    for byte in b"POST /vote HTTP/1.1\r\nhost: x\r\nx-slow: yes":
        await stream.send_all(bytes([byte]))
        await trio.sleep(5)
        if trio.current_time() - began > REQUEST_SECONDS:
            break

    assert b"408" in await stream.receive_some()
    assert trio.current_time() - began < REQUEST_SECONDS + 10


async def test_who_does_not_read_is_given_up(autojump_clock: MockClock) -> None:
    class Deaf:
        async def send_all(self, data: bytes, /) -> None:
            await trio.sleep_forever()

        async def receive_some(self, max_bytes: int, /) -> bytes:
            return b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    await serve(Deaf(), Service().handle)

    assert 0 < trio.current_time() < 1200


async def test_large_bodies_wait_for_their_turn(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    limiter = trio.CapacityLimiter(1)
    served = []
    for _ in range(2):
        ours, theirs = memory_stream_pair()
        nursery.start_soon(
            lambda stream: serve(
                stream, Service().handle, body_limits=LIMITS, large_bodies=limiter
            ),
            theirs,
        )
        await ours.send_all(b"POST /vote HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        served.append(ours)
    await trio.testing.wait_all_tasks_blocked()

    waiting = limiter.statistics().tasks_waiting
    small = await request(connected(nursery), "POST", "/vote", b"ab", limit=2)

    assert waiting == 1
    assert small == b"ba"
    for stream in served:
        await stream.aclose()


# ---- the client


async def answered_with(raw: bytes, limit: int = 100) -> bytes:
    """Return what ``request`` makes of the answer `raw`, after which the stream ends."""
    ours, theirs = memory_stream_pair()
    await theirs.send_all(raw)
    await theirs.send_eof()
    return await request(ours, "GET", "/consensus", limit=limit)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 12345678901\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nendless",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 404 No\r\ncontent-length: 2000\r\n\r\n" + bytes(2000),
    ],
    ids=lambda raw: raw[:40],
)
async def test_an_answer_that_is_not_in_order_is_refused(raw: bytes) -> None:  # T77
    with pytest.raises(ProtocolError):
        await answered_with(raw)


@settings(max_examples=60)
@given(st.binary(max_size=100), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 "]))
async def test_garbage_for_an_answer_is_refused(tail: bytes, prefix: bytes) -> None:
    with pytest.raises((ProtocolError, DirectoryError)):
        await answered_with(prefix + tail + b"\0")


async def test_the_reason_of_a_refusal_is_cut_and_quoted() -> None:  # DOS-9
    reason = b"\x1b[2J" + b"x" * 200

    with pytest.raises(DirectoryError) as caught:
        await answered_with(b"HTTP/1.1 404 No\r\ncontent-length: %d\r\n\r\n" % 204 + reason)

    assert "'\\x1b[2J" in str(caught.value)
    assert len(str(caught.value)) < 120


async def test_a_stream_that_breaks_is_an_error_of_the_directory() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.aclose()

    with pytest.raises(DirectoryError, match="broke"):
        await request(ours, "GET", "/consensus", limit=0)
