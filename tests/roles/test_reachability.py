import pytest
import trio
from trio.testing import MockClock

from tests.support.directories import NETWORK, NOW, document_of, identity
from warren.directory.descriptor import DescriptorReader
from warren.errors import LinkError
from warren.identity import Hop, PeerId
from warren.roles.background import Background
from warren.roles.reachability import CHECK_SECONDS, MOST_CHECKS, Reachability
from warren.roles.relay_book import RelayBook


def peer(number: int) -> PeerId:
    return identity(number).peer_id


class Checks:
    """Be what looks at relays; remember how, and how many at a time."""

    def __init__(self) -> None:
        self.made: list[tuple[PeerId, ...]] = []
        self.running = 0
        self.most_running = 0
        self.hung: set[PeerId] = set()
        self.broken: set[PeerId] = set()

    async def check(self, hop: Hop) -> bool:
        self.made.append((hop.peer_id,))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await trio.sleep_forever() if hop.peer_id in self.hung else await trio.sleep(1)
        finally:
            self.running -= 1
        if hop.peer_id in self.broken:
            raise KeyError("a bug")
        if hop.peer_id == peer(13):
            raise LinkError("refused")
        return True

    async def check_through(self, gateway: Hop, hop: Hop) -> bool:
        self.made.append((gateway.peer_id, hop.peer_id))
        return True


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def book() -> RelayBook:
    return RelayBook(NETWORK, DescriptorReader(NETWORK.network_id))


def start(
    nursery: trio.Nursery, book: RelayBook, checks: Checks, *, is_through: bool = True
) -> Reachability:
    reachability = Reachability(
        book,
        checks.check,
        checks.check_through if is_through else None,
        now=lambda: NOW + trio.current_time(),
        pause_seconds=1,
    )
    nursery.start_soon(reachability.run, Background(nursery))
    return reachability


def running(book: RelayBook) -> set[PeerId]:
    return {relay.descriptor.peer_id for relay in book if relay.is_running}


async def test_relays_that_answer_run(
    book: RelayBook, checks: Checks, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    for number in (1, 2, 13):
        book.upload(document_of(number), NOW)

    start(nursery, book, checks)
    await trio.sleep(5)

    assert running(book) == {peer(1), peer(2)}
    assert len(checks.made) == 3


async def test_one_that_hangs_or_has_a_bug_costs_no_other(
    book: RelayBook, checks: Checks, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:  # DOS-1
    checks.hung, checks.broken = {peer(1)}, {peer(2)}
    for number in (1, 2, 3):
        book.upload(document_of(number), NOW)

    start(nursery, book, checks)
    await trio.sleep(CHECK_SECONDS + 1)
    checks.hung.clear()
    await trio.sleep(200)

    assert running(book) == {peer(1), peer(3)}


async def test_a_bounded_number_is_looked_at_at_a_time(
    book: RelayBook, checks: Checks, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    for number in range(1, MOST_CHECKS + 20):
        if number != 13:
            book.upload(document_of(number), NOW)

    start(nursery, book, checks)
    await trio.sleep(4)

    assert checks.most_running == MOST_CHECKS
    assert len(running(book)) == MOST_CHECKS + 18


async def test_a_new_relay_is_looked_at_without_delay(
    book: RelayBook, checks: Checks, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    reachability = start(nursery, book, checks)
    await trio.sleep(0.5)

    book.upload(document_of(1), NOW)
    reachability.wake()
    await trio.sleep(0.01)

    assert checks.made == [(peer(1),)]


async def test_a_relay_behind_gateways_is_looked_at_through_one_that_runs(
    book: RelayBook, checks: Checks, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    book.upload(document_of(1), NOW)
    start(nursery, book, checks)
    await trio.sleep(2)

    book.upload(document_of(2, gateways=(peer(13), peer(1))), NOW)
    await trio.sleep(2)

    assert checks.made[-1] == (peer(1), peer(2))
    assert running(book) == {peer(1), peer(2)}


async def test_without_a_way_through_it_does_not_run(
    book: RelayBook, checks: Checks, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    book.upload(document_of(1), NOW)
    book.upload(document_of(2, gateways=(peer(1),)), NOW)

    start(nursery, book, checks, is_through=False)
    await trio.sleep(300)

    assert running(book) == {peer(1)}
