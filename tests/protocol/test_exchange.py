"""Opening exchanges: what a driver hands over, and what it leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paper import Side
from warren.errors import ProtocolError
from warren.protocol.exchange import Exchange, Receive, ReceiveUntil, Send, take

END = b"\r\n"


def greet() -> Exchange[tuple[bytes, bytes]]:
    """Read two bytes and a line; answer each."""
    head = yield Receive(2)
    yield Send(b"head " + head)
    line = yield ReceiveUntil(END, limit=16)
    yield Send(b"line " + line)
    return head, line


@given(st.lists(st.integers(1, 5), max_size=12))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    said, side = b"hiname\r\nearly data", Side(greet())

    for size in [*cuts, len(said)]:
        side.receive(said[:size])
        said = said[size:]

    assert side.result == (b"hi", b"name\r\n")
    assert side.sent == b"head hiline name\r\n"
    assert side.buffer == b"early data"


def test_an_exchange_answers_byte_by_byte_as_soon_as_it_can() -> None:
    side = Side(greet())

    answers = [side.receive(bytes((byte,))) for byte in b"hi\r\n"]

    assert answers == [b"", b"head hi", b"", b"line \r\n"]


@given(st.binary(max_size=20), st.integers(0, 20))
def test_receive_takes_exactly_its_count_or_nothing(data: bytes, count: int) -> None:
    buffer = bytearray(data)

    taken = take(Receive(count), buffer)

    if count > len(data):
        assert taken is None
        assert buffer == data
    else:
        assert taken == data[:count]
        assert buffer == data[count:]


@given(st.lists(st.sampled_from([b"\r", b"\n", b"x"]), max_size=12), st.integers(2, 10))
def test_receive_until_takes_up_to_the_first_end_within_its_limit(
    parts: list[bytes], limit: int
) -> None:
    data = b"".join(parts)
    buffer = bytearray(data)
    found = data.find(END)

    if 0 <= found <= limit - len(END):
        assert take(ReceiveUntil(END, limit), buffer) == data[: found + len(END)]
        assert buffer == data[found + len(END) :]
    elif len(data) < limit:
        assert take(ReceiveUntil(END, limit), buffer) is None
        assert buffer == data
    else:
        with pytest.raises(ProtocolError):
            take(ReceiveUntil(END, limit), buffer)


@pytest.mark.parametrize("said", [b"x" * 16, b"x" * 15 + END, b"x" * 40 + END])
def test_a_line_longer_than_its_limit_is_refused(said: bytes) -> None:
    side = Side(greet())
    side.receive(b"hi")

    with pytest.raises(ProtocolError):
        side.receive(said)


def test_an_end_that_was_cut_in_two_is_found() -> None:
    buffer = bytearray(b"name\r")
    assert take(ReceiveUntil(END, 16), buffer) is None

    buffer += b"\nmore"

    assert take(ReceiveUntil(END, 16), buffer) == b"name\r\n"
    assert buffer == b"more"
