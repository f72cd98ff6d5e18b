"""The throttle: what is sent in all keeps to the rate, in turns, and the quiet do not wait."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from warren.addresses import Address
from warren.network.byte_streams import ByteStream
from warren.network.send_queue import LEAST_QUEUE, MOST_QUEUE, SendQueue
from warren.network.throttle import Throttle, ThrottledUdpSocket, throttled_network

RATE = 1_000_000


class Sender:
    """Have something to send all the time, `size` bytes at a go."""

    def __init__(self, throttle: Throttle, nursery: trio.Nursery, size: int = 12_500) -> None:
        self.throttle, self.nursery, self.size = throttle, nursery, size
        self.sent = 0
        self.goes: list[float] = []

    def go(self) -> None:
        while not self.throttle.is_spent:
            count = min(self.throttle.allows(self), self.size)
            self.throttle.spend(count)
            self.sent += count
        self.goes.append(trio.current_time())
        self.throttle.wait_with(self, self.go, self.nursery)


async def test_what_many_send_in_all_is_the_rate_and_one_burst(autojump_clock: MockClock) -> None:
    throttle = Throttle(RATE)
    async with trio.open_nursery() as nursery:
        senders = [Sender(throttle, nursery) for _ in range(7)]
        for sender in senders:
            sender.go()
        await trio.sleep(60)
        nursery.cancel_scope.cancel()

    total = sum(sender.sent for sender in senders)
    assert throttle.statistics()["sent"] == total
    assert RATE * 59 <= total <= RATE * 60 + RATE / 2
    shares = [sender.sent / total for sender in senders[1:]]
    assert shares == pytest.approx([1 / 7] * 6, rel=0.05)
    assert throttle.statistics()["waited_seconds"] > 55


async def test_a_long_pause_saves_up_no_more_than_a_burst(autojump_clock: MockClock) -> None:
    throttle = Throttle(RATE)
    async with trio.open_nursery() as nursery:
        sender = Sender(throttle, nursery)
        sender.go()
        throttle.forget(sender)
        await trio.sleep(3600)
        sender.go()
        nursery.cancel_scope.cancel()

    assert sender.sent <= 2 * (RATE / 4 + RATE / 10)


async def test_whoever_was_quiet_may_send_a_cell_before_those_who_wait(
    autojump_clock: MockClock,
) -> None:
    throttle = Throttle(RATE)
    async with trio.open_nursery() as nursery:
        busy = Sender(throttle, nursery)
        busy.go()

        allowed = [throttle.allows(object()), throttle.allows(busy)]

        assert allowed == [4096 + 18, 0]
        nursery.cancel_scope.cancel()


async def test_a_crowd_of_quiet_ones_waits_like_all_others(autojump_clock: MockClock) -> None:
    throttle = Throttle(RATE)
    throttle.spend(RATE // 4)
    passed = 0
    while allowed := throttle.allows(object()):
        throttle.spend(allowed)
        passed += allowed

    assert RATE // 20 <= passed <= RATE // 20 + 4096 + 18
    with trio.fail_after(0.2):
        await throttle.wait(object())


async def test_who_is_forgotten_is_not_called(autojump_clock: MockClock) -> None:
    throttle = Throttle(RATE)
    throttle.spend(RATE)
    called: list[str] = []
    async with trio.open_nursery() as nursery:
        for name in ("one", "two", "three"):
            throttle.wait_with(name, partial(called.append, name), nursery)
        throttle.forget("two")
        # the task that looks after them ends when nobody waits any more, and so does the nursery

    assert called == ["one", "three"]


async def test_one_who_raises_costs_the_others_nothing(autojump_clock: MockClock) -> None:
    throttle = Throttle(RATE)
    throttle.spend(RATE)
    called: list[str] = []
    async with trio.open_nursery() as nursery:
        throttle.wait_with("bad", partial(called.remove, "nothing"), nursery)
        throttle.wait_with("good", partial(called.append, "good"), nursery)

    assert called == ["good"]


# ---- sockets that keep to one


async def connected(throttle: Throttle, nursery: trio.Nursery) -> tuple[ByteStream, ByteStream]:
    """Return both ends of a connection; the first one keeps to `throttle`."""
    accepted: list[ByteStream] = []
    arrived = trio.Event()

    async def accept(stream: ByteStream) -> None:
        accepted.append(stream)
        arrived.set()

    network = throttled_network(throttle)
    listener = network.listen(Address("127.0.0.1", 0))
    nursery.start_soon(listener.serve, accept, nursery)
    far = await throttled_network(Throttle(1 << 40)).dial(listener.local)
    await arrived.wait()
    listener.close()
    return accepted[0], far


async def receive_all(stream: ByteStream) -> bytes:
    received, chunk = bytearray(), bytearray(1 << 16)
    while (count := stream.receive_into(chunk)) != 0:
        if count is None:
            await stream.wait_readable()
        else:
            received += chunk[:count]
    return bytes(received)


async def test_bytes_take_the_time_that_the_rate_says_and_arrive_in_order() -> None:
    throttle = Throttle(4_000_000)
    data = bytes(range(256)) * 12_000
    async with trio.open_nursery() as nursery:
        near, far = await connected(throttle, nursery)

        async def send() -> None:
            await near.send_all(data)
            near.close()

        nursery.start_soon(send)
        begun = trio.current_time()
        received = await receive_all(far)
        seconds = trio.current_time() - begun
        far.close()

    assert received == data
    assert throttle.statistics()["sent"] == len(data)
    least = (len(data) - 1_000_000 - 200_000) / 4_000_000  # without the burst and the debt
    assert least <= seconds <= 5 * len(data) / 4_000_000


async def test_a_link_makes_no_more_ready_than_a_narrow_socket_sends_soon() -> None:
    """Or the first record of a busy link would stand for seconds, and the link count as dead."""
    async with trio.open_nursery() as nursery:
        pairs = [await connected(Throttle(rate), nursery) for rate in (100_000, 10_000_000, 10**12)]
        sizes = [SendQueue(near).size for near, _ in pairs]
        for near, far in pairs:
            near.close()
            far.close()

    assert sizes == [LEAST_QUEUE, 50_000, MOST_QUEUE]


async def test_parts_that_are_too_much_together_are_sent_as_far_as_it_goes() -> None:
    throttle = Throttle(50_000)
    throttle.spend(9_000)  # of a burst of 12500
    async with trio.open_nursery() as nursery:
        near, far = await connected(throttle, nursery)

        first = near.send_parts_now([b"a" * 3000, b"b" * 3000])
        second = near.send_parts_now([b"a" * 3000, b"b" * 3000])
        throttle.spend(50_000)
        third = near.send_parts_now([b"c"])

        near.close()
        received = await receive_all(far)
        far.close()

    assert (first, second, third) == (3000, 0, 0) or (first, second, third) == (3000, 3000, 0)
    assert len(received) == first + second


async def test_a_socket_that_waits_is_told_once_and_not_when_it_was_closed() -> None:
    throttle = Throttle(1_000_000)
    async with trio.open_nursery() as nursery:
        near, far = await connected(throttle, nursery)
        gone, far_too = await connected(throttle, nursery)
        throttle.spend(350_000)
        called: list[str] = []
        last = trio.Event()
        gone.write_with(partial(called.append, "gone"), nursery)
        near.write_with(partial(called.append, "near"), nursery)
        throttle.wait_with("last", last.set, nursery)
        gone.close()
        with trio.fail_after(5):
            await last.wait()
        for stream in (near, far, far_too):
            stream.close()

    assert called == ["near"]


async def test_a_datagram_that_nothing_is_left_for_is_dropped() -> None:
    throttle = Throttle(RATE)
    sock, target = (ThrottledUdpSocket(throttle, "127.0.0.1") for _ in range(2))

    first = sock.send_now(bytes(1000), target.local)
    throttle.spend(2 * RATE)
    second = sock.send_now(bytes(1000), target.local)
    sock.close()
    target.close()

    assert (first, second) == (True, False)
    assert throttle.statistics()["sent"] == 1000 + 2 * RATE
