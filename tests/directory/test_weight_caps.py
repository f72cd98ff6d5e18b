"""How large a part of a network one relay may be, and one network of addresses (DIR-11, DIR-12)."""

import random
import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.directory.weight_caps import capped

many = st.lists(st.integers(1, 1 << 40), min_size=1, max_size=60)


def largest_share(weights: list[int]) -> float:
    return max(weights) / sum(weights)


@pytest.mark.parametrize(
    ("count", "share"), [(1, 1), (2, 1), (3, 2 / 3), (5, 0.4), (8, 0.25), (19, 0.25), (20, 0.1)]
)
def test_a_relay_that_says_it_gives_everything_gets_its_share(count: int, share: float) -> None:
    weights = [1_000_000_000_000, *[1_000_000] * (count - 1)]

    cut = capped(weights)

    assert cut[1:] == weights[1:]
    assert largest_share(cut) == pytest.approx(share if count > 2 else largest_share(weights))


def test_what_is_within_its_share_is_left_as_it_is() -> None:
    weights = [number * 1000 for number in range(20, 60)]

    assert capped(weights, [number // 3 for number in range(40)]) == weights


def test_a_network_of_addresses_that_says_it_gives_everything_gets_its_share() -> None:
    crowd, others = [500_000, *[1_000_000_000] * 19], [1_000_000 + n for n in range(30)]
    blocks = ["crowd"] * 20 + [f"other {number}" for number in range(30)]

    cut = capped(crowd + others, blocks)

    assert cut[20:] == others
    assert sum(cut[:20]) / sum(cut) == pytest.approx(0.15, abs=1e-4)
    assert cut[1] > cut[0] > 0  # in proportion


def test_a_few_networks_may_be_as_large_as_they_are() -> None:
    weights = [1_000_000] * 30

    assert capped(weights, [number // 6 for number in range(30)]) == weights
    assert capped(weights[:19], [0] * 10 + list(range(1, 10))) == weights[:19]


def test_in_a_network_of_one_block_relays_are_bound_still() -> None:
    cut = capped([1 << 40, *[1_000_000] * 30], [0] * 31)

    assert largest_share(cut) == pytest.approx(0.1)


@given(many)
def test_no_relay_has_more_than_its_share(weights: list[int]) -> None:
    cut = capped(weights)

    share = max(0.1 if len(cut) >= 20 else 0.25, 2 / len(cut))
    assert all(0 < after <= before for before, after in zip(weights, cut, strict=True))
    assert max(cut) <= share * sum(cut) + len(cut)  # all is rounded down


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(0, 30)), min_size=20, max_size=80))
def test_no_network_of_addresses_has_more_than_its_share(relays: list[tuple[int, int]]) -> None:
    weights, blocks = [weight for weight, _ in relays], [block for _, block in relays]

    cut = capped(weights, blocks)

    sums, sizes = defaultdict[int, int](int), defaultdict[int, int](int)
    for block, after in zip(blocks, cut, strict=True):
        sums[block] += after
        sizes[block] += 1
    assert max(cut) <= 0.1 * sum(cut) + len(cut)
    if sum(min(15, 10 * size) for size in sizes.values()) >= 150:
        assert max(sums.values()) <= 0.15 * sum(cut) + len(cut)


@given(many, st.randoms(use_true_random=False))
def test_the_order_changes_nothing(weights: list[int], rng: random.Random) -> None:
    blocks = [weight % 20 for weight in weights]
    pairs = list(zip(weights, blocks, capped(weights, blocks), strict=True))

    rng.shuffle(pairs)

    again = capped([weight for weight, _, _ in pairs], [block for _, block, _ in pairs])
    assert again == [cut for _, _, cut in pairs]


def test_as_many_relays_as_there_can_be_are_cheap() -> None:
    rng = random.Random(1)
    weights = [int(rng.paretovariate(0.3)) + 1000 for _ in range(16384)]
    blocks = [rng.randrange(500) for _ in weights]
    begun = time.process_time()

    cut = capped(weights, blocks)

    assert time.process_time() - begun < 2
    assert largest_share(cut) < 0.101
