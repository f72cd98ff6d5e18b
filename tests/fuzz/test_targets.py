"""Every fuzz target on its seeds, on mutations of them, and on noise (T90)."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import MOST_SECONDS, SEEDS, TARGETS, TooSlow, timed


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_a_target_pass(name: str) -> None:
    assert len(SEEDS[name]) > 2

    for seed in SEEDS[name]:
        timed(TARGETS[name], seed)


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Return seeds of a target, cut, joined, and with some bytes changed."""
    data = bytearray(draw(st.sampled_from(seeds)))
    if draw(st.booleans()):
        data += draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 4)))
        data[at:end] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
@settings(max_examples=200)
def test_mutations_of_the_seeds_pass(name: str, data: st.DataObject) -> None:
    timed(TARGETS[name], data.draw(mutations(SEEDS[name])))


@pytest.mark.parametrize("name", TARGETS)
@given(st.binary(max_size=2000))
def test_noise_passes(name: str, data: bytes) -> None:
    timed(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("size", [4096, 16 * 1024, 64 * 1024])
def test_long_inputs_of_little_sense_take_little_time(name: str, size: int) -> None:
    for seed in SEEDS[name]:
        for filler in (b"\0", b"a", b"\xc0\x0c", b"a: b\r\n", b"\x01" + seed, seed):
            data = (seed[: len(seed) // 2] + filler * (size // len(filler)))[:size]
            timed(TARGETS[name], data)


def test_a_slow_codec_would_be_noticed() -> None:
    def slow(data: bytes) -> None:
        begun = time.thread_time()
        while time.thread_time() - begun < 2 * MOST_SECONDS:
            pass

    with pytest.raises(TooSlow, match=f"longer than {MOST_SECONDS} s"):
        timed(slow, b"")
