"""Caps on weights: how large a part of a network one relay, and one network of addresses, may be.

Weights come from what relays say of themselves, so a part that one hand may have is bounded,
whatever it says (DIR-11, DIR-12). To cut one relay down makes the whole less, and with it
what the others may have. So the question is: what is the largest whole in which all parts are
within their bounds? It is found exactly, in whole numbers, so that all authorities write the same.
"""

from collections.abc import Hashable, Sequence
from fractions import Fraction
from math import lcm

#: A network of at least so many relays is large.
LARGE = 20
RELAY_SHARE, SMALL_RELAY_SHARE = Fraction(1, 10), Fraction(1, 4)
BLOCK_SHARE = Fraction(15, 100)
#: No relay is bound to less than so many times what it had if all were alike, and blocks are bound
#: only where their shares come to so much: else the rest would have to carry what it cannot.
LEAST_OF_EVEN, LEAST_OF_BLOCKS = 2, Fraction(3, 2)


def capped(weights: Sequence[int], blocks: Sequence[Hashable] | None = None) -> list[int]:
    """Return `weights`, those cut down that are too large a part of all.

    That is a tenth, of fewer than twenty relays a quarter, of fewer than eight twice the even
    share. `blocks` says which network each is in: where there are enough of them, and twenty
    relays, those of one together are cut down in proportion to 15 %. All is rounded down, but no
    weight to 0.
    """
    count = len(weights)
    if not count:
        return []
    wanted = RELAY_SHARE if count >= LARGE else SMALL_RELAY_SHARE
    relay_share = min(Fraction(1), max(wanted, Fraction(LEAST_OF_EVEN, count)))
    groups, block_share = [[place] for place in range(count)], relay_share
    if blocks is not None and count >= LARGE:
        members: dict[Hashable, list[int]] = {}
        for place, block in enumerate(blocks):
            members.setdefault(block, []).append(place)
        shares = sum(min(BLOCK_SHARE, len(group) * relay_share) for group in members.values())
        if shares >= LEAST_OF_BLOCKS:
            groups, block_share = list(members.values()), BLOCK_SHARE
    whole = _largest_whole(
        [[weights[place] for place in group] for group in groups], relay_share, block_share
    )
    return _cut(weights, groups, int(whole * relay_share), int(whole * block_share))


def _largest_whole(
    groups: Sequence[Sequence[int]], relay_share: Fraction, block_share: Fraction
) -> int:
    """Return the largest sum that is left when each part is cut to its share of that very sum.

    What is left grows with the whole that the shares are of, ever more slowly, and at first it is
    more than that whole, as the shares come to more than 1. So up to some whole it is enough, and
    beyond that it is not.
    """
    scale = lcm(relay_share.denominator, block_share.denominator)
    relay_part, block_part = int(relay_share * scale), int(block_share * scale)

    def is_enough(whole: int) -> bool:
        most, most_of_block = relay_part * whole, block_part * whole
        left = sum(
            min(most_of_block, sum(min(scale * weight, most) for weight in group))
            for group in groups
        )
        return left >= scale * whole

    low, high = 0, sum(map(sum, groups))
    if is_enough(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_enough(middle) else (low, middle)
    return low


def _cut(
    weights: Sequence[int], groups: Sequence[Sequence[int]], most: int, most_of_block: int
) -> list[int]:
    cut = [0] * len(weights)
    for group in groups:
        parts = {place: min(weights[place], most) for place in group}
        total = sum(parts.values())
        for place, part in parts.items():
            if total > most_of_block:
                part = part * most_of_block // total
            cut[place] = max(part, min(weights[place], 1))
    return cut
