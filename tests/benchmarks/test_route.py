"""SOCKS5 as the measuring client speaks it, on paper."""

import pytest

from benchmarks.route import Route, RouteError, introduce

ROUTE = Route(("127.0.0.1", 80), ("127.0.0.1", 1080))
ASKED = b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"


def converse(route: Route, *answers: bytes) -> list[tuple[bytes, int]]:
    """Return what the client said and how much it waited for, given these answers."""
    talk = introduce(route)
    said = []
    try:
        said.append(next(talk))
        for answer in answers:
            assert len(answer) == said[-1][1]
            said.append(talk.send(answer))
    except StopIteration:
        pass
    return said


def test_a_direct_route_says_nothing() -> None:
    assert converse(Route(("127.0.0.1", 80))) == []


def test_without_a_login_none_is_offered() -> None:
    said = converse(ROUTE, b"\x05\x00", b"\x05\x00\x00\x01", bytes(6))

    assert said == [(b"\x05\x01\x00", 2), (ASKED, 4), (b"", 6)]


def test_an_address_of_16_bytes_is_read_to_its_end() -> None:
    said = converse(ROUTE, b"\x05\x00", b"\x05\x00\x00\x04", bytes(18))

    assert said[-1] == (b"", 18)


def test_a_login_is_a_name_that_nobody_had_before() -> None:
    first, second = ROUTE.alone(), ROUTE.alone()
    said = converse(first, b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x01", bytes(6))

    assert first.login != second.login
    assert said[1] == (b"\x01%c%b\x01x" % (len(first.login), first.login.encode()), 2)
    assert said[2] == (ASKED, 4)


@pytest.mark.parametrize(
    "answers", [(b"\x05\xff",), (b"\x04\x00",), (b"\x05\x00", b"\x05\x04\x00\x01")]
)
def test_a_refusal_is_an_error(answers: tuple[bytes, ...]) -> None:
    with pytest.raises(RouteError):
        converse(ROUTE, *answers)


def test_a_refused_login_is_an_error() -> None:
    with pytest.raises(RouteError, match="login"):
        converse(ROUTE.alone(), b"\x05\x02", b"\x01\x01")
